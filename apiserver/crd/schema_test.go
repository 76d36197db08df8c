package crd

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// definitionOf makes a definition of Things whose schema has these properties, in v1.
func definitionOf(t testing.TB, schema string) *definition {
	t.Helper()
	text := `
metadata: {name: things.example.com, uid: u, generation: 1}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: things, kind: Thing, listKind: ThingList, singular: thing}
  versions:
  - {name: v1, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: ` + schema + `}}
`
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict([]byte(text), crd); err != nil {
		t.Fatal(err)
	}
	apiextensionsv1.SetObjectDefaults_CustomResourceDefinition(crd)
	crd.Status.AcceptedNames = crd.Spec.Names
	return newDefinition(crd, &shared{}, &webhooks{}, nil)
}

func thing(t testing.TB, rest string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	text := "{apiVersion: example.com/v1, kind: Thing, metadata: {name: x, namespace: default}" + rest + "}"
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = u.UnmarshalJSON(raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func object(properties string) string { return "{type: object, properties: {" + properties + "}}" }

// TestShape: what decoding makes of objects. Metadata and type are left out of what is compared.
func TestShape(t *testing.T) {
	for name, c := range map[string]struct{ schema, in, out, unknown string }{
		"unknown fields go":     {object("a: {type: string}"), ", a: x, b: {c: 1}", `{"a":"x"}`, "[b]"},
		"nested unknown fields": {object("a: " + object("b: {type: integer}")), ", a: {b: 1, c: 2}", `{"a":{"b":1}}`, "[a.c]"},
		"in lists and maps": {
			object("l: {type: array, items: " + object("a: {type: string}") + "}, m: {type: object, additionalProperties: " + object("a: {type: string}") + "}"),
			", l: [{a: x, b: y}], m: {k: {a: x, b: y}}", `{"l":[{"a":"x"}],"m":{"k":{"a":"x"}}}`, "[l[0].b m.k.b]",
		},
		"preserved":              {"{type: object, x-kubernetes-preserve-unknown-fields: true}", ", a: {b: 1}", `{"a":{"b":1}}`, "[]"},
		"preserved below":        {object("a: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {k: " + object("x: {type: string}") + "}}"), ", a: {b: 1, k: {x: w, z: 1}}", `{"a":{"b":1,"k":{"x":"w"}}}`, "[a.k.z]"},
		"defaults":               {object("a: {type: object, default: {}, properties: {b: {type: integer, default: 3}}}, c: {type: object, properties: {d: {type: string, default: x}}}"), "", `{"a":{"b":3}}`, "[]"},
		"null gets the default":  {object("a: {type: string, default: x}"), ", a: null", `{"a":"x"}`, "[]"},
		"null without a default": {object("a: {type: string}"), ", a: null", `{}`, "[]"},
		"nullable stays":         {object("a: {type: string, nullable: true, default: x}"), ", a: null", `{"a":null}`, "[]"},
		"int or string":          {object("a: {x-kubernetes-int-or-string: true}, b: {x-kubernetes-int-or-string: true}"), ", a: 1, b: 50%", `{"a":1,"b":"50%"}`, "[]"},
		"embedded object": {
			object("o: {type: object, x-kubernetes-embedded-resource: true, properties: {spec: " + object("a: {type: string}") + "}}"),
			", o: {apiVersion: v1, kind: X, metadata: {name: m, nope: 1}, spec: {a: b, c: d}, other: 1}",
			`{"o":{"apiVersion":"v1","kind":"X","metadata":{"name":"m"},"spec":{"a":"b"}}}`, "[o.other o.spec.c o.metadata.nope]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := definitionOf(t, c.schema).versions["v1"]
			u := thing(t, c.in)
			unknown, err := v.coerce(u, shaping{track: true})
			if err != nil {
				t.Fatal(err)
			}
			v.fill(u)
			if u.GetName() != "x" || u.GetKind() != "Thing" || u.GetAPIVersion() != "example.com/v1" {
				t.Errorf("type and name are lost: %v", u.Object)
			}
			for _, field := range []string{"apiVersion", "kind", "metadata"} {
				delete(u.Object, field)
			}
			got, _ := json.Marshal(u.Object)
			if string(got) != c.out {
				t.Errorf("got %s\nwant %s", got, c.out)
			}
			if fmt.Sprint(unknown) != c.unknown {
				t.Errorf("unknown fields are %v, want %s", unknown, c.unknown)
			}
		})
	}
}

func TestBadMetadata(t *testing.T) {
	v := definitionOf(t, object("")).versions["v1"]
	u := thing(t, "")
	u.Object["metadata"] = map[string]any{"name": "x", "labels": map[string]any{"a": int64(1)}}
	if _, err := v.coerce(u.DeepCopy(), shaping{}); err == nil {
		t.Error("labels that are no strings are taken")
	}
	if _, err := v.coerce(u, shaping{stored: true}); err != nil {
		t.Errorf("a stored object is not read: %v", err)
	}
	if u.GetGeneration() != 1 {
		t.Errorf("an old object has generation %d", u.GetGeneration())
	}
}

// TestValidation: the texts of what is refused, on create or, with old, on update.
func TestValidation(t *testing.T) {
	rules := `{type: object, properties: {a: {type: integer}, b: {type: integer}}, x-kubernetes-validations: [{rule: "self.a < self.b", message: a must be below b}]}`
	for name, c := range map[string]struct{ schema, old, in, want string }{
		"type":             {object("a: {type: string}"), "", ", a: 1", `a: Invalid value: "integer": a in body must be of type string: "integer"`},
		"required":         {"{type: object, required: [a], properties: {a: {type: string}}}", "", "", "a: Required value"},
		"enum":             {object("a: {type: string, enum: [x, w]}"), "", ", a: z", `a: Unsupported value: "z": supported values: "x", "w"`},
		"pattern":          {object(`a: {type: string, pattern: "^x+$"}`), "", ", a: z", `a: Invalid value: "z": a in body should match '^x+$'`},
		"length":           {object("a: {type: string, maxLength: 2}"), "", ", a: xyz", "a: Too long: may not be more than 2 bytes"},
		"items":            {object("a: {type: array, maxItems: 1, items: {type: string}}"), "", ", a: [x, w]", "a: Too many: 2: must have at most 1 item"},
		"format":           {object("a: {type: string, format: date-time}"), "", ", a: x", `a: Invalid value: "x": a in body must be of type date-time: "x"`},
		"oneOf":            {"{type: object, properties: {a: {type: string}, b: {type: string}}, oneOf: [{required: [a]}, {required: [b]}]}", "", ", a: x, b: w", `<nil>: Invalid value: "": "" must validate one and only one schema (oneOf). Found 2 valid alternatives`},
		"set":              {object("a: {type: array, x-kubernetes-list-type: set, items: {type: string}}"), "", ", a: [x, x]", `a[1]: Duplicate value: "x"`},
		"map":              {object("a: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [k], items: " + "{type: object, required: [k], properties: {k: {type: string}}}}"), "", ", a: [{k: x}, {k: x}]", `a[1]: Duplicate value: {"k":"x"}`},
		"embedded":         {object("o: {type: object, x-kubernetes-embedded-resource: true}"), "", ", o: {metadata: {name: x}}", "o.apiVersion: Required value"},
		"rule":             {object("s: " + rules), "", ", s: {a: 2, b: 1}", "s: Invalid value: a must be below b"},
		"rule not checked": {object("s: " + rules + ", c: {type: string}"), "", ", s: {a: 2, b: 1}, c: 1", "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"},
		"transition":       {object(`a: {type: string, x-kubernetes-validations: [{rule: self == oldSelf, message: immutable}]}`), ", a: x", ", a: w", `a: Invalid value: "w": immutable`},
		"no transition":    {object(`a: {type: string, x-kubernetes-validations: [{rule: self == oldSelf, message: immutable}]}`), ", a: x", ", a: x", ""},
		"ratchet":          {object("a: {type: string, enum: [x]}, b: {type: string}"), ", a: old", ", a: old, b: new", ""},
		"ratchet changed":  {object("a: {type: string, enum: [x]}, b: {type: string}"), ", a: old", ", a: older", "a: Unsupported value"},
		"ratchet rule":     {object("s: " + rules + ", c: {type: string}"), ", s: {a: 2, b: 1}", ", s: {a: 2, b: 1}, c: x", ""},
		"ratchet set":      {object("a: {type: array, x-kubernetes-list-type: set, items: {type: string}}"), ", a: [x, x]", ", a: [x, x, x]", ""},
		"reason and path":  {object(`s: {type: object, properties: {a: {type: integer}}, x-kubernetes-validations: [{rule: self.a > 1, message: too small, reason: FieldValueForbidden, fieldPath: .a}]}`), "", ", s: {a: 1}", "s.a: Forbidden: too small"},
	} {
		t.Run(name, func(t *testing.T) {
			v := definitionOf(t, c.schema).versions["v1"]
			u := thing(t, c.in)
			errs := v.validate(u)
			if c.old != "" {
				errs = v.validateUpdate(u, thing(t, c.old))
			}
			text := ""
			if len(errs) > 0 {
				text = errs.ToAggregate().Error()
			}
			if c.want == "" && text != "" || !strings.Contains(text, c.want) {
				t.Errorf("got  %s\nwant %s", text, c.want)
			}
		})
	}
}

func TestStatusValidation(t *testing.T) {
	v := definitionOf(t, object("a: {type: integer}, status: "+object("num: {type: integer, maximum: 3}"))).versions["v1"]
	errs := v.validateStatus(thing(t, ", a: 1, status: {num: 5}"), thing(t, ", a: 1"))
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "status.num: Invalid value: 5: num in body should be less than or equal to 3") {
		t.Errorf("got %v", errs)
	}
}

