package crd_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	restclient "k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/openapi"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// addresses has two versions: hostPort in v1, which is stored, and host and port in v2.
const addresses = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: addresses.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: addresses, singular: address, kind: Address}
  conversion: {strategy: Webhook, webhook: {conversionReviewVersions: [v1], clientConfig: {url: URL, caBundle: CA}}}
  versions:
  - name: v1
    served: true
    storage: true
    deprecated: true
    selectableFields: [{jsonPath: .hostPort}]
    schema: {openAPIV3Schema: {type: object, properties: {hostPort: {type: string}}}}
  - name: v2
    served: true
    storage: false
    selectableFields: [{jsonPath: .host}, {jsonPath: .port}]
    schema: {openAPIV3Schema: {type: object, properties: {host: {type: string}, port: {type: string}}}}
`

// convertAddress is what the webhook does.
func convertAddress(u *unstructured.Unstructured, version string) {
	if _, v, _ := strings.Cut(version, "/"); v == "v2" {
		text, _, _ := unstructured.NestedString(u.Object, "hostPort")
		u.Object["host"], u.Object["port"], _ = strings.Cut(text, ":")
		delete(u.Object, "hostPort")
	} else {
		u.Object["hostPort"] = fmt.Sprint(u.Object["host"], ":", u.Object["port"])
		delete(u.Object, "host")
		delete(u.Object, "port")
	}
	u.SetAPIVersion(version)
	u.SetLabels(map[string]string{"converted": "yes"})
}

// webhook serves conversions and counts them. While broken it answers 500.
type webhook struct {
	*httptest.Server
	calls  atomic.Int64
	broken atomic.Bool
}

func newWebhook(t *testing.T) *webhook {
	w := &webhook{}
	w.Server = httptest.NewTLSServer(http.HandlerFunc(func(out http.ResponseWriter, req *http.Request) {
		w.calls.Add(1)
		if w.broken.Load() {
			http.Error(out, "no", http.StatusInternalServerError)
			return
		}
		raw, _ := io.ReadAll(req.Body)
		var review apiextensionsv1.ConversionReview
		if err := json.Unmarshal(raw, &review); err != nil {
			t.Error(err)
		}
		review.Response = &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
		for _, o := range review.Request.Objects {
			u := &unstructured.Unstructured{}
			if err := u.UnmarshalJSON(o.Raw); err != nil {
				t.Error(err)
			}
			convertAddress(u, review.Request.DesiredAPIVersion)
			review.Response.ConvertedObjects = append(review.Response.ConvertedObjects, runtime.RawExtension{Object: u})
		}
		review.Request = nil
		_ = json.NewEncoder(out).Encode(review)
	}))
	t.Cleanup(w.Close)
	return w
}

func (w *webhook) define(text string) string {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.Certificate().Raw})
	encoded, _ := json.Marshal(ca)
	return strings.NewReplacer("URL", w.URL, "CA}", string(encoded)+"}").Replace(text)
}

func TestWebhookConversion(t *testing.T) {
	a, hook := newAPI(t), newWebhook(t)
	a.define(hook.define(addresses))
	in := func(version string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Group: "example.com", Version: version, Resource: "addresses"}
	}
	v1, v2 := a.objects.Resource(in("v1")).Namespace("default"), a.objects.Resource(in("v2")).Namespace("default")
	w, err := v2.Watch(t.Context(), metav1.ListOptions{FieldSelector: "host=a"})
	a.must(err)
	defer w.Stop()
	_, err = v1.Create(t.Context(), object(t, "{apiVersion: example.com/v1, kind: Address, metadata: {name: one}, hostPort: 'a:1'}"), metav1.CreateOptions{})
	a.must(err)
	_, err = v2.Create(t.Context(), object(t, "{apiVersion: example.com/v2, kind: Address, metadata: {name: two}, host: b, port: '2'}"), metav1.CreateOptions{})
	a.must(err)
	u, err := v2.Get(t.Context(), "one", metav1.GetOptions{})
	a.must(err)
	if u.Object["host"] != "a" || u.Object["port"] != "1" || u.GetAPIVersion() != "example.com/v2" || u.GetLabels()["converted"] != "yes" || u.GetUID() == "" {
		t.Errorf("in v2 it is %v", u.Object)
	}
	u, err = v1.Get(t.Context(), "two", metav1.GetOptions{})
	a.must(err)
	if u.Object["hostPort"] != "b:2" {
		t.Errorf("in v1 it is %v", u.Object)
	}
	for selector, want := range map[string]string{"host=b": "two", "host!=b": "one", "host=b,port=2": "two"} {
		l, err := v2.List(t.Context(), metav1.ListOptions{FieldSelector: selector})
		a.must(err)
		if len(l.Items) != 1 || l.Items[0].GetName() != want {
			t.Errorf("%s selects %v", selector, l.Items)
		}
	}
	if e := <-w.ResultChan(); e.Object.(*unstructured.Unstructured).GetName() != "one" {
		t.Errorf("watched %v", e)
	}
	// Many are converted in one call, and then remembered.
	for i := range 20 {
		_, err = v1.Create(t.Context(), object(t, fmt.Sprintf("{apiVersion: example.com/v1, kind: Address, metadata: {name: n%d}, hostPort: 'c:1'}", i)), metav1.CreateOptions{})
		a.must(err)
	}
	calls := hook.calls.Load()
	for range 5 {
		_, err = v2.List(t.Context(), metav1.ListOptions{})
		a.must(err)
	}
	if n := hook.calls.Load() - calls; n > 21 { // the watch selects by a field, and converts each by itself
		t.Errorf("lists convert again: %d calls", n)
	}
	u, err = v2.Patch(t.Context(), "one", types.MergePatchType, []byte(`{"port":"9"}`), metav1.PatchOptions{})
	a.must(err)
	if u.Object["port"] != "9" {
		t.Errorf("patched to %v", u.Object)
	}
	hook.broken.Store(true)
	_, err = v2.Patch(t.Context(), "one", types.MergePatchType, []byte(`{"port":"10"}`), metav1.PatchOptions{})
	if err == nil || !strings.Contains(err.Error(), "conversion webhook for example.com/") {
		t.Errorf("a broken webhook gives %v", err)
	}
	hook.broken.Store(false)
	_, err = v2.Patch(t.Context(), "one", types.MergePatchType, []byte(`{"port":"10"}`), metav1.PatchOptions{})
	a.must(err)
}

// TestRenamedVersions: with conversion None, versions differ in their names and schemas alone, and storage may move.
func TestRenamedVersions(t *testing.T) {
	a := newAPI(t)
	crd := a.define(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: notes.example.com}
spec:
  group: example.com
  scope: Cluster
  names: {plural: notes, singular: note, kind: Note}
  versions:
  - {name: v1alpha1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {a: {type: string}, b: {type: string, default: old}}}}}
  - {name: v1, served: true, storage: false, schema: {openAPIV3Schema: {type: object, properties: {a: {type: string}, b: {type: string}, c: {type: string, default: new}}}}}
`)
	notes := func(version string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Group: "example.com", Version: version, Resource: "notes"}
	}
	alpha, v1 := a.objects.Resource(notes("v1alpha1")), a.objects.Resource(notes("v1"))
	_, err := alpha.Create(t.Context(), object(t, "{apiVersion: example.com/v1alpha1, kind: Note, metadata: {name: x}, a: x}"), metav1.CreateOptions{})
	a.must(err)
	u, err := v1.Get(t.Context(), "x", metav1.GetOptions{})
	a.must(err)
	if fmt.Sprint(u.GetAPIVersion(), u.Object["a"], u.Object["b"], u.Object["c"]) != "example.com/v1xold<nil>" {
		t.Errorf("in v1 it is %v", u.Object)
	}
	w, err := v1.Watch(t.Context(), metav1.ListOptions{ResourceVersion: u.GetResourceVersion()})
	a.must(err)
	defer w.Stop()
	crd.Spec.Versions[0].Storage, crd.Spec.Versions[1].Storage = false, true
	client := a.definitions.ApiextensionsV1().CustomResourceDefinitions()
	crd, err = client.Update(t.Context(), crd, metav1.UpdateOptions{})
	a.must(err)
	if fmt.Sprint(crd.Status.StoredVersions) != "[v1alpha1 v1]" {
		t.Errorf("stored versions are %v", crd.Status.StoredVersions)
	}
	for range w.ResultChan() { // ends, for the schema is another now
	}
	a.eventually("stored in v1", func() bool {
		u, err := v1.Get(t.Context(), "x", metav1.GetOptions{})
		a.must(err)
		u, err = v1.Update(t.Context(), u, metav1.UpdateOptions{})
		a.must(err)
		return u.Object["c"] == "new"
	})
	l, err := a.discovery.ServerGroups()
	a.must(err)
	for _, g := range l.Groups {
		if g.Name == "example.com" && (g.PreferredVersion.Version != "v1" || len(g.Versions) != 2) {
			t.Errorf("discovered %v", g)
		}
	}
}

