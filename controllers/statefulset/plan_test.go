package statefulset

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// pods are written as "ordinal revision state", the state being pending, ready, fresh (ready just now), unready, failed, succeeded, or one of
// these with a minus for terminating.
func pod(line string) *corev1.Pod {
	var ordinal int
	var rev, state string
	if _, err := fmt.Sscan(line, &ordinal, &rev, &state); err != nil {
		panic(err)
	}
	set := build(0)
	p := newPod(set, ordinal, revision{name: rev, template: &set.Spec.Template})
	p.UID = types.UID(fmt.Sprint("uid-", ordinal))
	if rest, ok := strings.CutPrefix(state, "-"); ok {
		state, p.DeletionTimestamp = rest, ptr.To(metav1.NewTime(now))
	}
	become(p, state)
	return p
}

func become(p *corev1.Pod, state string) {
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning}
	ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}
	switch state {
	case "pending":
		p.Status.Phase = corev1.PodPending
		return
	case "failed":
		p.Status.Phase = corev1.PodFailed
		return
	case "succeeded":
		p.Status.Phase = corev1.PodSucceeded
		return
	case "fresh":
		ready.LastTransitionTime = metav1.NewTime(now.Add(-3 * time.Second))
	case "unready":
		ready.Status = corev1.ConditionFalse
	case "ready":
	default:
		panic(state)
	}
	p.Status.Conditions = []corev1.PodCondition{ready}
}

type change func(*appsv1.StatefulSet)

func build(replicas int32, changes ...change) *appsv1.StatefulSet {
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db", UID: "set", Generation: 3},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}, ServiceName: "svc",
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "db"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}},
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{
				Partition: ptr.To[int32](0), MaxUnavailable: ptr.To(intstr.FromInt32(1)),
			}},
		},
		Status: appsv1.StatefulSetStatus{CurrentRevision: "old", UpdateRevision: "new"},
	}
	for _, c := range changes {
		c(set)
	}
	return set
}

func parallelPods(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }
func deleting(s *appsv1.StatefulSet)     { s.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }
func minReady(s *appsv1.StatefulSet)     { s.Spec.MinReadySeconds = 10 }
func startAt(n int32) change {
	return func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: n} }
}
func partition(n int32) change {
	return func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = &n }
}
func noParameters(s *appsv1.StatefulSet) {
	s.Spec.UpdateStrategy.RollingUpdate = nil
	s.Status.CurrentReplicas = 2
}
func unavailable(v string) change {
	return func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.Parse(v))
	}
}
func onDelete(s *appsv1.StatefulSet) {
	s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
}
func claims(s *appsv1.StatefulSet) {
	s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data", Labels: map[string]string{"tier": "disk"}}}}
}
func retain(whenDeleted, whenScaled string) change {
	return func(s *appsv1.StatefulSet) {
		claims(s)
		s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
			WhenDeleted: appsv1.PersistentVolumeClaimRetentionPolicyType(whenDeleted), WhenScaled: appsv1.PersistentVolumeClaimRetentionPolicyType(whenScaled),
		}
	}
}

func snap(set *appsv1.StatefulSet, have map[string]*corev1.PersistentVolumeClaim, lines ...string) snapshot {
	s := snapshot{
		set: set, now: now, claim: func(name string) *corev1.PersistentVolumeClaim { return have[name] },
		current: revision{name: "old", template: &set.Spec.Template}, update: revision{name: "new", template: &set.Spec.Template, same: map[string]bool{"twin": true}},
	}
	for _, line := range lines {
		s.pods = append(s.pods, pod(line))
	}
	return s
}

