package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
)

var customTests = map[string]func(*env){
	"definitions are watched":                     definitionWatch,
	"definitions are listed and deleted":          definitionList,
	"definitions have a status":                   definitionStatus,
	"selectable fields select":                    selectableFields,
	"the schema is published":                     publishSchema,
	"no schema is published as any object":        publishNothing,
	"groups and kinds are published side by side": publishSeveral,
	"discovery shows them":                        customDiscovery,
	"values get defaults":                         customDefaults,
	"several versions are served":                 customVersions,
}

var validationTests = map[string]func(*env){
	"of a typed object":                  validateTyped,
	"of a typed object's metadata":       validateTypedMeta,
	"of a custom object":                 validateCustom,
	"of duplicates in what is not known": validateDuplicates,
	"of metadata, embedded as well":      validateCustomMeta,
	"by rules":                           validateRules,
}

// definition makes a namespaced kind of one version in a group of its own. schema is JSON.
func definition(kind, schemaJSON string) *apiextensionsv1.CustomResourceDefinition {
	group := "c" + rand.String(6) + ".example.org"
	plural := strings.ToLower(kind) + "s"
	var s apiextensionsv1.JSONSchemaProps
	if err := json.Unmarshal([]byte(schemaJSON), &s); err != nil {
		panic(err)
	}
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + "." + group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Singular: strings.ToLower(kind), Kind: kind, ListKind: kind + "List"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &s},
			}},
		},
	}
}

