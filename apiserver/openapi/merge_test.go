package openapi

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	customV3 = `{"openapi":"3.0.0","info":{"title":"x","version":"1"},"paths":{"/apis/example.com/v1/things":{"get":{"operationId":"listThings","responses":{"200":{"description":"OK"}}}}},
		"components":{"schemas":{"com.example.v1.Thing":{"type":"object"}}}}`
	customV2 = `{"swagger":"2.0","info":{"title":"x","version":"1"},"paths":{"/apis/example.com/v1/things":{"get":{"operationId":"listThings","responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/com.example.v1.Thing"}}}}}},
		"definitions":{"com.example.v1.Thing":{"type":"object"}}}`
)

func custom(t testing.TB) (*spec3.OpenAPI, *spec.Swagger) {
	t.Helper()
	v3, v2 := new(spec3.OpenAPI), new(spec.Swagger)
	if err := json.Unmarshal([]byte(customV3), v3); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(customV2), v2); err != nil {
		t.Fatal(err)
	}
	return v3, v2
}

func TestCustomDocumentsComeAndGo(t *testing.T) {
	h := newHandler(t)
	etags := func() [2]string {
		return [2]string{get(t, h, "/openapi/v2").Header.Get("Etag"), get(t, h, "/openapi/v3").Header.Get("Etag")}
	}
	before := etags()
	v3, v2 := custom(t)
	h.SetCustom("crd", map[string]*spec3.OpenAPI{"apis/example.com/v1": v3}, []*spec.Swagger{v2})
	during := etags()
	if before[0] == during[0] || before[1] == during[1] {
		t.Error("the hashes stay", during)
	}
	if index := string(body(t, get(t, h, "/openapi/v3"))); !strings.Contains(index, `"apis/example.com/v1"`) || !strings.Contains(index, `"apis/apps/v1"`) {
		t.Error(index)
	}
	doc := body(t, get(t, h, "/openapi/v3/apis/example.com/v1"))
	if !strings.Contains(string(doc), "listThings") {
		t.Errorf("%s", doc)
	}
	var merged spec.Swagger
	if err := json.Unmarshal(body(t, get(t, h, "/openapi/v2")), &merged); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/apis/example.com/v1/things", "/api/v1/pods"} {
		if _, ok := merged.Paths.Paths[path]; !ok {
			t.Error("missing", path)
		}
	}
	if _, ok := merged.Definitions["com.example.v1.Thing"]; !ok {
		t.Error("the definition is missing")
	}
	asProto := get(t, h, "/openapi/v3/apis/example.com/v1", "Accept", v3Proto)
	if err := proto.Unmarshal(body(t, asProto), &openapiv3.Document{}); err != nil {
		t.Error(err)
	}
	var second openapiv2.Document
	if err := proto.Unmarshal(body(t, get(t, h, "/openapi/v2", "Accept", v2Proto)), &second); err != nil || len(second.Paths.Path) != len(merged.Paths.Paths) {
		t.Error(err, len(second.GetPaths().GetPath()))
	}
	if again := get(t, h, "/openapi/v2", "If-None-Match", during[0]); again.StatusCode != http.StatusNotModified {
		t.Error(again.Status)
	}
	h.SetCustom("crd", nil, nil)
	if after := etags(); after != before {
		t.Error("not as before", after)
	}
}

func TestSourcesShareADocument(t *testing.T) {
	h := newHandler(t)
	v3, _ := custom(t)
	h.SetCustom("crd", map[string]*spec3.OpenAPI{"apis/apps/v1": v3}, nil)
	var doc spec3.OpenAPI
	if err := json.Unmarshal(body(t, get(t, h, "/openapi/v3/apis/apps/v1")), &doc); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/apis/example.com/v1/things", "/apis/apps/v1/deployments"} {
		if doc.Paths.Paths[path] == nil {
			t.Error("missing", path)
		}
	}
}
