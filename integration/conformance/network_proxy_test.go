package conformance

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// backend starts a server of the test's own on the node's network, and gives the paths of the proxies that lead to it: by a pod's port, by
// the name and the number of a Service's, and by the node's. scheme is http or https.
func (e *env) backend(scheme string, handler http.HandlerFunc) []string {
	e.Helper()
	node := e.nodeIP()
	l, err := e.cluster.Listen("tcp", net.JoinHostPort(node, "0"))
	e.must(err)
	s := httptest.NewUnstartedServer(handler)
	s.Listener.Close()
	s.Listener = l
	if scheme == "https" {
		s.StartTLS()
	} else {
		s.Start()
	}
	e.Cleanup(s.CloseClientConnections)
	e.Cleanup(s.Close)
	port := int32(l.Addr().(*net.TCPAddr).Port)
	e.webServer("host", func(p *corev1.Pod) {
		p.Spec.HostNetwork = true
		p.Spec.Containers[0].Command, p.Spec.Containers[0].Args = []string{"sleep", "infinity"}, nil
		p.Spec.Containers[0].Ports, p.Spec.Containers[0].ReadinessProbe = nil, nil
	})
	e.ready("host")
	e.service("web", func(s *corev1.ServiceSpec) {
		s.Selector = nil
		s.Ports = []corev1.ServicePort{{Name: "other", Port: 1}, {Name: "entry", Port: 4430}}
	})
	e.slice("web-1", "web", node, "entry", port)
	nodes, err := e.kube.CoreV1().Nodes().List(e.ctx, metav1.ListOptions{})
	e.must(err)
	in := "/api/v1/namespaces/" + e.ns
	return []string{
		fmt.Sprintf("%s/pods/%s:host:%d/proxy", in, scheme, port),
		fmt.Sprintf("%s/services/%s:web:entry/proxy", in, scheme), fmt.Sprintf("%s/services/%s:web:4430/proxy", in, scheme),
		fmt.Sprintf("/api/v1/nodes/%s:%s:%d/proxy", scheme, nodes.Items[0].Name, port),
	}
}

// do sends a request to the API server as the admin, and follows no redirection. The body is read.
func (e *env) do(method, path, body string, header map[string]string) (*http.Response, string) {
	e.Helper()
	client, err := rest.HTTPClientFor(e.config)
	e.must(err)
	client.Timeout = 30 * time.Second
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	req, err := http.NewRequestWithContext(e.ctx, method, e.config.Host+path, strings.NewReader(body))
	e.must(err)
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	e.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	e.must(err)
	return resp, string(text)
}

// proxyPasses looks at what arrives, and at what comes back.
func proxyPasses(e *env) {
	paths := e.backend("http", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Said", fmt.Sprintf("%s %s?%s %s %q", r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Get("X-Own"), r.Header.Get("Authorization")))
		if r.URL.Path == "/slowly" {
			_, _ = io.WriteString(w, "first\n")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		body, _ := io.ReadAll(r.Body) // all of it first: a client stops sending at an answer that tells of a failure
		if r.Header.Get("X-Own") == "teapot" {
			w.WriteHeader(http.StatusTeapot)
		}
		_, _ = w.Write(body)
	})
	big := make([]byte, 4<<20)
	_, _ = rand.Read(big)
	for _, path := range paths {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			body := "body of " + method
			resp, got := e.do(method, path+"/some/path%20with/"+method+"?a=b&c=d%2Fe", body, map[string]string{"X-Own": "yes"})
			want := method + " /some/path%20with/" + method + `?a=b&c=d%2Fe yes ""`
			if method == "HEAD" {
				body = ""
			}
			if said := resp.Header.Get("X-Said"); resp.StatusCode != http.StatusOK || said != want || got != body {
				e.Errorf("%s %s: %s, it was asked %q, want %q, and answered %q", method, path, resp.Status, said, want, got)
			}
		}
		for _, method := range []string{"GET", "HEAD"} {
			resp, _ := e.do(method, path+"?method="+method, "", nil)
			if to := resp.Header.Get("Location"); resp.StatusCode != http.StatusMovedPermanently || !strings.HasSuffix(to, path+"/?method="+method) {
				e.Errorf("%s %s without a slash: %s to %q", method, path, resp.Status, to)
			}
		}
		if resp, got := e.do("POST", path+"/", string(big), map[string]string{"X-Own": "teapot"}); resp.StatusCode != http.StatusTeapot || got != string(big) {
			e.Errorf("%s: a status of its own and a long body: %s, %d bytes", path, resp.Status, len(got))
		}
		e.streams(path + "/slowly")
	}
}

// streams expects the first line of an answer before its end.
func (e *env) streams(path string) {
	e.Helper()
	client, err := rest.HTTPClientFor(e.config)
	e.must(err)
	ctx, cancel := context.WithTimeout(e.ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.config.Host+path, nil)
	e.must(err)
	resp, err := client.Do(req)
	e.must(err)
	defer resp.Body.Close()
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); line != "first\n" {
		e.Errorf("%s: %q, %v", path, line, err)
	}
}

