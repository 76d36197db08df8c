package statefulset

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/pods"
)

// shortest is how long a pod lasts at least: one that ends as soon as it is made costs one attempt a second.
const shortest = time.Second

// burst is about how many pods one sync creates at most, so that one huge set can neither starve the others nor fill the memory.
const burst = 500

// revision is a template and its name.
type revision struct {
	name     string
	template *corev1.PodTemplateSpec
	// same are the names of further revisions of the same template, as adoption can bring them.
	same map[string]bool
}

// of tells whether a pod is of the revision.
func (r revision) of(pod *corev1.Pod) bool {
	name := revisionOf(pod)
	return name == r.name || r.same[name]
}

// snapshot is what one decision rests on.
type snapshot struct {
	set *appsv1.StatefulSet
	// pods are the set's, ended and terminating ones among them.
	pods []*corev1.Pod
	// claim finds a claim by name; nil when there is none.
	claim func(name string) *corev1.PersistentVolumeClaim
	// current is what pods below the partition are of, update what the set asks for now.
	current, update revision
	collisions      *int32
	now             time.Time
}

// plan is what to do, in the order of its fields, and what to show. The first failure ends it.
type plan struct {
	owners []ownerChange
	claims []claiming
	create []creation
	repair []repair
	delete []*corev1.Pod
	status appsv1.StatefulSetStatus
	// again is when to look at the set again without an event; zero for never.
	again time.Duration
}

// ownerChange gives a claim other owners.
type ownerChange struct {
	claim    *corev1.PersistentVolumeClaim
	want     []metav1.OwnerReference
	changed  bool
	conflict bool
}

// claiming are claims that a pod lacks.
type claiming struct {
	pod  string
	make []*corev1.PersistentVolumeClaim
	// going is the name of a claim of the pod that is being deleted.
	going string
}

// creation is a pod to create, once its claims exist.
type creation struct {
	pod    *corev1.Pod
	claims claiming
}

// work is a decision under way.
type work struct {
	snapshot
	plan plan
	// ordered means that pods come and go one at a time.
	ordered bool
	// wanted has an entry for each ordinal that the set is to have, nil where there is no pod. Where more than a burst of them is missing, it ends early.
	wanted []*corev1.Pod
	// missing is how many of all the pods that the set is to have are not available.
	missing int
	// condemned are the pods beyond those, the highest ordinal first.
	condemned []*corev1.Pod
	// firstUnavailable is the unavailable pod of the lowest ordinal; nil also when that one does not exist.
	firstUnavailable *corev1.Pod
}

// decide compares the set with its pods and claims. It is pure.
func decide(s snapshot) plan {
	w := &work{snapshot: s, ordered: s.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement}
	w.sort()
	w.plan.status = w.status()
	if s.set.DeletionTimestamp != nil {
		return w.plan
	}
	if w.keep() && w.handDown() && w.scaleDown() && s.set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType {
		w.roll()
	}
	return w.plan
}

// sort tells wanted pods from condemned ones.
func (w *work) sort() {
	var inside []*corev1.Pod
	w.missing = replicas(w.set)
	for _, pod := range w.pods {
		if !inRange(w.set, ordinalOf(pod)) {
			w.condemned = append(w.condemned, pod)
			continue
		}
		inside = append(inside, pod)
		if w.available(pod) {
			w.missing--
		}
	}
	w.wanted = make([]*corev1.Pod, min(replicas(w.set), len(inside)+burst))
	for _, pod := range inside {
		if i := ordinalOf(pod) - start(w.set); i < len(w.wanted) {
			w.wanted[i] = pod
		}
	}
	slices.SortFunc(w.condemned, func(a, b *corev1.Pod) int { return cmp.Compare(ordinalOf(b), ordinalOf(a)) })
	for _, pod := range w.wanted {
		if !w.available(pod) {
			w.firstUnavailable = pod
			return
		}
	}
	for _, pod := range slices.Backward(w.condemned) {
		if !w.available(pod) {
			w.firstUnavailable = pod
			return
		}
	}
}

