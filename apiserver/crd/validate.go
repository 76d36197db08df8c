package crd

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	structuralcel "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"
)

// compiled gives the version's schema and rules, or the error as validation shows it.
func (v *versionSchema) compiled() (*structural.Structural, *checks, field.ErrorList) {
	shape, err := v.shape()
	if err != nil {
		return nil, nil, field.ErrorList{field.InternalError(nil, err)}
	}
	c, err := v.checks()
	if err != nil {
		return nil, nil, field.ErrorList{field.InternalError(nil, err)}
	}
	return shape, c, nil
}

// validate checks a new object.
func (v *versionSchema) validate(u *unstructured.Unstructured) field.ErrorList {
	shape, c, errs := v.compiled()
	if len(errs) > 0 {
		return errs
	}
	errs = apivalidation.ValidateObjectMetaAccessor(u, v.namespaced, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	errs = append(errs, schemavalidation.ValidateCustomResource(nil, u.Object, c.schema)...)
	errs = append(errs, v.validateScaleSpec(u)...)
	errs = append(errs, v.validateScaleStatus(u)...)
	errs = append(errs, objectmeta.Validate(context.Background(), nil, u.Object, shape, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, shape, u.Object)...)
	return c.rules(errs, shape, u, nil)
}

// validateUpdate checks an update. What was wrong before and did not change is let through.
func (v *versionSchema) validateUpdate(u, old *unstructured.Unstructured) field.ErrorList {
	shape, c, errs := v.compiled()
	if len(errs) > 0 {
		return errs
	}
	correlated := common.NewCorrelatedObject(u.Object, old.Object, &model.Structural{Structural: shape})
	errs = schemavalidation.ValidateCustomResourceUpdate(nil, u.Object, old.Object, c.schema, schemavalidation.WithRatcheting(correlated))
	errs = append(errs, v.validateScaleSpec(u)...)
	errs = append(errs, v.validateScaleStatus(u)...)
	errs = append(errs, objectmeta.Validate(context.Background(), nil, u.Object, shape, false)...)
	errs = append(errs, newListErrors(shape, u, old)...)
	return c.rules(errs, shape, u, old, structuralcel.WithRatcheting(correlated))
}

// validateStatus checks an update of the status.
func (v *versionSchema) validateStatus(u, old *unstructured.Unstructured) field.ErrorList {
	shape, c, errs := v.compiled()
	if len(errs) > 0 {
		return errs
	}
	correlated := common.NewCorrelatedObject(u.Object, old.Object, &model.Structural{Structural: shape})
	if status, ok := u.Object["status"]; ok {
		var options []schemavalidation.ValidationOption
		if shape != nil {
			options = append(options, schemavalidation.WithRatcheting(correlated.Key("status")))
		}
		errs = schemavalidation.ValidateCustomResourceUpdate(field.NewPath("status"), status, old.Object["status"], c.status, options...)
	}
	errs = append(errs, v.validateScaleStatus(u)...)
	errs = append(errs, newListErrors(shape, u, old)...)
	return c.rules(errs, shape, u, old, structuralcel.WithRatcheting(correlated))
}

// newListErrors are the violations of list types in an object that had none before.
func newListErrors(shape *structural.Structural, u, old *unstructured.Unstructured) field.ErrorList {
	errs := listtype.ValidateListSetsAndMaps(nil, shape, u.Object)
	if len(errs) > 0 && len(listtype.ValidateListSetsAndMaps(nil, shape, old.Object)) > 0 {
		return nil
	}
	return errs
}

// rules appends what the schema's CEL rules find, unless errs are such that the rules may not rely on the types.
func (c *checks) rules(errs field.ErrorList, shape *structural.Structural, u, old *unstructured.Unstructured, options ...structuralcel.Option) field.ErrorList {
	if c.cel == nil {
		return errs
	}
	if slices.ContainsFunc(errs, blocksRules) {
		return append(errs, field.Invalid(nil, nil,
			"some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"))
	}
	var before any
	if old != nil {
		before = old.Object
	}
	found, _ := c.cel.Validate(context.Background(), nil, shape, u.Object, before, celconfig.RuntimeCELCostBudget, options...)
	return append(errs, found...)
}

func blocksRules(err *field.Error) bool {
	switch err.Type {
	case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
		return true
	}
	return false
}

func (v *versionSchema) validateScaleSpec(u *unstructured.Unstructured) field.ErrorList {
	if s := v.scale(); s != nil {
		return validateReplicas(u, s.SpecReplicasPath)
	}
	return nil
}

func (v *versionSchema) validateScaleStatus(u *unstructured.Unstructured) field.ErrorList {
	s := v.scale()
	if s == nil {
		return nil
	}
	errs := validateReplicas(u, s.StatusReplicasPath)
	if s.LabelSelectorPath != nil {
		if selector, _, err := unstructured.NestedString(u.Object, fieldsOf(*s.LabelSelectorPath)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*s.LabelSelectorPath), selector, err.Error()))
		}
	}
	return errs
}

// validateReplicas checks the number of replicas at a path, which may be absent.
func validateReplicas(u *unstructured.Unstructured, path string) field.ErrorList {
	n, _, err := unstructured.NestedInt64(u.Object, fieldsOf(path)...)
	at := field.NewPath(path)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(at, n, err.Error())}
	case n < 0:
		return field.ErrorList{field.Invalid(at, n, "should be a non-negative integer")}
	case n > math.MaxInt32:
		return field.ErrorList{field.Invalid(at, n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32))}
	}
	return nil
}

// fieldsOf splits a path as ".spec.replicas".
func fieldsOf(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }

// finalizerWarnings are about the finalizers that u has and old, which may be nil, has not.
func finalizerWarnings(u, old *unstructured.Unstructured) []string {
	var had []string
	if old != nil {
		had = old.GetFinalizers()
	}
	added := slices.DeleteFunc(slices.Clone(u.GetFinalizers()), func(f string) bool { return slices.Contains(had, f) })
	slices.Sort(added)
	var out []string
	for _, f := range slices.Compact(added) {
		for _, text := range validation.IsQualifiedName(f) {
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: %s", f, text))
		}
		switch {
		case strings.Contains(f, "/") || f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents || f == string(corev1.FinalizerKubernetes):
		case strings.Contains(f, "."):
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers", f))
		default:
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers", f))
		}
	}
	return out
}
