package admission

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/internal/quota"
)

// quotaStore is a Reader and a QuotaWriter over one map.
type quotaStore struct {
	objects
	mu     sync.Mutex
	quotas map[string]*corev1.ResourceQuota
	writes int
	// before is called ahead of each write, without the lock.
	before func(q *corev1.ResourceQuota) error
}

func newQuotaStore(quotas ...*corev1.ResourceQuota) *quotaStore {
	s := &quotaStore{objects: world(), quotas: map[string]*corev1.ResourceQuota{}}
	for i, q := range quotas {
		q.Namespace, q.ResourceVersion, q.UID = "default", "1", types.UID(fmt.Sprint("u", i))
		s.quotas[q.Name] = q
	}
	return s
}

func (s *quotaStore) List(ctx context.Context, gr schema.GroupResource, namespace string) ([]runtime.Object, metav1.ListMeta, error) {
	if gr.Resource != "resourcequotas" || namespace != "default" {
		return s.objects.List(ctx, gr, namespace)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []runtime.Object
	for _, name := range []string{"a", "b", "c", "q"} {
		if q := s.quotas[name]; q != nil {
			out = append(out, q)
		}
	}
	return out, metav1.ListMeta{}, nil
}

func (s *quotaStore) WriteQuota(_ context.Context, q *corev1.ResourceQuota) (*corev1.ResourceQuota, bool, error) {
	if s.before != nil {
		if err := s.before(q); err != nil {
			return nil, false, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.quotas[q.Name]
	if have == nil || have.ResourceVersion != q.ResourceVersion {
		return have, false, nil
	}
	fresh := *q
	n, _ := strconv.Atoi(q.ResourceVersion)
	fresh.ResourceVersion = strconv.Itoa(n + 1)
	s.quotas[q.Name] = &fresh
	s.writes++
	return &fresh, true, nil
}

func (s *quotaStore) used(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return quota.Text(s.quotas[name].Status.Used)
}

func hard(name, limits, used string, scopes ...corev1.ResourceQuotaScope) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: amounts(limits), Scopes: scopes},
		Status: corev1.ResourceQuotaStatus{Hard: amounts(limits), Used: amounts(used)}}
}

func askingPod(requests, limits string) *corev1.Pod {
	pod := simplePod("default")
	pod.Spec.Containers[0].Resources = requirements(requests, limits)
	return pod
}

func TestQuotaCharges(t *testing.T) {
	for _, c := range []struct {
		name   string
		quotas []*corev1.ResourceQuota
		pod    *corev1.Pod
		text   string
		used   string // of the first quota, afterwards
	}{
		{"fits", []*corev1.ResourceQuota{hard("q", "pods=2 requests.cpu=1", "pods=1 requests.cpu=500m")}, askingPod("cpu=500m", ""), "", "pods=2,requests.cpu=1"},
		{"too many", []*corev1.ResourceQuota{hard("q", "pods=1", "pods=1")}, askingPod("", ""), `pods "p" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1`, "pods=1"},
		{"only what exceeds is told", []*corev1.ResourceQuota{hard("q", "pods=9 limits.memory=1Gi cpu=1", "pods=1 limits.memory=0 cpu=0")}, askingPod("cpu=2", "memory=2Gi"),
			"exceeded quota: q, requested: cpu=2,limits.memory=2Gi, used: cpu=0,limits.memory=0, limited: cpu=1,limits.memory=1Gi", "cpu=0,limits.memory=0,pods=1"},
		{"must specify", []*corev1.ResourceQuota{hard("q", "limits.cpu=1", "limits.cpu=0")}, askingPod("cpu=1", ""), `pods "p" is forbidden: failed quota: q: must specify limits.cpu for: c`, "limits.cpu=0"},
		{"not counted yet", []*corev1.ResourceQuota{hard("q", "pods=1 count/pods=1", "pods=0")}, askingPod("", ""), `status unknown for quota: q, resources: count/pods,pods`, "pods=0"},
		{"of another scope", []*corev1.ResourceQuota{hard("q", "pods=1", "pods=1", corev1.ResourceQuotaScopeTerminating)}, askingPod("", ""), "", "pods=1"},
		{"of the scope", []*corev1.ResourceQuota{hard("q", "pods=1", "pods=1", corev1.ResourceQuotaScopeBestEffort)}, askingPod("", ""), "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1", "pods=1"},
		{"of other resources", []*corev1.ResourceQuota{hard("q", "services=0 count/secrets=0", "services=0 count/secrets=0")}, askingPod("", ""), "", "count/secrets=0,services=0"},
		{"negative", []*corev1.ResourceQuota{hard("q", "requests.cpu=1", "requests.cpu=0")}, askingPod("cpu=-1", ""), "quota usage is negative for resource(s): cpu,requests.cpu", "requests.cpu=0"},
		{"second full", []*corev1.ResourceQuota{hard("a", "pods=5", "pods=0"), hard("b", "pods=1", "pods=1")}, askingPod("", ""), "exceeded quota: b, requested: pods=1, used: pods=1, limited: pods=1", "pods=0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, dry := range []bool{true, false} {
				s := newQuotaStore(c.quotas...)
				r := podRequest(c.pod)
				r.DryRun = dry
				err := newResourceQuota(s, s).Validate(t.Context(), r)
				wantText(t, err, c.text)
				if err != nil && !apierrors.IsForbidden(err) {
					t.Errorf("%v", err)
				}
				want := c.used
				if dry {
					want = quota.Text(c.quotas[0].Status.Used)
				}
				if got := s.used(c.quotas[0].Name); got != want {
					t.Errorf("dry run %v: used %s, want %s", dry, got, want)
				}
			}
		})
	}
}

