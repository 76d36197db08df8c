package disruption

import (
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/coracle-dev/coracle/controllers/pods"
)

// deletionTimeout is how long a pod whose eviction was allowed counts as going, though nobody has deleted it.
const deletionTimeout = 2 * time.Minute

// staleTimeout is how long a pod may be marked for disruption before the mark is taken off because nothing came of it.
const staleTimeout = 2 * time.Minute

// snapshot is all that a budget's status rests on.
type snapshot struct {
	budget *policyv1.PodDisruptionBudget
	// pods are those that the budget selects.
	pods []*corev1.Pod
	// scales are how many pods each controller of theirs is to have; needed by needsScale only.
	scales map[types.UID]int32
	now    time.Time
}

// plan is what becomes of a budget.
type plan struct {
	status policyv1.PodDisruptionBudgetStatus
	// recheck is when the first of the disrupted pods is no longer waited for; zero when there are none.
	recheck time.Duration
	// kept are pods that were to be deleted and were not.
	kept []*corev1.Pod
}

// needsScale tells whether what the budget asks for depends on how many pods there should be.
func needsScale(s *policyv1.PodDisruptionBudgetSpec) bool {
	return s.MaxUnavailable != nil || s.MinAvailable != nil && s.MinAvailable.Type == intstr.String
}

// unmanaged counts the pods that no controller would replace.
func unmanaged(list []*corev1.Pod) int {
	n := 0
	for _, pod := range list {
		if metav1.GetControllerOfNoCopy(pod) == nil {
			n++
		}
	}
	return n
}

// decide computes a budget's status. Its error is about what the budget asks for.
func decide(s snapshot) (plan, error) {
	expected, desired, err := demand(s)
	if err != nil {
		return plan{}, err
	}
	var p plan
	disrupted := p.disrupted(s)
	healthy := healthyOf(s.pods, disrupted)
	allowed := healthy - desired
	if expected <= 0 || allowed < 0 {
		allowed = 0 // a budget without pods must not let the first ones go before it has counted them
	}
	p.status = policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: s.budget.Generation, DisruptedPods: disrupted, DisruptionsAllowed: allowed,
		CurrentHealthy: healthy, DesiredHealthy: desired, ExpectedPods: expected,
		Conditions: conditions(s, allowed),
	}
	return p, nil
}

// demand is how many pods there should be, and how many of them healthy.
func demand(s snapshot) (expected, desired int32, err error) {
	for _, n := range s.scales {
		expected += n
	}
	spec := &s.budget.Spec
	switch {
	case spec.MaxUnavailable != nil:
		out, err := intstr.GetScaledValueFromIntOrPercent(spec.MaxUnavailable, int(expected), true)
		if err != nil {
			return 0, 0, err
		}
		return expected, max(0, expected-int32(out)), nil
	case spec.MinAvailable == nil:
		return 0, 0, nil
	case spec.MinAvailable.Type == intstr.Int:
		return int32(len(s.pods)), spec.MinAvailable.IntVal, nil
	}
	in, err := intstr.GetScaledValueFromIntOrPercent(spec.MinAvailable, int(expected), true)
	return expected, int32(in), err
}

// disrupted keeps of the pods whose eviction was allowed those that are still to be deleted, and notes when that is next to be looked at.
func (p *plan) disrupted(s snapshot) map[string]metav1.Time {
	var kept map[string]metav1.Time
	for _, pod := range s.pods {
		since, ok := s.budget.Status.DisruptedPods[pod.Name]
		if !ok || pod.DeletionTimestamp != nil {
			continue
		}
		wait := since.Add(deletionTimeout).Sub(s.now)
		if wait <= 0 {
			p.kept = append(p.kept, pod)
			continue
		}
		if p.recheck == 0 || wait < p.recheck {
			p.recheck = wait
		}
		if kept == nil {
			kept = map[string]metav1.Time{}
		}
		kept[pod.Name] = since
	}
	return kept
}

func healthyOf(list []*corev1.Pod, disrupted map[string]metav1.Time) int32 {
	var n int32
	for _, pod := range list {
		if _, going := disrupted[pod.Name]; !going && pod.DeletionTimestamp == nil && pods.Ready(pod) {
			n++
		}
	}
	return n
}

func conditions(s snapshot, allowed int32) []metav1.Condition {
	c := metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason,
		ObservedGeneration: s.budget.Generation, LastTransitionTime: metav1.NewTime(s.now),
	}
	if allowed > 0 {
		c.Status, c.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
	}
	return withCondition(s.budget, c)
}

// failed is the status of a budget that cannot be computed: nothing may be evicted, and the rest stays as it was.
func failed(b *policyv1.PodDisruptionBudget, cause error, now time.Time) policyv1.PodDisruptionBudgetStatus {
	s := b.Status
	s.DisruptionsAllowed = 0
	s.Conditions = withCondition(b, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: cause.Error(), ObservedGeneration: s.ObservedGeneration, LastTransitionTime: metav1.NewTime(now),
	})
	return s
}

func withCondition(b *policyv1.PodDisruptionBudget, c metav1.Condition) []metav1.Condition {
	list := append([]metav1.Condition{}, b.Status.Conditions...)
	meta.SetStatusCondition(&list, c)
	return list
}

func sameStatus(a, b *policyv1.PodDisruptionBudgetStatus) bool {
	return a.ObservedGeneration == b.ObservedGeneration && a.DisruptionsAllowed == b.DisruptionsAllowed &&
		a.CurrentHealthy == b.CurrentHealthy && a.DesiredHealthy == b.DesiredHealthy && a.ExpectedPods == b.ExpectedPods &&
		maps.EqualFunc(a.DisruptedPods, b.DisruptedPods, func(x, y metav1.Time) bool { return x.Equal(&y) }) &&
		sameConditions(a.Conditions, b.Conditions)
}

// sameConditions leaves times aside: they change with the status only.
func sameConditions(a, b []metav1.Condition) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Type != b[i].Type || a[i].Status != b[i].Status || a[i].Reason != b[i].Reason || a[i].Message != b[i].Message ||
			a[i].ObservedGeneration != b[i].ObservedGeneration {
			return false
		}
	}
	return true
}

// untilStale is how long the pod's mark for disruption may stay; not ok when it has none, or one that is in order: the pod is
// going, has ended, or its agent ends it, which may take any time.
func untilStale(pod *corev1.Pod, now time.Time) (wait time.Duration, ok bool) {
	c := pods.Condition(pod, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet || !pods.Active(pod) {
		return 0, false
	}
	return max(0, c.LastTransitionTime.Add(staleTimeout).Sub(now)), true
}

// unmarked takes off the mark for disruption, if the pod is still what it was.
func unmarked(pod *corev1.Pod, now time.Time) map[string]any {
	return map[string]any{
		"metadata": map[string]any{"uid": pod.UID, "resourceVersion": pod.ResourceVersion},
		"status": map[string]any{"conditions": []any{map[string]any{
			"type": corev1.DisruptionTarget, "status": corev1.ConditionFalse, "reason": nil, "message": nil,
			"lastTransitionTime": metav1.NewTime(now), "observedGeneration": pod.Generation,
		}}},
	}
}

// noController says that the controller that a pod names is not there.
type noController struct{ pod string }

func (e *noController) Error() string { return fmt.Sprintf("found no controllers for pod %q", e.pod) }
