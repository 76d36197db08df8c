package faults

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// past makes histories: each line is a write, a second after the one before unless later says otherwise.
type past struct {
	events  []Event
	now     time.Time
	foreign map[types.UID]bool
}

func newPast() *past {
	return &past{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), foreign: map[types.UID]bool{}}
}

func (p *past) later(d time.Duration) *past { p.now = p.now.Add(d); return p }

func (p *past) write(objects ...metav1.Object) *past {
	for _, o := range objects {
		p.later(time.Second)
		p.events = append(p.events, Event{Revision: int64(len(p.events) + 1), At: p.now, Object: o})
	}
	return p
}

func (p *past) gone(objects ...metav1.Object) *past {
	p.write(objects...)
	for i := range objects {
		p.events[len(p.events)-1-i].Gone = true
	}
	return p
}

// broken are the rules that the history breaks.
func (p *past) broken(gaps ...Gap) (string, []Violation) {
	w := NewWorld()
	w.Foreign = p.foreign
	found := w.Check(Rules(), p.events, gaps...)
	var names []string
	for _, v := range found {
		names = append(names, v.Rule)
	}
	return strings.Join(names, ", "), found
}

func named(name string, owner ...metav1.Object) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Name: name, Namespace: "n", UID: types.UID("uid-" + name), Generation: 1, Labels: map[string]string{"app": "a"}}
	for _, o := range owner {
		m.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(o, schema.GroupVersionKind{Kind: strings.TrimPrefix(fmt.Sprintf("%T", o), "*v1.")})}
	}
	return m
}

type podChange func(*corev1.Pod)

func pod(name string, owner metav1.Object, changes ...podChange) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: named(name, owner), Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
	}}}}
	for _, c := range changes {
		c(p)
	}
	return p
}

func ready(p *corev1.Pod) {
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
}
func deleting(p *corev1.Pod)  { p.DeletionTimestamp = ptr.To(metav1.Now()) }
func succeeded(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
func failed(p *corev1.Pod)    { p.Status.Phase = corev1.PodFailed }
func on(node string) podChange {
	return func(p *corev1.Pod) { p.Spec.NodeName = node }
}
func taken(reason string) podChange {
	return func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason})
	}
}
func ofIndex(n int) podChange {
	return func(p *corev1.Pod) {
		p.Annotations = map[string]string{batchv1.JobCompletionIndexAnnotation: fmt.Sprint(n)}
	}
}

// set is a ReplicaSet of generation and size, of which the controller has seen the observed generation.
func set(name string, owner metav1.Object, size, generation, observed int64) *appsv1.ReplicaSet {
	s := &appsv1.ReplicaSet{ObjectMeta: named(name), Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To(int32(size))}}
	if owner != nil {
		s.ObjectMeta = named(name, owner)
	}
	s.Generation, s.Status.ObservedGeneration = generation, observed
	s.Spec.Template.Labels = map[string]string{"app": "a", "pod-template-hash": name}
	s.Spec.Template.Spec.Containers = []corev1.Container{{Image: name}}
	return s
}

func deployment(size, surge, down int32) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: named("d"), Spec: appsv1.DeploymentSpec{Replicas: &size}}
	d.Spec.Template.Labels = map[string]string{"app": "a"}
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
		MaxSurge: ptr.To(intstr.FromInt32(surge)), MaxUnavailable: ptr.To(intstr.FromInt32(down)),
	}}
	d.Status.ObservedGeneration = 1
	return d
}

func stateful(size int32, policy appsv1.PodManagementPolicyType) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{ObjectMeta: named("s"), Spec: appsv1.StatefulSetSpec{Replicas: &size, PodManagementPolicy: policy}, Status: appsv1.StatefulSetStatus{ObservedGeneration: 1}}
}

func daemon(surge, down int32) *appsv1.DaemonSet {
	d := &appsv1.DaemonSet{ObjectMeta: named("ds"), Status: appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 3}}
	d.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: ptr.To(intstr.FromInt32(surge)), MaxUnavailable: ptr.To(intstr.FromInt32(down))}
	return d
}

func job(completions, parallel int32, change func(*batchv1.JobSpec)) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: named("j"), Spec: batchv1.JobSpec{Completions: &completions, Parallelism: &parallel, CompletionMode: ptr.To(batchv1.IndexedCompletion)}}
	if change != nil {
		change(&j.Spec)
	}
	return j
}

