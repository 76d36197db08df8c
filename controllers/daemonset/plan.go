package daemonset

import (
	"cmp"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/coracle-dev/coracle/controllers/pods"
)

// burst is the most pods that one sync creates or deletes, so that one huge set cannot starve the others.
const burst = 250

// snapshot is what one decision rests on.
type snapshot struct {
	set   *appsv1.DaemonSet
	nodes []*corev1.Node
	// pods are the set's, ended and terminating ones among them.
	pods []*corev1.Pod
	// updated tells whether a pod is of the present template.
	updated func(*corev1.Pod) bool
	// backoff is how long a failed pod of a node is left alone yet.
	backoff func(node string) time.Duration
	// collisions is the status.collisionCount to show.
	collisions *int32
	now        time.Time
}

// plan is what to do and what to show.
type plan struct {
	create []string // names of nodes
	delete []removal
	status appsv1.DaemonSetStatus
	// again is when to look at the set again without an event; zero for never.
	again time.Duration
}

// removal is a pod to delete.
type removal struct {
	pod *corev1.Pod
	// ended is the phase of a pod that goes because it has ended; empty for others.
	ended corev1.PodPhase
	// asSeen spares a pod that has changed since it was seen not to serve: by now it may.
	asSeen bool
}

// place is a node as the set sees it.
type place struct {
	// run means that a pod belongs there, stay that one which is there may stay.
	run, stay bool
	// known means that the node exists.
	known bool
	// pods are there or made for it, the oldest first; none that has ended and is being deleted.
	pods []*corev1.Pod
}

// work is a decision under way.
type work struct {
	snapshot
	plan   plan
	names  []string // of places, sorted
	places map[string]*place
	// desired is how many nodes are to run a pod.
	desired int
}

// decide compares nodes with pods. It is pure.
func decide(s snapshot) plan {
	w := &work{snapshot: s, places: map[string]*place{}}
	w.survey()
	w.plan.status = w.status()
	w.manage()
	if len(w.plan.create) == 0 && len(w.plan.delete) == 0 && s.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		w.roll()
	}
	w.plan.create = w.plan.create[:min(len(w.plan.create), burst)]
	w.plan.delete = w.plan.delete[:min(len(w.plan.delete), burst)]
	return w.plan
}

// survey sorts the pods by place.
func (w *work) survey() {
	p := placementOf(w.set)
	for _, node := range w.nodes {
		run, stay := p.on(node)
		if run {
			w.desired++
		}
		w.places[node.Name] = &place{run: run, stay: stay, known: true}
	}
	for _, pod := range w.pods {
		node := nodeOf(pod)
		if node == "" || pods.Terminal(pod) && pod.DeletionTimestamp != nil {
			continue
		}
		if w.places[node] == nil {
			w.places[node] = &place{}
		}
		w.places[node].pods = append(w.places[node].pods, pod)
	}
	for _, p := range w.places {
		slices.SortFunc(p.pods, byAge)
	}
	w.names = slices.Sorted(maps.Keys(w.places))
}

// byAge puts pods that have a node first, then the oldest.
func byAge(a, b *corev1.Pod) int {
	return cmp.Or(
		cmp.Compare(min(1, len(b.Spec.NodeName)), min(1, len(a.Spec.NodeName))),
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Name, b.Name),
	)
}

// manage gives every node that is to run a pod one, and takes off what is too much.
func (w *work) manage() {
	for _, name := range w.names {
		switch p := w.places[name]; {
		case !p.known:
			w.delete(pods.Filter(p.pods, func(pod *corev1.Pod) bool { return pod.DeletionTimestamp == nil && pod.Spec.NodeName == "" }))
		case p.run && len(p.pods) == 0:
			w.plan.create = append(w.plan.create, name)
		case p.stay:
			w.prune(name, p)
		default:
			w.delete(pods.Filter(p.pods, func(pod *corev1.Pod) bool { return pod.DeletionTimestamp == nil }))
		}
	}
}