func proxyTLS(e *env) {
	for _, path := range e.backend("https", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s by TLS: %t", r.URL.Path, r.TLS != nil)
	}) {
		if resp, got := e.do("GET", path+"/page", "", nil); got != "/page by TLS: true" {
			e.Errorf("%s: %s %q", path, resp.Status, got)
		}
	}
	in := "/api/v1/namespaces/" + e.ns
	for path, want := range map[string]string{
		in + "/services/https:web:other/proxy/": "no endpoints available for service", in + "/services/web:99/proxy/": "no service port 99 found for service",
		in + "/services/https:none:1/proxy/": `services \"none\" not found`, in + "/pods/none/proxy/": `pods \"none\" not found`,
	} {
		if resp, got := e.do("GET", path, "", nil); resp.StatusCode < 400 || !strings.Contains(got, want) {
			e.Errorf("%s: %s %s, want %s", path, resp.Status, got, want)
		}
	}
}

// proxyRewrites follows what a page and a redirection say.
func proxyRewrites(e *env) {
	for _, path := range e.backend("http", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/page?a=b", http.StatusFound)
		case "/page":
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, `<html><body><a href="/other">other</a><img src="/picture.png"></body></html>`)
		default:
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, `<a href="/other">`)
		}
	}) {
		resp, _ := e.do("GET", path+"/moved", "", nil)
		to := resp.Header.Get("Location")
		if i := strings.Index(to, "/api/"); resp.StatusCode != http.StatusFound || i < 0 || to[i:] != path+"/page?a=b" {
			e.Errorf("%s/moved: %s to %q", path, resp.Status, to)
		}
		if _, got := e.do("GET", path+"/page", "", nil); !strings.Contains(got, path+`/other"`) || !strings.Contains(got, path+`/picture.png"`) {
			e.Errorf("%s/page is %s", path, got)
		}
		if _, got := e.do("GET", path+"/text", "", nil); got != `<a href="/other">` {
			e.Errorf("%s/text is %s", path, got)
		}
	}
}

// proxyWebSockets sends both kinds of message there and back, and closes with a code.
func proxyWebSockets(e *env) {
	upgrader := websocket.Upgrader{Subprotocols: []string{"chat"}, CheckOrigin: func(*http.Request) bool { return true }}
	tlsConfig, err := rest.TLSConfigFor(e.config)
	e.must(err)
	d := websocket.Dialer{NetDialContext: e.config.Dial, TLSClientConfig: tlsConfig, Subprotocols: []string{"chat"}}
	header := http.Header{}
	if e.config.BearerToken != "" {
		header.Set("Authorization", "Bearer "+e.config.BearerToken)
	}
	for _, path := range e.backend("https", func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			kind, m, err := conn.ReadMessage()
			if err != nil {
				return
			}
			if string(m) == "bye" {
				_ = conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(4321, "over"))
				return
			}
			_ = conn.WriteMessage(kind, m)
		}
	}) {
		conn, _, err := d.DialContext(e.ctx, strings.Replace(e.config.Host, "https:", "wss:", 1)+path+"/socket", header)
		if err != nil {
			e.Errorf("%s: %v", path, err)
			continue
		}
		equal(e, "protocol", conn.Subprotocol(), "chat")
		for kind, m := range map[int][]byte{websocket.TextMessage: []byte("hello"), websocket.BinaryMessage: bytes.Repeat([]byte{0, 1, 2}, 100_000)} {
			e.must(conn.WriteMessage(kind, m))
			if k, got, err := conn.ReadMessage(); err != nil || k != kind || !bytes.Equal(got, m) {
				e.Errorf("%s: a message came back as one of kind %d, %d bytes: %v", path, k, len(got), err)
			}
		}
		e.must(conn.WriteMessage(websocket.TextMessage, []byte("bye")))
		_, _, err = conn.ReadMessage()
		var closed *websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != 4321 || closed.Text != "over" {
			e.Errorf("%s: it closed with %v", path, err)
		}
		conn.Close()
	}
}

// kubectlWays are kubectl proxy with a Service's path, and kubectl port-forward to the Service.
func kubectlWays(e *env) {
	e.servers("a")
	e.service("web", nil)
	for _, c := range []struct {
		args []string
		path string
	}{
		{[]string{"proxy", "--port=0"}, "/api/v1/namespaces/" + e.ns + "/services/web:http/proxy/hostname"},
		{[]string{"port-forward", "-n", e.ns, "service/web", ":80"}, "/hostname"},
		{[]string{"port-forward", "-n", e.ns, "svc/web", ":http"}, "/hostname"},
	} {
		address := e.listens(c.args, "127.0.0.1:")
		e.eventually(func() error {
			got, err := e.fetch("http://" + address + c.path)
			return errors.Join(err, same(got, "a"))
		})
	}
}

// listens starts kubectl until the test's end, and gives the address that it prints, which begins as told.
func (e *env) listens(args []string, begin string) string {
	e.Helper()
	cmd := e.cluster.KubectlCommand(args...)
	out, err := cmd.StdoutPipe()
	e.must(err)
	e.must(cmd.Start())
	e.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	_, port, found := strings.Cut(line, begin)
	if fields := strings.Fields(port); found && len(fields) > 0 {
		return begin + fields[0]
	}
	e.Fatalf("kubectl %v prints %q, %v", args, line, err)
	return ""
}
