package faults

import (
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func terminal(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func active(pod *corev1.Pod) bool { return !terminal(pod) && pod.DeletionTimestamp == nil }

func isReady(pod *corev1.Pod) bool {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func available(pod *corev1.Pod) bool { return active(pod) && isReady(pod) }

// podsOf gives the pods of a controller that keep is true of.
func (w *World) podsOf(controller types.UID, keep func(*corev1.Pod) bool) []*corev1.Pod {
	var list []*corev1.Pod
	for _, pod := range w.pods {
		if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && ref.UID == controller && keep(pod) {
			list = append(list, pod)
		}
	}
	return list
}

func every(*corev1.Pod) bool { return true }

// created is the pod that the step made, and its controller's object; nil where it made none, or for no T.
func created[T metav1.Object](s Step) (*corev1.Pod, T) {
	var none T
	pod, ok := s.Object.(*corev1.Pod)
	if !ok || s.Before != nil || s.Gone {
		return nil, none
	}
	return controlled[T](s, pod)
}

// deleted is the pod that the step's deletion by its controller is of, as it was before.
func deleted[T metav1.Object](s Step) (*corev1.Pod, T) {
	var none T
	if _, ok := s.Object.(*corev1.Pod); !ok || !s.byController(s) {
		return nil, none
	}
	return controlled[T](s, s.Before.(*corev1.Pod))
}

func controlled[T metav1.Object](s Step, pod *corev1.Pod) (*corev1.Pod, T) {
	var none T
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return nil, none
	}
	owner, ok := s.objects[ref.UID].(T)
	if !ok {
		return nil, none
	}
	return pod, owner
}

// boundOnce: a pod's node never changes.
func boundOnce(s Step) []string {
	before, ok := s.Before.(*corev1.Pod)
	if !ok || before.Spec.NodeName == "" || before.Spec.NodeName == s.Object.(*corev1.Pod).Spec.NodeName {
		return nil
	}
	return []string{fmt.Sprintf("pod %s went from %s to %s", before.Name, before.Spec.NodeName, s.Object.(*corev1.Pod).Spec.NodeName)}
}

// nodeFits: when a pod is bound, all that the node holds fits it.
func nodeFits(s Step) []string {
	pod, ok := s.Object.(*corev1.Pod)
	if !ok || s.Gone || pod.Spec.NodeName == "" || terminal(pod) {
		return nil
	}
	if before, ok := s.Before.(*corev1.Pod); ok && before.Spec.NodeName != "" {
		return nil
	}
	node := s.node(pod.Spec.NodeName)
	if node == nil {
		return nil // it has gone since; the pod collector removes the pod
	}
	used, count := corev1.ResourceList{}, int64(0)
	for _, p := range s.pods {
		if p.Spec.NodeName == node.Name && !terminal(p) {
			add(used, p)
			count++
		}
	}
	var over []string
	for name, has := range node.Status.Allocatable {
		need := used[name]
		if name == corev1.ResourcePods {
			need = *resource.NewQuantity(count, resource.DecimalSI)
		}
		if need.Cmp(has) > 0 {
			over = append(over, fmt.Sprintf("%s of %s: %s of %s after binding %s", name, node.Name, need.String(), has.String(), pod.Name))
		}
	}
	return over
}

// add counts what the containers ask for; the pods of these tests have neither init containers nor overhead.
func add(to corev1.ResourceList, pod *corev1.Pod) {
	for i := range pod.Spec.Containers {
		for name, q := range pod.Spec.Containers[i].Resources.Requests {
			sum := to[name]
			sum.Add(q)
			to[name] = sum
		}
	}
}

// budgetKept: when the API evicts a ready pod, each budget over it is kept afterwards.
func budgetKept(s Step) []string {
	pod, ok := s.Object.(*corev1.Pod)
	before, had := s.Before.(*corev1.Pod)
	if !ok || !had || !available(before) || active(pod) && !s.Gone || !evicted(pod) {
		return nil
	}
	var broken []string
	for _, o := range s.objects {
		budget, ok := o.(*policyv1.PodDisruptionBudget)
		if !ok || budget.Namespace != pod.Namespace {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		if err != nil || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		healthy, lost := s.covered(selector, pod.Namespace)
		if need := s.needed(budget, selector); healthy+lost < need {
			broken = append(broken, fmt.Sprintf("budget %s needs %d pods, %d are left after the eviction of %s (%d lost otherwise)", budget.Name, need, healthy, pod.Name, lost))
		}
	}
	return broken
}

func evicted(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Reason == "EvictionByEvictionAPI" {
			return true
		}
	}
	return false
}

// covered counts the healthy pods that a budget selects, and those lost within the window by other things than evictions.
func (w *World) covered(selector labels.Selector, namespace string) (healthy, lost int) {
	var controllers []types.UID
	for _, pod := range w.pods {
		if pod.Namespace != namespace || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		if available(pod) {
			healthy++
		}
		if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
			controllers = append(controllers, ref.UID)
		}
	}
	return healthy, w.lost(theEvictionAPI, controllers...)
}

// needed is how many healthy pods a budget asks for.
func (w *World) needed(budget *policyv1.PodDisruptionBudget, selector labels.Selector) int {
	if m := budget.Spec.MinAvailable; m != nil && m.Type == intstr.Int {
		return m.IntValue()
	}
	expected := w.expected(selector, budget.Namespace)
	if m := budget.Spec.MinAvailable; m != nil {
		need, err := intstr.GetScaledValueFromIntOrPercent(m, expected, true)
		if err != nil {
			return 0
		}
		return need
	}
	may, err := intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(budget.Spec.MaxUnavailable, intstr.FromInt32(0))), expected, true)
	if err != nil {
		return 0
	}
	return max(0, expected-may)
}

// leaseRecord is a lease as it was last held.
type leaseRecord struct {
	holder string
	renew  time.Time
	lasts  time.Duration
}

// oneLeader: a lease passes on only when it was given up or has run out.
func oneLeader(s Step) []string {
	lease, ok := s.Object.(*coordinationv1.Lease)
	if !ok || s.Gone {
		return nil
	}
	now := leaseRecord{holder: ptr.Deref(lease.Spec.HolderIdentity, ""), lasts: time.Duration(ptr.Deref(lease.Spec.LeaseDurationSeconds, 0)) * time.Second}
	if lease.Spec.RenewTime != nil {
		now.renew = lease.Spec.RenewTime.Time
	}
	before := s.leases[lease.Name]
	s.leases[lease.Name] = now
	if before.holder == "" || now.holder == "" || before.holder == now.holder {
		return nil
	}
	if held := now.renew.Sub(before.renew); held < before.lasts {
		return []string{fmt.Sprintf("%s went from %s to %s only %v after its renewal", lease.Name, before.holder, now.holder, held)}
	}
	return nil
}
