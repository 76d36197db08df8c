package statefulset

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

// world plays the API server, the agents and the garbage collector of one set.
type world struct {
	set    *appsv1.StatefulSet
	update int // the present template's number
	pods   map[string]*corev1.Pod
	claims map[string]*corev1.PersistentVolumeClaim
	serial int
}

func rev(n int) revision {
	return revision{name: fmt.Sprint("r", n), template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"n": fmt.Sprint(n)}}}}
}

func newWorld(t *rapid.T) *world {
	w := &world{pods: map[string]*corev1.Pod{}, claims: map[string]*corev1.PersistentVolumeClaim{}}
	var changes []change
	if rapid.Bool().Draw(t, "parallel") {
		changes = append(changes, parallelPods)
	}
	if rapid.IntRange(0, 3).Draw(t, "onDelete") == 0 {
		changes = append(changes, onDelete)
	} else {
		changes = append(changes, unavailable(rapid.SampledFrom([]string{"1", "2", "3", "50%"}).Draw(t, "unavailable")))
	}
	policy := []string{"Retain", "Delete"}
	changes = append(changes, startAt(rapid.Int32Range(0, 3).Draw(t, "start")),
		retain(rapid.SampledFrom(policy).Draw(t, "whenDeleted"), rapid.SampledFrom(policy).Draw(t, "whenScaled")))
	w.set = build(rapid.Int32Range(0, 6).Draw(t, "replicas"), changes...)
	w.set.Status = appsv1.StatefulSetStatus{}
	return w
}

func (w *world) snapshot() snapshot {
	s := snapshot{set: w.set, now: now, claim: func(name string) *corev1.PersistentVolumeClaim { return w.claims[name] }, update: rev(w.update)}
	for _, p := range w.pods {
		s.pods = append(s.pods, p)
	}
	s.current = s.update
	var n int
	if _, err := fmt.Sscanf(w.set.Status.CurrentRevision, "r%d", &n); err == nil {
		s.current = rev(n)
	}
	return s
}

// sync decides, checks the plan and carries it out, as far as it goes: every write may fail, and ends it.
func (w *world) sync(t *rapid.T, reliable bool) (idle bool) {
	s := w.snapshot()
	p := decide(s)
	w.check(t, s, p)
	w.set.Status = p.status
	fails := func() bool { return !reliable && rapid.IntRange(0, 9).Draw(t, "fails") == 0 }
	for _, o := range p.owners {
		if fails() {
			return false
		}
		changed := o.claim.DeepCopy()
		changed.OwnerReferences = o.want
		w.claims[changed.Name] = changed
	}
	for _, c := range p.claims {
		w.makeClaims(t, c)
	}
	for _, c := range p.create {
		w.makeClaims(t, c.claims)
		if c.claims.going != "" || fails() {
			return false
		}
		if w.pods[c.pod.Name] != nil {
			t.Fatalf("a second %s", c.pod.Name)
		}
		for _, v := range c.pod.Spec.Volumes {
			if w.claims[v.PersistentVolumeClaim.ClaimName] == nil {
				t.Fatalf("%s comes before its claim", c.pod.Name)
			}
		}
		w.serial++
		made := c.pod.DeepCopy()
		made.UID = types.UID(fmt.Sprint("uid-", w.serial))
		made.Status.Phase = corev1.PodPending
		w.pods[made.Name] = made
	}
	for _, d := range p.delete {
		if fails() {
			return false
		}
		marked := d.DeepCopy()
		marked.DeletionTimestamp = ptr.To(metav1.NewTime(now))
		w.pods[d.Name] = marked
	}
	return say(p) == ""
}

func (w *world) makeClaims(t *rapid.T, c claiming) {
	for _, claim := range c.make {
		if w.claims[claim.Name] != nil {
			t.Fatalf("a second %s", claim.Name)
		}
		w.claims[claim.Name] = claim
	}
}

// check holds what is promised of every plan.
func (w *world) check(t *rapid.T, s snapshot, p plan) {
	v := &work{snapshot: s}
	part, first := (&work{snapshot: s}).partition(), start(w.set)
	missing := 0 // of the wanted pods, before the plan
	for i := range replicas(w.set) {
		if !v.available(w.pods[podName(w.set, first+i)]) {
			missing++
		}
	}
	ordered := w.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
	for _, c := range p.create {
		ordinal := ordinalOf(c.pod)
		if w.pods[c.pod.Name] != nil || !inRange(w.set, ordinal) {
			t.Fatalf("%s is created", c.pod.Name)
		}
		if want := s.update.name; w.set.Spec.UpdateStrategy.RollingUpdate != nil && ordinal < first+part {
			if want = s.current.name; revisionOf(c.pod) != want {
				t.Fatalf("%s is of %s below the partition", c.pod.Name, revisionOf(c.pod))
			}
		} else if revisionOf(c.pod) != want || c.pod.Labels["n"] != s.update.template.Labels["n"] {
			t.Fatalf("%s is of %s, of the labels %v", c.pod.Name, revisionOf(c.pod), c.pod.Labels)
		}
		for o := first; ordered && o < ordinal; o++ {
			if !v.available(w.pods[podName(w.set, o)]) {
				t.Fatalf("%s comes before %d is available", c.pod.Name, o)
			}
		}
	}
	if ordered && len(p.create) > 1 || ordered && len(p.create) > 0 && len(p.delete) > 0 {
		t.Fatalf("not in order: %s", say(p))
	}
	w.checkRemovals(t, v, p, ordered, missing)
}