// TestForms: tables, metadata alone, and the forms that there are not.
func TestForms(t *testing.T) {
	a := newAPI(t)
	a.define(widgets)
	a.create(widget(t, "a", "{color: red, replicas: 2}"))
	c, err := restclient.HTTPClientFor(a.config)
	a.must(err)
	get := func(accept, query string) (int, string, string) {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, a.config.Host+"/apis/example.com/v1/namespaces/default/widgets"+query, nil)
		a.must(err)
		req.Header.Set("Accept", accept)
		resp, err := c.Do(req)
		a.must(err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		a.must(err)
		return resp.StatusCode, resp.Header.Get("Content-Type"), string(body)
	}
	_, _, body := get("application/json;as=Table;v=v1;g=meta.k8s.io", "?includeObject=None")
	var table metav1.Table
	a.must(json.Unmarshal([]byte(body), &table))
	var names []string
	for _, c := range table.ColumnDefinitions {
		names = append(names, c.Name+" "+c.Type)
	}
	if fmt.Sprint(names, table.Rows[0].Cells) != "[Name string Color string Replicas integer] [a red 2]" {
		t.Errorf("table is %v %v", names, table.Rows)
	}
	code, typ, body := get("application/vnd.kubernetes.protobuf", "")
	if code != http.StatusNotAcceptable {
		t.Errorf("protobuf gives %d %s %s", code, typ, body)
	}
	if code, typ, _ = get("application/vnd.kubernetes.protobuf,application/json", "/a"); code != http.StatusOK || typ != "application/json" {
		t.Errorf("protobuf or JSON gives %d %s", code, typ)
	}
	if code, typ, _ = get("application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", ""); code != http.StatusOK || typ != "application/vnd.kubernetes.protobuf" {
		t.Errorf("metadata gives %d %s", code, typ)
	}
	if code, _, body = get("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", "/a"); code != http.StatusOK || strings.Contains(body, "color") {
		t.Errorf("metadata is %s", body)
	}
	if code, typ, body = get("application/yaml", "/a"); code != http.StatusOK || !strings.Contains(body, "color: red") {
		t.Errorf("YAML is %d %s %s", code, typ, body)
	}
}