// say writes a plan as text.
func say(p plan) string {
	var words []string
	for _, o := range p.owners {
		words = append(words, "own:"+o.claim.Name)
	}
	for _, c := range p.claims {
		for _, claim := range c.make {
			words = append(words, "claim:"+claim.Name)
		}
		if c.going != "" {
			words = append(words, "wait:"+c.going)
		}
	}
	for _, c := range p.create {
		for _, claim := range c.claims.make {
			words = append(words, "claim:"+claim.Name)
		}
		if c.claims.going != "" {
			words = append(words, "wait:"+c.claims.going)
		}
		words = append(words, "+"+strings.TrimPrefix(c.pod.Name, "db-")+revisionOf(c.pod))
	}
	for _, r := range p.repair {
		words = append(words, "repair:"+r.pod.Name)
	}
	for _, d := range p.delete {
		words = append(words, "-"+strings.TrimPrefix(d.Name, "db-"))
	}
	return strings.Join(words, " ")
}

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name string
		set  *appsv1.StatefulSet
		pods []string
		want string
	}{
		{"the first pod first", build(3), nil, "+0new"},
		{"waits for the first", build(3), []string{"0 new pending"}, ""},
		{"waits for readiness", build(3), []string{"0 new unready"}, ""},
		{"then the second", build(3), []string{"0 new ready"}, "+1new"},
		{"waits for availability", build(3, minReady), []string{"0 new fresh"}, ""},
		{"a gap is filled before what follows", build(3), []string{"0 new ready", "2 new ready"}, "+1new"},
		{"waits for one that terminates", build(3), []string{"0 new ready", "1 new -ready"}, ""},
		{"all is well", build(2), []string{"0 new ready", "1 new ready"}, ""},
		{"an equal revision is no other", build(2), []string{"0 twin ready", "1 new ready"}, ""},
		{"a failed pod goes", build(2), []string{"0 new ready", "1 new failed"}, "-1"},
		{"a succeeded pod goes", build(2), []string{"0 new succeeded", "1 new ready"}, "-0"},
		{"a failed pod that goes is waited for", build(2), []string{"0 new -failed", "1 new ready"}, ""},
		{"all at once", build(3, parallelPods), nil, "+0new +1new +2new"},
		{"in parallel nothing is waited for", build(3, parallelPods), []string{"0 new unready"}, "+1new +2new"},
		{"in parallel a name is waited for", build(3, parallelPods), []string{"0 new -ready", "1 new failed"}, "+2new -1"},

		{"from the highest down", build(1), []string{"0 new ready", "1 new ready", "2 new ready"}, "-2"},
		{"one at a time", build(1), []string{"0 new ready", "1 new ready", "2 new -ready"}, ""},
		{"no scale-down past an unavailable pod", build(1), []string{"0 new unready", "1 new ready"}, ""},
		{"an unavailable one itself goes", build(1), []string{"0 new ready", "1 new unready"}, "-1"},
		{"behind an unavailable one", build(1), []string{"0 new ready", "1 new unready", "2 new unready"}, ""},
		{"an ended one in any case", build(1), []string{"0 new ready", "1 new failed", "2 new failed"}, "-2"},
		{"ready ones go before it", build(1), []string{"0 new ready", "1 new unready", "2 new ready"}, "-2"},
		{"all excess at once", build(1, parallelPods), []string{"0 new unready", "1 new ready", "2 new unready"}, "-2 -1"},
		{"to nothing", build(0), []string{"0 new ready"}, "-0"},
		{"below the start", build(2, startAt(5)), []string{"3 new ready", "5 new ready", "6 new ready"}, "-3"},
		{"from the start", build(2, startAt(5)), []string{"5 new ready"}, "+6new"},
		{"nothing when it is deleted", build(3, deleting), []string{"0 old ready"}, ""},

		{"an update begins at the end", build(3), []string{"0 old ready", "1 old ready", "2 old ready"}, "-2"},
		{"an update goes on", build(3), []string{"0 old ready", "1 old ready", "2 new ready"}, "-1"},
		{"an update waits", build(3), []string{"0 old ready", "1 old ready", "2 new unready"}, ""},
		{"an update waits for availability", build(3, minReady), []string{"0 old ready", "1 old ready", "2 new fresh"}, ""},
		{"up to the partition", build(3, partition(2)), []string{"0 old ready", "1 old ready", "2 new ready"}, ""},
		{"the partition counts from the start", build(3, partition(2), startAt(4)), []string{"4 old ready", "5 old ready", "6 old ready"}, "-6"},
		{"below the partition pods come back as they were", build(3, partition(2)), []string{"1 old ready"}, "+0old"},
		{"behind it they are new", build(3, partition(2)), []string{"0 old ready", "1 old ready"}, "+2new"},
		{"a partition beyond the end", build(2, partition(9)), []string{"0 old ready", "1 old ready"}, ""},
		{"without parameters the count tells", build(3, noParameters), []string{"0 old ready"}, "+1old"},
		{"scaling comes before updating", build(2), []string{"0 old ready", "1 old ready", "2 old ready"}, "-2"},
		{"OnDelete updates nothing", build(2, onDelete), []string{"0 old ready", "1 old ready"}, ""},
		{"OnDelete makes new ones", build(2, onDelete), []string{"1 old ready"}, "+0new"},
		{"two may be unavailable", build(4, unavailable("2")), []string{"0 old ready", "1 old ready", "2 old ready", "3 old ready"}, "-3 -2"},
		{"a share is rounded down", build(4, unavailable("70%")), []string{"0 old ready", "1 old ready", "2 old ready", "3 old ready"}, "-3 -2"},
		{"but not to nothing", build(4, unavailable("1%")), []string{"0 old ready", "1 old ready", "2 old ready", "3 old ready"}, "-3"},
		{"in parallel one is missing already", build(4, unavailable("2"), parallelPods), []string{"0 new unready", "1 old ready", "2 old ready", "3 old ready"}, "-3"},
		{"in parallel as many as may be are missing", build(4, unavailable("2"), parallelPods), []string{"0 new unready", "1 old ready", "2 old ready", "3 new -ready"}, ""},
		{"in parallel the broken go first", build(4, parallelPods), []string{"0 old unready", "1 old pending", "2 old ready", "3 old ready"}, "-1 -0"},
		{"in parallel the broken below the partition stay", build(3, parallelPods, partition(1)), []string{"0 old unready", "1 old unready", "2 old ready"}, "-1"},

		{"claims come first", build(2, claims), nil, "claim:data-db-0 +0new"},
		{"a pending pod gets its claim back", build(1, claims), []string{"0 new pending"}, "claim:data-db-0"},
	} {
		if got := say(decide(snap(c.set, nil, c.pods...))); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		name    string
		set     *appsv1.StatefulSet
		pods    []string
		want    string
		current string
		again   time.Duration
	}{
		{"nothing", build(2), nil, "0 0 0 0 0", "old", 0},
		{"on the way", build(3), []string{"0 old ready", "1 old -ready", "2 new unready", "3 new failed"}, "4 2 2 1 2", "old", 0},
		{"complete", build(2), []string{"0 new ready", "1 twin ready"}, "2 2 2 2 2", "new", 0},
		{"too many yet", build(1), []string{"0 new ready", "1 new ready"}, "2 2 2 0 2", "old", 0},
		{"ready but not available", build(2, minReady), []string{"0 new ready", "1 new fresh"}, "2 2 1 2 2", "new", 7 * time.Second},
		{"OnDelete completes nothing", build(2, onDelete), []string{"0 new ready", "1 new ready"}, "2 2 2 0 2", "old", 0},
	} {
		p := decide(snap(c.set, nil, c.pods...))
		s := p.status
		got := fmt.Sprint(s.Replicas, s.ReadyReplicas, s.AvailableReplicas, s.CurrentReplicas, s.UpdatedReplicas)
		if got != c.want || s.CurrentRevision != c.current || s.UpdateRevision != "new" || s.ObservedGeneration != 3 || *s.CollisionCount != 0 || p.again != c.again {
			t.Errorf("%s: %s %+v again in %v", c.name, got, s, p.again)
		}
	}
}

