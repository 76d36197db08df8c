package kinds

import (
	"errors"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Limits of scaling rules, in seconds.
const (
	scalingPeriodMax        = 1800
	stabilizationWindowMax  = 3600
	greaterThanZero         = "must be greater than zero"
	targetAndUtilization    = "may not set both a target raw value and a target utilization"
	targetOrUtilization     = "must set either a target raw value or a target utilization"
	populateGivenMetric     = "must populate information for the given metric source"
	populateGivenMetricOnly = "must populate the given metric source only"
)

// autoscalerRules are what of an autoscaler's checks depends on what it was before.
type autoscalerRules struct {
	minLowest int32
	target    referenceRules
	object    referenceRules
}

// referenceRules say what an apiVersion may be.
type referenceRules struct{ anything, coreGroup bool }

func (r referenceRules) check(apiVersion string) error {
	if r.anything {
		return nil
	}
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return err
	}
	if gv.Group == "" && !r.coreGroup {
		return errors.New("apiVersion must specify API group")
	}
	return nil
}

// autoscalerRulesFor leaves alone what was there before it was checked.
func autoscalerRulesFor(s, old *autoscalingv2.HorizontalPodAutoscalerSpec) autoscalerRules {
	r := autoscalerRules{minLowest: 1, object: referenceRules{coreGroup: true}}
	r.target.coreGroup = s.ScaleTargetRef.Kind == "ReplicationController"
	if old == nil {
		return r
	}
	if old.MinReplicas != nil && *old.MinReplicas == 0 {
		r.minLowest = 0
	}
	r.target.anything = old.ScaleTargetRef.APIVersion == s.ScaleTargetRef.APIVersion && old.ScaleTargetRef.Kind == s.ScaleTargetRef.Kind
	for i := range old.Metrics {
		if o := old.Metrics[i].Object; o != nil && (referenceRules{coreGroup: true}).check(o.DescribedObject.APIVersion) != nil {
			r.object.anything = true
		}
	}
	return r
}

func validateAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	errs := validateMeta(&h.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateAutoscalerSpec(&h.Spec, autoscalerRulesFor(&h.Spec, nil))...)
}

func validateAutoscalerUpdate(h, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	errs := validateMetaUpdate(&h.ObjectMeta, &old.ObjectMeta)
	return append(errs, validateAutoscalerSpec(&h.Spec, autoscalerRulesFor(&h.Spec, &old.Spec))...)
}

func validateAutoscalerStatusUpdate(h, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	errs := validateMetaUpdate(&h.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, nonnegative(h.Status.CurrentReplicas, field.NewPath("status", "currentReplicas"))...)
	return append(errs, nonnegative(h.Status.DesiredReplicas, field.NewPath("status", "desiredReplicas"))...)
}

func validateAutoscalerSpec(s *autoscalingv2.HorizontalPodAutoscalerSpec, rules autoscalerRules) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if s.MinReplicas != nil && *s.MinReplicas < rules.minLowest {
		text := "must be greater than or equal to 1"
		if rules.minLowest == 0 {
			text = "must be greater than or equal to 0"
		}
		errs = append(errs, field.Invalid(path.Child("minReplicas"), *s.MinReplicas, text))
	}
	if s.MaxReplicas < 1 {
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), s.MaxReplicas, "must be greater than 0"))
	}
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, objectReference(&s.ScaleTargetRef, path.Child("scaleTargetRef"), rules.target)...)
	errs = append(errs, autoscalerMetrics(s, path.Child("metrics"), rules)...)
	if b := s.Behavior; b != nil {
		errs = append(errs, validateScalingRules(b.ScaleUp, path.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateScalingRules(b.ScaleDown, path.Child("behavior", "scaleDown"))...)
	}
	return errs
}

func objectReference(r *autoscalingv2.CrossVersionObjectReference, path *field.Path, rules referenceRules) field.ErrorList {
	errs := pathSegment(r.Kind, path.Child("kind"), "")
	errs = append(errs, pathSegment(r.Name, path.Child("name"), "")...)
	if err := rules.check(r.APIVersion); err != nil {
		errs = append(errs, field.Invalid(path.Child("apiVersion"), r.APIVersion, err.Error()))
	}
	return errs
}

