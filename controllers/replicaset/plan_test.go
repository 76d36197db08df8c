package replicaset

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type change func(*corev1.Pod)

// pod is running, ready for ten hours and twenty hours old, unless changes say otherwise.
func pod(name string, changes ...change) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{"app": "a"}, CreationTimestamp: metav1.NewTime(now.Add(-20 * time.Hour))},
		Spec:       corev1.PodSpec{NodeName: "n-" + name},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-10 * time.Hour))},
		}},
	}
	for _, c := range changes {
		c(p)
	}
	return p
}

func unassigned(p *corev1.Pod) { p.Spec.NodeName = ""; phase(corev1.PodPending)(p); unready(p) }
func unready(p *corev1.Pod)    { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func deleting(p *corev1.Pod)   { p.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }
func phase(ph corev1.PodPhase) change {
	return func(p *corev1.Pod) { p.Status.Phase = ph }
}
func cost(c string) change {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: c} }
}
func node(n string) change { return func(p *corev1.Pod) { p.Spec.NodeName = n } }
func readyFor(d time.Duration) change {
	return func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-d)) }
}
func aged(d time.Duration) change {
	return func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-d)) }
}
func restarted(n int32) change {
	return func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}} }
}

func sidecarRestarted(n int32) change {
	return func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "s", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}}
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "s", RestartCount: n}}
	}
}

func set(replicas, minReady int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "s", Generation: 3},
		Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, MinReadySeconds: minReady, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "a"}},
		}},
	}
}

func snap(s *appsv1.ReplicaSet, owned ...*corev1.Pod) snapshot {
	return snapshot{set: s, owned: owned, related: func() []*corev1.Pod { return owned }, now: now}
}

func TestRanking(t *testing.T) {
	want := []*corev1.Pod{
		pod("01", unassigned),
		pod("02", phase(corev1.PodPending), unready),
		pod("03", phase(corev1.PodUnknown), unready),
		pod("04", unready),
		pod("05", cost("-5")),
		pod("06", cost("+7"), node("crowded"), readyFor(2*time.Hour)), // a plus sign is no cost
		pod("07", node("crowded")),
		pod("08", readyFor(time.Minute)),
		pod("09", restarted(9)),
		pod("09a", restarted(3), sidecarRestarted(9)),
		pod("09b", restarted(3), sidecarRestarted(1)),
		pod("09c", sidecarRestarted(9)),
		pod("10", aged(11*time.Hour)),
		pod("11"),
		pod("12", cost("100")),
	}
	for rotation := range want {
		got := slices.Concat(want[rotation:], want[:rotation])
		rankForDeletion(got, got, now)
		if names(got) != names(want) {
			t.Fatalf("rotation %d: %s", rotation, names(got))
		}
	}
}

func names(list []*corev1.Pod) string {
	var n []string
	for _, p := range list {
		n = append(n, p.Name)
	}
	return strings.Join(n, " ")
}

func TestDecide(t *testing.T) {
	tests := []struct {
		name   string
		want   int32
		pods   []*corev1.Pod
		create int
		delete string
	}{
		{"none yet", 3, nil, 3, ""},
		{"enough", 1, []*corev1.Pod{pod("a")}, 0, ""},
		{"one ended, one terminating", 3, []*corev1.Pod{pod("a"), pod("b", phase(corev1.PodFailed)), pod("c", deleting)}, 2, ""},
		{"too many", 1, []*corev1.Pod{pod("a"), pod("b", unready), pod("c", unassigned)}, 0, "c b"},
		{"all go", 0, []*corev1.Pod{pod("a"), pod("b")}, 0, "a b"},
		{"burst", 100000, nil, burst, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := decide(snap(set(tt.want, 0), tt.pods...))
			if p.create != tt.create || names(p.delete) != tt.delete {
				t.Fatalf("create %d, delete %q", p.create, names(p.delete))
			}
		})
	}
}

func TestStatus(t *testing.T) {
	s := snap(set(4, 60), pod("a"), pod("b", readyFor(20*time.Second)), pod("c", unready), pod("d", deleting), pod("e", phase(corev1.PodSucceeded)),
		pod("f", readyFor(50*time.Second), func(p *corev1.Pod) { p.Labels = nil }))
	st := decideStatus(s, "FailedCreate", errors.New("quota"))
	got := fmt.Sprint(st.Replicas, st.FullyLabeledReplicas, st.ReadyReplicas, st.AvailableReplicas, *st.TerminatingReplicas, st.ObservedGeneration)
	if got != "4 3 3 1 1 3" {
		t.Fatal(got)
	}
	if c := st.Conditions[0]; c.Type != appsv1.ReplicaSetReplicaFailure || c.Reason != "FailedCreate" || c.Message != "quota" {
		t.Fatalf("%+v", c)
	}
	if next := nextAvailable(s); next != 10*time.Second {
		t.Fatal(next)
	}
	s.set.Status = st
	if !sameStatus(st, decideStatus(s, "FailedCreate", errors.New("quota again"))) {
		t.Fatal("a failure that lasts is written again")
	}
	if st := decideStatus(s, "FailedCreate", nil); len(st.Conditions) != 0 {
		t.Fatal("the failure outlives its end")
	}
}
