// Package faults holds what must be true of a cluster whatever fails, as pure functions over the history of its API, and the
// faults: a transport that loses, delays and refuses requests and cuts watches, by a seed.
//
// Invariants: a check sees each write once, in the order of the store's revisions, and nothing else; where part of the history is
// not known (Gap), nothing is concluded from it.
package faults

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// window is how long a decision may be under way, and so how long what changed meanwhile excuses it: a request that is delayed, a
// status that another controller has yet to write, a leader that is followed by the next.
const window = 30 * time.Second

// Event is one write.
type Event struct {
	Revision int64
	// At is when the watch showed it.
	At time.Time
	// Object is what it became; what it was last where Gone.
	Object metav1.Object
	Gone   bool
}

// Gap is a range of revisions, both included, that is not wholly known: what is seen of it only brings the state up to date.
type Gap struct{ From, To int64 }

// version is a spec and when it was replaced; zero while it was not.
type version struct {
	object   metav1.Object
	replaced time.Time
}

// loss is a pod of a workload that was ready or at least active, and is so no more.
type loss struct {
	at  time.Time
	pod types.UID
	by  taker
}

// taker is who took a pod.
type taker int

const (
	itsController taker = iota
	theEvictionAPI
	somethingElse // a node, a user, the pod itself
)

// World is the state after some events.
type World struct {
	// Now is the time of the last event.
	Now time.Time
	// Foreign are the pods that somebody else than a controller or the eviction API deleted.
	Foreign map[types.UID]bool

	pods    map[types.UID]*corev1.Pod
	objects map[types.UID]metav1.Object // all but pods
	// versions are by object: the present spec last.
	versions map[types.UID][]version
	losses   map[types.UID][]loss // by the pods' controller
	ready    map[types.UID]time.Time
	jobs     map[types.UID]*jobRecord
	steps    int
	leases   map[string]leaseRecord
}

// NewWorld is empty.
func NewWorld() *World {
	return &World{
		Foreign: map[types.UID]bool{}, pods: map[types.UID]*corev1.Pod{}, objects: map[types.UID]metav1.Object{}, versions: map[types.UID][]version{},
		losses: map[types.UID][]loss{}, ready: map[types.UID]time.Time{}, jobs: map[types.UID]*jobRecord{}, leases: map[string]leaseRecord{},
	}
}

// Step is one event and the world after it.
type Step struct {
	*World
	Event
	// Before is the object before; nil where the event made it.
	Before metav1.Object
}

// Rule checks one step: each text is a violation.
type Rule struct {
	Name  string
	Check func(Step) []string
}

// Rules are all invariants that hold at every step.
func Rules() []Rule {
	return []Rule{
		{"bound once", boundOnce}, {"node not overcommitted", nodeFits}, {"budget kept by evictions", budgetKept}, {"one leader", oneLeader},
		{"set not too large", setNotTooLarge}, {"set not too small", setNotTooSmall}, {"broken pods go first", brokenFirst},
		{"one set a template", oneSetPerTemplate}, {"surge", surge}, {"availability", availability}, {"recreate", recreate},
		{"ordinals", ordinals}, {"in order", inOrder}, {"stateful rollout", statefulRollout},
		{"one daemon a node", oneDaemonPerNode}, {"daemon rollout", daemonRollout},
		{"job parallelism", jobParallelism}, {"job index once", jobIndexOnce}, {"job back-off", jobBackoff}, {"job ended", jobEnded},
	}
}

// Violation is a rule broken by an event.
type Violation struct {
	Rule     string
	Revision int64
	At       time.Time
	Text     string
}

func (v Violation) String() string {
	return fmt.Sprintf("%s revision %d: %s: %s", v.At.Format("15:04:05.000"), v.Revision, v.Rule, v.Text)
}

// Check replays events, which it sorts, onto the world and gives what breaks the rules.
func (w *World) Check(rules []Rule, events []Event, gaps ...Gap) []Violation {
	slices.SortStableFunc(events, func(a, b Event) int { return int(a.Revision - b.Revision) })
	var found []Violation
	for _, e := range events {
		s := w.apply(e)
		if slices.ContainsFunc(gaps, func(g Gap) bool { return g.From <= e.Revision && e.Revision <= g.To }) {
			continue
		}
		for _, r := range rules {
			for _, text := range r.Check(s) {
				found = append(found, Violation{Rule: r.Name, Revision: e.Revision, At: e.At, Text: text})
			}
		}
		w.settle(s)
	}
	return found
}

// apply brings the state up to date.
func (w *World) apply(e Event) Step {
	w.Now = e.At
	w.steps++
	uid := e.Object.GetUID()
	s := Step{World: w, Event: e}
	if pod, ok := e.Object.(*corev1.Pod); ok {
		if old := w.pods[uid]; old != nil {
			s.Before = old
		}
		if e.Gone {
			delete(w.pods, uid)
		} else {
			w.pods[uid] = pod
		}
		w.noteLoss(s, pod)
		return s
	}
	if old := w.objects[uid]; old != nil {
		s.Before = old
	}
	if e.Gone {
		delete(w.objects, uid)
		delete(w.versions, uid)
		return s
	}
	w.objects[uid] = e.Object
	w.noteVersion(e)
	return s
}

