package crd

import (
	"fmt"
	"slices"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	structuralcel "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// versionSchema is what one version of a definition says about objects. Its schema is compiled when the first object needs it.
type versionSchema struct {
	apiextensionsv1.CustomResourceDefinitionVersion
	gvk        schema.GroupVersionKind
	namespaced bool
	// preserve: the definition keeps unknown fields, as those did that come from v1beta1.
	preserve bool

	shape  func() (*structural.Structural, error)
	checks func() (*checks, error)
	typed  func() (managedfields.TypeConverter, error)
	fields []selectable
}

// checks are the compiled rules of a version.
type checks struct {
	schema, status schemavalidation.SchemaValidator
	cel            *structuralcel.Validator
}

func newVersionSchema(crd *apiextensionsv1.CustomResourceDefinition, i int) *versionSchema {
	v := &versionSchema{
		CustomResourceDefinitionVersion: crd.Spec.Versions[i],
		gvk: schema.GroupVersionKind{
			Group: crd.Spec.Group, Version: crd.Spec.Versions[i].Name, Kind: crd.Status.AcceptedNames.Kind,
		},
		namespaced: crd.Spec.Scope == apiextensionsv1.NamespaceScoped,
		preserve:   crd.Spec.PreserveUnknownFields,
	}
	v.shape = sync.OnceValues(v.compileShape)
	v.checks = sync.OnceValues(v.compileChecks)
	for _, f := range v.SelectableFields {
		v.fields = append(v.fields, newSelectable(f.JSONPath))
	}
	return v
}

// hasStatus tells whether status is an update path of its own.
func (v *versionSchema) hasStatus() bool {
	return v.Subresources != nil && v.Subresources.Status != nil
}

func (v *versionSchema) scale() *scaleOf {
	if v.Subresources == nil {
		return nil
	}
	return v.Subresources.Scale
}

// props are the schema in the form that upstream's packages take, or nil where the version has none.
func (v *versionSchema) props() (*apiextensions.JSONSchemaProps, error) {
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		return nil, nil
	}
	internal := &apiextensions.JSONSchemaProps{}
	err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema.DeepCopy(), internal, nil)
	return internal, err
}

// compileShape gives the structural schema; nil where there is none or it keeps unknown fields without being structural.
func (v *versionSchema) compileShape() (*structural.Structural, error) {
	props, err := v.props()
	if props == nil || err != nil {
		return nil, err
	}
	s, err := structural.NewStructural(props)
	if err != nil {
		if v.preserve {
			return nil, nil
		}
		return nil, fmt.Errorf("the server could not properly serve the CR schema: %w", err)
	}
	if v.preserve {
		return s, nil
	}
	s = s.DeepCopy() // defaults are shared otherwise
	if err := defaulting.PruneDefaults(s); err != nil {
		return nil, fmt.Errorf("the server could not properly serve the CR schema: %w", err)
	}
	return s, nil
}

func (v *versionSchema) compileChecks() (*checks, error) {
	props, err := v.props()
	if err != nil {
		return nil, err
	}
	shape, err := v.shape()
	if err != nil {
		return nil, err
	}
	c := &checks{}
	if c.schema, _, err = schemavalidation.NewSchemaValidator(props); err != nil {
		return nil, err
	}
	if v.hasStatus() && props != nil {
		if status, ok := props.Properties["status"]; ok {
			if c.status, _, err = schemavalidation.NewSchemaValidator(&status); err != nil {
				return nil, err
			}
		}
	}
	c.cel = structuralcel.NewValidator(shape, true, celconfig.PerCallLimit)
	return c, nil
}

// deprecation is the warning on every request for the version; empty where it is not deprecated.
func (v *versionSchema) deprecation(crd *apiextensionsv1.CustomResourceDefinition) string {
	if !v.Deprecated {
		return ""
	}
	if v.DeprecationWarning != nil {
		return *v.DeprecationWarning
	}
	text := fmt.Sprintf("%s/%s %s is deprecated", crd.Spec.Group, v.Name, crd.Spec.Names.Kind)
	var newer []string
	for _, o := range crd.Spec.Versions {
		if o.Served && !o.Deprecated && version.CompareKubeAwareVersionStrings(v.Name, o.Name) < 0 {
			newer = append(newer, o.Name)
		}
	}
	if len(newer) == 0 {
		return text
	}
	return text + fmt.Sprintf("; use %s/%s %s", crd.Spec.Group, slices.MaxFunc(newer, version.CompareKubeAwareVersionStrings), crd.Spec.Names.Kind)
}

// scaleOf names the paths of the scale subresource.
type scaleOf = apiextensionsv1.CustomResourceSubresourceScale
