package crd

import (
	"encoding/json"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/coracle-dev/coracle/apiserver/openapi"
)

func testModels(t *testing.T) models {
	t.Helper()
	h, err := openapi.New()
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", "/openapi/v3/apis/apps/v1", nil))
	m, err := readModels(rec.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range rootModels {
		if m[name] == nil {
			t.Fatalf("model %s is missing", name)
		}
	}
	return m
}

func TestDocuments(t *testing.T) {
	m := testModels(t)
	d := definitionOf(t, object("spec: {type: object, description: what is wanted, properties: {n: {type: integer, nullable: true}, o: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}}}"))
	p, err := d.publication(m)
	if err != nil {
		t.Fatal(err)
	}
	doc := p.v3["apis/example.com/v1"]
	if doc == nil {
		t.Fatalf("published %v", p.v3)
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"/apis/example.com/v1/namespaces/{namespace}/things/{name}"`, `"/apis/example.com/v1/namespaces/{namespace}/things/{name}/status"`,
		`"com.example.v1.Thing"`, `"com.example.v1.ThingList"`, `"description":"what is wanted"`, `"name":"fieldValidation"`,
	} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("the document lacks %s", want)
		}
	}
	// Every reference leads somewhere.
	for _, name := range refsOf(raw) {
		if doc.Components.Schemas[name] == nil {
			t.Errorf("nothing is called %s", name)
		}
	}
	v2, err := json.Marshal(p.v2[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(p.v2[0].Definitions) != 2 || strings.Contains(string(v2), refsV3) || strings.Contains(string(v2), `"nullable"`) {
		t.Errorf("version 2 is %s", v2)
	}
	o := p.v2[0].Definitions["com.example.v1.Thing"].Properties["spec"].Properties["o"]
	if slices.Contains(o.Required, "kind") || len(o.Properties) != 0 {
		t.Errorf("an object with unknown fields has properties in version 2: %v", o)
	}
	joined, _ := join([]*publication{p, p})
	if len(joined) != 1 || len(joined["apis/example.com/v1"].Paths.Paths) != len(doc.Paths.Paths) {
		t.Errorf("joined %v", joined)
	}
}

// TestPreserving: kubectl takes properties for all there may be, so that a model that keeps unknown fields has none in version 2.
func TestPreserving(t *testing.T) {
	d := definitionOf(t, "{type: object, x-kubernetes-preserve-unknown-fields: true, properties: {a: {type: string}}}")
	p, err := d.publication(testModels(t))
	if err != nil {
		t.Fatal(err)
	}
	if s := p.v2[0].Definitions["com.example.v1.Thing"]; len(s.Properties) != 0 {
		t.Errorf("version 2 has properties %v", s.Properties)
	}
	if s := p.v3["apis/example.com/v1"].Components.Schemas["com.example.v1.Thing"]; len(s.Properties) != 4 {
		t.Errorf("version 3 has properties %v", s.Properties)
	}
}
