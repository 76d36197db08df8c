package owner

import (
	"context"
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func pod(name, app string, controller types.UID, deleting bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "a", UID: types.UID(name), Labels: map[string]string{"app": app}}}
	if controller != "" {
		p.OwnerReferences = []metav1.OwnerReference{{UID: controller, Controller: ptr.To(true)}}
	}
	if deleting {
		p.DeletionTimestamp = ptr.To(metav1.Now())
	}
	return p
}

func set(deleting bool) *corev1.ReplicationController {
	o := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "set", Namespace: "a", UID: "me"}}
	if deleting {
		o.DeletionTimestamp = ptr.To(metav1.Now())
	}
	return o
}

var selector = labels.SelectorFromSet(labels.Set{"app": "web"})

func TestDecide(t *testing.T) {
	elsewhere := pod("p", "web", "", false)
	elsewhere.Namespace = "b"
	tests := []struct {
		name string
		dies bool
		pod  *corev1.Pod
		want Action
	}{
		{"ours", false, pod("p", "web", "me", false), Keep},
		{"ours, terminating", false, pod("p", "web", "me", true), Keep},
		{"ours, relabelled", false, pod("p", "other", "me", false), Release},
		{"ours, relabelled, but we go", true, pod("p", "other", "me", false), Skip},
		{"another's", false, pod("p", "web", "other", false), Skip},
		{"orphan", false, pod("p", "web", "", false), Adopt},
		{"orphan, but we go", true, pod("p", "web", "", false), Skip},
		{"terminating orphan", false, pod("p", "web", "", true), Skip},
		{"orphan of other labels", false, pod("p", "db", "", false), Skip},
		{"orphan elsewhere", false, elsewhere, Skip},
	}
	for _, tt := range tests {
		if got := Decide(set(tt.dies), selector, tt.pod); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestClaim(t *testing.T) {
	var patches []string
	live, asked := set(false), 0
	c := Claimer{
		Owner: set(false), Kind: corev1.SchemeGroupVersion.WithKind("ReplicationController"), Selector: selector,
		Live: func(context.Context) (metav1.Object, error) { asked++; return live, nil },
		Patch: func(_ context.Context, obj metav1.Object, patch []byte) error {
			patches = append(patches, string(patch))
			if obj.GetName() == "refuses" {
				return errors.New("no")
			}
			return nil
		},
	}
	candidates := []*corev1.Pod{pod("ours", "web", "me", false), pod("orphan", "web", "", false), pod("refuses", "web", "", false), pod("stray", "db", "me", false)}
	owned, err := Claim(t.Context(), c, candidates)
	if err == nil || len(owned) != 2 || owned[1].Name != "orphan" || asked != 1 {
		t.Fatal(err, len(owned), asked)
	}
	want := []string{
		`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ReplicationController","name":"set","uid":"me","controller":true,"blockOwnerDeletion":true}],"uid":"orphan"}}`,
		`{"metadata":{"ownerReferences":[{"$patch":"delete","uid":"me"}],"uid":"stray"}}`,
	}
	if got := fmt.Sprint(patches[0], patches[2]); got != want[0]+want[1] {
		t.Fatal(got)
	}
	live.UID = "namesake"
	if owned, err := Claim(t.Context(), c, candidates[:2]); err == nil || len(owned) != 1 {
		t.Fatal("adopted for an owner that has been replaced")
	}
}
