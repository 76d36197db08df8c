package kinds

import (
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func autoscaler() *autoscalingv2.HorizontalPodAutoscaler {
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "web", APIVersion: "apps/v1"},
			MaxReplicas:    3,
		},
	}
}

func TestAutoscalerIsValidated(t *testing.T) {
	k := &autoscalers()[0]
	good := autoscaler()
	wantTexts(t, create(k, good))
	if m := good.Spec.Metrics; len(m) != 1 || *m[0].Resource.Target.AverageUtilization != 80 || *good.Spec.MinReplicas != 1 {
		t.Errorf("defaults are %+v", good.Spec)
	}
	for name, c := range map[string]struct {
		change func(s *autoscalingv2.HorizontalPodAutoscalerSpec)
		want   []string
	}{
		"replicas": {func(s *autoscalingv2.HorizontalPodAutoscalerSpec) { s.MinReplicas, s.MaxReplicas = ptr[int32](4), 0 }, []string{
			`spec.maxReplicas: Invalid value: 0: must be greater than 0`,
			"spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`"}},
		"no group": {func(s *autoscalingv2.HorizontalPodAutoscalerSpec) { s.ScaleTargetRef.APIVersion = "v1" }, []string{
			`spec.scaleTargetRef.apiVersion: Invalid value: "v1": apiVersion must specify API group`}},
		"no source": {func(s *autoscalingv2.HorizontalPodAutoscalerSpec) {
			s.Metrics = []autoscalingv2.MetricSpec{{Type: autoscalingv2.PodsMetricSourceType}}
		}, []string{`spec.metrics[0].pods: Required value: must populate information for the given metric source`}},
		"behavior": {func(s *autoscalingv2.HorizontalPodAutoscalerSpec) {
			s.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{
				StabilizationWindowSeconds: ptr[int32](4000), Policies: []autoscalingv2.HPAScalingPolicy{}}}
		}, []string{
			`spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 4000: must be less than or equal to 3600`,
			`spec.behavior.scaleUp.policies: Required value: must specify at least one Policy`}},
	} {
		t.Run(name, func(t *testing.T) {
			h := autoscaler()
			c.change(&h.Spec)
			wantTexts(t, create(k, h), c.want...)
		})
	}
}

// What v1 has no field for goes through it unchanged.
func TestAutoscalerThroughV1(t *testing.T) {
	h := autoscaler()
	amount := resource.MustParse("100m")
	h.Kind, h.APIVersion = "HorizontalPodAutoscaler", "autoscaling/v2"
	h.Spec.Metrics = []autoscalingv2.MetricSpec{cpuUtilization(50), {Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: "hits"},
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &amount},
	}}}
	h.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{}
	defaultAutoscaler(h)
	h.Status.Conditions = []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: autoscalingv2.AbleToScale, Status: corev1.ConditionTrue}}
	h.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{
		Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: ptr[int32](20), AverageValue: &amount}}}}
	old := oldAutoscaler(h)
	if *old.Spec.TargetCPUUtilizationPercentage != 50 || *old.Status.CurrentCPUUtilizationPercentage != 20 {
		t.Errorf("v1 is %+v", old)
	}
	if back := newAutoscaler(old); !apiequality.Semantic.DeepEqual(back, h) {
		t.Errorf("through v1:\n%+v\nwas\n%+v", back, h)
	}
	// A client of v1 that does not know the annotations cannot change what is system's.
	forgot := old.DeepCopy()
	forgot.Annotations = nil
	(&autoscalers()[1]).PrepareUpdate(forgot, old)
	if got := newAutoscaler(forgot).Status; !apiequality.Semantic.DeepEqual(got, h.Status) {
		t.Errorf("status is %+v", got)
	}
}

