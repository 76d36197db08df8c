package rest_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coracle-dev/coracle/apiserver/rest"
)

// proxiedNode connects to whatever its pods listen on: a server of this test.
type proxiedNode struct {
	api, pods *pipeListener
}

func (n proxiedNode) DialNode(_ context.Context, _ string) (net.Conn, error) { return n.api.dial() }

func serveProxied(t *testing.T) (*fixture, *httptest.Server) {
	t.Helper()
	node := proxiedNode{api: newPipeListener(), pods: newPipeListener()}
	app := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			w.Header().Set("Location", "/elsewhere/")
			w.WriteHeader(http.StatusFound)
		case "/upgrade":
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello")
		case "/page":
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, `<a href="/next">n</a>`)
		default:
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s auth=%q te=%q prefix=%q %s", r.Method, r.URL, r.Header.Get("Authorization"), r.Header.Get("Te"), r.Header.Get("X-Forwarded-Uri"), body)
		}
	})}
	agent := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/connect/default/") {
			fmt.Fprintf(w, "node %s", r.URL)
			return
		}
		if r.URL.Query().Get("port") != "8080" {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"kind":"Status","code":503,"message":"connection refused"}`)
			return
		}
		far, err := node.pods.dial()
		if err != nil {
			return
		}
		here, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(here, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		go func() { _, _ = io.Copy(far, here); far.Close() }()
		go func() { _, _ = io.Copy(here, far); here.Close() }()
	})}
	go func() { _ = app.Serve(node.pods) }()
	go func() { _ = agent.Serve(node.api) }()
	t.Cleanup(func() { app.Close(); agent.Close() })
	f := newFixture(t, func(c *rest.Config) { c.Nodes = node })
	f.must("POST", "/api/v1/nodes", `{"metadata":{"name":"n1"}}`)
	f.must("POST", podsPath, `{"metadata":{"name":"p"},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"i","ports":[{"containerPort":8080}]}]}}`)
	f.must("PATCH", podsPath+"/p/status", `{"status":{"podIP":"10.1.2.3","podIPs":[{"ip":"10.1.2.3"}]}}`, "Content-Type", mergeType)
	f.must("POST", "/api/v1/namespaces/default/services", `{"metadata":{"name":"s"},"spec":{"clusterIP":"None","ports":[{"name":"http","port":80,"targetPort":8080}]}}`)
	f.must("POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", `{"metadata":{"name":"s-1","labels":{"kubernetes.io/service-name":"s"}},"addressType":"IPv4",
		"ports":[{"name":"http","port":8080}],"endpoints":[{"addresses":["10.1.2.3"],"nodeName":"n1","targetRef":{"kind":"Pod","namespace":"default","name":"p"}}]}`)
	server := httptest.NewServer(f.chain)
	t.Cleanup(server.Close)
	return f, server
}

func TestProxiesForward(t *testing.T) {
	_, server := serveProxied(t)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	pods, services := "/api/v1/namespaces/default/pods/", "/api/v1/namespaces/default/services/"
	for _, c := range []struct {
		method, path string
		code         int
		want         string
	}{
		{"GET", pods + "p/proxy/a/b?q=1", 200, "GET /a/b?q=1 auth=\"\" te=\"\" prefix=\"" + pods + "p/proxy/a/b\""},
		{"POST", pods + "http:p:8080/proxy/x/", 200, "POST /x/ auth"},
		{"DELETE", pods + "p:8080/proxy/", 200, "DELETE / auth"},
		{"GET", pods + "p/proxy", 301, ""},
		{"PUT", services + "s:http/proxy/y", 200, "PUT /y"},
		{"PATCH", services + "s:80/proxy/y", 200, "PATCH /y"},
		{"GET", services + "s:81/proxy/y", 503, `no service port 81 found for service \"s\"`},
		{"GET", services + "s:no/proxy/y", 503, `no endpoints available for service \"s\"`},
		{"GET", services + "none:80/proxy/y", 404, `services \"none\" not found`},
		{"GET", pods + "p:81/proxy/", 503, "error trying to reach service: dial tcp 10.1.2.3:81: connection refused"},
		{"GET", pods + "ftp:p:1:2/proxy/", 400, `invalid pod request \"ftp:p:1:2\"`},
		{"GET", pods + "p/proxy/a/%2e%2e/%2e%2e/b", 400, "must not contain"},
		{"GET", pods + "p/proxy/page", 200, `<a href="` + pods + `p/proxy/next">`},
		{"GET", "/api/v1/nodes/n1/proxy/healthz", 200, "node /healthz"},
		{"GET", "/api/v1/nodes/n2/proxy/healthz", 404, `nodes \"n2\" not found`},
	} {
		var body io.Reader
		if c.method != "GET" { // what answers without reading closes the pipe under a body on its way
			body = strings.NewReader("in")
		}
		req, err := http.NewRequest(c.method, server.URL+c.path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer secret")
		req.Header.Set("Te", "trailers")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(c.method, c.path, err)
		}
		answer, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		text := strings.ReplaceAll(string(answer), server.URL, "")
		if resp.StatusCode != c.code || !strings.Contains(text, c.want) {
			t.Errorf("%s %s: %d %s\nwant %d %s", c.method, c.path, resp.StatusCode, text, c.code, c.want)
		}
	}
}

func TestProxiesRewriteLocationsAndSwitchProtocols(t *testing.T) {
	f, server := serveProxied(t)
	rec := httptest.NewRecorder()
	f.chain.ServeHTTP(rec, httptest.NewRequest("GET", podsPath+"/p/proxy/moved", nil))
	if got := rec.Header().Get("Location"); !strings.HasSuffix(got, podsPath+"/p/proxy/elsewhere/") {
		t.Error(rec.Code, got)
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s/p/proxy/upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", podsPath)
	all, _ := io.ReadAll(conn)
	if text := string(all); !strings.HasPrefix(text, "HTTP/1.1 101") || !strings.HasSuffix(text, "hello") {
		t.Errorf("%q", text)
	}
}
