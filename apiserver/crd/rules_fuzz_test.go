package crd

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// accepted makes a definition with this schema where validation lets it pass; nil otherwise.
func accepted(t *testing.T, table []kinds.Kind, schema *apiextensionsv1.JSONSchemaProps) *definition {
	t.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	err := yaml.UnmarshalStrict([]byte(`
metadata: {name: things.example.com, uid: u, generation: 1}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: things, kind: Thing, listKind: ThingList, singular: thing}
  versions:
  - {name: v1, served: true, storage: true, subresources: {status: {}}}
`), crd)
	if err != nil {
		t.Fatal(err)
	}
	crd.Spec.Versions[0].Schema = &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: schema}
	for i := range table {
		if k := &table[i]; k.Resource == "customresourcedefinitions" {
			k.Default(crd)
			if len(k.Validate(crd)) > 0 {
				return nil
			}
			k.Warnings(crd, nil)
		}
	}
	crd.Status.AcceptedNames = crd.Spec.Names
	return newDefinition(crd, &shared{}, &webhooks{}, nil)
}

// serve does with an object what a write does.
func serve(t *testing.T, d *definition, content string) {
	t.Helper()
	v := d.versions["v1"]
	for range 2 {
		u := &unstructured.Unstructured{}
		if err := json.Unmarshal([]byte(content), &u.Object); err != nil {
			t.Fatal(err)
		}
		u.SetGroupVersionKind(v.gvk)
		if _, err := v.coerce(u, shaping{track: true}); err != nil {
			return
		}
		v.fill(u)
		began := time.Now()
		v.validate(u)
		v.validateUpdate(u, u.DeepCopy())
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("validation took %v", took)
		}
	}
}

const fuzzedThing = `{"metadata":{"name":"x","namespace":"default"},"spec":{"n":3,"s":"text","l":["a","b","b"],"m":{"k":{"n":1}},"t":"2020-01-01T00:00:00Z","d":null},"status":{"n":-1}}`

// FuzzRules: no rule that a definition is accepted with makes validation panic or go on for ever.
func FuzzRules(f *testing.F) {
	for _, s := range [][2]string{
		{"self.n > 0", ""}, {"self.l.all(x, self.l.exists(y, y == x))", "'n is ' + string(self.n)"}, {"has(self.d) && self.t < timestamp('2030-01-01T00:00:00Z')", ""},
		{"self.s.matches('^(a+)+$')", "self.s"}, {"oldSelf.n == self.n", ""}, {"self.m.map(k, self.m[k].n).sum() < 10", ""}, {"quantity(self.s).isGreaterThan(quantity('1'))", ""},
		{"cidr('10.0.0.0/8').containsIP(ip('10.1.1.1'))", ""}, {"self.l.map(a, self.l.map(b, self.l.map(c, a + b + c))).size() > 0", ""},
	} {
		f.Add(s[0], s[1])
	}
	table := kinds.All()
	f.Fuzz(func(t *testing.T, rule, message string) {
		schema := &apiextensionsv1.JSONSchemaProps{}
		err := yaml.UnmarshalStrict([]byte(`{type: object, properties: {spec: {type: object, properties: {
			n: {type: integer}, s: {type: string, maxLength: 50}, l: {type: array, maxItems: 20, items: {type: string, maxLength: 10}},
			m: {type: object, maxProperties: 10, additionalProperties: {type: object, properties: {n: {type: integer}}}},
			t: {type: string, format: date-time}, d: {type: string, nullable: true}}}, status: {type: object, properties: {n: {type: integer}}}}}`), schema)
		if err != nil {
			t.Fatal(err)
		}
		spec := schema.Properties["spec"]
		spec.XValidations = apiextensionsv1.ValidationRules{{Rule: rule, MessageExpression: message}}
		schema.Properties["spec"] = spec
		if d := accepted(t, table, schema); d != nil {
			serve(t, d, fuzzedThing)
		}
	})
}

// FuzzSchemas: no schema that is accepted makes shaping, defaulting, validation or publishing panic.
func FuzzSchemas(f *testing.F) {
	for _, s := range []string{
		`{"type":"object"}`, `{"type":"object","x-kubernetes-preserve-unknown-fields":true}`,
		`{"type":"object","properties":{"spec":{"type":"object","default":{"n":1},"required":["n"],"properties":{"n":{"type":"integer","minimum":0,"maximum":5},"s":{"type":"string","pattern":"^(a+)+$","enum":["text"]}}}}}`,
		`{"type":"object","properties":{"spec":{"type":"object","properties":{"l":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}},"m":{"type":"object","additionalProperties":{"type":"object","x-kubernetes-map-type":"atomic"}}}}}}`,
		`{"type":"object","anyOf":[{"required":["spec"]}],"oneOf":[{}],"not":{"required":["x"]},"properties":{"spec":{"type":"object","x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true}}}`,
		`{"type":"object","properties":{"spec":{"x-kubernetes-int-or-string":true,"nullable":true}},"additionalProperties":{"type":"string"}}`,
	} {
		f.Add([]byte(s))
	}
	table := kinds.All()
	m, err := readModels([]byte(`{"components":{"schemas":{}}}`))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		schema := &apiextensionsv1.JSONSchemaProps{}
		if json.Unmarshal(raw, schema) != nil {
			return
		}
		d := accepted(t, table, schema)
		if d == nil {
			return
		}
		serve(t, d, fuzzedThing)
		serve(t, d, `{"metadata":{"name":"y"}}`)
		if _, err := d.publication(m); err != nil {
			_ = fmt.Sprint(err)
		}
	})
}
