package kinds

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// internalDefinition is a definition in the version that upstream validates. It shares nothing with crd.
func internalDefinition(crd *apiextensionsv1.CustomResourceDefinition) (*apiextensions.CustomResourceDefinition, field.ErrorList) {
	internal := &apiextensions.CustomResourceDefinition{}
	err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(crd.DeepCopy(), internal, nil)
	if err != nil {
		return nil, field.ErrorList{field.InternalError(nil, err)}
	}
	return internal, nil
}

func validateCustomResourceDefinition(crd *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	internal, errs := internalDefinition(crd)
	if len(errs) > 0 {
		return errs
	}
	return validation.ValidateCustomResourceDefinition(context.Background(), internal)
}

func validateCustomResourceDefinitionUpdate(crd, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	return validateDefinitionChange(crd, old, validation.ValidateCustomResourceDefinitionUpdate)
}

func validateCustomResourceDefinitionStatus(crd, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	return validateDefinitionChange(crd, old, validation.ValidateUpdateCustomResourceDefinitionStatus)
}

func validateDefinitionChange(crd, old *apiextensionsv1.CustomResourceDefinition,
	validate func(context.Context, *apiextensions.CustomResourceDefinition, *apiextensions.CustomResourceDefinition) field.ErrorList,
) field.ErrorList {
	internal, errs := internalDefinition(crd)
	if len(errs) > 0 {
		return errs
	}
	was, errs := internalDefinition(old)
	if len(errs) > 0 {
		return errs
	}
	return validate(context.Background(), internal, was)
}

// customResourceDefinitionWarnings tells what of the schemas has no effect; only what old had not.
func customResourceDefinitionWarnings(crd, old *apiextensionsv1.CustomResourceDefinition) []string {
	known := map[string]bool{}
	if old != nil {
		formats, sets := schemaWarnings(old)
		for _, w := range slices.Concat(formats, sets) {
			known[w] = true
		}
	}
	formats, sets := schemaWarnings(crd)
	slices.Sort(sets)
	sets = slices.Compact(sets)
	return slices.DeleteFunc(slices.Concat(formats, sets), func(w string) bool { return known[w] })
}

func schemaWarnings(crd *apiextensionsv1.CustomResourceDefinition) (formats, sets []string) {
	internal, errs := internalDefinition(crd)
	if len(errs) > 0 {
		return nil, nil
	}
	look := func(s *apiextensions.JSONSchemaProps) bool {
		if s.Format != "" {
			of := &spec.Schema{SchemaProps: spec.SchemaProps{Format: s.Format, Type: []string{s.Type}}}
			for _, f := range schemavalidation.GetUnrecognizedFormats(of, environment.DefaultCompatibilityVersion()) {
				formats = append(formats, fmt.Sprintf("unrecognized format %q", f))
			}
		}
		if s.XListType != nil && *s.XListType == "set" && s.Items != nil && s.Items.Schema != nil {
			if t := s.Items.Schema.Type; t == "object" || t == "array" {
				sets = append(sets, fmt.Sprintf(
					"x-kubernetes-list-type: set for items of type %q is not supported by server-side apply or CEL validation rules", t))
			}
		}
		return false
	}
	// The conversion moves a schema that all versions share to the top.
	if v := internal.Spec.Validation; v != nil && v.OpenAPIV3Schema != nil {
		validation.SchemaHas(v.OpenAPIV3Schema, look)
	}
	for _, v := range internal.Spec.Versions {
		if v.Schema != nil && v.Schema.OpenAPIV3Schema != nil {
			validation.SchemaHas(v.Schema.OpenAPIV3Schema, look)
		}
	}
	return formats, sets
}