// define creates a definition and waits until its kind is served; it goes with the test.
func (e *env) define(d *apiextensionsv1.CustomResourceDefinition) schema.GroupVersionResource {
	e.Helper()
	crds := e.crds.ApiextensionsV1().CustomResourceDefinitions()
	_, err := crds.Create(e.ctx, d, metav1.CreateOptions{})
	e.must(err)
	e.Cleanup(func() { _ = crds.Delete(context.Background(), d.Name, metav1.DeleteOptions{}) })
	gvr := schema.GroupVersionResource{Group: d.Spec.Group, Version: d.Spec.Versions[0].Name, Resource: d.Spec.Names.Plural}
	e.eventually(func() error {
		d, err := crds.Get(e.ctx, d.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range d.Status.Conditions {
			if c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue {
				_, err = e.dynamic.Resource(gvr).List(e.ctx, metav1.ListOptions{})
				return err
			}
		}
		return fmt.Errorf("conditions %v", d.Status.Conditions)
	})
	return gvr
}

const anything = `{"type":"object","x-kubernetes-preserve-unknown-fields":true}`

func definitionWatch(e *env) {
	crds := e.crds.ApiextensionsV1().CustomResourceDefinitions()
	d := definition("Watched", anything)
	w, err := crds.Watch(e.ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + d.Name})
	e.must(err)
	defer w.Stop()
	gvr := e.define(d)
	e.sees(w, watch.Added)
	objects, err := e.dynamic.Resource(gvr).Namespace(e.ns).Watch(e.ctx, metav1.ListOptions{})
	e.must(err)
	defer objects.Stop()
	client := e.dynamic.Resource(gvr).Namespace(e.ns)
	_, err = client.Create(e.ctx, e.object(`{"apiVersion":"%s/v1","kind":"Watched","metadata":{"name":"one"},"any":{"thing":[1]}}`, gvr.Group), metav1.CreateOptions{})
	e.must(err)
	e.sees(objects, watch.Added)
	_, err = client.Patch(e.ctx, "one", types.MergePatchType, []byte(`{"any":{"thing":[2]}}`), metav1.PatchOptions{})
	e.must(err)
	e.sees(objects, watch.Modified)
	e.must(client.Delete(e.ctx, "one", metav1.DeleteOptions{}))
	e.sees(objects, watch.Deleted)
	_, err = crds.Patch(e.ctx, d.Name, types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
	e.must(err)
	e.must(crds.Delete(e.ctx, d.Name, metav1.DeleteOptions{}))
	e.sees(w, watch.Deleted)
}

func definitionList(e *env) {
	crds := e.crds.ApiextensionsV1().CustomResourceDefinitions()
	for range 10 {
		d := definition("Listed", anything)
		d.Labels = map[string]string{"listed": e.ns}
		_, err := crds.Create(e.ctx, d, metav1.CreateOptions{})
		e.must(err)
	}
	other := definition("Unlisted", anything)
	e.define(other)
	opts := metav1.ListOptions{LabelSelector: "listed=" + e.ns}
	l, err := crds.List(e.ctx, opts)
	e.must(err)
	equal(e, "definitions", len(l.Items), 10)
	e.must(crds.DeleteCollection(e.ctx, metav1.DeleteOptions{}, opts))
	e.eventually(func() error {
		l, err := crds.List(e.ctx, opts)
		e.must(err)
		return same(len(l.Items), 0)
	})
	_, err = crds.Get(e.ctx, other.Name, metav1.GetOptions{})
	e.must(err)
}

func definitionStatus(e *env) {
	crds := e.crds.ApiextensionsV1().CustomResourceDefinitions()
	d := definition("Told", anything)
	e.define(d)
	got, err := crds.Patch(e.ctx, d.Name, types.MergePatchType,
		[]byte(`{"status":{"conditions":[{"type":"StatusPatched","status":"True","reason":"E2E","message":"by a test"}]}}`), metav1.PatchOptions{}, "status")
	e.must(err)
	equal(e, "condition", string(got.Status.Conditions[len(got.Status.Conditions)-1].Type), "StatusPatched")
}

func selectableFields(e *env) {
	d := definition("Coloured", `{"type":"object","properties":{"spec":{"type":"object","properties":{"colour":{"type":"string"}}}}}`)
	d.Spec.Versions[0].SelectableFields = []apiextensionsv1.SelectableField{{JSONPath: ".spec.colour"}}
	gvr := e.define(d)
	client := e.dynamic.Resource(gvr).Namespace(e.ns)
	red := metav1.ListOptions{FieldSelector: "spec.colour=red"}
	w, err := client.Watch(e.ctx, red)
	e.must(err)
	defer w.Stop()
	for i, colour := range []string{"red", "blue", "red"} {
		_, err := client.Create(e.ctx, e.object(`{"apiVersion":"%s/v1","kind":"Coloured","metadata":{"name":"c%d"},"spec":{"colour":%q}}`, gvr.Group, i, colour), metav1.CreateOptions{})
		e.must(err)
	}
	l, err := client.List(e.ctx, red)
	e.must(err)
	equal(e, "red ones", len(l.Items), 2)
	e.sees(w, watch.Added)
	e.sees(w, watch.Added)
	_, err = client.Patch(e.ctx, "c0", types.MergePatchType, []byte(`{"spec":{"colour":"blue"}}`), metav1.PatchOptions{})
	e.must(err)
	e.sees(w, watch.Deleted)
	_, err = client.List(e.ctx, metav1.ListOptions{FieldSelector: "spec.size=1"})
	e.refused(err, "field label not supported: spec.size")
}

// published waits for a text in a group version's OpenAPI document.
func (e *env) published(gvr schema.GroupVersionResource, want string) {
	e.Helper()
	e.eventually(func() error {
		doc, err := e.raw("GET", "/openapi/v3/apis/"+gvr.GroupVersion().String(), "", "")
		if err == nil && !strings.Contains(doc, want) {
			err = fmt.Errorf("%q is not in %s", want, doc)
		}
		return err
	})
	e.eventually(func() error {
		doc, err := e.raw("GET", "/openapi/v2", "", "")
		if err == nil && !strings.Contains(doc, want) {
			err = fmt.Errorf("%q is not in version 2", want)
		}
		return err
	})
}

func publishSchema(e *env) {
	gvr := e.define(definition("Described", `{"type":"object","description":"Described things of `+e.ns+`","properties":{"spec":{"type":"object","properties":{"bars":{"type":"array","description":"Bars.","items":{"type":"object","required":["name"],"properties":{"name":{"type":"string"}}}}}}}}`))
	e.published(gvr, "Described things of "+e.ns)
	out := e.cluster.For(e.T).Kubectl("explain", gvr.Resource+"."+gvr.Group+".spec.bars")
	if !strings.Contains(out, "Bars.") {
		e.Errorf("explain says %s", out)
	}
}

func publishNothing(e *env) {
	gvr := e.define(definition("Open", anything))
	e.published(gvr, `"kind":"Open"`)
	out := e.cluster.For(e.T).KubectlIn(fmt.Sprintf("{apiVersion: %s/v1, kind: Open, metadata: {name: one, namespace: %s}, what: ever}", gvr.Group, e.ns), "apply", "-f", "-")
	equal(e, "apply", strings.TrimSpace(out), "open."+gvr.Group+"/one created")
}

func publishSeveral(e *env) {
	one := definition("First", `{"type":"object","description":"The first of `+e.ns+`"}`)
	two := definition("Second", `{"type":"object","description":"The second of `+e.ns+`"}`)
	three := definition("Third", `{"type":"object","description":"The third of `+e.ns+`"}`)
	two.Spec.Group, two.Name = one.Spec.Group, two.Spec.Names.Plural+"."+one.Spec.Group
	a, b, c := e.define(one), e.define(two), e.define(three)
	e.published(a, "The first of "+e.ns)
	e.published(b, "The second of "+e.ns)
	e.published(a, "The second of "+e.ns)
	e.published(c, "The third of "+e.ns)
}

func customDiscovery(e *env) {
	d := definition("Found", anything)
	d.Spec.Names.ShortNames, d.Spec.Names.Categories = []string{"fnd"}, []string{"all"}
	gvr := e.define(d)
	e.eventually(func() error {
		body, err := e.kube.Discovery().RESTClient().Get().AbsPath("/apis").SetHeader("Accept", discovery.AcceptV2).DoRaw(e.ctx)
		e.must(err)
		var doc apidiscoveryv2.APIGroupDiscoveryList
		e.must(json.Unmarshal(body, &doc))
		for _, g := range doc.Items {
			if g.Name == gvr.Group && len(g.Versions) == 1 && g.Versions[0].Resources[0].Resource == gvr.Resource {
				equal(e, "short name", g.Versions[0].Resources[0].ShortNames[0], "fnd")
				equal(e, "scope", g.Versions[0].Resources[0].Scope, apidiscoveryv2.ScopeNamespace)
				return nil
			}
		}
		return fmt.Errorf("%s is not found", gvr)
	})
	list, err := e.kube.Discovery().ServerResourcesForGroupVersion(gvr.GroupVersion().String())
	e.must(err)
	equal(e, "kind", list.APIResources[0].Kind, "Found")
}

func customDefaults(e *env) {
	gvr := e.define(definition("Given", `{"type":"object","properties":{"a":{"type":"string","default":"A"},"o":{"type":"object","default":{},"properties":{"b":{"type":"integer","default":7}}}}}`))
	client := e.dynamic.Resource(gvr).Namespace(e.ns)
	got, err := client.Create(e.ctx, e.object(`{"apiVersion":"%s/v1","kind":"Given","metadata":{"name":"one"},"pruned":true}`, gvr.Group), metav1.CreateOptions{})
	e.must(err)
	equal(e, "default", fmt.Sprintf("%v %v", got.Object["a"], got.Object["o"]), "A map[b:7]")
	if _, there := got.Object["pruned"]; there {
		e.Error("an unknown field was kept")
	}
}

func customVersions(e *env) {
	d := definition("Aged", anything)
	second := *d.Spec.Versions[0].DeepCopy()
	second.Name, second.Storage = "v2", false
	d.Spec.Versions = append(d.Spec.Versions, second)
	gvr := e.define(d)
	_, err := e.dynamic.Resource(gvr).Namespace(e.ns).Create(e.ctx, e.object(`{"apiVersion":"%s/v1","kind":"Aged","metadata":{"name":"one"},"a":"b"}`, gvr.Group), metav1.CreateOptions{})
	e.must(err)
	gvr.Version = "v2"
	got, err := e.dynamic.Resource(gvr).Namespace(e.ns).Get(e.ctx, "one", metav1.GetOptions{})
	e.must(err)
	equal(e, "version", got.GetAPIVersion(), gvr.Group+"/v2")
	equal(e, "value", got.Object["a"], any("b"))
}

func validateTyped(e *env) {
	path := "/apis/apps/v1/namespaces/" + e.ns + "/deployments"
	body := `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"unknown1":"val1","paused":true,"paused":false,"selector":{"matchLabels":{"a":"b"}},` +
		`"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","foo":1}]}}}}`
	_, err := e.raw("POST", path+"?fieldValidation=Strict", asJSON, body)
	e.refused(err, `strict decoding error: unknown field "spec.unknown1", duplicate field "spec.paused", unknown field "spec.template.spec.containers[0].foo"`)
	_, err = e.raw("POST", path+"?fieldValidation=Ignore", asJSON, body)
	e.must(err)
	_, err = e.raw("PATCH", path+"/web?fieldValidation=Strict", string(types.MergePatchType), `{"spec":{"other":1}}`)
	e.refused(err, `unknown field "spec.other"`)
	_, err = e.raw("PATCH", path+"/web?fieldValidation=Strict&fieldManager=t&force=true", asApply, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {other: 1}\n")
	e.refused(err, "field not declared in schema")
}

func validateTypedMeta(e *env) {
	path := "/apis/apps/v1/namespaces/" + e.ns + "/deployments?fieldValidation=Strict"
	_, err := e.raw("POST", path, asYAML, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, unknownMeta: 1}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}, unknownSubMeta: x}, spec: {containers: [{name: c, image: i}]}}}\n")
	e.refused(err, `strict decoding error: unknown field "metadata.unknownMeta", unknown field "spec.template.metadata.unknownSubMeta"`)
}

