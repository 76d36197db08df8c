package pods

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/apiserver/apiservertest"
)

var (
	errCut    = errors.New("connection reset by peer")
	errQuota  = apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("exceeded quota"))
	errServer = &apierrors.StatusError{ErrStatus: metav1.Status{Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError}}
)

// fault is what becomes of one request: whether it has its effect, and the answer in place of the true one.
type fault struct {
	effect bool
	answer error
}

// server keeps pods by name and takes one fault a writing request, and one of reads a read, while there are any.
type server struct {
	kubernetes.Interface
	typed.CoreV1Interface
	typed.PodInterface
	pods   map[string]*corev1.Pod
	faults []fault
	reads  []error
	tried  []string
}

func (s *server) CoreV1() typed.CoreV1Interface  { return s }
func (s *server) Pods(string) typed.PodInterface { return s }
func (s *server) add(name string, controller types.UID) *corev1.Pod {
	p := owned(name, controller)
	p.UID = types.UID("uid of " + name)
	s.pods[name] = p
	return p
}

func owned(name string, controller types.UID) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{{UID: controller, Controller: ptr.To(true)}}}}
}

func (s *server) next() fault {
	if len(s.faults) == 0 {
		return fault{effect: true}
	}
	f := s.faults[0]
	s.faults = s.faults[1:]
	return f
}

func (s *server) Create(_ context.Context, pod *corev1.Pod, _ metav1.CreateOptions) (*corev1.Pod, error) {
	s.tried = append(s.tried, pod.Name)
	f := s.next()
	if f.effect && s.pods[pod.Name] != nil {
		return nil, apierrors.NewAlreadyExists(corev1.Resource("pods"), pod.Name)
	}
	if f.effect {
		s.add(pod.Name, pod.OwnerReferences[0].UID)
	}
	return s.pods[pod.Name], f.answer
}

func (s *server) Delete(_ context.Context, name string, o metav1.DeleteOptions) error {
	s.tried = append(s.tried, name)
	f, pod := s.next(), s.pods[name]
	switch {
	case f.effect && pod == nil:
		return apierrors.NewNotFound(corev1.Resource("pods"), name)
	case f.effect && pod.UID != *o.Preconditions.UID:
		return apierrors.NewConflict(corev1.Resource("pods"), name, errors.New("the UID"))
	case f.effect:
		pod.DeletionTimestamp = ptr.To(metav1.Now())
	}
	return f.answer
}

func (s *server) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Pod, error) {
	if len(s.reads) > 0 {
		err := s.reads[0]
		s.reads = s.reads[1:]
		return nil, err
	}
	if pod := s.pods[name]; pod != nil {
		return pod, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
}

func TestCreateIsCertain(t *testing.T) {
	tests := []struct {
		name   string
		faults []fault
		reads  []error
		tries  int
		want   error
	}{
		{name: "plain", tries: 1},
		{name: "the answer is lost", faults: []fault{{true, errCut}}, tries: 1},
		{name: "the request is lost", faults: []fault{{false, errCut}}, tries: 2},
		{name: "an error after the effect", faults: []fault{{true, errServer}}, tries: 1},
		{name: "an error without effect", faults: []fault{{false, errServer}}, tries: 1, want: errServer},
		{name: "refused", faults: []fault{{false, errQuota}}, tries: 1, want: errQuota},
		{name: "lost, then refused", faults: []fault{{false, errCut}, {false, errQuota}}, tries: 2, want: errQuota},
		{name: "lost twice, reads fail too", faults: []fault{{false, errCut}, {true, errCut}}, reads: []error{errCut, errServer}, tries: 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &server{pods: map[string]*corev1.Pod{}, faults: tt.faults, reads: tt.reads}
			want := owned("", "set")
			want.GenerateName = "set-"
			pod, err := Create(t.Context(), s, want)
			if !errors.Is(err, tt.want) || (err == nil) != (pod != nil) {
				t.Fatal(pod, err)
			}
			if made := len(s.pods); made > 1 || (err == nil) != (made == 1) {
				t.Fatalf("%d pods were made: %v", made, err)
			}
			if len(s.tried) != tt.tries || s.tried[0] != s.tried[tt.tries-1] || !strings.HasPrefix(s.tried[0], "set-") {
				t.Fatalf("tried %q", s.tried)
			}
		})
	}
}

func TestCreateMeetsAnother(t *testing.T) {
	s := &server{pods: map[string]*corev1.Pod{}}
	s.add("set-0", "other")
	if _, err := Create(t.Context(), s, owned("set-0", "set")); !apierrors.IsAlreadyExists(err) {
		t.Fatal("a namesake is taken for ours:", err)
	}
	s.faults = []fault{{false, errCut}}
	if _, err := Create(t.Context(), s, owned("set-0", "set")); err == nil {
		t.Fatal("after a lost answer a namesake is taken for ours")
	}
}

func TestDeleteIsCertain(t *testing.T) {
	tests := []struct {
		name   string
		faults []fault
		want   error
		alive  bool
	}{
		{name: "plain"},
		{name: "the answer is lost", faults: []fault{{true, errCut}}},
		{name: "the request is lost", faults: []fault{{false, errCut}}},
		{name: "an error after the effect", faults: []fault{{true, errServer}}},
		{name: "an error without effect", faults: []fault{{false, errServer}}, want: errServer, alive: true},
		{name: "refused", faults: []fault{{false, errQuota}}, want: errQuota, alive: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &server{pods: map[string]*corev1.Pod{}, faults: tt.faults}
			pod := s.add("p", "set")
			if err := Delete(t.Context(), s, pod); !errors.Is(err, tt.want) || (pod.DeletionTimestamp == nil) != tt.alive {
				t.Fatal(err, pod.DeletionTimestamp)
			}
		})
	}
	s := &server{pods: map[string]*corev1.Pod{}}
	namesake := s.add("p", "set")
	if err := Delete(t.Context(), s, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "earlier"}}); err != nil || namesake.DeletionTimestamp != nil {
		t.Fatal("a namesake was deleted, or its predecessor's end is an error:", err)
	}
}

func TestDeleteAsSeen(t *testing.T) {
	client := kubernetes.NewForConfigOrDie(apiservertest.Start(t))
	api := client.CoreV1().Pods("default")
	seen, err := api.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	now := seen.DeepCopy()
	now.Status.Phase = corev1.PodRunning
	if now, err = api.UpdateStatus(t.Context(), now, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := DeleteAsSeen(t.Context(), client, seen); !apierrors.IsConflict(err) {
		t.Fatalf("a pod that has changed: %v", err)
	}
	if _, err := api.Get(t.Context(), "p", metav1.GetOptions{}); err != nil {
		t.Fatalf("it went all the same: %v", err)
	}
	for range 2 {
		if err := DeleteAsSeen(t.Context(), client, now); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := api.Get(t.Context(), "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("it is still there: %v", err)
	}
}
