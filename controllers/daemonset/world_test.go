package daemonset

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

// world plays the API server, the nodes and the scheduler.
type world struct {
	set     *appsv1.DaemonSet
	nodes   map[string]string // by name, as nodes reads them
	pods    map[string]*corev1.Pod
	version int // of the template
	serial  int
}

func newWorld(t *rapid.T) *world {
	w := &world{nodes: map[string]string{}, pods: map[string]*corev1.Pod{}}
	share := []string{"1", "2", "50%"}
	switch rapid.IntRange(0, 4).Draw(t, "strategy") {
	case 0:
		w.set = onDelete()
	case 1, 2:
		w.set = build("0", rapid.SampledFrom(share).Draw(t, "surge"))
	default:
		w.set = build(rapid.SampledFrom(share).Draw(t, "unavailable"), "0")
	}
	for i := range rapid.IntRange(1, 6).Draw(t, "nodes") {
		w.nodes[fmt.Sprint("n", i)] = ""
	}
	return w
}

func (w *world) snapshot() snapshot {
	s := snap(w.set, "")
	for name, state := range w.nodes {
		s.nodes = append(s.nodes, nodes(name+state)...)
	}
	for _, p := range w.pods {
		s.pods = append(s.pods, p)
	}
	s.updated = func(p *corev1.Pod) bool {
		return p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == fmt.Sprint(w.version)
	}
	return s
}

// sync decides, checks the plan and carries it out; each write may fail.
func (w *world) sync(t *rapid.T, reliable bool) (idle bool) {
	s := w.snapshot()
	p := decide(s)
	w.check(t, s, p)
	w.set.Status = p.status
	for _, node := range p.create {
		if !reliable && rapid.IntRange(0, 9).Draw(t, "fails") == 0 {
			break
		}
		w.serial++
		made := newPod(w.set, fmt.Sprint(w.version), node)
		made.Name = fmt.Sprint(node, ".", w.serial)
		made.UID, made.Status.Phase, made.CreationTimestamp = types.UID(made.Name), corev1.PodPending, metav1.NewTime(now.Add(time.Duration(w.serial-5000)*time.Minute))
		w.pods[made.Name] = made
	}
	for _, r := range p.delete {
		if !reliable && rapid.IntRange(0, 9).Draw(t, "fails") == 0 {
			continue
		}
		marked := r.pod.DeepCopy()
		marked.DeletionTimestamp = ptr.To(metav1.NewTime(now))
		w.pods[marked.Name] = marked
	}
	return say(p) == ""
}

// alive lists the node's pods that neither end nor have ended.
func (w *world) alive(s snapshot, node string) (fresh, old []*corev1.Pod) {
	for _, p := range s.pods {
		switch {
		case nodeOf(p) != node || p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed:
		case s.updated(p):
			fresh = append(fresh, p)
		default:
			old = append(old, p)
		}
	}
	return fresh, old
}

// check holds what is promised of every plan.
func (w *world) check(t *rapid.T, s snapshot, p plan) {
	v := &work{snapshot: s, places: map[string]*place{}}
	v.survey()
	surge := v.surge()
	ahead, created := 0, map[string]bool{}
	for name, place := range v.places {
		if fresh, old := w.alive(s, name); place.run && len(fresh) > 0 && len(old) > 0 {
			ahead++
		}
	}
	surging := 0
	for _, node := range p.create {
		place := v.places[node]
		fresh, old := w.alive(s, node)
		if created[node] || !place.run || len(fresh) > 0 || len(old) > 0 && (surge == 0 || len(old) > 1) || surge == 0 && len(place.pods) > 0 {
			t.Fatalf("a pod too many on %s: %s", node, say(p))
		}
		created[node] = true
		if len(old) > 0 && v.available(old[0]) {
			surging++
		}
	}
	if surging > 0 && ahead+surging > surge {
		t.Fatalf("%d nodes are ahead, %d more come, of %d that may be", ahead, surging, surge)
	}
	w.checkRemovals(t, s, v, p, surge)
}