func (w *world) checkRemovals(t *rapid.T, v *work, p plan, ordered bool, missing int) {
	part, first, taken := v.partition(), start(w.set), 0
	seen := map[string]bool{}
	for _, d := range p.delete {
		if seen[d.Name] || w.pods[d.Name] != d || d.DeletionTimestamp != nil {
			t.Fatalf("%s is deleted twice", d.Name)
		}
		seen[d.Name] = true
		ordinal := ordinalOf(d)
		switch {
		case !inRange(w.set, ordinal):
			for name, other := range w.pods {
				if o := ordinalOf(other); ordered && !inRange(w.set, o) && o > ordinal {
					t.Fatalf("%s goes before %s", d.Name, name)
				}
			}
			if ordered && (missing > 0 || len(p.delete) > 1) {
				t.Fatalf("%s goes while %d pods are missing: %s", d.Name, missing, say(p))
			}
		case d.Status.Phase == corev1.PodFailed:
		case w.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType:
			t.Fatalf("%s goes though OnDelete", d.Name)
		case ordinal < first+part || v.update.of(d):
			t.Fatalf("%s goes, of revision %s below partition %d", d.Name, revisionOf(d), part)
		case v.available(d):
			taken++
		}
	}
	if limit := maxUnavailable(w.set); taken > 0 && missing+taken > limit {
		t.Fatalf("%d pods are missing and %d taken, of %d that may be", missing, taken, limit)
	}
}

// happen is something that is not the controller's doing.
func (w *world) happen(t *rapid.T) {
	switch rapid.IntRange(0, 7).Draw(t, "event") {
	case 0:
		w.set.Spec.Replicas = ptr.To(rapid.Int32Range(0, 6).Draw(t, "replicas"))
	case 1:
		w.update = rapid.IntRange(0, 3).Draw(t, "template")
	case 2:
		if r := w.set.Spec.UpdateStrategy.RollingUpdate; r != nil {
			r.Partition = ptr.To(rapid.Int32Range(0, 4).Draw(t, "partition"))
		}
	default:
		w.agents(t, func(*corev1.Pod) string {
			return rapid.SampledFrom([]string{"", "ready", "ready", "ready", "unready", "failed", "gone", "delete"}).Draw(t, "state")
		})
	}
}

// agents let pods change their state, and the garbage collector see it.
func (w *world) agents(t *rapid.T, next func(*corev1.Pod) string) {
	for o := range 12 {
		name := podName(w.set, o)
		have := w.pods[name]
		if have == nil {
			continue
		}
		changed := have.DeepCopy()
		switch state := next(have); {
		case state == "gone" && have.DeletionTimestamp != nil:
			delete(w.pods, name)
			continue
		case state == "delete" && have.DeletionTimestamp == nil:
			changed.DeletionTimestamp = ptr.To(metav1.NewTime(now))
		case state == "" || state == "gone" || state == "delete" || have.Status.Phase == corev1.PodFailed:
		default:
			become(changed, state)
		}
		w.pods[name] = changed
	}
	for name, claim := range w.claims {
		for _, ref := range claim.OwnerReferences {
			if ref.Kind == "Pod" && (w.pods[ref.Name] == nil || w.pods[ref.Name].UID != ref.UID) {
				if _, whenScaled := retention(w.set); !whenScaled {
					t.Fatalf("%s goes though claims stay", name)
				}
				delete(w.claims, name)
			}
		}
	}
}

// TestProperties: whatever happens, no promise is broken, and once nothing happens any more, all is as the set asks.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			w.happen(t)
			w.sync(t, false)
		}
		for range 200 {
			w.agents(t, func(p *corev1.Pod) string {
				if p.DeletionTimestamp != nil {
					return "gone"
				}
				return "ready"
			})
			if w.sync(t, true) {
				break
			}
		}
		w.checkEnd(t)
	})
}

func (w *world) checkEnd(t *rapid.T) {
	if len(w.pods) != replicas(w.set) {
		t.Fatalf("%d pods, want %d", len(w.pods), replicas(w.set))
	}
	v := &work{snapshot: w.snapshot()}
	whenDeleted, whenScaled := retention(w.set)
	for o := start(w.set); o < start(w.set)+replicas(w.set); o++ {
		p := w.pods[podName(w.set, o)]
		if !v.available(p) {
			t.Fatalf("%d is not available", o)
		}
		if w.set.Spec.UpdateStrategy.RollingUpdate != nil && o >= start(w.set)+v.partition() && !v.update.of(p) {
			t.Fatalf("%d is of %s still", o, revisionOf(p))
		}
		claim := w.claims[fmt.Sprint("data-db-", o)]
		if claim == nil || (len(claim.OwnerReferences) == 1) != whenDeleted {
			t.Fatalf("claim of %d: %+v", o, claim)
		}
	}
	for name, claim := range w.claims { // one whose pod was gone when the set was scaled down stays, and is nobody's
		for _, ref := range claim.OwnerReferences {
			if ref.Kind == "Pod" || !whenDeleted {
				t.Fatalf("%s still has owners: %v, goes with scale-downs: %v", name, claim.OwnerReferences, whenScaled)
			}
		}
	}
	if s := w.set.Status; int(s.Replicas) != replicas(w.set) || s.AvailableReplicas != s.Replicas {
		t.Fatalf("%+v", s)
	}
}