// noteVersion keeps the specs that a controller may still act on: from the one it last observed on, and those replaced within the window.
func (w *World) noteVersion(e Event) {
	list := w.versions[e.Object.GetUID()]
	if n := len(list); n > 0 && list[n-1].object.GetGeneration() == e.Object.GetGeneration() {
		list[n-1].object = e.Object
	} else {
		if n > 0 {
			list[n-1].replaced = e.At
		}
		list = append(list, version{object: e.Object})
	}
	observed := observedGeneration(e.Object)
	w.versions[e.Object.GetUID()] = slices.DeleteFunc(list, func(v version) bool {
		return !v.replaced.IsZero() && v.object.GetGeneration() < observed && e.At.Sub(v.replaced) > window
	})
}

func observedGeneration(o metav1.Object) int64 {
	switch o := o.(type) {
	case *appsv1.ReplicaSet:
		return o.Status.ObservedGeneration
	case *appsv1.Deployment:
		return o.Status.ObservedGeneration
	case *appsv1.StatefulSet:
		return o.Status.ObservedGeneration
	case *appsv1.DaemonSet:
		return o.Status.ObservedGeneration
	case *batchv1.Job: // says nothing of it
		return 0
	}
	return o.GetGeneration()
}

// possible gives the specs that the object's controller may act on: from the one it last observed on.
func possible[T metav1.Object](w *World, o T) []T {
	observed := observedGeneration(o)
	return specs(w, o, func(v version) bool { return v.object.GetGeneration() >= observed && w.recent(v) })
}

// recently gives the specs of the last window, and those that the controller has not replaced yet.
func recently[T metav1.Object](w *World, o T) []T {
	observed := observedGeneration(o)
	return specs(w, o, func(v version) bool { return w.recent(v) || observed != 0 && v.object.GetGeneration() >= observed })
}

func (w *World) recent(v version) bool {
	_, job := v.object.(*batchv1.Job)
	return !job || v.replaced.IsZero() || w.Now.Sub(v.replaced) <= window
}

func specs[T metav1.Object](w *World, o T, keep func(version) bool) []T {
	var list []T
	for _, v := range w.versions[o.GetUID()] {
		if typed, ok := v.object.(T); ok && keep(v) {
			list = append(list, typed)
		}
	}
	return append(list, o)
}

// noteLoss remembers pods that were lost, and when pods last turned ready or not.
func (w *World) noteLoss(s Step, pod *corev1.Pod) {
	before, _ := s.Before.(*corev1.Pod)
	if before == nil || isReady(before) != isReady(pod) {
		w.ready[pod.UID] = s.At
	}
	if s.Gone {
		delete(w.ready, pod.UID)
	}
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || before == nil {
		return
	}
	by := somethingElse
	switch {
	case active(before) && (s.Gone || !active(pod)):
		if w.byController(s) {
			by = itsController
		} else if evicted(pod) {
			by = theEvictionAPI
		}
	case active(pod) && isReady(before) && !isReady(pod):
	default:
		return
	}
	w.losses[ref.UID] = append(w.losses[ref.UID], loss{at: s.At, pod: pod.UID, by: by})
}

// byController tells whether the step is the begin of a pod's deletion by what owns it.
func (w *World) byController(s Step) bool {
	before, ok := s.Before.(*corev1.Pod)
	if !ok || !active(before) {
		return false
	}
	pod := s.Object.(*corev1.Pod)
	if !s.Gone && pod.DeletionTimestamp == nil || w.Foreign[pod.UID] || disrupted(pod) {
		return false
	}
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return false
	}
	owner := w.objects[ref.UID]
	return owner != nil && owner.GetDeletionTimestamp() == nil
}

func disrupted(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue
	})
}

// lost counts the pods of controllers that were lost within the window to other than who.
func (w *World) lost(who taker, controllers ...types.UID) int {
	pods := map[types.UID]bool{}
	for _, uid := range controllers {
		for _, l := range w.losses[uid] {
			if w.Now.Sub(l.at) <= window && l.by != who {
				pods[l.pod] = true
			}
		}
	}
	return len(pods)
}

// harmed counts the pods of controllers that something else took down within the window.
func (w *World) harmed(controllers ...types.UID) int { return w.lost(itsController, controllers...) }

// settle forgets what no longer excuses anything.
func (w *World) settle(s Step) {
	pod, ok := s.Object.(*corev1.Pod)
	if !ok {
		return
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && len(w.losses[ref.UID]) > 0 {
		w.losses[ref.UID] = slices.DeleteFunc(w.losses[ref.UID], func(l loss) bool { return w.Now.Sub(l.at) > window })
	}
	w.noteJob(s, pod)
}
