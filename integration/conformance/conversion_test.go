package conformance

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic/dynamicinformer"
)

var conversionTests = map[string]func(*env){
	"fields select in every version, converted by a webhook": selectConverted,
	"a list of mixed versions is converted":                  listConverted,
	"a webhook that fails is told of":                        failingConversion,
}

// hosts converts between v1, which has a host and a port, and v2, which has both in one text. This is what the webhook does.
func convertHosts(u *unstructured.Unstructured, to string) {
	if u.GetAPIVersion() == to {
		return
	}
	u.SetAPIVersion(to)
	if strings.HasSuffix(to, "/v2") {
		u.Object["hostPort"] = fmt.Sprintf("%v:%v", u.Object["host"], u.Object["port"])
		delete(u.Object, "host")
		delete(u.Object, "port")
		return
	}
	host, port, _ := strings.Cut(fmt.Sprint(u.Object["hostPort"]), ":")
	u.Object["host"], u.Object["port"] = host, port
	delete(u.Object, "hostPort")
}

func serveConversions(w http.ResponseWriter, req *http.Request) {
	var review apiextensionsv1.ConversionReview
	if err := json.NewDecoder(req.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer := &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		var u unstructured.Unstructured
		if err := json.Unmarshal(raw.Raw, &u.Object); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		convertHosts(&u, review.Request.DesiredAPIVersion)
		answer.ConvertedObjects = append(answer.ConvertedObjects, runtime.RawExtension{Object: &u})
	}
	review.Request, review.Response = nil, answer
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(&review)
}

// hosts defines a kind of two versions that a webhook converts; v1 is stored, and both can be selected by fields.
func (e *env) hosts(kind string, h http.HandlerFunc) (v1, v2 schema.GroupVersionResource) {
	e.Helper()
	port, ca := e.server("127.0.0.1", h)
	url := fmt.Sprintf("https://127.0.0.1:%d/convert", port)
	d := definition(kind, `{"type":"object","properties":{"host":{"type":"string"},"port":{"type":"string"}}}`)
	d.Spec.Versions[0].SelectableFields = []apiextensionsv1.SelectableField{{JSONPath: ".host"}}
	second := *definition(kind, `{"type":"object","properties":{"hostPort":{"type":"string"}}}`).Spec.Versions[0].DeepCopy()
	second.Name, second.Storage, second.SelectableFields = "v2", false, []apiextensionsv1.SelectableField{{JSONPath: ".hostPort"}}
	d.Spec.Versions = append(d.Spec.Versions, second)
	d.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
		ClientConfig: &apiextensionsv1.WebhookClientConfig{URL: &url, CABundle: ca}, ConversionReviewVersions: []string{"v1"},
	}}
	v1 = e.define(d)
	v2 = v1
	v2.Version = "v2"
	return v1, v2
}

func (e *env) host(gvr schema.GroupVersionResource, kind, name, host, port string) {
	e.Helper()
	_, err := e.dynamic.Resource(gvr).Namespace(e.ns).Create(e.ctx, e.object(
		`{"apiVersion":"%s","kind":%q,"metadata":{"name":%q},"host":%q,"port":%q}`, gvr.GroupVersion(), kind, name, host, port), metav1.CreateOptions{})
	e.must(err)
}

// names are those of a list, sorted.
func (e *env) names(gvr schema.GroupVersionResource, selector string) string {
	e.Helper()
	l, err := e.dynamic.Resource(gvr).Namespace(e.ns).List(e.ctx, metav1.ListOptions{FieldSelector: selector})
	e.must(err)
	found := map[string]bool{}
	for _, item := range l.Items {
		equal(e, "version", item.GetAPIVersion(), gvr.GroupVersion().String())
		found[item.GetName()] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(found)), " ")
}