func ended(j *batchv1.Job) *batchv1.Job {
	j = j.DeepCopy()
	j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	return j
}

func node(name, cpu string) *corev1.Node {
	return &corev1.Node{ObjectMeta: named(name), Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourcePods: resource.MustParse("3"),
	}}}
}

func budget(least int32) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{ObjectMeta: named("b"), Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: ptr.To(intstr.FromInt32(least)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}},
	}}
}

func lease(holder string, at time.Duration) *coordinationv1.Lease {
	renewed := metav1.NewMicroTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(at))
	return &coordinationv1.Lease{ObjectMeta: named("l"), Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: ptr.To[int32](15), RenewTime: &renewed}}
}

// TestRules has, for each rule, a history that breaks it and the nearest one that does not.
func TestRules(t *testing.T) {
	solo := set("r", nil, 2, 1, 1)
	d := deployment(4, 1, 1)
	older, newer := set("old", d, 4, 1, 1), set("new", d, 1, 1, 1)
	fours := []metav1.Object{pod("a", older, ready), pod("b", older, ready), pod("c", older, ready), pod("e", older, ready)}
	recreating := deployment(1, 0, 0)
	recreating.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	gone1, gone2 := set("one", recreating, 0, 2, 1), set("two", recreating, 1, 1, 1)
	ordered, parallel := stateful(3, appsv1.OrderedReadyPodManagement), stateful(3, appsv1.ParallelPodManagement)
	ds := daemon(0, 1)
	indexed := job(3, 2, nil)
	strict := job(3, 2, func(s *batchv1.JobSpec) { s.PodReplacementPolicy = ptr.To(batchv1.Failed) })
	limited := job(3, 2, func(s *batchv1.JobSpec) { s.BackoffLimitPerIndex = ptr.To[int32](0) })
	counted := job(2, 2, func(s *batchv1.JobSpec) { s.CompletionMode = nil; s.BackoffLimit = ptr.To[int32](0) })
	n1 := node("n1", "2")
	tests := []struct {
		name string
		past *past
		want string
	}{
		{"a pod goes to another node", newPast().write(solo, pod("p", solo, on("n1")), pod("p", solo, on("n2"))), "bound once"},
		{"a node is full", newPast().write(n1, solo, pod("p", solo), pod("q", solo, on("n1")), pod("p", solo, on("n1"))), ""},
		{"a node is overcommitted", newPast().write(n1, set("r", nil, 3, 1, 1), pod("o", solo, on("n1")), pod("p", solo, on("n1")), pod("q", solo, on("n1"))), "node not overcommitted"},
		{"an ended pod takes no room", newPast().write(n1, set("r", nil, 3, 1, 1), pod("o", solo, on("n1")), pod("p", solo, on("n1")), pod("p", solo, on("n1"), failed), pod("q", solo, on("n1"))), ""},
		{"a terminating pod does", newPast().write(n1, set("r", nil, 1, 1, 1), pod("o", solo, on("n1")), pod("o", solo, on("n1"), deleting), pod("p", solo, on("n1")), pod("p", solo, on("n1"), deleting), pod("q", solo, on("n1"))),
			"set not too small, set not too small, node not overcommitted"},

		{"a set has one pod too many", newPast().write(solo, pod("p", solo), pod("q", solo), pod("s", solo)), "set not too large"},
		{"a set replaces what goes", newPast().write(solo, pod("p", solo), pod("q", solo), pod("q", solo, taken("DeletionByTaintManager"), deleting), pod("s", solo)), ""},
		{"a set that was larger when it was looked at", newPast().write(solo, set("r", nil, 1, 2, 1), pod("p", solo), pod("q", solo)), ""},
		{"a set that was larger before it was looked at", newPast().write(solo, set("r", nil, 1, 2, 2), pod("p", solo), pod("q", solo)), "set not too large"},
		{"a set deletes what it needs", newPast().write(solo, pod("p", solo, ready), pod("q", solo, ready), pod("q", solo, ready, deleting)), "set not too small"},
		{"a set shrinks", newPast().write(solo, pod("p", solo, ready), pod("q", solo, ready), set("r", nil, 1, 2, 1), pod("q", solo, ready, deleting)), ""},
		{"a set deletes a ready pod and keeps a broken one", newPast().write(set("r", nil, 1, 1, 1), pod("p", solo)).later(window).write(pod("q", solo, ready), set("r", nil, 0, 2, 1), set("r", nil, 1, 3, 1), pod("q", solo, ready, deleting)),
			"set not too large, broken pods go first"},

		{"two sets of one template", newPast().write(d, newer, func() metav1.Object { s := set("new", d, 0, 1, 1); s.Name, s.UID = "x", "x"; return s }()), "one set a template"},
		{"a rollout within its surge", newPast().write(d, older).write(fours...).write(newer), ""},
		{"a rollout beyond its surge", newPast().write(d, older).write(fours...).write(set("new", d, 2, 1, 1)), "surge"},
		{"an old set shrinks as far as it may", newPast().write(d, older).write(fours...).write(set("old", d, 3, 2, 1)), ""},
		{"an old set shrinks too far", newPast().write(d, older).write(fours...).write(set("old", d, 2, 2, 1)), "availability"},
		{"an old set shrinks by what is broken", newPast().write(d, older).write(fours[:2]...).write(set("old", d, 2, 2, 1)), ""},
		{"an old set shrinks when a node went", newPast().write(d, older).write(fours...).write(pod("a", older, ready, taken("DeletionByTaintManager"), deleting), set("old", d, 2, 2, 1)), ""},
		{"an old set shrinks long after a node went", newPast().write(d, older).write(fours...).write(pod("a", older, ready, taken("DeletionByTaintManager"), deleting)).later(2 * window).write(set("old", d, 2, 2, 1)), "availability"},
		{"one after the other", newPast().write(recreating, set("one", recreating, 1, 1, 1), pod("p", gone1), gone1, pod("p", gone1, deleting)).gone(pod("p", gone1, deleting)).write(gone2, pod("q", gone2)), ""},
		{"both at once", newPast().write(recreating, gone1, pod("p", gone1, deleting), gone2, pod("q", gone2)), "recreate"},

		{"in order", newPast().write(ordered, pod("s-0", ordered, ready), pod("s-1", ordered, ready), pod("s-2", ordered)), ""},
		{"out of order", newPast().write(ordered, pod("s-0", ordered), pod("s-1", ordered)), "in order"},
		{"in parallel", newPast().write(parallel, pod("s-1", parallel), pod("s-0", parallel)), ""},
		{"an ordinal beyond the set", newPast().write(parallel, pod("s-3", parallel)), "ordinals"},
		{"an ordinal twice", newPast().write(parallel, pod("s-1", parallel), func() metav1.Object { p := pod("s-1", parallel); p.UID = "other"; return p }()), "ordinals"},
		{"two down at once", newPast().write(parallel, pod("s-0", parallel, ready), pod("s-1", parallel, ready), pod("s-1", parallel, ready, deleting), pod("s-0", parallel, ready, deleting)), "stateful rollout"},
		{"one down", newPast().write(parallel, pod("s-0", parallel, ready), pod("s-1", parallel, ready), pod("s-1", parallel, ready, deleting)), ""},

		{"a daemon a node", newPast().write(ds, pod("p", ds, on("n1")), pod("q", ds, on("n2"))), ""},
		{"two daemons on a node", newPast().write(ds, pod("p", ds, on("n1")), pod("q", ds, on("n1"))), "one daemon a node"},
		{"a daemon rolls out", newPast().write(ds, n1, node("n2", "2"), pod("p", ds, on("n1"), ready), pod("q", ds, on("n2"), ready), pod("p", ds, on("n1"), ready, deleting)), ""},
		{"a daemon rolls out on two nodes", newPast().write(ds, n1, node("n2", "2"), pod("p", ds, on("n1"), ready), pod("q", ds, on("n2"), ready), pod("p", ds, on("n1"), ready, deleting), pod("q", ds, on("n2"), ready, deleting)), "daemon rollout"},

		{"a job", newPast().write(indexed, pod("p", indexed, ofIndex(0)), pod("q", indexed, ofIndex(1)), pod("p", indexed, ofIndex(0), succeeded), pod("o", indexed, ofIndex(2))), ""},
		{"a job runs too many", newPast().write(indexed, pod("p", indexed, ofIndex(0)), pod("q", indexed, ofIndex(1)), pod("o", indexed, ofIndex(2))), "job parallelism"},
		{"a pod that ends after it was deleted is not counted", newPast().write(counted, pod("p", counted), pod("p", counted, deleting), pod("p", counted, deleting, succeeded), pod("q", counted), pod("o", counted)), ""},
		{"a job needs no more", newPast().write(counted, pod("p", counted), pod("p", counted, succeeded), pod("q", counted), pod("o", counted)), "job parallelism"},
		{"an index runs twice", newPast().write(indexed, pod("p", indexed, ofIndex(0)), pod("q", indexed, ofIndex(0))), "job index once"},
		{"an index runs again", newPast().write(indexed, pod("p", indexed, ofIndex(0), succeeded), pod("q", indexed, ofIndex(0))), "job index once"},
		{"an index is replaced early", newPast().write(indexed, pod("p", indexed, ofIndex(0), deleting), pod("q", indexed, ofIndex(0))), ""},
		{"an index is replaced too early", newPast().write(strict, pod("p", strict, ofIndex(0), deleting), pod("q", strict, ofIndex(0))), "job index once"},
		{"an index beyond the job", newPast().write(indexed, pod("p", indexed, ofIndex(3))), "job index once"},
		{"an index fails for good", newPast().write(limited, pod("p", limited, ofIndex(0)), pod("p", limited, ofIndex(0), failed), pod("q", limited, ofIndex(0))), "job back-off"},
		{"an index of another", newPast().write(limited, pod("p", limited, ofIndex(0)), pod("p", limited, ofIndex(0), failed), pod("q", limited, ofIndex(1))), ""},
		{"a job fails for good", newPast().write(counted, pod("p", counted), pod("p", counted, failed)).later(2 * window).write(pod("q", counted)), "job back-off"},
		{"a job has ended", newPast().write(indexed, ended(indexed), pod("p", indexed, ofIndex(0))), "job ended"},

		{"an eviction within the budget", newPast().write(budget(2), solo, pod("p", solo, ready), pod("q", solo, ready), pod("o", solo, ready), pod("o", solo, ready, taken("EvictionByEvictionAPI"), deleting)), "set not too large"},
		{"an eviction beyond it", newPast().write(budget(2), solo, pod("p", solo, ready), pod("q", solo, ready), pod("q", solo, ready, taken("EvictionByEvictionAPI"), deleting)), "budget kept by evictions"},
		{"an eviction while a node goes", newPast().write(budget(1), solo, pod("p", solo, ready), pod("q", solo, ready), pod("p", solo, ready, taken("DeletionByTaintManager"), deleting), pod("q", solo, ready, taken("EvictionByEvictionAPI"), deleting)), ""},

		{"a lease that ran out", newPast().write(lease("a", 0), lease("a", 5*time.Second), lease("b", 21*time.Second)), ""},
		{"a lease that was given up", newPast().write(lease("a", 0), lease("", time.Second), lease("b", 2*time.Second)), ""},
		{"a lease that was taken", newPast().write(lease("a", 0), lease("a", 5*time.Second), lease("b", 16*time.Second)), "one leader"},
	}
	caught := map[string]bool{}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, found := tt.past.broken()
			if got != tt.want {
				t.Errorf("%q, want %q: %v", got, tt.want, found)
			}
			for _, v := range found {
				caught[v.Rule] = true
			}
		})
	}
	for _, r := range Rules() {
		if !caught[r.Name] {
			t.Errorf("no history here breaks %q", r.Name)
		}
	}
}

// TestGap: what is not wholly known accuses nobody, but counts.
func TestGap(t *testing.T) {
	solo := set("r", nil, 2, 1, 1)
	p := newPast().write(solo, pod("p", solo), pod("q", solo), pod("o", solo))
	if got, _ := p.broken(Gap{From: 3, To: 4}); got != "" {
		t.Error(got)
	}
	p.write(pod("x", solo))
	if got, found := p.broken(Gap{From: 3, To: 4}); got != "set not too large" || !strings.Contains(found[0].Text, "4 pods") {
		t.Error(got, found)
	}
}

func TestForeign(t *testing.T) {
	solo := set("r", nil, 2, 1, 1)
	p := newPast().write(solo, pod("p", solo, ready), pod("q", solo, ready), pod("q", solo, ready, deleting), pod("o", solo))
	p.foreign["uid-q"] = true
	if got, found := p.broken(); got != "" {
		t.Error(found)
	}
}