func TestQuotaConcerns(t *testing.T) {
	s := newQuotaStore(hard("q", "count/widgets.example.com=1 pods=5 services.nodeports=2 services=9", "count/widgets.example.com=0 pods=0 services.nodeports=1 services=1"))
	p := newResourceQuota(s, s)
	request := func(op Operation, group, resource, sub string, obj, old runtime.Object) *Request {
		return &Request{Operation: op, Resource: schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource}, Subresource: sub, Namespace: "default", Name: "x", Object: obj, Old: old}
	}
	widget := &metav1.PartialObjectMetadata{}
	wantText(t, p.Validate(t.Context(), request(Create, "example.com", "widgets", "", widget, nil)), "")
	wantText(t, p.Validate(t.Context(), request(Create, "example.com", "widgets", "", widget, nil)),
		`widgets.example.com "x" is forbidden: exceeded quota: q, requested: count/widgets.example.com=1, used: count/widgets.example.com=1, limited: count/widgets.example.com=1`)
	wantText(t, p.Validate(t.Context(), request(Update, "example.com", "widgets", "", widget, widget)), "")

	plain := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Ports: make([]corev1.ServicePort, 2)}}
	ports := plain.DeepCopy()
	ports.Spec.Type = corev1.ServiceTypeNodePort
	wantText(t, p.Validate(t.Context(), request(Update, "", "services", "", ports, plain)),
		"exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=1, limited: services.nodeports=2")
	ports.Spec.Ports = ports.Spec.Ports[:1]
	wantText(t, p.Validate(t.Context(), request(Update, "", "services", "status", ports, plain)), "")
	wantText(t, p.Validate(t.Context(), request(Update, "", "services", "", ports, plain)), "")
	wantText(t, p.Validate(t.Context(), request(Update, "", "services", "", plain, ports)), "")
	if got := s.used("q"); !strings.Contains(got, "services.nodeports=2,") && !strings.HasSuffix(got, "services.nodeports=2") || !strings.Contains(got, "services=1") {
		t.Errorf("an update that uses less, or a status, was charged: %s", got)
	}
	writes := s.writes
	for _, r := range []*Request{
		request(Create, "", "pods", "eviction", widget, nil), request(Update, "", "pods", "", askingPod("", ""), askingPod("", "")),
		request(Update, "", "pods", "ephemeralcontainers", askingPod("", ""), askingPod("", "")), request(Delete, "", "pods", "", nil, askingPod("", "")),
		request(Create, "", "events", "", &corev1.Event{}, nil), request(Create, "", "namespaces", "", &corev1.Namespace{}, nil),
	} {
		wantText(t, p.Validate(t.Context(), r), "")
	}
	if s.writes != writes {
		t.Error("something was charged that uses nothing")
	}
}

