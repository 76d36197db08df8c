package replicaset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/pods"
)

// burst is the most pods that one sync creates or deletes, so that one huge set cannot starve the others.
const burst = 500

// snapshot is what one decision rests on.
type snapshot struct {
	set *appsv1.ReplicaSet
	// owned are the set's pods, ended and terminating ones among them.
	owned []*corev1.Pod
	// related are the active pods of all sets that share the set's own controller; only a scale-down reads them.
	related func() []*corev1.Pod
	now     time.Time
}

// plan is what to do about a set's pods.
type plan struct {
	create int
	delete []*corev1.Pod
}

// decide compares the pods there are with the pods wanted. It is pure.
func decide(s snapshot) plan {
	active := pods.Filter(s.owned, pods.Active)
	want := int(ptr.Deref(s.set.Spec.Replicas, 1))
	switch surplus := len(active) - want; {
	case surplus < 0:
		return plan{create: min(-surplus, burst)}
	case surplus > 0:
		n := min(surplus, burst)
		if n < len(active) {
			rankForDeletion(active, s.related(), s.now)
		}
		return plan{delete: active[:n]}
	}
	return plan{}
}

// decideStatus is the status the set should show. failure is what went wrong with its pods in this sync, reason what was being
// done then. It is pure.
func decideStatus(s snapshot, reason string, failure error) appsv1.ReplicaSetStatus {
	status := appsv1.ReplicaSetStatus{ObservedGeneration: s.set.Generation, TerminatingReplicas: ptr.To[int32](0)}
	template := labels.SelectorFromValidatedSet(s.set.Spec.Template.Labels)
	for _, pod := range s.owned {
		if pods.Terminating(pod) {
			*status.TerminatingReplicas++
		}
		if !pods.Active(pod) {
			continue
		}
		status.Replicas++
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if pods.Ready(pod) {
			status.ReadyReplicas++
		}
		if pods.Available(pod, s.set.Spec.MinReadySeconds, s.now) {
			status.AvailableReplicas++
		}
	}
	status.Conditions = conditions(s, reason, failure)
	return status
}

func conditions(s snapshot, reason string, failure error) []appsv1.ReplicaSetCondition {
	is := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	list := slices.Clone(s.set.Status.Conditions)
	switch failed := slices.ContainsFunc(list, is); {
	case failure == nil && failed:
		list = slices.DeleteFunc(list, is)
	case failure != nil && !failed:
		list = append(list, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(s.now),
			Reason: reason, Message: failure.Error(),
		})
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

// sameStatus tells whether a write of status b over a would change nothing.
func sameStatus(a, b appsv1.ReplicaSetStatus) bool { return apiequality.Semantic.DeepEqual(a, b) }

// nextAvailable is how long until another ready pod becomes available; zero when none is about to.
func nextAvailable(s snapshot) time.Duration {
	if s.set.Spec.MinReadySeconds == 0 {
		return 0
	}
	var next time.Duration
	for _, pod := range s.owned {
		if !pods.Active(pod) {
			continue
		}
		if wait, ok := pods.AvailableIn(pod, s.set.Spec.MinReadySeconds, s.now); ok && wait > 0 && (next == 0 || wait < next) {
			next = wait
		}
	}
	return next
}
