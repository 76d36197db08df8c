package kinds

import (
	"fmt"
	"strconv"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// utilizationDefault is the percentage of requested CPU that is aimed for where no metric is named.
const utilizationDefault int32 = 80

// autoscalers are HorizontalPodAutoscaler in two versions: v2 is stored, and v1 keeps in annotations what it has no fields for.
func autoscalers() []Kind { return []Kind{newAutoscalers(), oldAutoscalers()} }

func newAutoscalers() Kind {
	return Kind{
		GVK:                 autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"),
		Resource:            "horizontalpodautoscalers",
		Singular:            "horizontalpodautoscaler",
		ShortNames:          []string{"hpa"},
		Categories:          []string{"all"},
		Namespaced:          true,
		Prefix:              "horizontalpodautoscalers",
		New:                 func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscaler{} },
		NewList:             func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscalerList{} },
		Default:             on(defaultAutoscaler),
		PrepareCreate:       on(prepareAutoscalerCreate),
		PrepareUpdate:       onUpdate(prepareAutoscalerUpdate),
		Validate:            check(validateAutoscaler),
		ValidateUpdate:      checkUpdate(validateAutoscalerUpdate),
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Reference", "string", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["scaleTargetRef"]),
			column("Targets", "string", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["metrics"]),
			column("MinPods", "string", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["minReplicas"]),
			column("MaxPods", "string", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["maxReplicas"]),
			column("Replicas", "string", autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()["currentReplicas"]),
			ageColumn(),
		},
		Cells: cells(autoscalerCells),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(prepareAutoscalerStatus),
			ValidateUpdate: checkUpdate(validateAutoscalerStatusUpdate),
		},
	}
}

// oldAutoscalers are autoscaling/v1: what they mean is decided in v2.
func oldAutoscalers() Kind {
	k := newAutoscalers()
	k.GVK = autoscalingv1.SchemeGroupVersion.WithKind(k.GVK.Kind)
	k.ToStorage, k.FromStorage = converter(newAutoscaler), converter(oldAutoscaler)
	k.New = func() runtime.Object { return &autoscalingv1.HorizontalPodAutoscaler{} }
	k.NewList = func() runtime.Object { return &autoscalingv1.HorizontalPodAutoscalerList{} }
	k.Default = on(defaultOldAutoscaler)
	k.PrepareCreate = on(func(h *autoscalingv1.HorizontalPodAutoscaler) {
		n := newAutoscaler(h)
		prepareAutoscalerCreate(n)
		*h = *oldAutoscaler(n)
	})
	k.PrepareUpdate = onUpdate(inV2(prepareAutoscalerUpdate))
	k.Validate = check(func(h *autoscalingv1.HorizontalPodAutoscaler) field.ErrorList {
		return validateAutoscaler(newAutoscaler(h))
	})
	k.ValidateUpdate = checkUpdate(func(h, old *autoscalingv1.HorizontalPodAutoscaler) field.ErrorList {
		return validateAutoscalerUpdate(newAutoscaler(h), newAutoscaler(old))
	})
	k.Cells = cells(func(h *autoscalingv1.HorizontalPodAutoscaler, now metav1.Time) []any {
		return autoscalerCells(newAutoscaler(h), now)
	})
	k.Status = &Subresource{
		PrepareUpdate: onUpdate(inV2(prepareAutoscalerStatus)),
		ValidateUpdate: checkUpdate(func(h, old *autoscalingv1.HorizontalPodAutoscaler) field.ErrorList {
			return validateAutoscalerStatusUpdate(newAutoscaler(h), newAutoscaler(old))
		}),
	}
	return k
}

// inV2 does to v1 objects what prepare does to v2's, so that it also holds for what v1 has in annotations.
func inV2(prepare func(h, old *autoscalingv2.HorizontalPodAutoscaler)) func(h, old *autoscalingv1.HorizontalPodAutoscaler) {
	return func(h, old *autoscalingv1.HorizontalPodAutoscaler) {
		n := newAutoscaler(h)
		prepare(n, newAutoscaler(old))
		*h = *oldAutoscaler(n)
	}
}

func prepareAutoscalerCreate(h *autoscalingv2.HorizontalPodAutoscaler) {
	h.Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
}

func prepareAutoscalerUpdate(h, old *autoscalingv2.HorizontalPodAutoscaler) {
	old.Status.DeepCopyInto(&h.Status)
}

func prepareAutoscalerStatus(h, old *autoscalingv2.HorizontalPodAutoscaler) {
	old.Spec.DeepCopyInto(&h.Spec)
}

func defaultAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	dropAutoscalerAnnotations(&h.ObjectMeta)
	s := &h.Spec
	setDefaultPtr(&s.MinReplicas, 1)
	if len(s.Metrics) == 0 {
		s.Metrics = []autoscalingv2.MetricSpec{cpuUtilization(utilizationDefault)}
	}
	if s.Behavior == nil {
		return
	}
	scalingRules(&s.Behavior.ScaleUp,
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
	setDefaultPtr(&s.Behavior.ScaleUp.StabilizationWindowSeconds, 0)
	scalingRules(&s.Behavior.ScaleDown,
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
}

// scalingRules fills in rules. An empty list of policies was meant and stays, to be refused.
func scalingRules(rules **autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) {
	setDefaultPtr(rules, autoscalingv2.HPAScalingRules{})
	setDefaultPtr(&(*rules).SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if (*rules).Policies == nil {
		(*rules).Policies = policies
	}
}

func defaultOldAutoscaler(h *autoscalingv1.HorizontalPodAutoscaler) {
	setDefaultPtr(&h.Spec.MinReplicas, 1)
	if h.Spec.TargetCPUUtilizationPercentage == nil && len(newAutoscaler(h).Spec.Metrics) == 0 {
		setDefaultPtr(&h.Spec.TargetCPUUtilizationPercentage, utilizationDefault)
	}
}

func cpuUtilization(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name:   corev1.ResourceCPU,
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
	}}
}

func autoscalerCells(h *autoscalingv2.HorizontalPodAutoscaler, now metav1.Time) []any {
	minimum := "<unset>"
	if h.Spec.MinReplicas != nil {
		minimum = strconv.Itoa(int(*h.Spec.MinReplicas))
	}
	return []any{
		h.Name, h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name, autoscalerTargets(h.Spec.Metrics, h.Status.CurrentMetrics),
		minimum, strconv.Itoa(int(h.Spec.MaxReplicas)), strconv.Itoa(int(h.Status.CurrentReplicas)), age(now, h.CreationTimestamp),
	}
}

// autoscalerTargets shows two metrics, and how many more there are.
func autoscalerTargets(specs []autoscalingv2.MetricSpec, statuses []autoscalingv2.MetricStatus) string {
	const shown = 2
	if len(specs) == 0 {
		return "<none>"
	}
	var list []string
	for i := range specs {
		current := autoscalingv2.MetricStatus{}
		if i < len(statuses) {
			current = statuses[i]
		}
		list = append(list, autoscalerTarget(&specs[i], &current))
	}
	if len(list) > shown {
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:shown], ", "), len(list)-shown)
	}
	return strings.Join(list, ", ")
}

func autoscalerTarget(m *autoscalingv2.MetricSpec, s *autoscalingv2.MetricStatus) string {
	var now autoscalingv2.MetricValueStatus
	switch {
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		now = orZero(s.Resource).Current
		return string(m.Resource.Name) + ": " + resourceTarget(&m.Resource.Target, &now)
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		now = orZero(s.ContainerResource).Current
		return string(m.ContainerResource.Name) + ": " + resourceTarget(&m.ContainerResource.Target, &now)
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		now = orZero(s.Pods).Current
		return shownAmount(now.AverageValue) + "/" + shownAmount(m.Pods.Target.AverageValue)
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		now = orZero(s.Object).Current
		return valueTarget(&m.Object.Target, &now)
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		now = orZero(s.External).Current
		return valueTarget(&m.External.Target, &now)
	}
	return "<unknown type>"
}

// valueTarget is of a metric that is not of the pods themselves: its value, or the share of it that falls to each pod.
func valueTarget(t *autoscalingv2.MetricTarget, now *autoscalingv2.MetricValueStatus) string {
	if t.AverageValue != nil {
		return shownAmount(now.AverageValue) + "/" + shownAmount(t.AverageValue) + " (avg)"
	}
	return shownAmount(now.Value) + "/" + shownAmount(t.Value)
}

func resourceTarget(t *autoscalingv2.MetricTarget, now *autoscalingv2.MetricValueStatus) string {
	if t.AverageValue != nil {
		return shownAmount(now.AverageValue) + "/" + shownAmount(t.AverageValue)
	}
	current, target := "<unknown>", "<auto>"
	if now.AverageUtilization != nil {
		current = fmt.Sprintf("%d%%", *now.AverageUtilization)
	}
	if t.AverageUtilization != nil {
		target = fmt.Sprintf("%d%%", *t.AverageUtilization)
	}
	return current + "/" + target
}

func shownAmount(q *resource.Quantity) string {
	if q == nil {
		return "<unknown>"
	}
	return q.String()
}