func TestQuotaOfResize(t *testing.T) {
	s := newQuotaStore(hard("q", "requests.cpu=2 limits.cpu=9", "requests.cpu=1 limits.cpu=1"))
	p := newResourceQuota(s, s)
	r := podRequest(askingPod("cpu=2", "cpu=2"))
	r.Operation, r.Subresource, r.Old = Update, "resize", askingPod("cpu=1", "cpu=1")
	wantText(t, p.Validate(t.Context(), r), "")
	if got := s.used("q"); got != "limits.cpu=2,requests.cpu=2" {
		t.Error(got)
	}
	wantText(t, p.Validate(t.Context(), r), "exceeded quota: q, requested: requests.cpu=1, used: requests.cpu=2, limited: requests.cpu=2")
}

// TestQuotaRefunds: what was charged and is not stored is given back, whether a later quota or the store refused it.
func TestQuotaRefunds(t *testing.T) {
	s := newQuotaStore(hard("a", "pods=5", "pods=0"), hard("b", "pods=1", "pods=0"))
	s.before = func(q *corev1.ResourceQuota) error {
		if q.Name == "b" { // another server is faster
			s.mu.Lock()
			defer s.mu.Unlock()
			s.quotas["b"] = hard("b", "pods=1", "pods=1")
			s.quotas["b"].Namespace, s.quotas["b"].UID, s.quotas["b"].ResourceVersion = "default", "u1", "7"
		}
		return nil
	}
	p := newResourceQuota(s, s)
	wantText(t, p.Validate(t.Context(), podRequest(askingPod("", ""))), "exceeded quota: b, requested: pods=1, used: pods=1, limited: pods=1")
	if s.used("a") != "pods=0" || s.used("b") != "pods=1" {
		t.Errorf("%s %s", s.used("a"), s.used("b"))
	}

	s = newQuotaStore(hard("a", "pods=5", "pods=0"), hard("b", "pods=1", "pods=0"))
	s.before = func(q *corev1.ResourceQuota) error {
		if q.Name == "b" {
			return errors.New("no disk")
		}
		return nil
	}
	if err := newResourceQuota(s, s).Validate(t.Context(), podRequest(askingPod("", ""))); !apierrors.IsInternalError(err) || s.used("a") != "pods=0" {
		t.Errorf("%v, %s", err, s.used("a"))
	}

	s = newQuotaStore(hard("a", "pods=5", "pods=0"), hard("b", "pods=5", "pods=0"))
	r := podRequest(askingPod("", ""))
	var undo []func(context.Context)
	r.OnFailure = func(f func(context.Context)) { undo = append(undo, f) }
	wantText(t, newResourceQuota(s, s).Validate(t.Context(), r), "")
	if s.used("a") != "pods=1" || s.used("b") != "pods=1" || len(undo) != 1 {
		t.Fatalf("%s %s, %d", s.used("a"), s.used("b"), len(undo))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the client is gone
	undo[0](ctx)
	if s.used("a") != "pods=0" || s.used("b") != "pods=0" {
		t.Errorf("%s %s", s.used("a"), s.used("b"))
	}
}

// TestQuotaConcurrency: two servers admit many pods at once, and never more than there may be.
func TestQuotaConcurrency(t *testing.T) {
	const limit, servers, tries = 20, 2, 25
	s := newQuotaStore(hard("a", "pods=100", "pods=0"), hard("q", fmt.Sprintf("pods=%d", limit), "pods=0"))
	var wg sync.WaitGroup
	var mu sync.Mutex
	admitted := 0
	for range servers {
		p := newResourceQuota(s, s)
		for range tries {
			wg.Go(func() {
				err := p.Validate(t.Context(), podRequest(askingPod("", "")))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					admitted++
				} else if !strings.Contains(err.Error(), "exceeded quota: q") {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if want := fmt.Sprintf("pods=%d", limit); admitted != limit || s.used("q") != want || s.used("a") != want {
		t.Errorf("admitted %d of %d, used %s and %s", admitted, limit, s.used("q"), s.used("a"))
	}
}
