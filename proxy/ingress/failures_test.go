package ingress

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestFailures: what answers a client gets when endpoints do not, and that others are asked where that is safe.
func TestFailures(t *testing.T) {
	w := newWorld(t)
	var posts, gets atomic.Int32
	w.pod("10.1.0.1:8080", named("good"))
	w.pod("10.1.0.2:8080", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { // breaks off before it answers
		_, _ = io.ReadAll(r.Body)
		if r.Method == "POST" {
			posts.Add(1)
		} else {
			gets.Add(1)
		}
		panic(http.ErrAbortHandler)
	}))
	w.pod("10.1.0.3:8080", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	for name, addresses := range map[string][]string{"dead": {"10.2.0.1", "10.2.0.2"}, "breaks": {"10.1.0.2"}, "slow": {"10.1.0.3"}, "some": {"10.2.0.1", "10.2.0.2", "10.1.0.1"}, "half": {"10.1.0.1", "10.1.0.2"}} {
		w.service(name, nil, addresses...)
	}
	w.ingress("web", "- /dead dead\n- /breaks breaks\n- /slow slow\n- /some some\n- /half half\n@proxy-read-timeout 1")
	c := w.web(nil)
	for path, want := range map[string]string{"dead": "502 Bad Gateway", "breaks": "502 Bad Gateway", "slow": "504 Gateway Timeout", "some": "200 good"} {
		w.eventually(c, "http://x/"+path, want)
	}
	// With a body that nobody has got any of yet the next endpoint is tried.
	for range 10 {
		if got, err := c.Post("http://x/some", "text/plain", strings.NewReader("body")); err != nil || got.StatusCode != 200 {
			t.Fatalf("%v, %v", got, err)
		}
	}
	// One that breaks off is asked once for what may not be repeated.
	w.reset()
	before := posts.Load()
	for range 4 {
		w.reset()
		got, err := c.Post("http://x/half", "text/plain", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		if broke := posts.Load() - before; got.StatusCode != 200 && broke != 1 {
			t.Errorf("%s, and was sent %d times", got.Status, broke)
		}
		before = posts.Load()
		w.reset()
		if got, err := get(c, "http://x/half"); got != "200 good" {
			t.Errorf("GET: %s, %v", got, err)
		}
	}
	if posts.Load() == 0 || gets.Load() == 0 {
		t.Error("the endpoint that breaks off was never asked")
	}
}

// TestUnaskedUpgrade: a backend cannot turn a plain request's connection into something else.
func TestUnaskedUpgrade(t *testing.T) {
	w, _ := simple(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\nother")
	}), "")
	if got := raw(t, w.server.cfg.HTTPPort, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); len(got) != 1 || got[0] != "502 Bad Gateway" {
		t.Errorf("%q", got)
	}
}

// TestClientBreaksOff: no endpoint is to blame for a client that does not send what it announced.
func TestClientBreaksOff(t *testing.T) {
	w, c := simple(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body) }), "")
	for range 3 {
		conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", w.server.cfg.HTTPPort))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
		time.Sleep(20 * time.Millisecond)
		_ = conn.Close()
	}
	w.until(func() error {
		if n := gather(t, w.server.metrics)[`coracle_ingress_requests_total{code="499",host="",ingress="web",namespace="default",path="",service="web:80"}`]; n != 3 {
			return fmt.Errorf("%d requests whose client went away", n)
		}
		return nil
	})
	if e := w.server.table.Load().any.prefixes[""].upstream.pool.Load().endpoints[0]; e.failures.Load() != 0 || e.pending.Load() != 0 {
		t.Errorf("%d failures, %d pending", e.failures.Load(), e.pending.Load())
	}
	w.eventually(c, "http://x/", "200 ")
}

// reset forgets which endpoints have failed.
func (w *world) reset() {
	for r := range w.server.table.Load().routes() {
		for _, e := range r.upstream.pool.Load().endpoints {
			e.failures.Store(0)
			e.ejected.Store(0)
		}
	}
}

// TestEjection: an endpoint that fails gets no requests for a time, and again some when it has come back.
func TestEjection(t *testing.T) {
	w := newWorld(t)
	w.pod("10.1.0.1:8080", named("good"))
	w.service("web", nil, "10.1.0.1", "10.1.0.2")
	w.ingress("web", "- / web")
	c := w.web(nil)
	for range 20 {
		w.eventually(c, "http://x/", "200 good")
	}
	var failures int32
	for _, e := range w.server.table.Load().any.prefixes[""].upstream.pool.Load().endpoints {
		failures += e.failures.Load()
	}
	if failures == 0 || failures > 4 {
		t.Errorf("20 requests, and the endpoint that refuses was tried %d times", failures)
	}
	w.pod("10.1.0.2:8080", named("back"))
	w.eventually(c, "http://x/", "200 back")
}