// TestPublished: the documents show what is defined, and show it no longer once it is gone.
func TestPublished(t *testing.T) {
	h, err := openapi.New()
	if err != nil {
		t.Fatal(err)
	}
	a := apiOf(t, apiservertest.StartServer(t, apiserver.Config{Store: memory.New(), OpenAPI: h}))
	a.define(widgets)
	a.eventually("published", func() bool {
		paths, err := a.discovery.OpenAPIV3().Paths()
		a.must(err)
		gv := paths["apis/example.com/v1"]
		if gv == nil {
			return false
		}
		raw, err := gv.Schema("application/json")
		a.must(err)
		return strings.Contains(string(raw), `"com.example.v1.Widget"`)
	})
	doc, err := a.discovery.OpenAPISchema()
	a.must(err)
	found := map[string]bool{}
	for _, d := range doc.GetDefinitions().GetAdditionalProperties() {
		found[d.GetName()] = true
	}
	if !found["com.example.v1.Widget"] || !found["io.k8s.api.core.v1.Pod"] {
		t.Error("version 2 lacks kinds")
	}
	// Server-side apply merges by the schema: a set is joined, not replaced.
	for manager, tag := range map[string]string{"one": "a", "two": "b"} {
		_, err := a.widgets().Apply(t.Context(), "w", widget(t, "w", "{color: red, tags: ["+tag+"]}"), metav1.ApplyOptions{FieldManager: manager, Force: true})
		a.must(err)
	}
	u, err := a.widgets().Get(t.Context(), "w", metav1.GetOptions{})
	a.must(err)
	if tags, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "tags"); len(tags) != 2 {
		t.Errorf("two managers' tags are %v", tags)
	}
	a.must(a.definitions.ApiextensionsV1().CustomResourceDefinitions().Delete(t.Context(), "widgets.example.com", metav1.DeleteOptions{}))
	a.eventually("withdrawn", func() bool {
		paths, err := a.discovery.OpenAPIV3().Paths()
		a.must(err)
		return paths["apis/example.com/v1"] == nil
	})
}
