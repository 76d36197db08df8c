package faults

import (
	"fmt"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// ordinal is the number behind a stateful pod's last hyphen; -1 where there is none.
func ordinal(set *appsv1.StatefulSet, pod *corev1.Pod) int {
	text, found := strings.CutPrefix(pod.Name, set.Name+"-")
	n, err := strconv.Atoi(text)
	if !found || err != nil {
		return -1
	}
	return n
}

// span is the first ordinal of a set and the one after its last.
func span(set *appsv1.StatefulSet) (first, end int) {
	if set.Spec.Ordinals != nil {
		first = int(set.Spec.Ordinals.Start)
	}
	return first, first + int(ptr.Deref(set.Spec.Replicas, 1))
}

// ordinals: a stateful pod is made for an ordinal that the set has, and that no other pod has.
func ordinals(s Step) []string {
	pod, set := created[*appsv1.StatefulSet](s)
	if pod == nil {
		return nil
	}
	n := ordinal(set, pod)
	var broken []string
	for _, other := range s.podsOf(set.UID, every) {
		if other.UID != pod.UID && ordinal(set, other) == n {
			broken = append(broken, fmt.Sprintf("two pods of %s have ordinal %d", set.Name, n))
		}
	}
	for _, spec := range possible(s.World, set) {
		if first, end := span(spec); first <= n && n < end {
			return broken
		}
	}
	return append(broken, fmt.Sprintf("%s has no ordinal for %s", set.Name, pod.Name))
}

// inOrder: unless the set starts its pods in parallel, each is made when all before it are ready.
func inOrder(s Step) []string {
	pod, set := created[*appsv1.StatefulSet](s)
	if pod == nil || set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement {
		return nil
	}
	ready := map[int]bool{}
	for _, other := range s.podsOf(set.UID, available) {
		ready[ordinal(set, other)] = true
	}
	missing := 0
	first := most(possible(s.World, set), func(set *appsv1.StatefulSet) int { first, _ := span(set); return first })
	for n := first; n < ordinal(set, pod); n++ {
		if !ready[n] {
			missing++
		}
	}
	if missing > s.harmed(set.UID) {
		return []string{fmt.Sprintf("%s was made while %d before it were not ready", pod.Name, missing)}
	}
	return nil
}

// statefulRollout: a set takes a ready pod down to replace it only when no more than maxUnavailable are down then, and for good only
// as its last one.
func statefulRollout(s Step) []string {
	pod, set := deleted[*appsv1.StatefulSet](s)
	if pod == nil || !available(pod) {
		return nil
	}
	var broken []string
	for _, spec := range possible(s.World, set) { // each is one reason to take it down
		found := condemnedInOrder(s, set, pod)
		if first, end := span(spec); first <= ordinal(set, pod) && ordinal(set, pod) < end {
			found = downTogether(s, set, pod, first, end)
		}
		if len(found) == 0 {
			return nil
		}
		broken = found
	}
	return broken
}

func downTogether(s Step, set *appsv1.StatefulSet, pod *corev1.Pod, first, end int) []string {
	down := 1
	for _, other := range s.podsOf(set.UID, func(p *corev1.Pod) bool { return !available(p) }) {
		if n := ordinal(set, other); other.UID != pod.UID && first <= n && n < end {
			down++
		}
	}
	allowed := most(recently(s.World, set), mayBeDown)
	if down > allowed+s.harmed(set.UID) {
		return []string{fmt.Sprintf("%s was taken down as number %d of at most %d", pod.Name, down, allowed)}
	}
	return nil
}

// condemnedInOrder: unless in parallel, a set that shrinks takes down the last pod first, and one after the other.
func condemnedInOrder(s Step, set *appsv1.StatefulSet, pod *corev1.Pod) []string {
	if set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement {
		return nil
	}
	later := 0
	for _, other := range s.podsOf(set.UID, every) {
		if ordinal(set, other) > ordinal(set, pod) {
			later++
		}
	}
	if later > s.harmed(set.UID) {
		return []string{fmt.Sprintf("%s was taken down before %d later ones were gone", pod.Name, later)}
	}
	return nil
}

func mayBeDown(set *appsv1.StatefulSet) int {
	rolling := set.Spec.UpdateStrategy.RollingUpdate
	if rolling == nil || rolling.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(rolling.MaxUnavailable, int(ptr.Deref(set.Spec.Replicas, 1)), true)
	if err != nil {
		return 1
	}
	return max(1, n)
}

// target is the node that a daemon's pod is for: its own, or the one its affinity names.
func target(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" || pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil {
		return pod.Spec.NodeName
	}
	required := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		return ""
	}
	for _, term := range required.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == "metadata.name" && len(field.Values) == 1 {
				return field.Values[0]
			}
		}
	}
	return ""
}

