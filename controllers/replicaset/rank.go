package replicaset

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/controllers/pods"
)

// rankForDeletion sorts candidates so that the pods to delete first come first: not assigned to a node, then pending, not
// ready, of lower deletion cost, on a node that holds more of the related pods, ready for a shorter time, restarted more
// often, younger. Ages count in powers of two, and equal ones are told apart by UID, so that a scale-down does
// not always empty the newest failure domain.
func rankForDeletion(candidates, related []*corev1.Pod, now time.Time) {
	perNode := map[string]int{}
	for _, pod := range related {
		if pods.Active(pod) {
			perNode[pod.Spec.NodeName]++
		}
	}
	slices.SortStableFunc(candidates, func(a, b *corev1.Pod) int {
		return cmp.Or(
			compareState(a, b),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(perNode[b.Spec.NodeName], perNode[a.Spec.NodeName]),
			compareReadySince(a, b, now),
			pods.CompareRestarts(a, b),
			compareAge(a.CreationTimestamp.Time, b.CreationTimestamp.Time, a, b, now),
		)
	})
}

func compareState(a, b *corev1.Pod) int {
	return cmp.Or(
		pods.FalseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
		cmp.Compare(phaseRank(a), phaseRank(b)),
		pods.FalseFirst(pods.Ready(a), pods.Ready(b)),
	)
}

func phaseRank(pod *corev1.Pod) int {
	switch pod.Status.Phase {
	case corev1.PodPending:
		return 0
	case corev1.PodUnknown:
		return 1
	}
	return 2
}

// deletionCost reads the annotation controller.kubernetes.io/pod-deletion-cost; validation lets only integers in.
func deletionCost(pod *corev1.Pod) int32 {
	value, ok := pod.Annotations[corev1.PodDeletionCost]
	if !ok || strings.HasPrefix(value, "+") {
		return 0
	}
	cost, err := strconv.ParseInt(value, 10, 32)
	if err != nil {
		return 0
	}
	return int32(cost)
}

func compareReadySince(a, b *corev1.Pod, now time.Time) int {
	if !pods.Ready(a) || !pods.Ready(b) {
		return 0
	}
	return compareAge(pods.Condition(a, corev1.PodReady).LastTransitionTime.Time, pods.Condition(b, corev1.PodReady).LastTransitionTime.Time, a, b, now)
}

// compareAge puts the later of two times first; an unknown time counts as the latest.
func compareAge(at, bt time.Time, a, b *corev1.Pod, now time.Time) int {
	switch {
	case at.Equal(bt):
		return 0
	case at.IsZero():
		return -1
	case bt.IsZero():
		return 1
	}
	return cmp.Or(cmp.Compare(magnitude(now.Sub(at)), magnitude(now.Sub(bt))), cmp.Compare(a.UID, b.UID))
}

func magnitude(age time.Duration) int {
	if age <= 0 {
		return -1
	}
	return int(math.Log2(float64(age)))
}
