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
	n.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference(h.Spec.ScaleTargetRef)
	n.Spec.MinReplicas, n.Spec.MaxReplicas = h.Spec.MinReplicas, h.Spec.MaxReplicas
	if p := h.Spec.TargetCPUUtilizationPercentage; p != nil {
		n.Spec.Metrics = append(n.Spec.Metrics, cpuUtilization(*p))
	}
	for _, m := range fromAnnotation[[]autoscalingv1.MetricSpec](&h.ObjectMeta, hpaMetrics) {
		n.Spec.Metrics = append(n.Spec.Metrics, newMetric(&m))
	}
	n.Spec.Behavior = fromAnnotation[*autoscalingv2.HorizontalPodAutoscalerBehavior](&h.ObjectMeta, hpaBehavior)
	n.Status.ObservedGeneration, n.Status.LastScaleTime = h.Status.ObservedGeneration, h.Status.LastScaleTime
	n.Status.CurrentReplicas, n.Status.DesiredReplicas = h.Status.CurrentReplicas, h.Status.DesiredReplicas
	for _, m := range fromAnnotation[[]autoscalingv1.MetricStatus](&h.ObjectMeta, hpaCurrent) {
		n.Status.CurrentMetrics = append(n.Status.CurrentMetrics, newMetricStatus(&m))
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
	h.Spec.ScaleTargetRef = autoscalingv1.CrossVersionObjectReference(n.Spec.ScaleTargetRef)
	h.Spec.MinReplicas, h.Spec.MaxReplicas = n.Spec.MinReplicas, n.Spec.MaxReplicas
	var others []autoscalingv1.MetricSpec
	for i := range n.Spec.Metrics {
		m := &n.Spec.Metrics[i]
		if r := m.Resource; h.Spec.TargetCPUUtilizationPercentage == nil && m.Type == autoscalingv2.ResourceMetricSourceType && r != nil &&
			r.Name == corev1.ResourceCPU && r.Target.AverageUtilization != nil {
			h.Spec.TargetCPUUtilizationPercentage = r.Target.AverageUtilization
			continue
		}
		others = append(others, oldMetric(m))
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
	h.Status.ObservedGeneration, h.Status.LastScaleTime = s.ObservedGeneration, s.LastScaleTime
	h.Status.CurrentReplicas, h.Status.DesiredReplicas = s.CurrentReplicas, s.DesiredReplicas
	var current []autoscalingv1.MetricStatus
	for i := range s.CurrentMetrics {
		m := &s.CurrentMetrics[i]
		current = append(current, oldMetricStatus(m))
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

// metricTarget is a target of the type that its values tell.
func metricTarget(value, average *resource.Quantity, utilization *int32) autoscalingv2.MetricTarget {
	t := autoscalingv2.MetricTarget{Value: value, AverageValue: average, AverageUtilization: utilization}
	switch {
	case utilization != nil:
		t.Type = autoscalingv2.UtilizationMetricType
	case average != nil:
		t.Type = autoscalingv2.AverageValueMetricType
	default:
		t.Type = autoscalingv2.ValueMetricType
	}
	return t
}

// known is a quantity of which v1 writes zero where there is none.
func known(q resource.Quantity) *resource.Quantity {
	if q.IsZero() {
		return nil
	}
	return &q
}

func newMetric(m *autoscalingv1.MetricSpec) autoscalingv2.MetricSpec {
	n := autoscalingv2.MetricSpec{Type: autoscalingv2.MetricSourceType(m.Type)}
	if o := m.Object; o != nil {
		n.Object = &autoscalingv2.ObjectMetricSource{
			DescribedObject: autoscalingv2.CrossVersionObjectReference(o.Target),
			Metric:          autoscalingv2.MetricIdentifier{Name: o.MetricName, Selector: o.Selector},
			Target:          metricTarget(known(o.TargetValue), o.AverageValue, nil),
		}
	}
	if p := m.Pods; p != nil {
		n.Pods = &autoscalingv2.PodsMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: p.MetricName, Selector: p.Selector},
			Target: metricTarget(nil, &p.TargetAverageValue, nil),
		}
	}
	if r := m.Resource; r != nil {
		n.Resource = &autoscalingv2.ResourceMetricSource{Name: r.Name, Target: metricTarget(nil, r.TargetAverageValue, r.TargetAverageUtilization)}
	}
	if r := m.ContainerResource; r != nil {
		n.ContainerResource = &autoscalingv2.ContainerResourceMetricSource{
			Name: r.Name, Container: r.Container, Target: metricTarget(nil, r.TargetAverageValue, r.TargetAverageUtilization),
		}
	}
	if e := m.External; e != nil {
		n.External = &autoscalingv2.ExternalMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: e.MetricName, Selector: e.MetricSelector},
			Target: metricTarget(e.TargetValue, e.TargetAverageValue, nil),
		}
	}
	return n
}

