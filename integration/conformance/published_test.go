package conformance

import (
	"fmt"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var publishTests = map[string]func(*env){
	"kubectl checks by a schema":                      publishedSchema,
	"kubectl takes anything without one":              publishedNothing,
	"kubectl takes anything below an object":          publishedBelow,
	"a schema of an open object has its description":  publishedOpen,
	"versions are published side by side":             publishedVersions,
	"a renamed version takes the place of the former": publishedRename,
	"a version that is not served is not published":   publishedUnserved,
}

// kubectl runs kubectl in the test's namespace.
func (e *env) kubectl(stdin string, args ...string) (string, error) {
	e.Helper()
	return e.cluster.For(e.T).TryKubectl(stdin, append([]string{"--namespace", e.ns}, args...)...)
}

// kubectlSays runs kubectl, which must succeed and print every part.
func (e *env) kubectlSays(stdin string, args []string, parts ...string) {
	e.Helper()
	out, err := e.kubectl(stdin, args...)
	if err != nil {
		e.Fatalf("kubectl %v: %v\n%s", args, err, out)
	}
	for _, p := range parts {
		if !strings.Contains(out, p) {
			e.Errorf("kubectl %v lacks %q:\n%s", args, p, out)
		}
	}
}

// kubectlRefuses runs kubectl, which must fail and print every part.
func (e *env) kubectlRefuses(stdin string, args []string, parts ...string) {
	e.Helper()
	out, err := e.kubectl(stdin, args...)
	if err == nil {
		e.Fatalf("kubectl %v went through:\n%s", args, out)
	}
	for _, p := range parts {
		if !strings.Contains(out, p) {
			e.Errorf("kubectl %v lacks %q:\n%s", args, p, out)
		}
	}
}

var (
	createIt = []string{"create", "-f", "-"}
	applyIt  = []string{"apply", "-f", "-"}
	deleteIt = []string{"delete", "-f", "-"}
)

// takes creates, deletes and applies a manifest.
func (e *env) takes(manifest string) {
	e.Helper()
	for _, args := range [][]string{createIt, deleteIt, applyIt, deleteIt} {
		e.kubectlSays(manifest, args)
	}
}

func explain(gvr schema.GroupVersionResource, path string) []string {
	return []string{"explain", gvr.Resource + "." + gvr.Group + path}
}

func publishedSchema(e *env) {
	gvr := e.define(definition("Bar", `{"type":"object","description":"Bars for Testing","properties":{
		"spec":{"type":"object","description":"Specification of Bar","properties":{"bars":{"type":"array","description":"List of Bars and their specs.","items":{"type":"object","required":["name"],"properties":{
			"name":{"type":"string","description":"Name of Bar."},"age":{"type":"string","description":"Age of Bar."},"bazs":{"type":"array","items":{"type":"string"}},"feeling":{"type":"string","enum":["Great","Down"]}}}}}},
		"status":{"type":"object","properties":{"available":{"type":"boolean"}}}}}`))
	e.published(gvr, "Bars for Testing")
	bar := func(spec string) string {
		return fmt.Sprintf("{apiVersion: %s, kind: Bar, metadata: {name: one}, spec: {bars: [%s]}}", gvr.GroupVersion(), spec)
	}
	e.takes(bar("{name: b, age: '1', bazs: [a], feeling: Great}"))
	for _, args := range [][]string{createIt, applyIt} {
		e.kubectlRefuses(bar("{name: b, unknown: x}"), args, `unknown field "spec.bars[0].unknown"`)
		e.kubectlRefuses(bar("{age: '1'}"), args, "spec.bars[0].name: Required value")
		e.kubectlRefuses(bar("{name: b, feeling: NonExist}"), args, `spec.bars[0].feeling: Unsupported value: "NonExist": supported values: "Great", "Down"`)
	}
	e.kubectlSays("", explain(gvr, ""), "Bars for Testing", "KIND:       Bar", "spec", "status")
	e.kubectlSays("", explain(gvr, ".metadata"), "ObjectMeta", "creationTimestamp")
	e.kubectlSays("", explain(gvr, ".spec"), "Specification of Bar", "List of Bars and their specs.")
	e.kubectlSays("", explain(gvr, ".spec.bars"), "List of Bars and their specs.", "bazs", "age", "name\t<string> -required-", "Name of Bar.")
	e.kubectlRefuses("", explain(gvr, ".spec.bars2"), `field "bars2" does not exist`)
}

func publishedNothing(e *env) {
	gvr := e.define(definition("Waldo", anything))
	e.published(gvr, `"kind":"Waldo"`)
	e.takes(fmt.Sprintf("{apiVersion: %s, kind: Waldo, metadata: {name: one}, a: {b: [1, 2]}, c: d}", gvr.GroupVersion()))
	e.kubectlSays("", explain(gvr, ""), "KIND:       Waldo", "VERSION:    v1")
}

func publishedBelow(e *env) {
	gvr := e.define(definition("Embed", `{"type":"object","properties":{"spec":{"type":"object","description":"preserve-unknown-properties in nested field for Testing","x-kubernetes-preserve-unknown-fields":true,"properties":{"dummy":{"type":"string"}}}}}`))
	e.published(gvr, "preserve-unknown-properties in nested field for Testing")
	e.takes(fmt.Sprintf("{apiVersion: %s, kind: Embed, metadata: {name: one}, spec: {b: [{c: d}]}}", gvr.GroupVersion()))
	e.kubectlSays("", explain(gvr, ".spec"), "preserve-unknown-properties in nested field for Testing")
}

func publishedOpen(e *env) {
	gvr := e.define(definition("Quux", `{"type":"object","description":"preserve-unknown-properties at root for Testing","x-kubernetes-preserve-unknown-fields":true,"properties":{"spec":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}`))
	e.published(gvr, `"kind":"Quux"`) // version 2 says no more of it
	e.takes(fmt.Sprintf("{apiVersion: %s, kind: Quux, metadata: {name: one}, spec: {b: [{c: d}]}, e: f}", gvr.GroupVersion()))
	e.kubectlSays("", explain(gvr, ""), "DESCRIPTION:", "preserve-unknown-properties at root for Testing")
}

// twoVersions is a definition of v2, which is stored, and v3; text describes each.
func twoVersions(kind, text string) *apiextensionsv1.CustomResourceDefinition {
	d := definition(kind, `{"type":"object"}`)
	v := d.Spec.Versions[0]
	d.Spec.Versions = nil
	for _, name := range []string{"v2", "v3"} {
		v := *v.DeepCopy()
		v.Name, v.Storage = name, name == "v2"
		v.Schema.OpenAPIV3Schema.Description = kind + " of " + name + " in " + text
		d.Spec.Versions = append(d.Spec.Versions, v)
	}
	return d
}

// changeDefinition updates a definition, whose controller writes it as well.
func (e *env) changeDefinition(name string, change func(*apiextensionsv1.CustomResourceDefinitionSpec)) {
	e.Helper()
	crds := e.crds.ApiextensionsV1().CustomResourceDefinitions()
	e.eventually(func() error {
		d, err := crds.Get(e.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(&d.Spec)
		_, err = crds.Update(e.ctx, d, metav1.UpdateOptions{})
		return err
	})
}

// unpublished waits until a text is in version 2 of the OpenAPI document no more.
func (e *env) unpublished(text string) {
	e.Helper()
	e.eventually(func() error {
		doc, err := e.raw("GET", "/openapi/v2", "", "")
		if err == nil && strings.Contains(doc, text) {
			err = fmt.Errorf("%q is still there", text)
		}
		return err
	})
}

func publishedVersions(e *env) {
	gvr := e.define(twoVersions("Pair", e.ns))
	e.published(gvr, "Pair of v2 in "+e.ns)
	gvr.Version = "v3"
	e.published(gvr, "Pair of v3 in "+e.ns)
}

func publishedRename(e *env) {
	d := twoVersions("Renamed", e.ns)
	gvr := e.define(d)
	gvr.Version = "v3"
	e.published(gvr, "Renamed of v3 in "+e.ns)
	e.changeDefinition(d.Name, func(s *apiextensionsv1.CustomResourceDefinitionSpec) {
		s.Versions[1].Name, s.Versions[1].Schema.OpenAPIV3Schema.Description = "v4", "Renamed of v4 in "+e.ns
	})
	gvr.Version = "v4"
	e.published(gvr, "Renamed of v4 in "+e.ns)
	e.unpublished("Renamed of v3 in " + e.ns)
	gvr.Version = "v2"
	e.published(gvr, "Renamed of v2 in "+e.ns)
}

func publishedUnserved(e *env) {
	d := twoVersions("Unserved", e.ns)
	gvr := e.define(d)
	gvr.Version = "v3"
	e.published(gvr, "Unserved of v3 in "+e.ns)
	e.changeDefinition(d.Name, func(s *apiextensionsv1.CustomResourceDefinitionSpec) { s.Versions[1].Served = false })
	e.unpublished("Unserved of v3 in " + e.ns)
	gvr.Version = "v2"
	e.published(gvr, "Unserved of v2 in "+e.ns)
	_, err := e.raw("GET", "/openapi/v3/apis/"+gvr.Group+"/v3", "", "")
	e.refused(err, "the server could not find the requested resource")
}