// prune takes off ended and excess pods of a node. With surge there may be an old and a new one, as long as the old one serves and
// the new one does not.
func (w *work) prune(node string, p *place) {
	var alive []*corev1.Pod
	for _, pod := range p.pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case pod.Status.Phase == corev1.PodFailed:
			if wait := w.backoff(node); wait > 0 {
				w.wake(wait)
				continue
			}
			w.plan.delete = append(w.plan.delete, removal{pod: pod, ended: corev1.PodFailed})
		case pod.Status.Phase == corev1.PodSucceeded:
			w.plan.delete = append(w.plan.delete, removal{pod: pod, ended: corev1.PodSucceeded})
		default:
			alive = append(alive, pod)
		}
	}
	if w.surge() == 0 {
		w.keepOne(alive)
		return
	}
	if len(alive) == 0 && p.run {
		w.plan.create = append(w.plan.create, node) // beside the one that terminates
	}
	if len(alive) > 1 {
		w.pruneSurge(alive)
	}
}

func (w *work) pruneSurge(alive []*corev1.Pod) {
	fresh := w.keepOne(pods.Filter(alive, w.updated))
	old := w.keepOne(pods.Filter(alive, func(pod *corev1.Pod) bool { return !w.updated(pod) }))
	switch {
	case fresh == nil || old == nil:
	case w.available(fresh):
		w.delete([]*corev1.Pod{old})
	case !pods.Ready(old):
		w.deleteAsSeen([]*corev1.Pod{old})
	}
}

// keepOne deletes all pods but one: the oldest that serves, or else the oldest.
func (w *work) keepOne(list []*corev1.Pod) *corev1.Pod {
	if len(list) == 0 {
		return nil
	}
	kept := list[max(0, slices.IndexFunc(list, w.available))]
	w.delete(pods.Filter(list, func(pod *corev1.Pod) bool { return pod != kept }))
	return kept
}

func (w *work) delete(list []*corev1.Pod) {
	for _, pod := range list {
		w.plan.delete = append(w.plan.delete, removal{pod: pod})
	}
}

func (w *work) deleteAsSeen(list []*corev1.Pod) {
	for _, pod := range list {
		w.plan.delete = append(w.plan.delete, removal{pod: pod, asSeen: true})
	}
}

func (w *work) wake(d time.Duration) {
	if d > 0 && (w.plan.again == 0 || d < w.plan.again) {
		w.plan.again = d
	}
}

func (w *work) available(pod *corev1.Pod) bool {
	return pods.Available(pod, w.set.Spec.MinReadySeconds, w.now)
}

// status counts nodes by the oldest pod of each.
func (w *work) status() appsv1.DaemonSetStatus {
	s := appsv1.DaemonSetStatus{
		ObservedGeneration: w.set.Generation, CollisionCount: w.collisions, Conditions: w.set.Status.Conditions,
		DesiredNumberScheduled: int32(w.desired),
	}
	for _, p := range w.places {
		switch {
		case !p.known || len(p.pods) == 0:
			continue
		case !p.run:
			s.NumberMisscheduled++
			continue
		}
		s.CurrentNumberScheduled++
		if w.updated(p.pods[0]) {
			s.UpdatedNumberScheduled++
		}
		for i, pod := range p.pods {
			wait, ready := pods.AvailableIn(pod, w.set.Spec.MinReadySeconds, w.now)
			w.wake(wait)
			if i > 0 || !ready {
				continue
			}
			s.NumberReady++
			if wait == 0 {
				s.NumberAvailable++
			}
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	return s
}

// surge is how many nodes may have a new pod beside an old one that serves.
func (w *work) surge() int {
	r := w.set.Spec.UpdateStrategy.RollingUpdate
	if w.set.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType || r == nil {
		return 0
	}
	return scaled(r.MaxSurge, w.desired)
}

// unavailable is how many nodes may be without a pod that serves: at least one where there is no surge.
func (w *work) unavailable() int {
	n := 0
	if r := w.set.Spec.UpdateStrategy.RollingUpdate; r != nil {
		n = scaled(r.MaxUnavailable, w.desired)
	}
	if n == 0 && w.surge() == 0 {
		n = 1
	}
	return n
}

// scaled is a number, or a share of n rounded up.
func scaled(v *intstr.IntOrString, n int) int {
	if v == nil {
		return 0
	}
	value, err := intstr.GetScaledValueFromIntOrPercent(v, n, true)
	if err != nil {
		return 0 // validation lets none in
	}
	return value
}