// pathSegment is something that becomes part of a URL.
func pathSegment(value string, path *field.Path, required string) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, required)}
	}
	return invalid(path, value, content.IsPathSegmentName(value))
}

func autoscalerMetrics(s *autoscalingv2.HorizontalPodAutoscalerSpec, path *field.Path, rules autoscalerRules) field.ErrorList {
	var errs field.ErrorList
	outside := false
	for i := range s.Metrics {
		m := &s.Metrics[i]
		errs = append(errs, validateMetric(m, path.Index(i), rules)...)
		outside = outside || m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	}
	if s.MinReplicas != nil && *s.MinReplicas == 0 && !outside {
		errs = append(errs, field.Forbidden(path, "must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	return errs
}

// validateMetric looks into the first source that is there, and refuses others than the type's.
func validateMetric(m *autoscalingv2.MetricSpec, path *field.Path, rules autoscalerRules) field.ErrorList {
	var errs field.ErrorList
	if m.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric source type"))
	}
	expected := metricField(m.Type)
	sources := metricSources(m, path, rules)
	var present []string
	isKind := false
	for _, s := range sources {
		isKind = isKind || s.name == expected
		if s.check == nil {
			if s.name == expected {
				errs = append(errs, field.Required(path.Child(s.name), populateGivenMetric))
			}
			continue
		}
		if present = append(present, s.name); len(present) == 1 {
			errs = append(errs, s.check()...)
		}
	}
	if !isKind {
		errs = append(errs, supported(m.Type, path.Child("type"), autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType,
			autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType)...)
	}
	for _, name := range present {
		if len(present) > 1 && name != expected {
			errs = append(errs, field.Forbidden(path.Child(name), populateGivenMetricOnly))
		}
	}
	return errs
}

// supported wants one of some values; none at all is as wrong as another one.
func supported[T ~string](value T, path *field.Path, known ...T) field.ErrorList {
	if slices.Contains(known, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, known)}
}

// metricSource is where a metric may come from. One that is not there has no check.
type metricSource struct {
	name  string
	check func() field.ErrorList
}

func metricSources(m *autoscalingv2.MetricSpec, path *field.Path, rules autoscalerRules) []metricSource {
	sources := []metricSource{{name: "object"}, {name: "external"}, {name: "pods"}, {name: "resource"}, {name: "containerResource"}}
	if o := m.Object; o != nil {
		sources[0].check = func() field.ErrorList { return validateObjectMetric(o, path.Child("object"), rules) }
	}
	if e := m.External; e != nil {
		sources[1].check = func() field.ErrorList { return validateExternalMetric(e, path.Child("external")) }
	}
	if p := m.Pods; p != nil {
		sources[2].check = func() field.ErrorList { return validatePodsMetric(p, path.Child("pods")) }
	}
	if r := m.Resource; r != nil {
		sources[3].check = func() field.ErrorList { return resourceMetric(string(r.Name), &r.Target, path.Child("resource")) }
	}
	if r := m.ContainerResource; r != nil {
		sources[4].check = func() field.ErrorList {
			errs := resourceMetric(string(r.Name), &r.Target, path.Child("containerResource"))
			if r.Container == "" {
				errs = append(errs, field.Required(path.Child("containerResource", "container"), "must specify a container"))
			}
			return errs
		}
	}
	return sources
}

func validateObjectMetric(o *autoscalingv2.ObjectMetricSource, path *field.Path, rules autoscalerRules) field.ErrorList {
	errs := objectReference(&o.DescribedObject, path.Child("describedObject"), rules.object)
	errs = append(errs, pathSegment(o.Metric.Name, path.Child("metric", "name"), "must specify a metric name")...)
	errs = append(errs, validateMetricTarget(&o.Target, path.Child("target"))...)
	if o.Target.Value == nil && o.Target.AverageValue == nil {
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must set either a target value or averageValue"))
	}
	return errs
}

func validateExternalMetric(e *autoscalingv2.ExternalMetricSource, path *field.Path) field.ErrorList {
	errs := pathSegment(e.Metric.Name, path.Child("metric", "name"), "must specify a metric name")
	errs = append(errs, validateMetricTarget(&e.Target, path.Child("target"))...)
	if e.Target.Value == nil && e.Target.AverageValue == nil {
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
	}
	if e.Target.Value != nil && e.Target.AverageValue != nil {
		errs = append(errs, field.Forbidden(path.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
	}
	return errs
}

func validatePodsMetric(p *autoscalingv2.PodsMetricSource, path *field.Path) field.ErrorList {
	errs := pathSegment(p.Metric.Name, path.Child("metric", "name"), "must specify a metric name")
	errs = append(errs, validateMetricTarget(&p.Target, path.Child("target"))...)
	if p.Target.AverageValue == nil || p.Target.AverageValue.Sign() != 1 {
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must specify a positive target averageValue"))
	}
	return errs
}

func resourceMetric(name string, t *autoscalingv2.MetricTarget, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(path.Child("name"), "must specify a resource name"))
	}
	at := path.Child("target")
	errs = append(errs, validateMetricTarget(t, at)...)
	if t.AverageUtilization == nil && t.AverageValue == nil {
		errs = append(errs, field.Required(at.Child("averageUtilization"), targetOrUtilization))
	}
	if t.AverageUtilization != nil && t.AverageValue != nil {
		errs = append(errs, field.Forbidden(at.Child("averageValue"), targetAndUtilization))
	}
	return errs
}

func validateMetricTarget(t *autoscalingv2.MetricTarget, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch t.Type {
	case "":
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric target type"))
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		errs = append(errs, field.Invalid(path.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	if t.Value != nil && t.Value.Sign() != 1 {
		errs = append(errs, field.Invalid(path.Child("value"), t.Value.String(), "must be positive"))
	}
	if t.AverageValue != nil && t.AverageValue.Sign() != 1 {
		errs = append(errs, field.Invalid(path.Child("averageValue"), t.AverageValue.String(), "must be positive"))
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		errs = append(errs, field.Invalid(path.Child("averageUtilization"), *t.AverageUtilization, "must be greater than 0"))
	}
	return errs
}

func validateScalingRules(r *autoscalingv2.HPAScalingRules, path *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	if w := r.StabilizationWindowSeconds; w != nil {
		if *w < 0 {
			errs = append(errs, field.Invalid(path.Child("stabilizationWindowSeconds"), *w, "must be greater than or equal to zero"))
		}
		if *w > stabilizationWindowMax {
			errs = append(errs, field.Invalid(path.Child("stabilizationWindowSeconds"), *w, "must be less than or equal to 3600"))
		}
	}
	if p := r.SelectPolicy; p != nil {
		errs = append(errs, supported(*p, path.Child("selectPolicy"), autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	}
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(path.Child("policies"), "must specify at least one Policy"))
	}
	for i := range r.Policies {
		errs = append(errs, validateScalingPolicy(&r.Policies[i], path.Child("policies").Index(i))...)
	}
	if q := r.Tolerance; q != nil && q.Sign() < 0 {
		errs = append(errs, field.Invalid(path.Child("tolerance"), q.String(), apivalidation.IsNegativeErrorMsg))
	}
	return errs
}

func validateScalingPolicy(p *autoscalingv2.HPAScalingPolicy, path *field.Path) field.ErrorList {
	errs := supported(p.Type, path.Child("type"), autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)
	if p.Value <= 0 {
		errs = append(errs, field.Invalid(path.Child("value"), p.Value, greaterThanZero))
	}
	if p.PeriodSeconds <= 0 {
		errs = append(errs, field.Invalid(path.Child("periodSeconds"), p.PeriodSeconds, greaterThanZero))
	}
	if p.PeriodSeconds > scalingPeriodMax {
		errs = append(errs, field.Invalid(path.Child("periodSeconds"), p.PeriodSeconds, "must be less than or equal to 1800"))
	}
	return errs
}
