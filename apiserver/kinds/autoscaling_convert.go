package kinds

import (
	"encoding/json"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The annotations in which autoscaling/v1 shows what it has no fields for.
const (
	hpaMetrics    = "autoscaling.alpha.kubernetes.io/metrics"
	hpaCurrent    = "autoscaling.alpha.kubernetes.io/current-metrics"
	hpaConditions = "autoscaling.alpha.kubernetes.io/conditions"
	hpaBehavior   = "autoscaling.alpha.kubernetes.io/behavior"
)

// dropAutoscalerAnnotations removes what only v1 shows.
func dropAutoscalerAnnotations(m *metav1.ObjectMeta) {
	for _, name := range []string{hpaMetrics, hpaCurrent, hpaConditions, hpaBehavior} {
		delete(m.Annotations, name)
	}
}

// fromAnnotation reads JSON. What cannot be read counts as not there.
func fromAnnotation[T any](m *metav1.ObjectMeta, name string) (value T) {
	if text, ok := m.Annotations[name]; ok {
		var read T
		if json.Unmarshal([]byte(text), &read) == nil {
			value = read
		}
	}
	return value
}

// toAnnotation writes JSON. Metrics and conditions always have one.
func toAnnotation(m *metav1.ObjectMeta, name string, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		return
	}
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[name] = string(text)
}

// newAutoscaler converts to v2. The result shares nothing with h.
func newAutoscaler(h *autoscalingv1.HorizontalPodAutoscaler) *autoscalingv2.HorizontalPodAutoscaler {
	h = h.DeepCopy()
	n := &autoscalingv2.HorizontalPodAutoscaler{TypeMeta: h.TypeMeta, ObjectMeta: h.ObjectMeta}
	n.APIVersion = autoscalingv2.SchemeGroupVersion.String()
	convertAutoscaler(toNew, n, h)
	if p := h.Spec.TargetCPUUtilizationPercentage; p != nil {
		n.Spec.Metrics = append(n.Spec.Metrics, cpuUtilization(*p))
	}
	for _, m := range fromAnnotation[[]autoscalingv1.MetricSpec](&h.ObjectMeta, hpaMetrics) {
		var metric autoscalingv2.MetricSpec
		convertMetric(toNew, &metric, &m)
		n.Spec.Metrics = append(n.Spec.Metrics, metric)
	}
	n.Spec.Behavior = fromAnnotation[*autoscalingv2.HorizontalPodAutoscalerBehavior](&h.ObjectMeta, hpaBehavior)
	for _, m := range fromAnnotation[[]autoscalingv1.MetricStatus](&h.ObjectMeta, hpaCurrent) {
		var metric autoscalingv2.MetricStatus
		convertMetricStatus(toNew, &metric, &m)
		n.Status.CurrentMetrics = append(n.Status.CurrentMetrics, metric)
	}
	if p := h.Status.CurrentCPUUtilizationPercentage; p != nil && len(n.Status.CurrentMetrics) == 0 {
		n.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricStatus{Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: p}}}}
	}
	n.Status.Conditions = fromAnnotation[[]autoscalingv2.HorizontalPodAutoscalerCondition](&h.ObjectMeta, hpaConditions)
	dropAutoscalerAnnotations(&n.ObjectMeta)
	return n
}

// oldAutoscaler converts to v1. The result shares nothing with n.
func oldAutoscaler(n *autoscalingv2.HorizontalPodAutoscaler) *autoscalingv1.HorizontalPodAutoscaler {
	n = n.DeepCopy()
	h := &autoscalingv1.HorizontalPodAutoscaler{TypeMeta: n.TypeMeta, ObjectMeta: n.ObjectMeta}
	dropAutoscalerAnnotations(&h.ObjectMeta)
	h.APIVersion = autoscalingv1.SchemeGroupVersion.String()
	convertAutoscaler(toOld, n, h)
	var others []autoscalingv1.MetricSpec
	for i := range n.Spec.Metrics {
		m := &n.Spec.Metrics[i]
		if r := m.Resource; h.Spec.TargetCPUUtilizationPercentage == nil && m.Type == autoscalingv2.ResourceMetricSourceType && r != nil &&
			r.Name == corev1.ResourceCPU && r.Target.AverageUtilization != nil {
			h.Spec.TargetCPUUtilizationPercentage = r.Target.AverageUtilization
			continue
		}
		var other autoscalingv1.MetricSpec
		convertMetric(toOld, m, &other)
		others = append(others, other)
	}
	if len(others) > 0 {
		toAnnotation(&h.ObjectMeta, hpaMetrics, others)
	}
	if n.Spec.Behavior != nil {
		toAnnotation(&h.ObjectMeta, hpaBehavior, n.Spec.Behavior)
	}
	oldAutoscalerStatus(h, &n.Status)
	return h
}

