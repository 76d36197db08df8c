package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/openapi"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// otherServer is an API server of the group wardle.example.com.
func otherServer(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/apis/wardle.example.com/v1":
			_, _ = io.WriteString(w, `{"kind":"APIResourceList","groupVersion":"wardle.example.com/v1","resources":[{"name":"flunders","singularName":"flunder","namespaced":true,"kind":"Flunder","verbs":["get","list"]},
				{"name":"flunders/status","namespaced":true,"kind":"Flunder","verbs":["get"]}]}`)
		case "/openapi/v2":
			_, _ = io.WriteString(w, `{"swagger":"2.0","info":{"title":"w","version":"1"},"paths":{"/apis/wardle.example.com/v1/flunders":{"get":{"operationId":"listFlunders","responses":{"200":{"description":"OK"}}}}}}`)
		case "/apis/wardle.example.com/v1/away":
			http.Redirect(w, r, "https://elsewhere.example.com/", http.StatusFound)
		case "/openapi/v3/apis/wardle.example.com/v1":
			http.NotFound(w, r)
		default:
			fmt.Fprintf(w, "%s %s user=%q groups=%q auth=%q", r.Method, r.URL, r.Header.Get("X-Remote-User"), r.Header["X-Remote-Group"], r.Header.Get("Authorization"))
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func TestAggregation(t *testing.T) {
	docs, err := openapi.New()
	if err != nil {
		t.Fatal(err)
	}
	s := apiservertest.StartServer(t, apiserver.Config{Store: memory.New(), OpenAPI: docs})
	client, err := kubernetes.NewForConfig(s.LocalConfig(apiservertest.Admin))
	if err != nil {
		t.Fatal(err)
	}
	raw := func(path string, u user.Info) (int, string) {
		config := s.LocalConfig(u)
		config.AcceptContentTypes, config.ContentType = "application/json", "application/json"
		k, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		var code int
		b, _ := k.RESTClient().Get().AbsPath(strings.Split(path, "?")[0]).Do(context.Background()).StatusCode(&code).Raw()
		return code, string(b)
	}
	get := func(path string) (int, string) { return raw(path, apiservertest.Admin) }
	eventually(t, "APIServices of the server's own groups", func() bool {
		_, text := get("/apis/apiregistration.k8s.io/v1/apiservices/v1.apps")
		return strings.Contains(text, `"automanaged":"onstart"`) || strings.Contains(text, `automanaged": "onstart"`) || strings.Contains(text, `kube-aggregator.kubernetes.io/automanaged":"onstart"`)
	})
	if _, text := get("/apis/apiregistration.k8s.io/v1/apiservices/v1."); !strings.Contains(text, `"reason":"Local"`) {
		t.Error(text)
	}
	other := otherServer(t)
	_, port, _ := net.SplitHostPort(other.Listener.Addr().String())
	create := func(path, body string) {
		if err := client.CoreV1().RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(context.Background()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	create("/apis/apiregistration.k8s.io/v1/apiservices", `{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":"v1.wardle.example.com"},"spec":{
		"group":"wardle.example.com","version":"v1","groupPriorityMinimum":2000,"versionPriority":200,"insecureSkipTLSVerify":true,"service":{"namespace":"default","name":"api","port":`+port+`}}}`)
	service := "/apis/apiregistration.k8s.io/v1/apiservices/v1.wardle.example.com"
	eventually(t, "ServiceNotFound", func() bool {
		_, text := get(service)
		return strings.Contains(text, `service/api in \"default\" is not present`)
	})
	if code, text := get("/apis/wardle.example.com/v1/flunders"); code != 503 || !strings.Contains(text, "service unavailable") {
		t.Error(code, text)
	}
	create("/api/v1/namespaces/default/services", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"api"},"spec":{"type":"ExternalName","externalName":"localhost","ports":[{"port":`+port+`}]}}`)
	eventually(t, "Passed", func() bool { _, text := get(service); return strings.Contains(text, "all checks passed") })
	eventually(t, "proxied", func() bool { code, _ := get("/apis/wardle.example.com/v1/flunders"); return code == 200 })
	_, text := raw("/apis/wardle.example.com/v1/flunders", &user.DefaultInfo{Name: "jane", Groups: []string{"dev"}})
	if !strings.Contains(text, `user="jane" groups=["dev" "system:authenticated"] auth=""`) {
		t.Error(text)
	}
	if code, text := get("/apis/wardle.example.com/v1/away"); code != http.StatusBadGateway {
		t.Error(code, text)
	}
	eventually(t, "discovery", func() bool {
		_, text := get("/apis/wardle.example.com")
		return strings.Contains(text, "wardle.example.com/v1")
	})
	eventually(t, "OpenAPI", func() bool {
		_, v2 := get("/openapi/v2")
		_, v3 := get("/openapi/v3/apis/wardle.example.com/v1")
		return strings.Contains(v2, "listFlunders") && strings.Contains(v3, "listFlunders")
	})
	lists, err := client.Discovery().ServerPreferredResources()
	found := false
	for _, l := range lists {
		found = found || l.GroupVersion == "wardle.example.com/v1" && len(l.APIResources) == 1 && l.APIResources[0].Kind == "Flunder"
	}
	if err != nil || !found {
		b, _ := json.Marshal(lists)
		t.Errorf("%v: %s", err, b)
	}
	if err := client.CoreV1().RESTClient().Delete().AbsPath(service).Do(context.Background()).Error(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "gone", func() bool {
		code, _ := get("/apis/wardle.example.com/v1/flunders")
		_, groups := get("/apis")
		return code == 404 && !strings.Contains(groups, "wardle")
	})
}
