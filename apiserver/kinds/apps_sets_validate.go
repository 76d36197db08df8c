package kinds

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateDaemonSet(d *appsv1.DaemonSet) field.ErrorList {
	errs := validateMeta(&d.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateDaemonSetSpec(&d.Spec)...)
}

func validateDaemonSetUpdate(d, old *appsv1.DaemonSet) field.ErrorList {
	errs := validateMetaUpdate(&d.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, inherited(validateDaemonSetSpec(&d.Spec), func() field.ErrorList { return validateDaemonSetSpec(&old.Spec) })...)
	return append(errs, immutable(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
}

func validateDaemonSetSpec(s *appsv1.DaemonSetSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateSelector(s.Selector, path.Child("selector"))
	selector, err := metav1.LabelSelectorAsSelector(s.Selector)
	if err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(path.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	if s.Selector != nil && isEmptySelector(s.Selector) {
		errs = append(errs, field.Invalid(path.Child("selector"), s.Selector, "empty selector is invalid for daemonset"))
	}
	template := path.Child("template")
	errs = append(errs, validatePodTemplate(&s.Template, template)...)
	if s.Template.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(template.Child("spec", "restartPolicy"), s.Template.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if s.Template.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(template.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in DaemonSet is not Supported"))
	}
	errs = append(errs, nonnegative(s.MinReadySeconds, path.Child("minReadySeconds"))...)
	errs = append(errs, validateDaemonSetStrategy(&s.UpdateStrategy, path.Child("updateStrategy"))...)
	if s.RevisionHistoryLimit != nil {
		errs = append(errs, nonnegative(*s.RevisionHistoryLimit, path.Child("revisionHistoryLimit"))...)
	}
	return errs
}

func validateDaemonSetStrategy(s *appsv1.DaemonSetUpdateStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(path.Child("rollingUpdate"), "")}
		}
		return validateDaemonSetRolling(s.RollingUpdate, path.Child("rollingUpdate"))
	}
	return field.ErrorList{field.NotSupported(path, s, []appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType})}
}