func oldAutoscalerStatus(h *autoscalingv1.HorizontalPodAutoscaler, s *autoscalingv2.HorizontalPodAutoscalerStatus) {
	var current []autoscalingv1.MetricStatus
	for i := range s.CurrentMetrics {
		m := &s.CurrentMetrics[i]
		var old autoscalingv1.MetricStatus
		convertMetricStatus(toOld, m, &old)
		current = append(current, old)
		if r := m.Resource; m.Type == autoscalingv2.ResourceMetricSourceType && r != nil && r.Name == corev1.ResourceCPU && r.Current.AverageUtilization != nil {
			h.Status.CurrentCPUUtilizationPercentage = r.Current.AverageUtilization
		}
	}
	// The field tells all there is of a single utilization whose amount is not known.
	fieldIsAll := len(current) == 1 && h.Status.CurrentCPUUtilizationPercentage != nil && s.CurrentMetrics[0].Resource.Current.AverageValue == nil
	if len(current) > 0 && !fieldIsAll {
		toAnnotation(&h.ObjectMeta, hpaCurrent, current)
	}
	if len(s.Conditions) > 0 {
		toAnnotation(&h.ObjectMeta, hpaConditions, s.Conditions)
	}
}

// way is the direction of a conversion between v2, which is named first, and v1.
type way bool

const (
	toNew way = true
	toOld way = false
)

// both gives one of two fields the other's value.
func both[T any](w way, newer, older *T) {
	if w == toNew {
		*newer = *older
	} else {
		*older = *newer
	}
}

// meet tells whether there is something to convert, and makes what it is converted to.
func meet[N, O any](w way, newer **N, older **O) bool {
	if w == toNew && *older != nil {
		*newer = new(N)
		return true
	}
	if w == toOld && *newer != nil {
		*older = new(O)
		return true
	}
	return false
}

// bothAmounts converts a quantity that v1 writes even where there is none, as zero.
func bothAmounts(w way, newer **resource.Quantity, older *resource.Quantity) {
	if w == toNew {
		*newer = new(resource.Quantity)
		**newer = *older
	} else if *newer != nil {
		*older = **newer
	}
}

// bothAmountsIfAny is bothAmounts where zero stands for none.
func bothAmountsIfAny(w way, newer **resource.Quantity, older *resource.Quantity) {
	if w == toOld || !older.IsZero() {
		bothAmounts(w, newer, older)
	}
}

// typed is a target of the type that its values tell.
func typed(w way, t *autoscalingv2.MetricTarget) {
	switch {
	case w == toOld:
	case t.AverageUtilization != nil:
		t.Type = autoscalingv2.UtilizationMetricType
	case t.AverageValue != nil:
		t.Type = autoscalingv2.AverageValueMetricType
	default:
		t.Type = autoscalingv2.ValueMetricType
	}
}

// convertAutoscaler converts the fields that both versions have.
func convertAutoscaler(w way, n *autoscalingv2.HorizontalPodAutoscaler, h *autoscalingv1.HorizontalPodAutoscaler) {
	both(w, &n.Spec.ScaleTargetRef, (*autoscalingv2.CrossVersionObjectReference)(&h.Spec.ScaleTargetRef))
	both(w, &n.Spec.MinReplicas, &h.Spec.MinReplicas)
	both(w, &n.Spec.MaxReplicas, &h.Spec.MaxReplicas)
	both(w, &n.Status.ObservedGeneration, &h.Status.ObservedGeneration)
	both(w, &n.Status.LastScaleTime, &h.Status.LastScaleTime)
	both(w, &n.Status.CurrentReplicas, &h.Status.CurrentReplicas)
	both(w, &n.Status.DesiredReplicas, &h.Status.DesiredReplicas)
}