func (w *world) checkRemovals(t *rapid.T, s snapshot, v *work, p plan, surge int) {
	gone, serving, taken := map[string]bool{}, 0, 0
	for _, r := range p.delete {
		if gone[r.pod.Name] || r.pod.DeletionTimestamp != nil || r.ended != "" && r.pod.Status.Phase != r.ended {
			t.Fatalf("%s is deleted twice, or for no reason: %s", r.pod.Name, say(p))
		}
		gone[r.pod.Name] = true
	}
	for name, place := range v.places {
		if !place.run {
			continue
		}
		fresh, old := w.alive(s, name)
		before, after := 0, 0
		for _, pod := range append(fresh, old...) {
			if v.available(pod) {
				before++
				if !gone[pod.Name] {
					after++
				}
			}
		}
		if before > 0 {
			serving++
		}
		if before > 0 && after == 0 {
			taken++
		}
	}
	if taken == 0 {
		return
	}
	switch {
	case w.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType:
		t.Fatalf("OnDelete takes a pod that serves: %s", say(p))
	case surge > 0:
		t.Fatalf("a node is left without a pod though there is surge: %s", say(p))
	case v.desired-serving+taken > v.unavailable():
		t.Fatalf("%d of %d nodes serve, %d are taken, of %d that may be missing", serving, v.desired, taken, v.unavailable())
	}
}

// happen is something that is not the controller's doing.
func (w *world) happen(t *rapid.T) {
	switch rapid.IntRange(0, 7).Draw(t, "event") {
	case 0:
		w.version = rapid.IntRange(0, 3).Draw(t, "template")
	case 1:
		name := fmt.Sprint("n", rapid.IntRange(0, 7).Draw(t, "node"))
		if state := rapid.SampledFrom([]string{"", "", "-", "!", "!!", "gone"}).Draw(t, "state"); state == "gone" {
			delete(w.nodes, name)
		} else {
			w.nodes[name] = state
		}
	default:
		w.agents(func(*corev1.Pod) string {
			return rapid.SampledFrom([]string{"", "ready", "ready", "ready", "unready", "failed", "gone", "delete"}).Draw(t, "state")
		})
	}
}

// agents let pods change their state.
func (w *world) agents(next func(*corev1.Pod) string) {
	for i := range w.serial {
		for n := range 8 {
			name := fmt.Sprintf("n%d.%d", n, i+1)
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
				changed.Spec.NodeName = nodeOf(have)
				become(changed, state)
			}
			w.pods[name] = changed
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
			w.agents(func(p *corev1.Pod) string {
				if _, found := w.nodes[nodeOf(p)]; p.DeletionTimestamp != nil || !found {
					if p.DeletionTimestamp == nil && p.Spec.NodeName != "" {
						return "delete" // the garbage collection of pods
					}
					return "gone"
				}
				return "ready"
			})
			if w.sync(t, true) && !w.ending() {
				break
			}
		}
		w.checkEnd(t)
	})
}

// ending tells whether pods terminate.
func (w *world) ending() bool {
	for _, p := range w.pods {
		if p.DeletionTimestamp != nil {
			return true
		}
	}
	return false
}

func (w *world) checkEnd(t *rapid.T) {
	s := w.snapshot()
	v := &work{snapshot: s, places: map[string]*place{}}
	v.survey()
	for name, place := range v.places {
		fresh, old := w.alive(s, name)
		rolling := w.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType
		switch {
		case place.run && len(fresh)+len(old) != 1, place.run && rolling && len(fresh) != 1:
			t.Fatalf("%d new and %d old pods on %s", len(fresh), len(old), name)
		case !place.stay && len(place.pods) > 0:
			t.Fatalf("%s still has a pod", name)
		}
	}
	if st := w.set.Status; int(st.DesiredNumberScheduled) != v.desired || st.NumberAvailable != st.DesiredNumberScheduled || st.NumberUnavailable != 0 {
		t.Fatalf("%+v", st)
	}
}