// Every kind of metric goes through v1 unchanged, in the spec and in the status.
func TestMetricsThroughV1(t *testing.T) {
	q := func(text string) *resource.Quantity { q := resource.MustParse(text); return &q }
	target := autoscalingv2.CrossVersionObjectReference{Kind: "Service", Name: "front", APIVersion: "v1"}
	id := autoscalingv2.MetricIdentifier{Name: "hits", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}
	specs := []autoscalingv2.MetricSpec{
		{Type: "Object", Object: &autoscalingv2.ObjectMetricSource{DescribedObject: target, Metric: id, Target: autoscalingv2.MetricTarget{Type: "Value", Value: q("2")}}},
		{Type: "Object", Object: &autoscalingv2.ObjectMetricSource{DescribedObject: target, Metric: id, Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: q("3")}}},
		{Type: "Pods", Pods: &autoscalingv2.PodsMetricSource{Metric: id, Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: q("4")}}},
		{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "memory", Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: q("5")}}},
		{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "memory", Target: autoscalingv2.MetricTarget{Type: "Utilization", AverageUtilization: ptr[int32](6)}}},
		{Type: "ContainerResource", ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: "cpu", Container: "c", Target: autoscalingv2.MetricTarget{Type: "Utilization", AverageUtilization: ptr[int32](7)}}},
		{Type: "External", External: &autoscalingv2.ExternalMetricSource{Metric: id, Target: autoscalingv2.MetricTarget{Type: "Value", Value: q("8")}}},
		{Type: "External", External: &autoscalingv2.ExternalMetricSource{Metric: id, Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: q("9")}}},
	}
	for _, want := range specs {
		var old autoscalingv1.MetricSpec
		var got autoscalingv2.MetricSpec
		convertMetric(toOld, &want, &old)
		convertMetric(toNew, &got, &old)
		if !apiequality.Semantic.DeepEqual(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	statuses := []autoscalingv2.MetricStatus{
		{Type: "Object", Object: &autoscalingv2.ObjectMetricStatus{DescribedObject: target, Metric: id, Current: autoscalingv2.MetricValueStatus{Value: q("2"), AverageValue: q("1")}}},
		{Type: "Pods", Pods: &autoscalingv2.PodsMetricStatus{Metric: id, Current: autoscalingv2.MetricValueStatus{AverageValue: q("0")}}},
		{Type: "Resource", Resource: &autoscalingv2.ResourceMetricStatus{Name: "cpu", Current: autoscalingv2.MetricValueStatus{AverageUtilization: ptr[int32](3)}}},
		{Type: "Resource", Resource: &autoscalingv2.ResourceMetricStatus{Name: "cpu", Current: autoscalingv2.MetricValueStatus{AverageUtilization: ptr[int32](3), AverageValue: q("4")}}},
		{Type: "ContainerResource", ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{Name: "cpu", Container: "c", Current: autoscalingv2.MetricValueStatus{AverageValue: q("5")}}},
		{Type: "External", External: &autoscalingv2.ExternalMetricStatus{Metric: id, Current: autoscalingv2.MetricValueStatus{Value: q("6"), AverageValue: q("7")}}},
	}
	for _, want := range statuses {
		var old autoscalingv1.MetricStatus
		var got autoscalingv2.MetricStatus
		convertMetricStatus(toOld, &want, &old)
		convertMetricStatus(toNew, &got, &old)
		if !apiequality.Semantic.DeepEqual(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

func TestAutoscalerTargets(t *testing.T) {
	h := autoscaler()
	defaultAutoscaler(h)
	if got := autoscalerCells(h, metav1.Time{})[1:4]; got[0] != "Deployment/web" || got[1] != "cpu: <unknown>/80%" || got[2] != "1" {
		t.Errorf("cells are %v", got)
	}
	v1 := &autoscalingv1.HorizontalPodAutoscaler{}
	defaultOldAutoscaler(v1)
	if p := v1.Spec.TargetCPUUtilizationPercentage; p == nil || *p != 80 {
		t.Errorf("v1 aims for %v", p)
	}
}
