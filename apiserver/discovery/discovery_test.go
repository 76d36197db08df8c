package discovery

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/apiserver/kinds"
	"github.com/coracle-dev/coracle/apiserver/rest"
)

func get(t testing.TB, h http.Handler, path, accept, etag string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequest("GET", path, nil)
	req.Header.Set("Accept", accept)
	req.Header.Set("If-None-Match", etag)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	return rec
}

// TestEveryKindIsShown: both forms of discovery show every kind of the table, with its verbs and subresources.
func TestEveryKindIsShown(t *testing.T) {
	table := kinds.All()
	h, err := New(table)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]apidiscoveryv2.APIResourceDiscovery{}
	for _, path := range []string{"/api", "/apis"} {
		var list apidiscoveryv2.APIGroupDiscoveryList
		if err := json.Unmarshal(get(t, h, path, aggregatedType, "").Body.Bytes(), &list); err != nil {
			t.Fatal(err)
		}
		for _, g := range list.Items {
			for _, v := range g.Versions {
				for _, r := range v.Resources {
					shown[g.Name+"/"+v.Version+"/"+r.Resource] = r
				}
			}
		}
	}
	for i := range table {
		k := &table[i]
		name := k.GVK.Group + "/" + k.GVK.Version + "/" + k.Resource
		r, ok := shown[name]
		if !ok {
			t.Errorf("%s is not shown", name)
			continue
		}
		path := "/apis/" + k.GVK.GroupVersion().String()
		if k.GVK.Group == "" {
			path = "/api/" + k.GVK.Version
		}
		var list metav1.APIResourceList
		if err := json.Unmarshal(get(t, h, path, "application/json", "").Body.Bytes(), &list); err != nil {
			t.Fatal(err)
		}
		found := slices.IndexFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == k.Resource })
		if found < 0 || !slices.Equal(list.APIResources[found].Verbs, rest.Verbs(k)) || !slices.Equal(r.Verbs, rest.Verbs(k)) ||
			list.APIResources[found].Namespaced != k.Namespaced || list.APIResources[found].Kind != k.GVK.Kind {
			t.Errorf("%s is shown as %+v and %+v", name, r, list.APIResources)
		}
		subs := len(k.Others)
		if k.Status != nil {
			subs++
		}
		if k.Scale != nil {
			subs++
		}
		if len(r.Subresources) != subs {
			t.Errorf("%s has %d subresources, shown are %+v", name, subs, r.Subresources)
		}
	}
}

func TestETag(t *testing.T) {
	h, err := New(kinds.All())
	if err != nil {
		t.Fatal(err)
	}
	first := get(t, h, "/apis/", aggregatedType+",application/json", "")
	etag := first.Header().Get("ETag")
	if first.Code != http.StatusOK || etag == "" || first.Header().Get("Content-Type") != aggregatedType {
		t.Errorf("%d %v", first.Code, first.Header())
	}
	if again := get(t, h, "/apis", aggregatedType, etag); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
		t.Errorf("%d %s", again.Code, again.Body)
	}
}

func TestWantsAggregated(t *testing.T) {
	for accept, want := range map[string]bool{
		"":                 false,
		"*/*":              false,
		"application/json": false,
		aggregatedType:     true,
		"application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json":  false,
		"application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList," + aggregatedType: true,
		"application/json," + aggregatedType:                    false,
		"application/vnd.kubernetes.protobuf," + aggregatedType: true,
	} {
		if got := wantsAggregated(accept); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
}