func daemonLimits(set *appsv1.DaemonSet) (surge, down int) {
	rolling := set.Spec.UpdateStrategy.RollingUpdate
	if rolling == nil {
		return 0, 0
	}
	nodes := int(set.Status.DesiredNumberScheduled)
	surge, err := intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(rolling.MaxSurge, intstr.FromInt32(0))), nodes, true)
	if err != nil {
		return 0, 0
	}
	down, err = intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(rolling.MaxUnavailable, intstr.FromInt32(0))), nodes, true)
	if err != nil {
		return surge, 0
	}
	return surge, down
}

// oneDaemonPerNode: a daemon has one pod on a node, or, where it rolls out with a surge, an old and a new one.
func oneDaemonPerNode(s Step) []string {
	pod, set := created[*appsv1.DaemonSet](s)
	if pod == nil {
		return nil
	}
	limit := 1 + min(1, most(possible(s.World, set), func(set *appsv1.DaemonSet) int { surge, _ := daemonLimits(set); return surge }))
	here := s.podsOf(set.UID, func(p *corev1.Pod) bool { return active(p) && target(p) == target(pod) })
	hash := pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]
	for _, other := range here {
		if other.UID != pod.UID && other.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == hash {
			return []string{fmt.Sprintf("%s and %s of one revision are both for node %s", other.Name, pod.Name, target(pod))}
		}
	}
	if len(here) > limit {
		return []string{fmt.Sprintf("%s has %d pods for node %s with %s, may have %d", set.Name, len(here), target(pod), pod.Name, limit)}
	}
	return nil
}

// daemonRollout: a daemon takes a ready pod off a node that is to have one only while no more than maxUnavailable nodes lack it.
func daemonRollout(s Step) []string {
	pod, set := deleted[*appsv1.DaemonSet](s)
	if pod == nil || !available(pod) {
		return nil
	}
	covered, wanted := map[string]bool{}, map[string]bool{}
	for _, other := range s.podsOf(set.UID, every) {
		wanted[target(other)] = true
		covered[target(other)] = covered[target(other)] || available(other)
	}
	wanted[target(pod)] = true
	if covered[target(pod)] || !s.nodeWanted(target(pod)) {
		return nil
	}
	down := 0
	for node := range wanted {
		if !covered[node] && s.nodeWanted(node) {
			down++
		}
	}
	allowed := most(recently(s.World, set), func(set *appsv1.DaemonSet) int { _, down := daemonLimits(set); return down })
	if down > allowed+s.harmed(set.UID) {
		return []string{fmt.Sprintf("%s took %s down as number %d of at most %d", set.Name, pod.Name, down, allowed)}
	}
	return nil
}

// nodeWanted tells whether the node is there and takes ordinary pods.
func (w *World) nodeWanted(name string) bool {
	node := w.node(name)
	return node != nil && len(node.Spec.Taints) == 0 && !node.Spec.Unschedulable && node.DeletionTimestamp == nil
}

func (w *World) node(name string) *corev1.Node {
	var found *corev1.Node
	for _, o := range w.objects {
		if n, ok := o.(*corev1.Node); ok && n.Name == name {
			found = n
		}
	}
	return found
}
