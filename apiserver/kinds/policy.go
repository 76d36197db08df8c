package kinds

import (
	policyv1 "k8s.io/api/policy/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func disruptionBudgets() []Kind {
	return []Kind{{
		GVK:            policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"),
		Resource:       "poddisruptionbudgets",
		Singular:       "poddisruptionbudget",
		ShortNames:     []string{"pdb"},
		Namespaced:     true,
		Prefix:         "poddisruptionbudgets",
		New:            func() runtime.Object { return &policyv1.PodDisruptionBudget{} },
		NewList:        func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} },
		PrepareCreate:  on(func(b *policyv1.PodDisruptionBudget) { b.Status = policyv1.PodDisruptionBudgetStatus{} }),
		PrepareUpdate:  onUpdate(func(b, old *policyv1.PodDisruptionBudget) { b.Status = *old.Status.DeepCopy() }),
		Validate:       check(validateDisruptionBudget),
		ValidateUpdate: checkUpdate(validateDisruptionBudgetUpdate),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Min Available", "string", "The minimum number of pods that must be available."),
			column("Max Unavailable", "string", "The maximum number of pods that may be unavailable."),
			column("Allowed Disruptions", "integer", "Calculated number of pods that may be disrupted at this time."),
			ageColumn(),
		},
		Cells: cells(disruptionBudgetCells),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(func(b, old *policyv1.PodDisruptionBudget) { b.Spec = *old.Spec.DeepCopy() }),
			ValidateUpdate: checkUpdate(validateDisruptionBudgetStatusUpdate),
		},
	}}
}

func disruptionBudgetCells(b *policyv1.PodDisruptionBudget, now metav1.Time) []any {
	shown := func(v *intstr.IntOrString) string {
		if v == nil {
			return "N/A"
		}
		return v.String()
	}
	return []any{b.Name, shown(b.Spec.MinAvailable), shown(b.Spec.MaxUnavailable), int64(b.Status.DisruptionsAllowed), age(now, b.CreationTimestamp)}
}

func validateDisruptionBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	errs := validateMeta(&b.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateDisruptionBudgetSpec(&b.Spec)...)
}

func validateDisruptionBudgetUpdate(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
	errs := validateMetaUpdate(&b.ObjectMeta, &old.ObjectMeta)
	return append(errs, inherited(validateDisruptionBudgetSpec(&b.Spec), func() field.ErrorList { return validateDisruptionBudgetSpec(&old.Spec) })...)
}

func validateDisruptionBudgetSpec(s *policyv1.PodDisruptionBudgetSpec) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(path, s, "minAvailable and maxUnavailable cannot be both set"))
	}
	if s.MinAvailable != nil {
		errs = append(errs, podShare(*s.MinAvailable, path.Child("minAvailable"))...)
	}
	if s.MaxUnavailable != nil {
		errs = append(errs, podShare(*s.MaxUnavailable, path.Child("maxUnavailable"))...)
	}
	errs = append(errs, metavalidation.ValidateLabelSelector(s.Selector, metavalidation.LabelSelectorValidationOptions{}, path.Child("selector"))...)
	if p := s.UnhealthyPodEvictionPolicy; p != nil {
		errs = append(errs, supported(*p, path.Child("unhealthyPodEvictionPolicy"), policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return errs
}

// podShare is a number of pods or a share of them that is no more than all.
func podShare(v intstr.IntOrString, path *field.Path) field.ErrorList {
	errs := nonnegativeOrPercent(v, path)
	if percent, ok := percentOf(v); ok && percent > 100 {
		errs = append(errs, field.Invalid(path, v, "must not be greater than 100%"))
	}
	return errs
}

func validateDisruptionBudgetStatusUpdate(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
	errs := validateMetaUpdate(&b.ObjectMeta, &old.ObjectMeta)
	path := field.NewPath("status")
	errs = append(errs, metavalidation.ValidateConditions(b.Status.Conditions, path.Child("conditions"))...)
	errs = append(errs, nonnegative(b.Status.DisruptionsAllowed, path.Child("disruptionsAllowed"))...)
	errs = append(errs, nonnegative(b.Status.CurrentHealthy, path.Child("currentHealthy"))...)
	errs = append(errs, nonnegative(b.Status.DesiredHealthy, path.Child("desiredHealthy"))...)
	return append(errs, nonnegative(b.Status.ExpectedPods, path.Child("expectedPods"))...)
}
