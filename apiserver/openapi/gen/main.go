//go:build openapigen

// Command gen writes the OpenAPI documents that the API server serves. It is run by go generate, after openapi-gen
// has turned the API's Go types into the package definitions; neither is part of the server.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/coracle-dev/coracle/apiserver/kinds"
	"github.com/coracle-dev/coracle/apiserver/openapi/gen/definitions"
	"github.com/coracle-dev/coracle/apiserver/openapi/routes"
	"github.com/coracle-dev/coracle/internal/version"
)

func main() {
	out := flag.String("out", "data", "folder to write to")
	flag.Parse()
	if err := run(*out); err != nil {
		log.Fatal("openapi: ", err)
	}
}

func run(dir string) error {
	containers := routes.Build(kinds.All())
	names := definitionNames(kinds.Scheme())
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := writeV2(dir, containers, names); err != nil {
		return fmt.Errorf("v2: %w", err)
	}
	for _, c := range containers {
		if err := writeV3(dir, c, names); err != nil {
			return fmt.Errorf("%s: %w", c.Key, err)
		}
	}
	return nil
}

func info() *spec.Info {
	return &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: version.KubernetesVersion}}
}

func operationIDAndTags(r common.Route) (string, []string, error) {
	parts := strings.Split(strings.TrimPrefix(r.Path(), "/"), "/")
	gv := schema.GroupVersion{Version: parts[1]}
	if parts[0] == "apis" {
		gv = schema.GroupVersion{Group: parts[1], Version: parts[2]}
	}
	prefix := strings.TrimSuffix(routes.OperationPrefix(gv), strings.ToUpper(gv.Version[:1])+gv.Version[1:])
	return r.OperationName(), []string{strings.ToLower(prefix[:1]) + prefix[1:] + "_" + gv.Version}, nil
}

const unauthorized = "Unauthorized"

func writeV2(dir string, containers []*routes.Container, names func(string) (string, spec.Extensions)) error {
	var all []common.RouteContainer
	for _, c := range containers {
		all = append(all, c)
	}
	doc, err := builder.BuildOpenAPISpecFromRoutes(all, &common.Config{
		ProtocolList:                   []string{"https"},
		Info:                           info(),
		GetDefinitions:                 definitions.GetOpenAPIDefinitions,
		GetDefinitionName:              names,
		GetOperationIDAndTagsFromRoute: operationIDAndTags,
		CommonResponses:                map[int]spec.Response{401: {ResponseProps: spec.ResponseProps{Description: unauthorized}}},
		SecurityDefinitions: &spec.SecurityDefinitions{"BearerToken": &spec.SecurityScheme{SecuritySchemeProps: spec.SecuritySchemeProps{
			Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication"}}},
		DefaultSecurity: []map[string][]string{{"BearerToken": {}}},
	})
	if err != nil {
		return err
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	parsed, err := openapiv2.ParseDocument(raw)
	if err != nil {
		return err
	}
	return write(filepath.Join(dir, "v2"), raw, parsed)
}

func writeV3(dir string, c *routes.Container, names func(string) (string, spec.Extensions)) error {
	doc, err := builder3.BuildOpenAPISpecFromRoutes([]common.RouteContainer{c}, &common.OpenAPIV3Config{
		Info:                           info(),
		GetDefinitions:                 definitions.GetOpenAPIDefinitions,
		GetDefinitionName:              names,
		GetOperationIDAndTagsFromRoute: operationIDAndTags,
		CommonResponses:                map[int]*spec3.Response{401: {ResponseProps: spec3.ResponseProps{Description: unauthorized}}},
		SecuritySchemes: spec3.SecuritySchemes{"BearerToken": &spec3.SecurityScheme{SecuritySchemeProps: spec3.SecuritySchemeProps{
			Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication"}}},
		DefaultSecurity: []map[string][]string{{"BearerToken": {}}},
	})
	if err != nil {
		return err
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	parsed, err := openapiv3.ParseDocument(raw)
	if err != nil {
		return err
	}
	return write(filepath.Join(dir, "v3", filepath.FromSlash(c.Key)), raw, parsed)
}

// write stores a document in its two encodings, compressed.
func write(path string, raw []byte, message proto.Message) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		return err
	}
	for ext, content := range map[string][]byte{".json.gz": raw, ".pb.gz": encoded} {
		var buf bytes.Buffer
		zip, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := zip.Write(content); err != nil {
			return err
		}
		if err := zip.Close(); err != nil {
			return err
		}
		if err := os.WriteFile(path+ext, buf.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// definitionNames gives each definition the kinds it is known by.
func definitionNames(scheme *runtime.Scheme) func(string) (string, spec.Extensions) {
	byName := map[string][]schema.GroupVersionKind{}
	for gvk, t := range scheme.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal {
			continue
		}
		name := util.GetCanonicalTypeName(reflect.New(t).Interface())
		byName[name] = append(byName[name], gvk)
	}
	return func(name string) (string, spec.Extensions) {
		gvks := byName[name]
		if len(gvks) == 0 {
			return name, nil
		}
		slices.SortFunc(gvks, func(a, b schema.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
		var list []any
		for _, gvk := range gvks {
			list = append(list, routes.GVK(gvk))
		}
		return name, spec.Extensions{"x-kubernetes-group-version-kind": list}
	}
}