// available tells whether a pod exists, stays, and has been ready for minReadySeconds.
func (w *work) available(pod *corev1.Pod) bool {
	return pod != nil && pod.DeletionTimestamp == nil && w.ready(pod)
}

// ready tells whether a pod runs and has been ready for minReadySeconds.
func (w *work) ready(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && pods.Available(pod, w.set.Spec.MinReadySeconds, w.now)
}

// keep sees to it that every wanted pod exists and is as it should be. In order, it ends, with false, at the first pod that does
// not run or is not available: its successors come after it.
func (w *work) keep() bool {
	for i, pod := range w.wanted {
		ordinal := start(w.set) + i
		done := true
		switch {
		case pod == nil:
			w.create(ordinal)
			done = false
		case pods.Terminal(pod):
			w.replace(pod)
			done = false
		default:
			done = w.keepOne(pod)
		}
		if !done && w.ordered {
			return false
		}
	}
	return true
}

// replace removes a pod that has ended. A new one comes once it is gone.
func (w *work) replace(pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		return
	}
	if wait := min(shortest, pod.CreationTimestamp.Add(shortest).Sub(w.now)); wait > 0 {
		w.wake(wait)
		return
	}
	w.plan.delete = append(w.plan.delete, pod)
}

// wake makes the set be looked at again.
func (w *work) wake(after time.Duration) {
	if after > 0 && (w.plan.again == 0 || after < w.plan.again) {
		w.plan.again = after
	}
}

// keepOne sees to claims and identity of a pod that has not ended. False means that it is not available.
func (w *work) keepOne(pod *corev1.Pod) bool {
	ordinal := ordinalOf(pod)
	if pod.Status.Phase == corev1.PodPending {
		if c := w.lacks(ordinal); c.make != nil || c.going != "" {
			w.plan.claims = append(w.plan.claims, c)
		}
	}
	if w.ordered && !w.available(pod) {
		return false
	}
	w.own(pod.Name, ordinal, member{name: pod.Name, uid: pod.UID, wanted: true})
	if r, ok := repairOf(w.set, pod); ok && pod.DeletionTimestamp == nil {
		if r.volumes != nil {
			w.plan.claims = append(w.plan.claims, w.lacks(ordinal))
		}
		w.plan.repair = append(w.plan.repair, r)
	}
	return w.available(pod)
}

// create plans the pod of an ordinal, unless one of its claims is about to go with the pod's predecessor.
func (w *work) create(ordinal int) {
	name := podName(w.set, ordinal)
	for i := range w.set.Spec.VolumeClaimTemplates {
		if claim := w.claim(claimName(w.set, &w.set.Spec.VolumeClaimTemplates[i], ordinal)); claim != nil && stale(w.set, name, claim) {
			return
		}
	}
	r := w.update
	if w.keepsCurrent(ordinal) {
		r = w.current
	}
	w.own(name, ordinal, member{name: name, wanted: true})
	w.plan.create = append(w.plan.create, creation{pod: newPod(w.set, ordinal, r), claims: w.lacks(ordinal)})
}

// keepsCurrent tells whether a new pod of the ordinal is of the current revision yet.
func (w *work) keepsCurrent(ordinal int) bool {
	s := &w.set.Spec.UpdateStrategy
	switch {
	case s.Type == appsv1.OnDeleteStatefulSetStrategyType:
		return false
	case s.RollingUpdate == nil:
		return ordinal < start(w.set)+int(w.set.Status.CurrentReplicas)
	}
	return ordinal < start(w.set)+w.partition()
}

func (w *work) partition() int {
	if r := w.set.Spec.UpdateStrategy.RollingUpdate; r != nil {
		return int(ptr.Deref(r.Partition, 0))
	}
	return 0
}

// lacks lists the claims that an ordinal's pod lacks.
func (w *work) lacks(ordinal int) claiming {
	c := claiming{pod: podName(w.set, ordinal)}
	for i := range w.set.Spec.VolumeClaimTemplates {
		t := &w.set.Spec.VolumeClaimTemplates[i]
		switch claim := w.claim(claimName(w.set, t, ordinal)); {
		case claim == nil:
			c.make = append(c.make, newClaim(w.set, t, ordinal))
		case claim.DeletionTimestamp != nil:
			c.going = claim.Name
		}
	}
	return c
}