func validateCustom(e *env) {
	gvr := e.define(definition("Checked", `{"type":"object","properties":{"spec":{"type":"object","properties":{"cronSpec":{"type":"string","pattern":"^\\d+$"},"ports":{"type":"array","x-kubernetes-list-map-keys":["port"],"x-kubernetes-list-type":"map","items":{"type":"object","required":["port"],"properties":{"port":{"type":"integer"},"name":{"type":"string"}}}}}}}}`))
	path := "/apis/" + gvr.GroupVersion().String() + "/namespaces/" + e.ns + "/" + gvr.Resource
	apply := "?fieldValidation=Strict&fieldManager=t"
	good := fmt.Sprintf("apiVersion: %s\nkind: Checked\nmetadata: {name: one}\nspec: {cronSpec: '12', ports: [{port: 80, name: a}]}\n", gvr.GroupVersion())
	_, err := e.raw("PATCH", path+"/one"+apply, asApply, good)
	e.must(err)
	extra := fmt.Sprintf("apiVersion: %s\nkind: Checked\nmetadata: {name: two}\nspec: {cronSpec: '12', extra: 1}\n", gvr.GroupVersion())
	_, err = e.raw("PATCH", path+"/two"+apply, asApply, extra)
	e.refused(err, "field not declared in schema")
	_, err = e.raw("POST", path+"?fieldValidation=Strict", asYAML, extra)
	e.refused(err, `strict decoding error: unknown field "spec.extra"`)
	_, err = e.raw("POST", path, asYAML, strings.ReplaceAll(extra, "'12', extra: 1", "twelve"))
	e.refused(err, `spec.cronSpec: Invalid value: "twelve": spec.cronSpec in body should match '^\d+$'`)
}