// TestLazy: a definition that nobody uses costs no schema.
func TestLazy(t *testing.T) {
	d := definitionOf(t, object("a: {type: string, x-kubernetes-validations: [{rule: self != ''}]}"))
	before := testing.AllocsPerRun(1, func() { d.kinds() })
	if before > 200 {
		t.Errorf("an unused definition makes %v allocations", before)
	}
}

// FuzzObjects: no object makes a schema panic, and shaping one twice changes nothing more.
func FuzzObjects(f *testing.F) {
	d := definitionOf(f, object(`a: {type: string, default: x}, l: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [k],
		items: {type: object, required: [k], properties: {k: {type: string}}}}, o: {type: object, x-kubernetes-embedded-resource: true},
		i: {x-kubernetes-int-or-string: true}, p: {type: object, x-kubernetes-preserve-unknown-fields: true}`))
	v := d.versions["v1"]
	for _, s := range []string{`{}`, `{"a":null,"l":[{"k":"x"},{"k":1},null],"o":{"metadata":{"labels":[]}},"i":1.5,"p":{"q":[1]}}`, `{"metadata":[],"o":1,"l":{}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var content map[string]any
		if json.Unmarshal(raw, &content) != nil || content == nil {
			return
		}
		u := &unstructured.Unstructured{Object: content}
		u.SetGroupVersionKind(v.gvk)
		if _, err := v.coerce(u, shaping{track: true}); err != nil {
			return
		}
		v.fill(u)
		first, _ := json.Marshal(u.Object)
		v.validate(u)
		if _, err := v.coerce(u, shaping{}); err != nil {
			t.Fatalf("%s is not taken again: %v", first, err)
		}
		v.fill(u)
		if again, _ := json.Marshal(u.Object); string(again) != string(first) {
			t.Fatalf("shaped again, %s becomes %s", first, again)
		}
	})
}
