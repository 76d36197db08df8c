package rest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/store"
)

// TestCachedObjectsStay: no verb changes an object of the cache; only the store's events replace it.
func TestCachedObjectsStay(t *testing.T) {
	f := newFixture(t, nil)
	f.must("POST", podsPath, `{"metadata":{"name":"p","labels":{"a":"b"},"finalizers":["example.com/hold"],"annotations":{"x":"y"}},
		"spec":{"containers":[{"name":"c","image":"i","env":[{"name":"E","value":"v"}]}],"tolerations":[{"key":"k","operator":"Exists"}]}}`)
	for i, step := range [][]string{
		{"GET", "/p", ""},
		{"GET", "", "", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io"},
		{"GET", "", "", "Accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"},
		{"PATCH", "/p?dryRun=All", `{"metadata":{"labels":{"a":"c","n":"1"},"annotations":null,"finalizers":[]}}`, "Content-Type", mergeType},
		{"PATCH", "/p?dryRun=All", `{"spec":{"containers":[{"name":"c","image":"j"}]},"status":{"phase":"Running"}}`, "Content-Type", "application/strategic-merge-patch+json"},
		{"PATCH", "/p/status?dryRun=All", `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`, "Content-Type", "application/strategic-merge-patch+json"},
		{"PATCH", "/p", `{"metadata":{"labels":{"a":"c"}}}`, "Content-Type", mergeType},
		{"PATCH", "/p/status", `{"status":{"phase":"Running"}}`, "Content-Type", mergeType},
		{"POST", "/p/binding", `{"metadata":{"annotations":{"bound":"yes"}},"target":{"name":"n1"}}`},
		{"DELETE", "/p?dryRun=All", ""},
		{"DELETE", "/p", ""},
		{"DELETE", "/p?gracePeriodSeconds=1", ""},
		{"PATCH", "/p", `{"metadata":{"finalizers":null}}`, "Content-Type", mergeType},
		{"DELETE", "/p?gracePeriodSeconds=0", ""},
	} {
		before, ok := f.cachedPod("p")
		if !ok {
			t.Fatalf("step %d: the pod is gone", i)
		}
		copied := before.DeepCopyObject()
		if a := f.do(step[0], podsPath+step[1], step[2], step[3:]...); a.code >= 300 {
			t.Fatalf("%v: %d %s", step, a.code, a.text)
		}
		if diff := cmp.Diff(copied, before); diff != "" {
			t.Errorf("%v changed a cached object: %s", step, diff)
		}
	}
}

func (f *fixture) cachedPod(name string) (runtime.Object, bool) {
	o, err := f.cache.Get(context.Background(), "pods", fmt.Sprintf("%spods/default/%s", store.Root, name), cache.Newest)
	if err != nil {
		return nil, false
	}
	return o.Object, true
}