func convertMetric(w way, n *autoscalingv2.MetricSpec, m *autoscalingv1.MetricSpec) {
	both(w, &n.Type, (*autoscalingv2.MetricSourceType)(&m.Type))
	if meet(w, &n.Object, &m.Object) {
		n, m := n.Object, m.Object
		both(w, &n.DescribedObject, (*autoscalingv2.CrossVersionObjectReference)(&m.Target))
		both(w, &n.Metric.Name, &m.MetricName)
		both(w, &n.Metric.Selector, &m.Selector)
		bothAmountsIfAny(w, &n.Target.Value, &m.TargetValue)
		both(w, &n.Target.AverageValue, &m.AverageValue)
		typed(w, &n.Target)
	}
	if meet(w, &n.Pods, &m.Pods) {
		n, m := n.Pods, m.Pods
		both(w, &n.Metric.Name, &m.MetricName)
		both(w, &n.Metric.Selector, &m.Selector)
		bothAmounts(w, &n.Target.AverageValue, &m.TargetAverageValue)
		typed(w, &n.Target)
	}
	if meet(w, &n.Resource, &m.Resource) {
		n, m := n.Resource, m.Resource
		both(w, &n.Name, &m.Name)
		convertUsage(w, &n.Target, &m.TargetAverageUtilization, &m.TargetAverageValue)
	}
	if meet(w, &n.ContainerResource, &m.ContainerResource) {
		n, m := n.ContainerResource, m.ContainerResource
		both(w, &n.Name, &m.Name)
		both(w, &n.Container, &m.Container)
		convertUsage(w, &n.Target, &m.TargetAverageUtilization, &m.TargetAverageValue)
	}
	if meet(w, &n.External, &m.External) {
		n, m := n.External, m.External
		both(w, &n.Metric.Name, &m.MetricName)
		both(w, &n.Metric.Selector, &m.MetricSelector)
		both(w, &n.Target.Value, &m.TargetValue)
		both(w, &n.Target.AverageValue, &m.TargetAverageValue)
		typed(w, &n.Target)
	}
}

func convertUsage(w way, n *autoscalingv2.MetricTarget, utilization **int32, value **resource.Quantity) {
	both(w, &n.AverageUtilization, utilization)
	both(w, &n.AverageValue, value)
	typed(w, n)
}

func convertMetricStatus(w way, n *autoscalingv2.MetricStatus, m *autoscalingv1.MetricStatus) {
	both(w, &n.Type, (*autoscalingv2.MetricSourceType)(&m.Type))
	if meet(w, &n.Object, &m.Object) {
		n, m := n.Object, m.Object
		both(w, &n.DescribedObject, (*autoscalingv2.CrossVersionObjectReference)(&m.Target))
		both(w, &n.Metric.Name, &m.MetricName)
		both(w, &n.Metric.Selector, &m.Selector)
		bothAmounts(w, &n.Current.Value, &m.CurrentValue)
		both(w, &n.Current.AverageValue, &m.AverageValue)
	}
	if meet(w, &n.Pods, &m.Pods) {
		n, m := n.Pods, m.Pods
		both(w, &n.Metric.Name, &m.MetricName)
		both(w, &n.Metric.Selector, &m.Selector)
		bothAmounts(w, &n.Current.AverageValue, &m.CurrentAverageValue)
	}
	if meet(w, &n.Resource, &m.Resource) {
		n, m := n.Resource, m.Resource
		both(w, &n.Name, &m.Name)
		both(w, &n.Current.AverageUtilization, &m.CurrentAverageUtilization)
		bothAmountsIfAny(w, &n.Current.AverageValue, &m.CurrentAverageValue)
	}
	if meet(w, &n.ContainerResource, &m.ContainerResource) {
		n, m := n.ContainerResource, m.ContainerResource
		both(w, &n.Name, &m.Name)
		both(w, &n.Container, &m.Container)
		both(w, &n.Current.AverageUtilization, &m.CurrentAverageUtilization)
		bothAmountsIfAny(w, &n.Current.AverageValue, &m.CurrentAverageValue)
	}
	if meet(w, &n.External, &m.External) {
		n, m := n.External, m.External
		both(w, &n.Metric.Name, &m.MetricName)
		both(w, &n.Metric.Selector, &m.MetricSelector)
		bothAmounts(w, &n.Current.Value, &m.CurrentValue)
		both(w, &n.Current.AverageValue, &m.CurrentAverageValue)
	}
}

// metricField is the field that a metric of the type is in.
func metricField(t autoscalingv2.MetricSourceType) string {
	if t == "" {
		return ""
	}
	return strings.ToLower(string(t[:1])) + string(t[1:])
}
