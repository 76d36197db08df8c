package openapi

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-openapi/pkg/spec3"

	"github.com/coracle-dev/coracle/apiserver/kinds"
	"github.com/coracle-dev/coracle/apiserver/openapi/routes"
)

func newHandler(t testing.TB) *Handler {
	t.Helper()
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func get(t testing.TB, h http.Handler, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t testing.TB, resp *http.Response) []byte {
	t.Helper()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestEncodings(t *testing.T) {
	h := newHandler(t)
	plain := body(t, get(t, h, "/openapi/v2"))
	if !json.Valid(plain) {
		t.Fatal("not JSON")
	}
	zipped := get(t, h, "/openapi/v2", "Accept-Encoding", "gzip, deflate")
	zip, err := gzip.NewReader(zipped.Body)
	if err != nil || zipped.Header.Get("Content-Encoding") != "gzip" {
		t.Fatal(err, zipped.Header)
	}
	if raw, err := io.ReadAll(zip); err != nil || !bytes.Equal(raw, plain) {
		t.Error("the compressed answer differs", err)
	}
	for _, accept := range []string{v2Proto, v2Old, v2Old + ",application/json"} {
		resp := get(t, h, "/openapi/v2", "Accept", accept)
		if resp.Header.Get("Content-Type") != v2Proto || proto.Unmarshal(body(t, resp), &openapiv2.Document{}) != nil {
			t.Errorf("%s: %v", accept, resp.Header)
		}
	}
	if resp := get(t, h, "/openapi/v3/apis/apps/v1", "Accept", v3Old); proto.Unmarshal(body(t, resp), &openapiv3.Document{}) != nil || resp.Header.Get("Content-Type") != v3Proto {
		t.Error(resp.Header)
	}
	if resp := get(t, h, "/openapi/v2", "Accept", "text/html"); resp.StatusCode != http.StatusNotAcceptable {
		t.Error(resp.Status)
	}
	if resp := get(t, h, "/openapi/v3/apis/no/v1"); resp.StatusCode != http.StatusNotFound {
		t.Error(resp.Status)
	}
}

func TestIndexAndCaching(t *testing.T) {
	h := newHandler(t)
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal(body(t, get(t, h, "/openapi/v3")), &index); err != nil {
		t.Fatal(err)
	}
	url := index.Paths["api/v1"].ServerRelativeURL
	resp := get(t, h, url)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Cache-Control") != "public, immutable" || resp.Header.Get("Etag") == "" {
		t.Errorf("%s: %v %v", url, resp.Status, resp.Header)
	}
	if again := get(t, h, "/openapi/v3/api/v1", "If-None-Match", resp.Header.Get("Etag")); again.StatusCode != http.StatusNotModified {
		t.Error(again.Status)
	}
	if again := get(t, h, "/openapi/v3/api/v1", "If-None-Match", resp.Header.Get("Etag"), "Accept-Encoding", "gzip"); again.StatusCode != http.StatusNotModified {
		t.Error(again.Status)
	}
	if moved := get(t, h, "/openapi/v3/api/v1?hash=OLD"); moved.StatusCode != http.StatusMovedPermanently || moved.Header.Get("Location") != url {
		t.Error(moved.Status, moved.Header)
	}
	if post := httptest.NewRecorder(); true {
		h.ServeHTTP(post, httptest.NewRequest(http.MethodPost, "/openapi/v2", nil))
		if post.Code != http.StatusMethodNotAllowed {
			t.Error(post.Code)
		}
	}
}

// The documents in the repository must be those of the table as it is: every operation of every kind, and no other path.
func TestDocumentsMatchTheTable(t *testing.T) {
	h := newHandler(t)
	for _, c := range routes.Build(kinds.All()) {
		var doc spec3.OpenAPI
		if err := json.Unmarshal(body(t, get(t, h, "/openapi/v3/"+c.Key)), &doc); err != nil {
			t.Errorf("%s: %v; run make generate", c.Key, err)
			continue
		}
		want := map[string]bool{}
		for _, r := range c.Routes() {
			want[r.Path()] = true
			path := doc.Paths.Paths[r.Path()]
			if path == nil {
				t.Errorf("%s is missing; run make generate", r.Path())
				continue
			}
			op := map[string]*spec3.Operation{"GET": path.Get, "PUT": path.Put, "POST": path.Post, "PATCH": path.Patch, "DELETE": path.Delete, "HEAD": path.Head, "OPTIONS": path.Options}[r.Method()]
			if op == nil || op.OperationId != r.OperationName() {
				t.Errorf("%s %s is missing or another; run make generate", r.Method(), r.Path())
			}
		}
		for path := range doc.Paths.Paths {
			if !want[path] {
				t.Errorf("%s is not served any more; run make generate", path)
			}
		}
	}
}

func TestWhatClientsLookFor(t *testing.T) {
	raw := string(body(t, get(t, newHandler(t), "/openapi/v3/apis/apps/v1")))
	for _, want := range []string{
		`"operationId":"patchAppsV1NamespacedDeployment"`, `"operationId":"deleteAppsV1CollectionNamespacedDeployment"`,
		`"operationId":"listAppsV1DeploymentForAllNamespaces"`, `"operationId":"replaceAppsV1NamespacedDeploymentScale"`,
		`"name":"fieldValidation"`, `"name":"dryRun"`, `"name":"fieldManager"`, `"tags":["apps_v1"]`,
		`"x-kubernetes-patch-merge-key":"name","x-kubernetes-patch-strategy":"merge"`, `"x-kubernetes-list-map-keys":["name"]`,
		`"x-kubernetes-group-version-kind":[{"group":"apps","kind":"Deployment","version":"v1"}]`, `"io.k8s.api.core.v1.PodSpec"`,
	} {
		if !strings.Contains(raw, want) {
			t.Error("missing: ", want)
		}
	}
}

// discovery is the little of it that kubectl needs to find kinds.
func discovery(w http.ResponseWriter, path string) {
	var answer any
	groups := map[string]*metav1.APIGroup{}
	resources := map[string]*metav1.APIResourceList{}
	for _, k := range kinds.All() {
		gv := metav1.GroupVersionForDiscovery{GroupVersion: k.GVK.GroupVersion().String(), Version: k.GVK.Version}
		if k.GVK.Group != "" {
			groups[k.GVK.Group] = &metav1.APIGroup{Name: k.GVK.Group, Versions: []metav1.GroupVersionForDiscovery{gv}, PreferredVersion: gv}
		}
		key := "/" + routes.Key(k.GVK.GroupVersion())
		if resources[key] == nil {
			resources[key] = &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: gv.GroupVersion}
		}
		resources[key].APIResources = append(resources[key].APIResources, metav1.APIResource{
			Name: k.Resource, SingularName: k.Singular, Kind: k.GVK.Kind, Namespaced: k.Namespaced, ShortNames: k.ShortNames, Verbs: metav1.Verbs{"get", "list", "create", "patch"}})
	}
	switch path {
	case "/api":
		answer = metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}}
	case "/apis":
		list := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
		for _, g := range groups {
			list.Groups = append(list.Groups, *g)
		}
		answer = list
	default:
		if resources[path] == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		answer = resources[path]
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