func TestNewPod(t *testing.T) {
	set := build(1, claims)
	set.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "tmp"}, {Name: "data"}}
	set.Spec.Template.Annotations, set.Spec.Template.Finalizers = map[string]string{"a": "b"}, []string{"x/y"}
	p := newPod(set, 7, revision{name: "db-abc", template: &set.Spec.Template})
	if p.Name != "db-7" || p.Namespace != "ns" || p.Spec.Hostname != "db-7" || p.Spec.Subdomain != "svc" || p.Annotations["a"] != "b" || p.Finalizers[0] != "x/y" {
		t.Errorf("%+v", p)
	}
	for key, want := range map[string]string{"app": "db", "statefulset.kubernetes.io/pod-name": "db-7", "apps.kubernetes.io/pod-index": "7", "controller-revision-hash": "db-abc"} {
		if p.Labels[key] != want {
			t.Errorf("label %s: %q", key, p.Labels[key])
		}
	}
	if v := p.Spec.Volumes; len(v) != 2 || v[0].PersistentVolumeClaim.ClaimName != "data-db-7" || v[1].Name != "tmp" {
		t.Errorf("volumes %+v", v)
	}
	if ref := metav1.GetControllerOf(p); ref == nil || ref.UID != "set" || ref.Kind != "StatefulSet" || !*ref.BlockOwnerDeletion {
		t.Errorf("owner %+v", ref)
	}
	if len(set.Spec.Template.Labels) != 1 || len(set.Spec.Template.Spec.Volumes) != 2 {
		t.Error("the template was changed")
	}
	if _, ok := repairOf(set, p); ok {
		t.Error("a new pod needs repair")
	}
	p.Labels[appsv1.PodIndexLabel] = "8"
	p.Spec.Volumes = p.Spec.Volumes[1:]
	if r, ok := repairOf(set, p); !ok || len(r.labels) != 1 || r.labels[appsv1.PodIndexLabel] != "7" || len(r.volumes) != 1 || r.volumes[0].Name != "data" {
		t.Errorf("%+v", r)
	}
}