func selectConverted(e *env) {
	v1, v2 := e.hosts("Host", serveConversions)
	first, second := e.dynamic.Resource(v1).Namespace(e.ns), e.dynamic.Resource(v2).Namespace(e.ns)
	start := func(gvr schema.GroupVersionResource, selector string) watch.Interface {
		w, err := e.dynamic.Resource(gvr).Namespace(e.ns).Watch(e.ctx, metav1.ListOptions{FieldSelector: selector})
		e.must(err)
		e.Cleanup(w.Stop)
		return w
	}
	one, two := start(v1, "host=host1"), start(v2, "hostPort=host1:80")
	informers := dynamicinformer.NewFilteredDynamicSharedInformerFactory(e.dynamic, time.Minute, e.ns, func(o *metav1.ListOptions) { o.FieldSelector = "hostPort=host1:80" })
	informer := informers.ForResource(v2).Informer()
	informers.Start(e.ctx.Done())
	informers.WaitForCacheSync(e.ctx.Done())

	e.host(v1, "Host", "a", "host1", "80")
	e.host(v1, "Host", "b", "host1", "8080")
	e.host(v1, "Host", "c", "host2", "80")
	equal(e, "by v1's field", e.names(v1, "host=host1"), "a b")
	equal(e, "by v1's field, other than", e.names(v1, "host!=host1"), "c")
	equal(e, "by v2's field", e.names(v2, "hostPort=host1:80"), "a")
	_, err := second.List(e.ctx, metav1.ListOptions{FieldSelector: "host=host1"})
	e.refused(err, "field label not supported: host")
	e.sees(one, watch.Added)
	e.sees(one, watch.Added)
	e.sees(two, watch.Added)
	e.eventually(func() error { return same(len(informer.GetStore().ListKeys()), 1) })

	_, err = second.Patch(e.ctx, "a", types.MergePatchType, []byte(`{"hostPort":"host3:80"}`), metav1.PatchOptions{})
	e.must(err)
	e.sees(one, watch.Deleted)
	e.sees(two, watch.Deleted)
	e.eventually(func() error { return same(len(informer.GetStore().ListKeys()), 0) })
	got, err := first.Get(e.ctx, "a", metav1.GetOptions{})
	e.must(err)
	equal(e, "what v2 wrote", fmt.Sprint(got.Object["host"], " ", got.Object["port"]), "host3 80")

	e.must(second.DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "hostPort=host1:8080"}))
	equal(e, "left", e.names(v1, ""), "a c")
	e.quiet(two)
}

func listConverted(e *env) {
	v1, v2 := e.hosts("Mixed", serveConversions)
	e.host(v1, "Mixed", "a", "host1", "80")
	_, err := e.dynamic.Resource(v2).Namespace(e.ns).Create(e.ctx, e.object(
		`{"apiVersion":"%s","kind":"Mixed","metadata":{"name":"b"},"hostPort":"host2:81"}`, v2.GroupVersion()), metav1.CreateOptions{})
	e.must(err)
	d := v1.Resource + "." + v1.Group
	e.changeDefinition(d, func(s *apiextensionsv1.CustomResourceDefinitionSpec) {
		s.Versions[0].Storage, s.Versions[1].Storage = false, true
	})
	e.eventually(func() error { // stored in v2 from some moment on
		_, err := e.dynamic.Resource(v2).Namespace(e.ns).Patch(e.ctx, "b", types.MergePatchType, []byte(`{"hostPort":"host2:82"}`), metav1.PatchOptions{})
		return err
	})
	for _, gvr := range []schema.GroupVersionResource{v1, v2} {
		equal(e, "in "+gvr.Version, e.names(gvr, ""), "a b")
	}
	got, err := e.dynamic.Resource(v1).Namespace(e.ns).Get(e.ctx, "b", metav1.GetOptions{})
	e.must(err)
	equal(e, "port", fmt.Sprint(got.Object["port"]), "82")
}

func failingConversion(e *env) {
	v1, v2 := e.hosts("Failing", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "out of order", http.StatusInternalServerError)
	})
	e.host(v1, "Failing", "a", "host1", "80")
	_, err := e.dynamic.Resource(v2).Namespace(e.ns).Get(e.ctx, "a", metav1.GetOptions{})
	e.refused(err, "conversion webhook for "+v1.GroupVersion().String()+", Kind=Failing failed")
	_, err = e.dynamic.Resource(v1).Namespace(e.ns).Get(e.ctx, "a", metav1.GetOptions{})
	e.must(err)
}