func TestStockKubectl(t *testing.T) {
	bin, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("no kubectl on this machine")
	}
	h := newHandler(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/openapi") {
			h.ServeHTTP(w, r)
			return
		}
		discovery(w, r.URL.Path)
	}))
	defer server.Close()
	run := func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), bin, append([]string{"--server", server.URL, "--cache-dir", t.TempDir()}, args...)...)
		cmd.Env = append(os.Environ(), "KUBECONFIG=/dev/null", "HOME="+t.TempDir())
		cmd.Stdin = strings.NewReader(stdin)
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	for _, c := range []struct{ path, want string }{
		{"pod.spec.containers", "terminationMessagePath"},
		{"deployment.spec.strategy.rollingUpdate", "maxSurge\t<IntOrString>"},
		{"lease.spec", "holderIdentity"},
	} {
		if out := run("", "explain", c.path); !strings.Contains(out, c.want) || !strings.Contains(out, "VERSION:") {
			t.Errorf("explain %s:\n%s", c.path, out)
		}
	}
	const manifest = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec:\n      containers: [{name: c, image: i, %s: 1}]\n"
	if out := run(strings.ReplaceAll(manifest, "%s: 1", "ports: [{containerPort: 80}]"), "create", "--dry-run=client", "--validate=strict", "-f", "-"); !strings.Contains(out, "deployment.apps/web created (dry run)") {
		t.Error(out)
	}
}

// TestGenerated is for CI: it generates everything anew and compares. It takes half a minute.
func TestGenerated(t *testing.T) {
	if os.Getenv("CORACLE_TEST_GENERATE") == "" {
		t.Skip("set CORACLE_TEST_GENERATE=1 to run it")
	}
	before := snapshot(t)
	if out, err := exec.CommandContext(t.Context(), "go", "generate", ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	after := snapshot(t)
	for path, content := range after {
		if before[path] != content {
			t.Errorf("%s was not up to date", path)
		}
	}
	if len(before) != len(after) {
		t.Errorf("%d files before, %d after", len(before), len(after))
	}
}

func snapshot(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir("data", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		out[path] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func BenchmarkServeCore(b *testing.B) {
	h := newHandler(b)
	b.ReportAllocs()
	for b.Loop() {
		if resp := get(b, h, "/openapi/v3/api/v1", "Accept-Encoding", "gzip"); resp.StatusCode != http.StatusOK {
			b.Fatal(resp.Status)
		}
	}
}