func TestNoHotLoop(t *testing.T) {
	s := snap(build(1), nil, "0 new failed")
	s.pods[0].CreationTimestamp = metav1.NewTime(now.Add(-300 * time.Millisecond))
	if p := decide(s); say(p) != "" || p.again != 700*time.Millisecond {
		t.Errorf("a pod that fails at once: %q again in %v", say(p), p.again)
	}
	s.pods[0].CreationTimestamp = metav1.NewTime(now.Add(time.Hour)) // by a clock that is ahead
	if p := decide(s); p.again != time.Second {
		t.Errorf("again in %v", p.again)
	}
	s.pods[0].CreationTimestamp = metav1.NewTime(now.Add(-time.Second))
	if p := decide(s); say(p) != "-0" || p.again != 0 {
		t.Errorf("a second later: %q again in %v", say(p), p.again)
	}
}

// TestHugeSet: neither the memory nor the time that a set takes grows with what it asks for.
func TestHugeSet(t *testing.T) {
	for _, changes := range [][]change{nil, {parallelPods}} {
		set := build(2_000_000_000, append(changes, startAt(2_000_000_000))...)
		s := snap(set, nil, "2000000000 new ready", "3999999999 old ready", "2000000007 old ready")
		p := decide(s)
		want := 1
		if changes != nil {
			want = burst
		}
		if len(p.create) > want+3 || len(p.create) < want || p.create[0].pod.Name != "db-2000000001" || len(p.delete) > 0 {
			t.Errorf("%d created, %d deleted", len(p.create), len(p.delete))
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	set := build(1000, claims)
	have := map[string]*corev1.PersistentVolumeClaim{}
	s := snap(set, have)
	for i := range 1000 {
		s.pods = append(s.pods, pod(fmt.Sprint(i, " new ready")))
		s.pods[i].Spec.Volumes = withClaims(set, i, nil)
		have[claimName(set, &set.Spec.VolumeClaimTemplates[0], i)] = claim(fmt.Sprint(i))
	}
	for b.Loop() {
		if p := decide(s); say(p) != "" {
			b.Fatal(say(p))
		}
	}
}

func TestNamesOfPods(t *testing.T) {
	for name, want := range map[string]string{"web-0": "web 0", "a-b-12": "a-b 12", "web-01": "", "web": "", "-1": "", "web-": "", "web-x": "", "web-+1": "", "web-99999999999999999999": "", "web-2147483648": "web 2147483648"} {
		parent, ordinal, ok := parentAndOrdinal(name)
		got := ""
		if ok {
			got = fmt.Sprint(parent, " ", ordinal)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