func oldMetric(n *autoscalingv2.MetricSpec) autoscalingv1.MetricSpec {
	m := autoscalingv1.MetricSpec{Type: autoscalingv1.MetricSourceType(n.Type)}
	if o := n.Object; o != nil {
		m.Object = &autoscalingv1.ObjectMetricSource{
			Target: autoscalingv1.CrossVersionObjectReference(o.DescribedObject), MetricName: o.Metric.Name, Selector: o.Metric.Selector,
			TargetValue: orZeroAmount(o.Target.Value), AverageValue: o.Target.AverageValue,
		}
	}
	if p := n.Pods; p != nil {
		m.Pods = &autoscalingv1.PodsMetricSource{
			MetricName: p.Metric.Name, Selector: p.Metric.Selector, TargetAverageValue: orZeroAmount(p.Target.AverageValue),
		}
	}
	if r := n.Resource; r != nil {
		m.Resource = &autoscalingv1.ResourceMetricSource{
			Name: r.Name, TargetAverageUtilization: r.Target.AverageUtilization, TargetAverageValue: r.Target.AverageValue,
		}
	}
	if r := n.ContainerResource; r != nil {
		m.ContainerResource = &autoscalingv1.ContainerResourceMetricSource{
			Name: r.Name, Container: r.Container, TargetAverageUtilization: r.Target.AverageUtilization, TargetAverageValue: r.Target.AverageValue,
		}
	}
	if e := n.External; e != nil {
		m.External = &autoscalingv1.ExternalMetricSource{
			MetricName: e.Metric.Name, MetricSelector: e.Metric.Selector, TargetValue: e.Target.Value, TargetAverageValue: e.Target.AverageValue,
		}
	}
	return m
}

func orZeroAmount(q *resource.Quantity) resource.Quantity {
	if q == nil {
		return resource.Quantity{}
	}
	return *q
}

func newMetricStatus(m *autoscalingv1.MetricStatus) autoscalingv2.MetricStatus {
	n := autoscalingv2.MetricStatus{Type: autoscalingv2.MetricSourceType(m.Type)}
	if o := m.Object; o != nil {
		n.Object = &autoscalingv2.ObjectMetricStatus{
			DescribedObject: autoscalingv2.CrossVersionObjectReference(o.Target),
			Metric:          autoscalingv2.MetricIdentifier{Name: o.MetricName, Selector: o.Selector},
			Current:         autoscalingv2.MetricValueStatus{Value: &o.CurrentValue, AverageValue: o.AverageValue},
		}
	}
	if p := m.Pods; p != nil {
		n.Pods = &autoscalingv2.PodsMetricStatus{
			Metric:  autoscalingv2.MetricIdentifier{Name: p.MetricName, Selector: p.Selector},
			Current: autoscalingv2.MetricValueStatus{AverageValue: &p.CurrentAverageValue},
		}
	}
	if r := m.Resource; r != nil {
		n.Resource = &autoscalingv2.ResourceMetricStatus{Name: r.Name, Current: autoscalingv2.MetricValueStatus{
			AverageValue: known(r.CurrentAverageValue), AverageUtilization: r.CurrentAverageUtilization}}
	}
	if r := m.ContainerResource; r != nil {
		n.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: r.Name, Container: r.Container, Current: autoscalingv2.MetricValueStatus{
			AverageValue: known(r.CurrentAverageValue), AverageUtilization: r.CurrentAverageUtilization}}
	}
	if e := m.External; e != nil {
		n.External = &autoscalingv2.ExternalMetricStatus{
			Metric:  autoscalingv2.MetricIdentifier{Name: e.MetricName, Selector: e.MetricSelector},
			Current: autoscalingv2.MetricValueStatus{Value: &e.CurrentValue, AverageValue: e.CurrentAverageValue},
		}
	}
	return n
}

func oldMetricStatus(n *autoscalingv2.MetricStatus) autoscalingv1.MetricStatus {
	m := autoscalingv1.MetricStatus{Type: autoscalingv1.MetricSourceType(n.Type)}
	if o := n.Object; o != nil {
		m.Object = &autoscalingv1.ObjectMetricStatus{
			Target: autoscalingv1.CrossVersionObjectReference(o.DescribedObject), MetricName: o.Metric.Name, Selector: o.Metric.Selector,
			CurrentValue: orZeroAmount(o.Current.Value), AverageValue: o.Current.AverageValue,
		}
	}
	if p := n.Pods; p != nil {
		m.Pods = &autoscalingv1.PodsMetricStatus{
			MetricName: p.Metric.Name, Selector: p.Metric.Selector, CurrentAverageValue: orZeroAmount(p.Current.AverageValue),
		}
	}
	if r := n.Resource; r != nil {
		m.Resource = &autoscalingv1.ResourceMetricStatus{
			Name: r.Name, CurrentAverageUtilization: r.Current.AverageUtilization, CurrentAverageValue: orZeroAmount(r.Current.AverageValue),
		}
	}
	if r := n.ContainerResource; r != nil {
		m.ContainerResource = &autoscalingv1.ContainerResourceMetricStatus{
			Name: r.Name, Container: r.Container, CurrentAverageUtilization: r.Current.AverageUtilization,
			CurrentAverageValue: orZeroAmount(r.Current.AverageValue),
		}
	}
	if e := n.External; e != nil {
		m.External = &autoscalingv1.ExternalMetricStatus{
			MetricName: e.Metric.Name, MetricSelector: e.Metric.Selector,
			CurrentValue: orZeroAmount(e.Current.Value), CurrentAverageValue: e.Current.AverageValue,
		}
	}
	return m
}

// metricField is the field that a metric of the type is in.
func metricField(t autoscalingv2.MetricSourceType) string {
	if t == "" {
		return ""
	}
	return strings.ToLower(string(t[:1])) + string(t[1:])
}
