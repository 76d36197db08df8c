package crd_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	restclient "k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// api is a server with the clients that use custom resources.
type api struct {
	*testing.T
	config      *restclient.Config
	definitions clientset.Interface
	objects     dynamic.Interface
	discovery   discovery.DiscoveryInterface
}

func newAPI(t *testing.T) *api {
	t.Helper()
	return apiOf(t, apiservertest.StartServer(t, apiserver.Config{Store: memory.New()}))
}

func apiOf(t *testing.T, s *apiserver.Server) *api {
	t.Helper()
	a := &api{T: t, config: s.LocalConfig(apiservertest.Admin)}
	plain := *a.config
	plain.ContentType, plain.AcceptContentTypes = "application/json", "application/json"
	var err error
	a.definitions, err = clientset.NewForConfig(a.config)
	a.must(err)
	a.objects, err = dynamic.NewForConfig(&plain)
	a.must(err)
	a.discovery, err = discovery.NewDiscoveryClientForConfig(&plain)
	a.must(err)
	return a
}

func (a *api) must(err error) {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
}

// parse reads YAML.
func parse[T any](t *testing.T, text string) *T {
	t.Helper()
	var v T
	if err := yaml.UnmarshalStrict([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return &v
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	return &unstructured.Unstructured{Object: *parse[map[string]any](t, text)}
}

// define creates a definition and waits until it is established.
func (a *api) define(text string) *apiextensionsv1.CustomResourceDefinition {
	a.Helper()
	crd, err := a.definitions.ApiextensionsV1().CustomResourceDefinitions().Create(a.Context(), parse[apiextensionsv1.CustomResourceDefinition](a.T, text), metav1.CreateOptions{})
	a.must(err)
	return a.established(crd.Name)
}

func (a *api) established(name string) *apiextensionsv1.CustomResourceDefinition {
	a.Helper()
	var crd *apiextensionsv1.CustomResourceDefinition
	a.eventually("established", func() bool {
		var err error
		crd, err = a.definitions.ApiextensionsV1().CustomResourceDefinitions().Get(a.Context(), name, metav1.GetOptions{})
		a.must(err)
		return hasCondition(crd, apiextensionsv1.Established, apiextensionsv1.ConditionTrue)
	})
	return crd
}

func hasCondition(crd *apiextensionsv1.CustomResourceDefinition, typ apiextensionsv1.CustomResourceDefinitionConditionType, status apiextensionsv1.ConditionStatus) bool {
	for _, c := range crd.Status.Conditions {
		if c.Type == typ {
			return c.Status == status
		}
	}
	return false
}

func (a *api) eventually(what string, is func() bool) {
	a.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			a.Fatalf("not %s in time", what)
		}
	}
}

const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns:
    - {name: Color, type: string, jsonPath: .spec.color}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas, description: how many}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [color]
            properties:
              color: {type: string, maxLength: 10, enum: [red, green, blue]}
              replicas: {type: integer, default: 1, minimum: 0, maximum: 10}
              size: {x-kubernetes-int-or-string: true}
              tags: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              frozen: {type: string, x-kubernetes-validations: [{rule: self == oldSelf, message: frozen is immutable, reason: FieldValueForbidden}]}
              limit: {type: integer}
            x-kubernetes-validations:
            - {rule: "!has(self.limit) || self.replicas <= self.limit", messageExpression: "'too many ' + self.color + ' replicas'", fieldPath: .replicas}
          status:
            type: object
            properties: {replicas: {type: integer}, selector: {type: string}, phase: {type: string}}