func validateDuplicates(e *env) {
	gvr := e.define(definition("Loose", `{"type":"object","properties":{"spec":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}`))
	path := "/apis/" + gvr.GroupVersion().String() + "/namespaces/" + e.ns + "/" + gvr.Resource
	_, err := e.raw("POST", path+"?fieldValidation=Strict", asJSON,
		fmt.Sprintf(`{"apiVersion":%q,"kind":"Loose","metadata":{"name":"one"},"spec":{"unknown":1,"unknown":2}}`, gvr.GroupVersion()))
	e.refused(err, `strict decoding error: duplicate field "spec.unknown"`)
}

func validateCustomMeta(e *env) {
	gvr := e.define(definition("Embedding", `{"type":"object","properties":{"spec":{"type":"object","properties":{"template":{"type":"object","x-kubernetes-embedded-resource":true,"properties":{"metadata":{"type":"object","properties":{"name":{"type":"string"}}}}}}}}}`))
	path := "/apis/" + gvr.GroupVersion().String() + "/namespaces/" + e.ns + "/" + gvr.Resource
	_, err := e.raw("POST", path+"?fieldValidation=Strict", asJSON, fmt.Sprintf(
		`{"apiVersion":%q,"kind":"Embedding","metadata":{"name":"one","unknownMeta":"x"},"spec":{"template":{"apiVersion":"v1","kind":"Sub","metadata":{"name":"sub","unknownSubMeta":"x"}}}}`, gvr.GroupVersion()))
	e.refused(err, `unknown field "metadata.unknownMeta"`, `unknown field "spec.template.metadata.unknownSubMeta"`)
}

func validateRules(e *env) {
	gvr := e.define(definition("Ruled", `{"type":"object","properties":{"spec":{"type":"object","properties":{"min":{"type":"integer"},"max":{"type":"integer","x-kubernetes-validations":[{"rule":"self == oldSelf","message":"max does not change"}]}},"x-kubernetes-validations":[{"rule":"self.min <= self.max","messageExpression":"self.min > 8 ? 'min is far above max' : 'min is above max'"}]}}}`))
	client := e.dynamic.Resource(gvr).Namespace(e.ns)
	made := func(min int) error {
		_, err := client.Create(e.ctx, e.object(`{"apiVersion":"%s/v1","kind":"Ruled","metadata":{"name":"one"},"spec":{"min":%d,"max":5}}`, gvr.Group, min), metav1.CreateOptions{})
		return err
	}
	e.refused(made(9), "min is far above max")
	e.must(made(1))
	_, err := client.Patch(e.ctx, "one", types.MergePatchType, []byte(`{"spec":{"max":7}}`), metav1.PatchOptions{})
	e.refused(err, "max does not change")
	bad := definition("Broken", `{"type":"object","x-kubernetes-validations":[{"rule":"self.nothing ==="}]}`)
	_, err = e.crds.ApiextensionsV1().CustomResourceDefinitions().Create(e.ctx, bad, metav1.CreateOptions{})
	e.refused(err, "compilation failed")
}