// own plans the owners of an ordinal's claims.
func (w *work) own(pod string, ordinal int, m member) {
	for i := range w.set.Spec.VolumeClaimTemplates {
		claim := w.claim(claimName(w.set, &w.set.Spec.VolumeClaimTemplates[i], ordinal))
		if claim == nil {
			continue
		}
		want, changed, conflict := owners(w.set, m, claim.OwnerReferences)
		if changed || conflict && m.uid == "" {
			w.plan.owners = append(w.plan.owners, ownerChange{claim: claim, want: want, changed: changed, conflict: conflict})
		}
	}
}

// handDown gives the claims of condemned pods to the pods, where the policy is that they go with them.
func (w *work) handDown() bool {
	for _, pod := range w.condemned {
		w.own(pod.Name, ordinalOf(pod), member{name: pod.Name, uid: pod.UID})
	}
	return true
}

// scaleDown removes condemned pods: in order one at a time, the highest first, and none that runs while another pod is not available. False
// means that there is one left, which an update waits for.
func (w *work) scaleDown() bool {
	for _, pod := range w.condemned {
		switch {
		case pod.DeletionTimestamp != nil:
		case w.ordered && !w.ready(pod) && !pods.Terminal(pod) && pod != w.firstUnavailable:
		default:
			w.plan.delete = append(w.plan.delete, pod)
		}
		if w.ordered {
			return false
		}
	}
	return true
}

// roll removes pods of former revisions from the highest ordinal down to the partition, as many as may be unavailable. Without order,
// those that are unavailable anyhow go first and cost nothing.
func (w *work) roll() {
	budget := maxUnavailable(w.set) - w.missing
	var broken, sound []*corev1.Pod
	for i, pod := range slices.Backward(w.wanted) {
		available := w.available(pod)
		switch {
		case pod == nil || i < w.partition() || w.update.of(pod) || pod.DeletionTimestamp != nil || pods.Terminal(pod):
		case available:
			sound = append(sound, pod)
		case !w.ordered:
			broken = append(broken, pod)
		}
	}
	w.plan.delete = append(append(w.plan.delete, broken...), sound[:min(len(sound), max(0, budget))]...)
}

// maxUnavailable is how many wanted pods an update may leave unavailable: at least one, percentages rounded down.
func maxUnavailable(set *appsv1.StatefulSet) int {
	r := set.Spec.UpdateStrategy.RollingUpdate
	if r == nil || r.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, replicas(set), false)
	if err != nil {
		return 1 // validation lets none in
	}
	return max(1, n)
}

// status counts the pods.
func (w *work) status() appsv1.StatefulSetStatus {
	status := appsv1.StatefulSetStatus{
		ObservedGeneration: w.set.Generation, CurrentRevision: w.current.name, UpdateRevision: w.update.name,
		CollisionCount: ptr.To(ptr.Deref(w.collisions, 0)), Conditions: w.set.Status.Conditions,
	}
	for _, pod := range w.pods {
		status.Replicas++
		if pod.Status.Phase == corev1.PodRunning {
			wait, ready := pods.AvailableIn(pod, w.set.Spec.MinReadySeconds, w.now)
			if ready {
				status.ReadyReplicas++
			}
			if ready && wait == 0 {
				status.AvailableReplicas++
			}
			w.wake(wait)
		}
		if pod.DeletionTimestamp != nil {
			continue
		}
		if w.current.of(pod) {
			status.CurrentReplicas++
		}
		if w.update.of(pod) {
			status.UpdatedReplicas++
		}
	}
	want := int32(replicas(w.set))
	if w.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && status.Replicas == want && status.UpdatedReplicas == want && status.ReadyReplicas == want {
		status.CurrentReplicas, status.CurrentRevision = status.UpdatedReplicas, status.UpdateRevision // the update is complete
	}
	return status
}