`

var widgetsGVR = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}

func (a *api) widgets() dynamic.ResourceInterface {
	return a.objects.Resource(widgetsGVR).Namespace("default")
}

func widget(t *testing.T, name, spec string) *unstructured.Unstructured {
	return object(t, fmt.Sprintf("{apiVersion: example.com/v1, kind: Widget, metadata: {name: %s}, spec: %s}", name, spec))
}

func (a *api) create(u *unstructured.Unstructured) *unstructured.Unstructured {
	a.Helper()
	u, err := a.widgets().Create(a.Context(), u, metav1.CreateOptions{})
	a.must(err)
	return u
}

func TestVerbs(t *testing.T) {
	a := newAPI(t)
	crd := a.define(widgets)
	if !hasCondition(crd, apiextensionsv1.NamesAccepted, apiextensionsv1.ConditionTrue) || fmt.Sprint(crd.Status.StoredVersions) != "[v1]" {
		t.Errorf("status is %+v", crd.Status)
	}
	w, err := a.widgets().Watch(t.Context(), metav1.ListOptions{FieldSelector: "spec.color=red"})
	a.must(err)
	defer w.Stop()
	u := a.create(widget(t, "a", "{color: red, unknown: 1, size: 5}"))
	if s := fmt.Sprint(u.Object["spec"]); s != "map[color:red replicas:1 size:5]" {
		t.Errorf("the object is stored as %s", s)
	}
	if u.GetGeneration() != 1 || u.GetUID() == "" {
		t.Errorf("metadata is %v", u.Object["metadata"])
	}
	a.create(widget(t, "b", "{color: blue}"))

	// An update of the object leaves the status alone, one of the status the object.
	u.Object["status"] = map[string]any{"phase": "x"}
	a.must(unstructured.SetNestedField(u.Object, int64(2), "spec", "replicas"))
	u, err = a.widgets().Update(t.Context(), u, metav1.UpdateOptions{})
	a.must(err)
	if _, ok := u.Object["status"]; ok || u.GetGeneration() != 2 {
		t.Errorf("updated to %v", u.Object)
	}
	u.Object["status"] = map[string]any{"phase": "x", "replicas": int64(7), "selector": "a=b"}
	a.must(unstructured.SetNestedField(u.Object, int64(9), "spec", "replicas"))
	u, err = a.widgets().UpdateStatus(t.Context(), u, metav1.UpdateOptions{})
	a.must(err)
	if n, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas"); n != 2 || u.GetGeneration() != 2 {
		t.Errorf("a status update gives %v", u.Object)
	}

	// Patches.
	_, err = a.widgets().Patch(t.Context(), "a", types.MergePatchType, []byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{})
	a.must(err)
	u, err = a.widgets().Patch(t.Context(), "a", types.JSONPatchType, []byte(`[{"op":"replace","path":"/spec/replicas","value":4}]`), metav1.PatchOptions{})
	a.must(err)
	if n, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas"); n != 4 || u.GetGeneration() != 4 {
		t.Errorf("patched to %v", u.Object)
	}
	_, err = a.widgets().Patch(t.Context(), "a", types.StrategicMergePatchType, []byte(`{}`), metav1.PatchOptions{})
	if !apierrors.IsUnsupportedMediaType(err) {
		t.Errorf("a strategic merge patch gives %v", err)
	}

	// Scale.
	scale, err := a.widgets().Get(t.Context(), "a", metav1.GetOptions{}, "scale")
	a.must(err)
	if s := fmt.Sprint(scale.GetKind(), " ", scale.Object["spec"], scale.Object["status"]); s != "Scale map[replicas:4] map[replicas:7 selector:a=b]" {
		t.Errorf("scale is %s", s)
	}
	_, err = a.widgets().Patch(t.Context(), "a", types.MergePatchType, []byte(`{"spec":{"replicas":5}}`), metav1.PatchOptions{}, "scale")
	a.must(err)

	// Reads.
	l, err := a.widgets().List(t.Context(), metav1.ListOptions{FieldSelector: "spec.color=blue"})
	a.must(err)
	if len(l.Items) != 1 || l.Items[0].GetName() != "b" || l.GetKind() != "WidgetList" || l.Items[0].GetKind() != "Widget" {
		t.Errorf("list of blue ones: %v", l)
	}
	if _, err = a.widgets().List(t.Context(), metav1.ListOptions{FieldSelector: "spec.size=1"}); err == nil || !strings.Contains(err.Error(), "field label not supported: spec.size") {
		t.Errorf("a selector of another field gives %v", err)
	}
	for _, want := range []string{"ADDED 1", "MODIFIED 2", "MODIFIED 2", "MODIFIED 3", "MODIFIED 4", "MODIFIED 5"} {
		e := <-w.ResultChan()
		if got := fmt.Sprint(e.Type, " ", e.Object.(metav1.Object).GetGeneration()); got != want {
			t.Errorf("watched %s, want %s", got, want)
		}
	}
	a.must(a.widgets().Delete(t.Context(), "a", metav1.DeleteOptions{}))
	if e := <-w.ResultChan(); e.Type != watch.Deleted {
		t.Errorf("watched %v", e)
	}
	a.must(a.widgets().DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	l, err = a.widgets().List(t.Context(), metav1.ListOptions{})
	a.must(err)
	if len(l.Items) != 0 {
		t.Errorf("%d objects are left", len(l.Items))
	}
}

// TestRefusals holds the texts that users see.
func TestRefusals(t *testing.T) {
	a := newAPI(t)
	a.define(widgets)
	for spec, want := range map[string]string{
		"{}":                                  "spec.color: Required value",
		"{color: pink}":                       `spec.color: Unsupported value: "pink": supported values: "red", "green", "blue"`,
		"{color: 5}":                          "spec.color: Invalid value: \"integer\": spec.color in body must be of type string: \"integer\"",
		"{color: red, replicas: 11}":          "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
		"{color: red, tags: [a, a]}":          `spec.tags[1]: Duplicate value: "a"`,
		"{color: red, limit: 2, replicas: 3}": "too many red replicas",
	} {
		_, err := a.widgets().Create(t.Context(), widget(t, "x", spec), metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v\nwant %s", spec, err, want)
		}
	}
	_, err := a.widgets().Create(t.Context(), widget(t, "x", "{color: red, nope: 1, size: {}}"), metav1.CreateOptions{FieldValidation: "Strict"})
	if err == nil || !strings.Contains(err.Error(), `strict decoding error: unknown field "spec.nope"`) {
		t.Errorf("unknown fields give %v", err)
	}
	u := a.create(widget(t, "x", "{color: red, frozen: a}"))
	a.must(unstructured.SetNestedField(u.Object, "b", "spec", "frozen"))
	_, err = a.widgets().Update(t.Context(), u, metav1.UpdateOptions{})
	if want := "spec.frozen: Forbidden: frozen is immutable"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a changed frozen field gives %v", err)
	}
	bad := widget(t, "X_y", "{color: red}")
	if _, err = a.widgets().Create(t.Context(), bad, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a bad name gives %v", err)
	}
}

func TestDefinitionEnds(t *testing.T) {
	a := newAPI(t)
	a.define(widgets)
	a.create(widget(t, "free", "{color: red}"))
	held := widget(t, "held", "{color: red}")
	held.SetFinalizers([]string{"example.com/wait"})
	a.create(held)
	w, err := a.widgets().Watch(t.Context(), metav1.ListOptions{})
	a.must(err)
	defer w.Stop()
	client := a.definitions.ApiextensionsV1().CustomResourceDefinitions()
	a.must(client.Delete(t.Context(), "widgets.example.com", metav1.DeleteOptions{}))
	a.eventually("empty but for the held object", func() bool {
		l, err := a.widgets().List(t.Context(), metav1.ListOptions{})
		a.must(err)
		return len(l.Items) == 1 && l.Items[0].GetDeletionTimestamp() != nil
	})
	crd, err := client.Get(t.Context(), "widgets.example.com", metav1.GetOptions{})
	a.must(err)
	if !hasCondition(crd, apiextensionsv1.Terminating, apiextensionsv1.ConditionTrue) {
		t.Errorf("conditions are %v", crd.Status.Conditions)
	}
	_, err = a.widgets().Create(t.Context(), widget(t, "late", "{color: red}"), metav1.CreateOptions{})
	if want := "create not allowed while custom resource definition is terminating"; !apierrors.IsForbidden(err) && !apierrors.IsMethodNotSupported(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("a creation gives %v", err)
	}
	_, err = a.widgets().Patch(t.Context(), "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	a.must(err)
	a.eventually("gone", func() bool {
		_, err := client.Get(t.Context(), "widgets.example.com", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	a.eventually("not served", func() bool {
		_, err := a.widgets().List(t.Context(), metav1.ListOptions{})
		return apierrors.IsNotFound(err)
	})
	deleted := 0
	for e := range w.ResultChan() {
		if e.Type == watch.Deleted {
			deleted++
		}
	}
	if deleted != 2 {
		t.Errorf("%d deletions watched", deleted)
	}
	a.define(widgets)
	a.create(widget(t, "new", "{color: red}"))
	l, err := a.widgets().List(t.Context(), metav1.ListOptions{})
	a.must(err)
	if len(l.Items) != 1 {
		t.Errorf("the new definition has %d objects", len(l.Items))
	}
}

// TestTwoServers: both servers on one store serve what is defined on one of them.
func TestTwoServers(t *testing.T) {
	st := memory.New()
	one := apiOf(t, apiservertest.StartServer(t, apiserver.Config{Store: st}))
	two := apiOf(t, apiservertest.StartServer(t, apiserver.Config{Store: st}))
	one.define(widgets)
	two.established("widgets.example.com")
	two.eventually("served", func() bool {
		_, err := two.widgets().List(t.Context(), metav1.ListOptions{})
		return err == nil
	})
	two.create(widget(t, "a", "{color: red}"))
	_, err := one.widgets().Get(t.Context(), "a", metav1.GetOptions{})
	one.must(err)
}

func TestDiscovery(t *testing.T) {
	a := newAPI(t)
	a.define(widgets)
	var l *metav1.APIResourceList
	a.eventually("discovered", func() bool {
		var err error
		l, err = a.discovery.ServerResourcesForGroupVersion("example.com/v1")
		return err == nil
	})
	var names []string
	for _, r := range l.APIResources {
		names = append(names, r.Name)
	}
	if fmt.Sprint(names) != "[widgets widgets/scale widgets/status]" {
		t.Errorf("discovered %v", names)
	}
}

func TestNameConflicts(t *testing.T) {
	a := newAPI(t)
	a.define(widgets)
	other := strings.NewReplacer("widgets.example.com", "gadgets.example.com", "plural: widgets, kind: Widget", "plural: gadgets, kind: Widget").Replace(widgets)
	client := a.definitions.ApiextensionsV1().CustomResourceDefinitions()
	_, err := client.Create(t.Context(), parse[apiextensionsv1.CustomResourceDefinition](t, other), metav1.CreateOptions{})
	a.must(err)
	var crd *apiextensionsv1.CustomResourceDefinition
	a.eventually("refused", func() bool {
		crd, err = client.Get(t.Context(), "gadgets.example.com", metav1.GetOptions{})
		a.must(err)
		return hasCondition(crd, apiextensionsv1.NamesAccepted, apiextensionsv1.ConditionFalse)
	})
	for _, c := range crd.Status.Conditions {
		if c.Type == apiextensionsv1.NamesAccepted && (c.Reason != "ListKindConflict" || c.Message != `"WidgetList" is already in use`) {
			t.Errorf("condition is %+v", c)
		}
	}
	a.must(client.Delete(t.Context(), "widgets.example.com", metav1.DeleteOptions{}))
	a.established("gadgets.example.com")
}
