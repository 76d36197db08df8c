package crd

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	openapiv2 "k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2"

	"github.com/coracle-dev/coracle/apiserver/kinds"
	"github.com/coracle-dev/coracle/apiserver/openapi/routes"
)

// The models of the API's own types that documents refer to.
const (
	metaModels = "io.k8s.apimachinery.pkg.apis.meta.v1."
	refsV3     = "#/components/schemas/"
	refsV2     = "#/definitions/"
)

// models are the schemas of types that are not defined here, as JSON with references of version 3, by name.
type models map[string]json.RawMessage

// rootModels are those that documents refer to themselves.
var rootModels = []string{
	metaModels + "ObjectMeta", metaModels + "ListMeta", metaModels + "DeleteOptions", metaModels + "Patch", metaModels + "Status",
	"io.k8s.api.autoscaling.v1.Scale",
}

// readModels takes what documents refer to out of a document of version 3 that has it.
func readModels(document []byte) (models, error) {
	var doc struct {
		Components struct {
			Schemas models `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, fmt.Errorf("read the models of a document: %w", err)
	}
	found := models{}
	for todo := slices.Clone(rootModels); len(todo) > 0; todo = todo[1:] {
		name := todo[0]
		raw, ok := doc.Components.Schemas[name]
		if !ok || found[name] != nil {
			continue
		}
		found[name] = slices.Clone(raw)
		todo = append(todo, refsOf(raw)...)
	}
	return found, nil
}

// refsOf lists the models that a schema refers to.
func refsOf(raw []byte) []string {
	var out []string
	for text := string(raw); ; {
		_, rest, found := strings.Cut(text, `"`+refsV3)
		if !found {
			return out
		}
		name, rest, _ := strings.Cut(rest, `"`)
		out = append(out, name)
		text = rest
	}
}

// definitions gives the models in the form of kube-openapi's builders, with references of version 2 or 3.
func (m models) definitions(v2 bool) (map[string]common.OpenAPIDefinition, error) {
	out := map[string]common.OpenAPIDefinition{}
	for name, raw := range m {
		deps := refsOf(raw)
		if v2 {
			raw = json.RawMessage(strings.ReplaceAll(string(raw), `"`+refsV3, `"`+refsV2))
		}
		d := common.OpenAPIDefinition{Dependencies: deps}
		if err := json.Unmarshal(raw, &d.Schema); err != nil {
			return nil, fmt.Errorf("model %s: %w", name, err)
		}
		out[name] = d
	}
	return out, nil
}

// modelName is how documents call a kind.
func modelName(gvk schema.GroupVersionKind) string {
	parts := strings.Split(gvk.Group, ".")
	slices.Reverse(parts)
	return strings.Join(parts, ".") + "." + gvk.Version + "." + gvk.Kind
}

// sample stands for an object of a kind in what the builders take.
type sample struct {
	unstructured.Unstructured
	name string
}

// OpenAPIModelName and OpenAPICanonicalTypeName name the kind's model.
func (s *sample) OpenAPIModelName() string         { return s.name }
func (s *sample) OpenAPICanonicalTypeName() string { return s.name }

// described is a version's kind with samples for objects.
func (d *definition) described(v *versionSchema) kinds.Kind {
	k := d.servedKind(v)
	k.Verbs = nil
	list := k.NewList().GetObjectKind().GroupVersionKind()
	k.New = func() runtime.Object { return &sample{name: modelName(k.GVK)} }
	k.NewList = func() runtime.Object { return &sample{name: modelName(list)} }
	return k
}

// model is the schema of a version's objects as documents show it.
func (d *definition) model(v *versionSchema, v2 bool) (*spec.Schema, error) {
	object := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	shape, err := v.published()
	if err != nil {
		return nil, err
	}
	// kubectl takes an object's properties for all that it may have: where others are allowed, there must be none.
	if shape != nil && (!v2 || !shape.XPreserveUnknownFields && !v.preserve) {
		if v2 {
			shape = openapiv2.ToStructuralOpenAPIV2(shape)
		}
		object = shape.ToKubeOpenAPI()
		object.SetProperty("metadata", reference("ObjectMeta", v2, metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"]))
		addTypeMeta(object)
		addEmbedded(object, v2)
	}
	object.AddExtension("x-kubernetes-group-version-kind", []any{routes.GVK(v.gvk)})
	v.addSelectable(object)
	return object, nil
}

// published is the schema that documents show; nil where it is not structural.
func (v *versionSchema) published() (*structural.Structural, error) {
	props, err := v.props()
	if props == nil || err != nil {
		return nil, err
	}
	s, err := structural.NewStructural(props)
	if err != nil || len(structural.ValidateStructural(nil, s)) > 0 {
		return nil, nil
	}
	return s.Unfold(), nil
}

func (d *definition) listModel(v *versionSchema, list schema.GroupVersionKind, v2 bool) *spec.Schema {
	prefix := refsV3
	if v2 {
		prefix = refsV2
	}
	s := new(spec.Schema).Typed("object", "").
		WithDescription(fmt.Sprintf("%s is a list of %s", list.Kind, v.gvk.Kind)).
		WithRequired("items").
		SetProperty("items", *spec.ArrayProperty(spec.RefSchema(prefix + modelName(v.gvk))).WithDescription(fmt.Sprintf(
			"List of %s. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", d.crd.Spec.Names.Plural))).
		SetProperty("metadata", reference("ListMeta", v2, metav1.PartialObjectMetadataList{}.SwaggerDoc()["metadata"]))
	addTypeMeta(s)
	s.AddExtension("x-kubernetes-group-version-kind", []any{routes.GVK(list)})
	v.addSelectable(s)
	return s
}

func (v *versionSchema) addSelectable(s *spec.Schema) {
	var list []any
	for _, f := range v.fields {
		list = append(list, map[string]any{"fieldPath": f.name})
	}
	if list != nil {
		s.AddExtension("x-kubernetes-selectable-fields", list)
	}
}

func reference(name string, v2 bool, description string) spec.Schema {
	prefix := refsV3
	if v2 {
		prefix = refsV2
	}
	return *spec.RefSchema(prefix + metaModels + name).WithDescription(description)
}

// typeMeta describes apiVersion and kind.
var typeMeta = metav1.TypeMeta{}.SwaggerDoc()

func addTypeMeta(s *spec.Schema) {
	for _, name := range []string{"apiVersion", "kind"} {
		s.SetProperty(name, *spec.StringProperty().WithDescription(typeMeta[name]))
	}
}

// addEmbedded gives embedded objects the fields that all objects have.
func addEmbedded(s *spec.Schema, v2 bool) {
	if s == nil {
		return
	}
	for name := range s.Properties {
		p := s.Properties[name]
		addEmbedded(&p, v2)
		s.Properties[name] = p
	}
	if s.Items != nil {
		addEmbedded(s.Items.Schema, v2)
	}
	if s.AdditionalProperties != nil {
		addEmbedded(s.AdditionalProperties.Schema, v2)
	}
	if preserves, _ := s.Extensions.GetBool("x-kubernetes-preserve-unknown-fields"); preserves && v2 {
		return
	}
	if embedded, _ := s.Extensions.GetBool("x-kubernetes-embedded-resource"); embedded {
		addTypeMeta(s)
		s.SetProperty("metadata", reference("ObjectMeta", v2, metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"]))
		for _, name := range []string{"kind", "apiVersion"} {
			if !slices.Contains(s.Required, name) {
				s.Required = append(s.Required, name)
			}
		}
	}
}

// publication is what the documents have of one definition.
type publication struct {
	v3 map[string]*spec3.OpenAPI // by "apis/<group>/<version>"
	v2 []*spec.Swagger
}

var (
	documentInfo = &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes CRD Swagger", Version: "v0.1.0"}}
	unauthorized = "Unauthorized"
)

func (d *definition) publication(m models) (*publication, error) {
	p := &publication{v3: map[string]*spec3.OpenAPI{}}
	for _, v := range d.crd.Spec.Versions {
		if !v.Served {
			continue
		}
		schema := d.versions[v.Name]
		for _, c := range routes.Build([]kinds.Kind{d.described(schema)}) {
			doc, err := d.documentV3(schema, c, m)
			if err != nil {
				return nil, err
			}
			p.v3[c.Key] = doc
			old, err := d.documentV2(schema, c, m)
			if err != nil {
				return nil, err
			}
			p.v2 = append(p.v2, old)
		}
	}
	return p, nil
}

// all are the models of one version, with those of the types that are not defined here.
func (d *definition) all(v *versionSchema, m models, v2 bool) (map[string]common.OpenAPIDefinition, error) {
	defs, err := m.definitions(v2)
	if err != nil {
		return nil, err
	}
	object, err := d.model(v, v2)
	if err != nil {
		return nil, err
	}
	list := v.gvk.GroupVersion().WithKind(d.crd.Status.AcceptedNames.ListKind)
	defs[modelName(v.gvk)] = common.OpenAPIDefinition{Schema: *object, Dependencies: []string{metaModels + "ObjectMeta"}}
	defs[modelName(list)] = common.OpenAPIDefinition{
		Schema: *d.listModel(v, list, v2), Dependencies: []string{metaModels + "ListMeta", modelName(v.gvk)},
	}
	return defs, nil
}

func sameName(name string) (string, spec.Extensions) { return name, nil }

// tag groups the operations of a version.
func (v *versionSchema) tag(r common.Route) (string, []string, error) {
	name := routes.OperationPrefix(v.gvk.GroupVersion())
	return r.OperationName(), []string{strings.ToLower(name[:1]) + name[1:]}, nil
}

func (d *definition) documentV3(v *versionSchema, c *routes.Container, m models) (*spec3.OpenAPI, error) {
	defs, err := d.all(v, m, false)
	if err != nil {
		return nil, err
	}
	return builder3.BuildOpenAPISpecFromRoutes([]common.RouteContainer{c}, &common.OpenAPIV3Config{
		Info:                           documentInfo,
		GetDefinitions:                 func(common.ReferenceCallback) map[string]common.OpenAPIDefinition { return defs },
		GetDefinitionName:              sameName,
		GetOperationIDAndTagsFromRoute: v.tag,
		CommonResponses:                map[int]*spec3.Response{401: {ResponseProps: spec3.ResponseProps{Description: unauthorized}}},
	})
}

// documentV2 holds of the models only those that are defined here: it is merged with a document that has the others.
func (d *definition) documentV2(v *versionSchema, c *routes.Container, m models) (*spec.Swagger, error) {
	defs, err := d.all(v, m, true)
	if err != nil {
		return nil, err
	}
	doc, err := builder.BuildOpenAPISpecFromRoutes([]common.RouteContainer{c}, &common.Config{
		ProtocolList:                   []string{"https"},
		Info:                           documentInfo,
		GetDefinitions:                 func(common.ReferenceCallback) map[string]common.OpenAPIDefinition { return defs },
		GetDefinitionName:              sameName,
		GetOperationIDAndTagsFromRoute: v.tag,
		CommonResponses:                map[int]spec.Response{401: {ResponseProps: spec.ResponseProps{Description: unauthorized}}},
	})
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(doc.Definitions, func(name string, _ spec.Schema) bool { return m[name] != nil })
	return doc, nil
}

// join puts the documents of all definitions together, one for each group and version.
func join(all []*publication) (map[string]*spec3.OpenAPI, []*spec.Swagger) {
	v3 := map[string]*spec3.OpenAPI{}
	var v2 []*spec.Swagger
	for _, p := range all {
		v2 = append(v2, p.v2...)
		for key, doc := range p.v3 {
			have := v3[key]
			if have == nil {
				v3[key] = doc
				continue
			}
			v3[key] = merged(have, doc)
		}
	}
	return v3, v2
}

// merged is a document with the paths and models of both, which stay as they are.
func merged(a, b *spec3.OpenAPI) *spec3.OpenAPI {
	out, paths, components := *a, *a.Paths, *a.Components
	paths.Paths = maps.Clone(a.Paths.Paths)
	maps.Copy(paths.Paths, b.Paths.Paths)
	components.Schemas = maps.Clone(a.Components.Schemas)
	maps.Copy(components.Schemas, b.Components.Schemas)
	out.Paths, out.Components = &paths, &components
	return &out
}
