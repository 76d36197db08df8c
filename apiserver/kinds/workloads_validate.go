package kinds

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podTemplatePath is where a PodTemplate has its template; that of the others is below spec.
var (
	podTemplatePath  = field.NewPath("template")
	specTemplatePath = field.NewPath("spec", "template")
)

func validatePodTemplateObject(t *corev1.PodTemplate) field.ErrorList {
	errs := validateMeta(&t.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validatePodTemplate(&t.Template, podTemplatePath)...)
}

func validatePodTemplateObjectUpdate(t, old *corev1.PodTemplate) field.ErrorList {
	errs := validateMetaUpdate(&t.ObjectMeta, &old.ObjectMeta)
	return append(errs, inherited(validatePodTemplate(&t.Template, podTemplatePath), func() field.ErrorList {
		return validatePodTemplate(&old.Template, podTemplatePath)
	})...)
}

// nonnegative refuses numbers below zero.
func nonnegative(value int32, path *field.Path) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(int64(value), path)
}

// validateReplicaTemplate checks the template of a controller that keeps pods running: what its selector wants, and a restart policy that
// keeps them running.
func validateReplicaTemplate(t *corev1.PodTemplateSpec, selector labels.Selector, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if selector != nil && !selector.Empty() && !selector.Matches(labels.Set(t.Labels)) {
		errs = append(errs, field.Invalid(path.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	}
	errs = append(errs, validatePodTemplate(t, path)...)
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicaSet is not Supported"))
	}
	return errs
}

func validateReplicationController(rc *corev1.ReplicationController) field.ErrorList {
	errs := validateMeta(&rc.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateReplicationControllerSpec(&rc.Spec)...)
}

func validateReplicationControllerUpdate(rc, old *corev1.ReplicationController) field.ErrorList {
	errs := validateMetaUpdate(&rc.ObjectMeta, &old.ObjectMeta)
	return append(errs, inherited(validateReplicationControllerSpec(&rc.Spec), func() field.ErrorList {
		return validateReplicationControllerSpec(&old.Spec)
	})...)
}

func validateReplicationControllerSpec(s *corev1.ReplicationControllerSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := nonnegative(s.MinReadySeconds, path.Child("minReadySeconds"))
	if len(s.Selector) == 0 {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	}
	if s.Replicas == nil {
		errs = append(errs, field.Required(path.Child("replicas"), ""))
	} else {
		errs = append(errs, nonnegative(*s.Replicas, path.Child("replicas"))...)
	}
	if s.Template == nil {
		return append(errs, field.Required(path.Child("template"), ""))
	}
	return append(errs, validateRCTemplate(s, path.Child("template"))...)
}

// validateRCTemplate differs from that of the others in one message only.
func validateRCTemplate(s *corev1.ReplicationControllerSpec, path *field.Path) field.ErrorList {
	errs := validateReplicaTemplate(s.Template, labels.SelectorFromSet(s.Selector), path)
	for _, err := range errs {
		if err.Field == path.Child("spec", "activeDeadlineSeconds").String() && err.Type == field.ErrorTypeForbidden {
			err.Detail = "activeDeadlineSeconds in ReplicationController is not Supported"
		}
	}
	return errs
}

// replicaCounts is the part of a status that ReplicaSet and ReplicationController have in common.
type replicaCounts struct {
	replicas, fullyLabeled, ready, available int32
	observedGeneration                       int64
}

func (c replicaCounts) validate(path *field.Path) field.ErrorList {
	errs := nonnegative(c.replicas, path.Child("replicas"))
	errs = append(errs, nonnegative(c.fullyLabeled, path.Child("fullyLabeledReplicas"))...)
	errs = append(errs, nonnegative(c.ready, path.Child("readyReplicas"))...)
	errs = append(errs, nonnegative(c.available, path.Child("availableReplicas"))...)
	errs = append(errs, apivalidation.ValidateNonnegativeField(c.observedGeneration, path.Child("observedGeneration"))...)
	const tooMany = "cannot be greater than status.replicas"
	if c.fullyLabeled > c.replicas {
		errs = append(errs, field.Invalid(path.Child("fullyLabeledReplicas"), c.fullyLabeled, tooMany))
	}
	if c.ready > c.replicas {
		errs = append(errs, field.Invalid(path.Child("readyReplicas"), c.ready, tooMany))
	}
	if c.available > c.replicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), c.available, tooMany))
	}
	if c.available > c.ready {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), c.available, "cannot be greater than readyReplicas"))
	}
	return errs
}

func validateReplicationControllerStatusUpdate(rc, old *corev1.ReplicationController) field.ErrorList {
	errs := validateMetaUpdate(&rc.ObjectMeta, &old.ObjectMeta)
	s := &rc.Status
	counts := replicaCounts{s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, s.ObservedGeneration}
	return append(errs, counts.validate(field.NewPath("status"))...)
}

func validateReplicaSet(rs *appsv1.ReplicaSet) field.ErrorList {
	errs := validateMeta(&rs.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateReplicaSetSpec(&rs.Spec)...)
}