func validateDaemonSetRolling(r *appsv1.RollingUpdateDaemonSet, path *field.Path) field.ErrorList {
	unavailable, surge := *orZero(r.MaxUnavailable), *orZero(r.MaxSurge)
	errs := podShare(unavailable, path.Child("maxUnavailable"))
	errs = append(errs, podShare(surge, path.Child("maxSurge"))...)
	hasUnavailable, hasSurge := percentOrNumber(unavailable) != 0, percentOrNumber(surge) != 0
	switch {
	case hasUnavailable && hasSurge:
		errs = append(errs, field.Invalid(path.Child("maxSurge"), r.MaxSurge, "may not be set when maxUnavailable is non-zero"))
	case !hasUnavailable && !hasSurge:
		errs = append(errs, field.Required(path.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

func validateDaemonSetStatusUpdate(d, old *appsv1.DaemonSet) field.ErrorList {
	errs := validateMetaUpdate(&d.ObjectMeta, &old.ObjectMeta)
	s, path := &d.Status, field.NewPath("status")
	errs = append(errs, nonnegative(s.CurrentNumberScheduled, path.Child("currentNumberScheduled"))...)
	errs = append(errs, nonnegative(s.NumberMisscheduled, path.Child("numberMisscheduled"))...)
	errs = append(errs, nonnegative(s.DesiredNumberScheduled, path.Child("desiredNumberScheduled"))...)
	errs = append(errs, nonnegative(s.NumberReady, path.Child("numberReady"))...)
	errs = append(errs, apivalidation.ValidateNonnegativeField(s.ObservedGeneration, path.Child("observedGeneration"))...)
	errs = append(errs, nonnegative(s.UpdatedNumberScheduled, path.Child("updatedNumberScheduled"))...)
	errs = append(errs, nonnegative(s.NumberAvailable, path.Child("numberAvailable"))...)
	errs = append(errs, nonnegative(s.NumberUnavailable, path.Child("numberUnavailable"))...)
	return append(errs, collisions(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}

// collisions checks a count that only grows.
func collisions(count, old *int32, path *field.Path) field.ErrorList {
	return append(nonnegative(*orZero(count), path), notDecremented(count, old, path)...)
}

func notDecremented(count, old *int32, path *field.Path) field.ErrorList {
	if old != nil && (count == nil || *count < *old) {
		return field.ErrorList{field.Invalid(path, *orZero(count), "cannot be decremented")}
	}
	return nil
}

func validateStatefulSet(s *appsv1.StatefulSet) field.ErrorList {
	errs := validateMeta(&s.ObjectMeta, true, apivalidation.NameIsDNSLabel)
	return append(errs, validateStatefulSetSpec(&s.Spec)...)
}

func validateStatefulSetSpec(s *appsv1.StatefulSetSpec) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	policies := []appsv1.PodManagementPolicyType{appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement}
	switch s.PodManagementPolicy {
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	case "":
		errs = append(errs, field.Required(path.Child("podManagementPolicy"), ""))
	default:
		errs = append(errs, field.Invalid(path.Child("podManagementPolicy"), s.PodManagementPolicy, "must be '"+string(policies[0])+"' or '"+string(policies[1])+"'"))
	}
	errs = append(errs, validateStatefulSetStrategy(&s.UpdateStrategy, path.Child("updateStrategy"))...)
	errs = append(errs, validateClaimRetention(s.PersistentVolumeClaimRetentionPolicy, path.Child("persistentVolumeClaimRetentionPolicy"))...)
	errs = append(errs, nonnegative(*orZero(s.Replicas), path.Child("replicas"))...)
	errs = append(errs, nonnegative(s.MinReadySeconds, path.Child("minReadySeconds"))...)
	if s.Ordinals != nil {
		errs = append(errs, nonnegative(s.Ordinals.Start, path.Child("ordinals.start"))...)
	}
	if s.ServiceName != "" {
		errs = append(errs, invalid(path.Child("serviceName"), s.ServiceName, apivalidation.NameIsDNSLabel(s.ServiceName, false))...)
	}
	if s.Selector == nil {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	} else {
		errs = append(errs, validateSelector(s.Selector, path.Child("selector"))...)
		if isEmptySelector(s.Selector) {
			errs = append(errs, field.Invalid(path.Child("selector"), s.Selector, "empty selector is invalid for statefulset"))
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(s.Selector)
	if err != nil {
		errs = append(errs, field.Invalid(path.Child("selector"), s.Selector, ""))
	} else {
		errs = append(errs, validateStatefulSetTemplate(s, selector, path.Child("template"))...)
	}
	if s.RevisionHistoryLimit != nil {
		errs = append(errs, nonnegative(*s.RevisionHistoryLimit, path.Child("revisionHistoryLimit"))...)
	}
	return errs
}

// validateStatefulSetTemplate sees the template as its pods will be: with a volume for each claim.
func validateStatefulSetTemplate(s *appsv1.StatefulSetSpec, selector labels.Selector, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if !selector.Empty() && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(path.Child("metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	t := s.Template.DeepCopy()
	t.Spec.Volumes = withClaims(t.Spec.Volumes, s.VolumeClaimTemplates)
	errs = append(errs, validatePodTemplate(t, path)...)
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in StatefulSet is not Supported"))
	}
	return errs
}

// withClaims replaces or adds the volumes that the claims stand for.
func withClaims(volumes []corev1.Volume, claims []corev1.PersistentVolumeClaim) []corev1.Volume {
	named := map[string]bool{}
	var all []corev1.Volume
	for i := range claims {
		name := claims[i].Name
		if named[name] {
			continue
		}
		named[name] = true
		all = append(all, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"},
		}})
	}
	for _, v := range volumes {
		if !named[v.Name] {
			all = append(all, v)
		}
	}
	return all
}

func validateStatefulSetStrategy(s *appsv1.StatefulSetUpdateStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case "":
		return field.ErrorList{field.Required(path, "")}
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Invalid(path.Child("rollingUpdate"), s.RollingUpdate, "only allowed for updateStrategy '"+string(appsv1.RollingUpdateStatefulSetStrategyType)+"'")}
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if r := s.RollingUpdate; r != nil {
			errs := nonnegative(*orZero(r.Partition), path.Child("rollingUpdate", "partition"))
			if r.MaxUnavailable != nil {
				at := path.Child("rollingUpdate", "maxUnavailable")
				errs = append(errs, podShare(*r.MaxUnavailable, at)...)
				if percentOrNumber(*r.MaxUnavailable) == 0 {
					errs = append(errs, field.Invalid(at, *r.MaxUnavailable, "cannot be 0"))
				}
			}
			return errs
		}
	default:
		return field.ErrorList{field.Invalid(path, s, "must be '"+string(appsv1.RollingUpdateStatefulSetStrategyType)+"' or '"+string(appsv1.OnDeleteStatefulSetStrategyType)+"'")}
	}
	return nil
}

func validateClaimRetention(p *appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	known := []appsv1.PersistentVolumeClaimRetentionPolicyType{appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType}
	var errs field.ErrorList
	for _, v := range []struct {
		name  string
		value appsv1.PersistentVolumeClaimRetentionPolicyType
	}{{"whenDeleted", p.WhenDeleted}, {"whenScaled", p.WhenScaled}} {
		if v.value != known[0] && v.value != known[1] {
			errs = append(errs, field.NotSupported(path.Child(v.name), v.value, known))
		}
	}
	return errs
}

func validateStatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	errs := validateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, inherited(validateStatefulSetSpec(&s.Spec), func() field.ErrorList { return validateStatefulSetSpec(&old.Spec) })...)
	fixed := s.Spec.DeepCopy()
	fixed.Replicas = old.Spec.Replicas
	fixed.Template = old.Spec.Template
	fixed.UpdateStrategy = old.Spec.UpdateStrategy
	fixed.MinReadySeconds = old.Spec.MinReadySeconds
	fixed.Ordinals = old.Spec.Ordinals
	fixed.RevisionHistoryLimit = old.Spec.RevisionHistoryLimit
	fixed.PersistentVolumeClaimRetentionPolicy = old.Spec.PersistentVolumeClaimRetentionPolicy
	if !equality.Semantic.DeepEqual(*fixed, old.Spec) {
		errs = append(errs, field.Forbidden(field.NewPath("spec"), "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"))
	}
	return errs
}

func validateStatefulSetStatusUpdate(set, old *appsv1.StatefulSet) field.ErrorList {
	errs := validateMetaUpdate(&set.ObjectMeta, &old.ObjectMeta)
	s, path := &set.Status, field.NewPath("status")
	errs = append(errs, nonnegative(s.Replicas, path.Child("replicas"))...)
	const tooMany = "cannot be greater than status.replicas"
	for _, c := range []struct {
		name  string
		value int32
	}{{"readyReplicas", s.ReadyReplicas}, {"currentReplicas", s.CurrentReplicas}, {"updatedReplicas", s.UpdatedReplicas}, {"availableReplicas", s.AvailableReplicas}} {
		errs = append(errs, nonnegative(c.value, path.Child(c.name))...)
		if c.value > s.Replicas {
			errs = append(errs, field.Invalid(path.Child(c.name), c.value, tooMany))
		}
	}
	errs = append(errs, apivalidation.ValidateNonnegativeField(s.ObservedGeneration, path.Child("observedGeneration"))...)
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than status.readyReplicas"))
	}
	return append(errs, collisions(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}

func daemonSetWarnings(d, old *appsv1.DaemonSet) []string {
	return templateWarnings(&d.Spec.Template, oldTemplate(old, func() *corev1.PodTemplateSpec { return &old.Spec.Template }), specTemplatePath)
}

func statefulSetWarnings(s, old *appsv1.StatefulSet) []string {
	return templateWarnings(&s.Spec.Template, oldTemplate(old, func() *corev1.PodTemplateSpec { return &old.Spec.Template }), specTemplatePath)
}
