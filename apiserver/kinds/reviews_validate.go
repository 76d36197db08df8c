package kinds

import (
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateReview checks a question about users and permissions. What a client says of the answer is not looked at.
func ValidateReview(obj runtime.Object) field.ErrorList {
	switch r := obj.(type) {
	case *authorizationv1.SelfSubjectAccessReview:
		errs := validateAccess(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
		return append(errs, bareMeta(&r.ObjectMeta, "must be empty")...)
	case *authorizationv1.SubjectAccessReview:
		return append(validateAccessOf(&r.Spec), bareMeta(&r.ObjectMeta, "must be empty")...)
	case *authorizationv1.LocalSubjectAccessReview:
		return validateLocalAccess(r)
	case *authenticationv1.TokenReview, *authenticationv1.SelfSubjectReview, *authorizationv1.SelfSubjectRulesReview:
		return nil // what they lack is a bad request rather than invalid
	}
	return field.ErrorList{field.InternalError(nil, fmt.Errorf("not a review: %T", obj))}
}

func validateLocalAccess(r *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
	m := r.ObjectMeta
	m.Namespace = ""
	errs := append(validateAccessOf(&r.Spec), bareMeta(&m, "must be empty except for namespace")...)
	if ra := r.Spec.ResourceAttributes; ra != nil && ra.Namespace != r.Namespace {
		errs = append(errs, field.Invalid(field.NewPath("spec.resourceAttributes.namespace"), ra.Namespace, "must match metadata.namespace"))
	}
	if r.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(field.NewPath("spec.nonResourceAttributes"), r.Spec.NonResourceAttributes, "disallowed on this kind of request"))
	}
	return errs
}

// bareMeta: an object that is not kept has no name.
func bareMeta(m *metav1.ObjectMeta, detail string) field.ErrorList {
	bare := *m
	bare.ManagedFields = nil
	if apiequality.Semantic.DeepEqual(bare, metav1.ObjectMeta{}) {
		return nil
	}
	return field.ErrorList{field.Invalid(metadata(), *m, detail)}
}

func validateAccessOf(spec *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateAccess(spec.ResourceAttributes, spec.NonResourceAttributes)
	if spec.User == "" && len(spec.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), spec.User, "at least one of user or group must be specified"))
	}
	return errs
}

// validateAccess requires exactly one kind of attributes.
func validateAccess(ra *authorizationv1.ResourceAttributes, na *authorizationv1.NonResourceAttributes) field.ErrorList {
	path := field.NewPath("spec")
	if (ra == nil) == (na == nil) {
		return field.ErrorList{field.Invalid(path, nil, "exactly one of nonResourceAttributes or resourceAttributes must be specified")}
	}
	if ra == nil {
		return nil
	}
	var errs field.ErrorList
	at := path.Child("resourceAttributes")
	if s := ra.FieldSelector; s != nil {
		selector := at.Child("fieldSelector")
		errs = append(errs, oneSelector(s.RawSelector, len(s.Requirements), selector)...)
		for i := range s.Requirements {
			errs = append(errs, fieldRequirement(&s.Requirements[i], selector.Child("requirements").Index(i))...)
		}
	}
	if s := ra.LabelSelector; s != nil {
		selector := at.Child("labelSelector")
		errs = append(errs, oneSelector(s.RawSelector, len(s.Requirements), selector)...)
		for i := range s.Requirements {
			errs = append(errs, labelRequirement(s.Requirements[i], selector.Child("requirements").Index(i))...)
		}
	}
	return errs
}

// oneSelector requires a selector to be given as text or as requirements.
func oneSelector(raw string, requirements int, at *field.Path) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(at.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(at.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", at))}
	}
	return nil
}

func fieldRequirement(r *metav1.FieldSelectorRequirement, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Key == "" {
		errs = append(errs, field.Required(at.Child("key"), "must be specified"))
	}
	switch r.Operator {
	case metav1.FieldSelectorOpIn, metav1.FieldSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(at.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case metav1.FieldSelectorOpExists, metav1.FieldSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			errs = append(errs, field.Forbidden(at.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	}
	return errs // operators of later versions are let through: the authorizer takes the request for a wider one
}

func labelRequirement(r metav1.LabelSelectorRequirement, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, err := range metav1validation.ValidateLabelSelectorRequirement(r, metav1validation.LabelSelectorValidationOptions{}, at) {
		if err.Field != at.Child("operator").String() { // of a later version, as above
			errs = append(errs, err)
		}
	}
	return errs
}
