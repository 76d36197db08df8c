package crd

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coracle-dev/coracle/apiserver/kinds"
)

type (
	condition = apiextensionsv1.CustomResourceDefinitionCondition
	names     = apiextensionsv1.CustomResourceDefinitionNames
)

// decide gives a definition with the status that it should have now, given all the others. It returns crd itself where
// nothing is to be changed. checked: what there is to say of the schemas stands in the status already.
func decide(crd *apiextensionsv1.CustomResourceDefinition, all []*apiextensionsv1.CustomResourceDefinition, checked bool, now metav1.Time) *apiextensionsv1.CustomResourceDefinition {
	copied := *crd
	next := &copied
	next.Status = *crd.Status.DeepCopy()
	if next.DeletionTimestamp == nil {
		decideNames(next, all, now)
	}
	if !checked {
		decideSchema(next, now)
	}
	decideApproval(next, now)
	if apiequality.Semantic.DeepEqual(next.Status, crd.Status) {
		return crd
	}
	return next
}

// decideNames claims the names that the definition asks for and nobody else of its group has.
func decideNames(crd *apiextensionsv1.CustomResourceDefinition, all []*apiextensionsv1.CustomResourceDefinition, now metav1.Time) {
	accepted, conflict := acceptNames(crd, all)
	crd.Status.AcceptedNames = accepted
	if conflict != nil {
		kinds.SetDefinitionCondition(crd, *conflict, now)
		if apihelpers.FindCRDCondition(crd, apiextensionsv1.Established) == nil {
			kinds.SetDefinitionCondition(crd, condition{
				Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse,
				Reason: "NotAccepted", Message: "not all names are accepted",
			}, now)
		}
		return
	}
	kinds.SetDefinitionCondition(crd, condition{
		Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue,
		Reason: "NoConflicts", Message: "no conflicts found",
	}, now)
	if !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) {
		kinds.SetDefinitionCondition(crd, condition{
			Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue,
			Reason: "InitialNamesAccepted", Message: "the initial names have been accepted",
		}, now)
	}
}

// acceptNames gives the names that the definition may have, and the condition that says which it may not.
func acceptNames(crd *apiextensionsv1.CustomResourceDefinition, all []*apiextensionsv1.CustomResourceDefinition) (names, *condition) {
	resources, kindNames := map[string]bool{}, map[string]bool{}
	for _, o := range all {
		if o.Spec.Group != crd.Spec.Group || o.Name == crd.Name {
			continue
		}
		n := o.Status.AcceptedNames
		for _, name := range append([]string{n.Plural, n.Singular}, n.ShortNames...) {
			resources[name] = true
		}
		kindNames[n.Kind], kindNames[n.ListKind] = true, true
	}
	var conflict *condition
	wanted, accepted := crd.Spec.Names, *crd.Status.AcceptedNames.DeepCopy()
	refuse := func(what string, taken ...string) {
		slices.Sort(taken)
		var texts []string
		for _, name := range taken {
			texts = append(texts, fmt.Sprintf("%q is already in use", name))
		}
		message := strings.Join(texts, ", ")
		if len(texts) > 1 {
			message = "[" + message + "]"
		}
		conflict = &condition{
			Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionFalse, Reason: what + "Conflict", Message: message,
		}
	}
	claim := func(what, name string, has *string, used map[string]bool) {
		if name != *has && used[name] {
			refuse(what, name)
			return
		}
		*has = name
	}
	claim("Plural", wanted.Plural, &accepted.Plural, resources)
	claim("Singular", wanted.Singular, &accepted.Singular, resources)
	taken := slices.DeleteFunc(slices.Clone(wanted.ShortNames), func(name string) bool {
		return slices.Contains(accepted.ShortNames, name) || !resources[name]
	})
	if len(taken) > 0 {
		refuse("ShortNames", taken...)
	} else {
		accepted.ShortNames = slices.Clone(wanted.ShortNames)
	}
	claim("Kind", wanted.Kind, &accepted.Kind, kindNames)
	claim("ListKind", wanted.ListKind, &accepted.ListKind, kindNames)
	accepted.Categories = slices.Clone(wanted.Categories)
	return accepted, conflict
}

// decideSchema says what is not structural in schemas that are older than that rule.
func decideSchema(crd *apiextensionsv1.CustomResourceDefinition, now metav1.Time) {
	var errs field.ErrorList
	if crd.Spec.PreserveUnknownFields {
		errs = append(errs, field.Invalid(field.NewPath("spec", "preserveUnknownFields"), true, "must be false"))
	}
	c := condition{Type: apiextensionsv1.NonStructuralSchema, Status: apiextensionsv1.ConditionUnknown}
	for i, v := range crd.Spec.Versions {
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			continue
		}
		props := &apiextensions.JSONSchemaProps{}
		if apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema.DeepCopy(), props, nil) != nil {
			continue
		}
		s, err := structural.NewStructural(props)
		if err != nil {
			c.Reason = "StructuralError"
			c.Message = fmt.Sprintf("failed to check validation schema for version %s: %v", v.Name, err)
			kinds.SetDefinitionCondition(crd, c, now)
			return
		}
		errs = append(errs, structural.ValidateStructural(field.NewPath("spec", "versions").Index(i).Child("schema", "openAPIV3Schema"), s)...)
	}
	if len(errs) == 0 {
		apihelpers.RemoveCRDCondition(crd, apiextensionsv1.NonStructuralSchema)
		return
	}
	c.Status, c.Reason, c.Message = apiextensionsv1.ConditionTrue, "Violations", errs.ToAggregate().Error()
	kinds.SetDefinitionCondition(crd, c, now)
}

// decideApproval says how a definition in a group of the Kubernetes project is annotated.
func decideApproval(crd *apiextensionsv1.CustomResourceDefinition, now metav1.Time) {
	if !apihelpers.IsProtectedCommunityGroup(crd.Spec.Group) {
		return
	}
	state, reason := apihelpers.GetAPIApprovalState(crd.Annotations)
	c := condition{Type: apiextensionsv1.KubernetesAPIApprovalPolicyConformant, Status: apiextensionsv1.ConditionFalse, Message: reason}
	switch state {
	case apihelpers.APIApprovalInvalid:
		c.Reason = "InvalidAnnotation"
	case apihelpers.APIApprovalMissing:
		c.Reason = "MissingAnnotation"
	case apihelpers.APIApproved:
		c.Status, c.Reason = apiextensionsv1.ConditionTrue, "ApprovedAnnotation"
	case apihelpers.APIApprovalBypassed:
		c.Reason = "UnapprovedAnnotation"
	default:
		c.Status, c.Reason = apiextensionsv1.ConditionUnknown, "UnknownAnnotation"
	}
	kinds.SetDefinitionCondition(crd, c, now)
}

// isServed tells whether objects of a definition are served.
func isServed(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established)
}