func validateReplicaSetUpdate(rs, old *appsv1.ReplicaSet) field.ErrorList {
	errs := validateMetaUpdate(&rs.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, inherited(validateReplicaSetSpec(&rs.Spec), func() field.ErrorList { return validateReplicaSetSpec(&old.Spec) })...)
	return append(errs, immutable(rs.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
}

func validateReplicaSetSpec(s *appsv1.ReplicaSetSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := nonnegative(*orZero(s.Replicas), path.Child("replicas"))
	errs = append(errs, nonnegative(s.MinReadySeconds, path.Child("minReadySeconds"))...)
	if s.Selector == nil {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	} else {
		errs = append(errs, validateSelector(s.Selector, path.Child("selector"))...)
		if isEmptySelector(s.Selector) {
			errs = append(errs, field.Invalid(path.Child("selector"), s.Selector, "empty selector is invalid for deployment"))
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(s.Selector)
	if err != nil {
		return append(errs, field.Invalid(path.Child("selector"), s.Selector, "invalid label selector"))
	}
	return append(errs, validateReplicaTemplate(&s.Template, selector, path.Child("template"))...)
}

func validateReplicaSetStatusUpdate(rs, old *appsv1.ReplicaSet) field.ErrorList {
	errs := validateMetaUpdate(&rs.ObjectMeta, &old.ObjectMeta)
	s := &rs.Status
	counts := replicaCounts{s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, s.ObservedGeneration}
	path := field.NewPath("status")
	errs = append(errs, counts.validate(path)...)
	return append(errs, nonnegative(*orZero(s.TerminatingReplicas), path.Child("terminatingReplicas"))...)
}

// validateSelector checks a label selector as new objects have them.
func validateSelector(s *metav1.LabelSelector, path *field.Path) field.ErrorList {
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, path)
}

func isEmptySelector(s *metav1.LabelSelector) bool {
	return len(s.MatchLabels)+len(s.MatchExpressions) == 0
}

// orZero is p, or a pointer to zero for nil.
func orZero[T any](p *T) *T {
	if p == nil {
		return new(T)
	}
	return p
}

func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	errs := validateMeta(&d.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateDeploymentSpec(&d.Spec)...)
}

func validateDeploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	errs := validateMetaUpdate(&d.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, inherited(validateDeploymentSpec(&d.Spec), func() field.ErrorList { return validateDeploymentSpec(&old.Spec) })...)
	return append(errs, immutable(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
}

func validateDeploymentSpec(s *appsv1.DeploymentSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := nonnegative(*orZero(s.Replicas), path.Child("replicas"))
	if s.Selector == nil {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	} else {
		errs = append(errs, validateSelector(s.Selector, path.Child("selector"))...)
		if isEmptySelector(s.Selector) {
			errs = append(errs, field.Invalid(path.Child("selector"), s.Selector, "empty selector is invalid for deployment"))
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(s.Selector)
	if err != nil {
		errs = append(errs, field.Invalid(path.Child("selector"), s.Selector, "invalid label selector"))
	} else {
		errs = append(errs, validateReplicaTemplate(&s.Template, selector, path.Child("template"))...)
	}
	errs = append(errs, validateDeploymentStrategy(&s.Strategy, path.Child("strategy"))...)
	errs = append(errs, nonnegative(s.MinReadySeconds, path.Child("minReadySeconds"))...)
	if s.RevisionHistoryLimit != nil {
		errs = append(errs, nonnegative(*s.RevisionHistoryLimit, path.Child("revisionHistoryLimit"))...)
	}
	if deadline := s.ProgressDeadlineSeconds; deadline != nil {
		errs = append(errs, nonnegative(*deadline, path.Child("progressDeadlineSeconds"))...)
		if *deadline <= s.MinReadySeconds {
			errs = append(errs, field.Invalid(path.Child("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func validateDeploymentStrategy(s *appsv1.DeploymentStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(path.Child("rollingUpdate"), "may not be specified when strategy `type` is '"+string(appsv1.RecreateDeploymentStrategyType)+"'")}
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(path.Child("rollingUpdate"), "this should be defaulted and never be nil")}
		}
		return validateRollingUpdate(s.RollingUpdate, path.Child("rollingUpdate"))
	default:
		shown := struct { // upstream's names of the fields
			Type          appsv1.DeploymentStrategyType
			RollingUpdate *appsv1.RollingUpdateDeployment
		}{s.Type, s.RollingUpdate}
		return field.ErrorList{field.NotSupported(path, shown, []appsv1.DeploymentStrategyType{
			appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType,
		})}
	}
	return nil
}

func validateRollingUpdate(r *appsv1.RollingUpdateDeployment, path *field.Path) field.ErrorList {
	unavailable, surge := *orZero(r.MaxUnavailable), *orZero(r.MaxSurge)
	errs := nonnegativeOrPercent(unavailable, path.Child("maxUnavailable"))
	errs = append(errs, nonnegativeOrPercent(surge, path.Child("maxSurge"))...)
	if percentOrNumber(unavailable) == 0 && percentOrNumber(surge) == 0 {
		errs = append(errs, field.Invalid(path.Child("maxUnavailable"), &unavailable, "may not be 0 when `maxSurge` is 0"))
	}
	if percent, ok := percentOf(unavailable); ok && percent > 100 {
		errs = append(errs, field.Invalid(path.Child("maxUnavailable"), &unavailable, "must not be greater than 100%"))
	}
	return errs
}

// nonnegativeOrPercent checks a number of pods given as such or as a share of all.
func nonnegativeOrPercent(v intstr.IntOrString, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch v.Type {
	case intstr.String:
		for _, msg := range validation.IsValidPercent(v.StrVal) {
			errs = append(errs, field.Invalid(path, &v, msg))
		}
	case intstr.Int:
		errs = append(errs, nonnegative(v.IntVal, path)...)
	default:
		errs = append(errs, field.Invalid(path, &v, "must be an integer or percentage (e.g '5%%')"))
	}
	return errs
}

// percentOf is the number before the percent sign; validation.IsValidPercent says whether there is one.
func percentOf(v intstr.IntOrString) (percent int, ok bool) {
	if v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	_, err := fmt.Sscanf(v.StrVal, "%d%%", &percent)
	return percent, err == nil
}

func percentOrNumber(v intstr.IntOrString) int {
	if percent, ok := percentOf(v); ok {
		return percent
	}
	if v.Type == intstr.Int {
		return int(v.IntVal)
	}
	return 0
}

func validateDeploymentStatusUpdate(d, old *appsv1.Deployment) field.ErrorList {
	errs := validateMetaUpdate(&d.ObjectMeta, &old.ObjectMeta)
	path := field.NewPath("status")
	errs = append(errs, validateDeploymentStatus(&d.Status, path)...)
	return append(errs, notDecremented(d.Status.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}

func validateDeploymentStatus(s *appsv1.DeploymentStatus, path *field.Path) field.ErrorList {
	errs := apivalidation.ValidateNonnegativeField(s.ObservedGeneration, path.Child("observedGeneration"))
	errs = append(errs, nonnegative(s.Replicas, path.Child("replicas"))...)
	errs = append(errs, nonnegative(s.UpdatedReplicas, path.Child("updatedReplicas"))...)
	errs = append(errs, nonnegative(s.ReadyReplicas, path.Child("readyReplicas"))...)
	errs = append(errs, nonnegative(s.AvailableReplicas, path.Child("availableReplicas"))...)
	errs = append(errs, nonnegative(s.UnavailableReplicas, path.Child("unavailableReplicas"))...)
	errs = append(errs, nonnegative(*orZero(s.TerminatingReplicas), path.Child("terminatingReplicas"))...)
	errs = append(errs, nonnegative(*orZero(s.CollisionCount), path.Child("collisionCount"))...)
	const tooMany = "cannot be greater than status.replicas"
	if s.UpdatedReplicas > s.Replicas {
		errs = append(errs, field.Invalid(path.Child("updatedReplicas"), s.UpdatedReplicas, tooMany))
	}
	if s.ReadyReplicas > s.Replicas {
		errs = append(errs, field.Invalid(path.Child("readyReplicas"), s.ReadyReplicas, tooMany))
	}
	if s.AvailableReplicas > s.Replicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, tooMany))
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return errs
}

func validateControllerRevision(r *appsv1.ControllerRevision) field.ErrorList {
	errs := validateMeta(&r.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	if r.Data.Raw == nil && r.Data.Object == nil {
		errs = append(errs, field.Required(field.NewPath("data"), "data is mandatory"))
	}
	return append(errs, apivalidation.ValidateNonnegativeField(r.Revision, field.NewPath("revision"))...)
}

func validateControllerRevisionUpdate(r, old *appsv1.ControllerRevision) field.ErrorList {
	errs := validateMetaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, validateControllerRevision(r)...)
	if !equality.Semantic.DeepEqual(r.Data, old.Data) {
		errs = append(errs, field.Invalid(field.NewPath("data"), r.Data, apivalidation.FieldImmutableErrorMsg))
	}
	return errs
}

// oldTemplate is get's, or nil where there is no old object.
func oldTemplate[T any](old *T, get func() *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	if old == nil {
		return nil
	}
	return get()
}

// templateWarnings are those of a template that is new or has changed.
func templateWarnings(t, old *corev1.PodTemplateSpec, path *field.Path) []string {
	if t == nil || old != nil && equality.Semantic.DeepEqual(t, old) {
		return nil
	}
	return podTemplateWarnings(t, path)
}

func deploymentWarnings(d, old *appsv1.Deployment) []string {
	return templateWarnings(&d.Spec.Template, oldTemplate(old, func() *corev1.PodTemplateSpec { return &old.Spec.Template }), specTemplatePath)
}

func replicaSetWarnings(rs, old *appsv1.ReplicaSet) []string {
	return templateWarnings(&rs.Spec.Template, oldTemplate(old, func() *corev1.PodTemplateSpec { return &old.Spec.Template }), specTemplatePath)
}

func replicationControllerWarnings(rc, old *corev1.ReplicationController) []string {
	return templateWarnings(rc.Spec.Template, oldTemplate(old, func() *corev1.PodTemplateSpec { return old.Spec.Template }), specTemplatePath)
}
