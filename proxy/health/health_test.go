package health

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/proxy/ruleset"
)

// get asks until somebody answers, or nobody does if that is wanted.
func get(t *testing.T, address string) (int, string, http.Header) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		resp, err := http.Get("http://" + address)
		if err != nil {
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body), resp.Header
	}
}

// TestServices: each service's port tells how many of its endpoints are here; it moves with the service, waits for a port that is taken, and ends with it.
func TestServices(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	addresses := map[uint16]string{}
	for port := range uint16(2) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addresses[port+1] = l.Addr().String()
		defer l.Close()
		if port == 0 {
			l.Close() // the second one is taken for now
		} else {
			time.AfterFunc(50*time.Millisecond, func() { l.Close() })
		}
	}
	var healthy atomic.Bool
	healthy.Store(true)
	listen := func(ctx context.Context, port uint16) (net.Listener, error) {
		return (&net.ListenConfig{}).Listen(ctx, "tcp", addresses[port])
	}
	s := NewServices(ctx, listen, healthy.Load)
	s.Set("ns/web", ruleset.Health{Port: 1, Local: 2})
	code, body, headers := get(t, addresses[1])
	const want = "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
	if code != 200 || body != want || headers.Get("X-Load-Balancing-Endpoint-Weight") != "2" || headers.Get("Content-Type") != "application/json" || headers.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("two endpoints: %d %q %v", code, body, headers)
	}
	s.Set("ns/web", ruleset.Health{Port: 1})
	if code, _, headers := get(t, addresses[1]); code != 503 || headers.Get("X-Load-Balancing-Endpoint-Weight") != "0" {
		t.Errorf("none: %d %v", code, headers)
	}
	s.Set("ns/web", ruleset.Health{Port: 1, Local: 1})
	healthy.Store(false)
	if code, body, _ := get(t, addresses[1]); code != 503 || !strings.Contains(body, `"serviceProxyHealthy": false`) {
		t.Errorf("a proxy that does not keep up: %d %s", code, body)
	}
	healthy.Store(true)
	s.Set("ns/web", ruleset.Health{Port: 2, Local: 3})
	if code, body, _ := get(t, addresses[2]); code != 200 || !strings.Contains(body, `"localEndpoints": 3`) {
		t.Errorf("another port: %d %s", code, body)
	}
	gone(t, addresses[1])
	s.Set("ns/web", ruleset.Health{})
	gone(t, addresses[2])
}

// gone waits until nobody listens any more.
func gone(t *testing.T, address string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		c.Close()
		if time.Now().After(deadline) {
			t.Fatalf("%s is still served", address)
		}
	}
}

func TestProxy(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	counts := map[string]int{}
	p := NewProxy(func(path, code string) { counts[path+" "+code]++ })
	p.now = func() time.Time { return now }
	check := func(when, path string, code int, body string) {
		t.Helper()
		w := httptest.NewRecorder()
		p.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != code || w.Body.String() != body {
			t.Errorf("%s, %s: %d %s; want %d %s", when, path, w.Code, w.Body, code, body)
		}
	}
	const t0, t1 = `"2026-01-02 03:04:05 +0000 UTC"`, `"2026-01-02 03:06:05 +0000 UTC"`
	check("at first", "/healthz", 200, `{"lastUpdated": `+t0+`,"currentTime": `+t0+`, "nodeEligible": true}`)
	p.Queued()
	p.Updated()
	p.Queued()
	check("a change waits", "/livez", 200, `{"lastUpdated": `+t0+`,"currentTime": `+t0+`}`)
	now = now.Add(2 * time.Minute)
	p.Queued()
	check("it waits for long", "/healthz", 503, `{"lastUpdated": `+t0+`,"currentTime": `+t1+`, "nodeEligible": true}`)
	check("it waits for long", "/livez", 503, `{"lastUpdated": `+t0+`,"currentTime": `+t1+`}`)
	p.Updated()
	p.Eligible(false)
	check("the node goes", "/healthz", 503, `{"lastUpdated": `+t1+`,"currentTime": `+t1+`, "nodeEligible": false}`)
	check("the node goes", "/livez", 200, `{"lastUpdated": `+t1+`,"currentTime": `+t1+`}`)
	if counts["healthz 503"] != 2 || counts["livez 200"] != 2 {
		t.Errorf("counted %v", counts)
	}
	if !p.Healthy() {
		t.Error("not healthy")
	}
}

func TestServe(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := NewProxy(func(string, string) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := p.Serve(ctx, address); err == nil || !strings.Contains(err.Error(), "failed to start proxy healthz on "+address) {
		t.Errorf("a port that is taken: %v", err)
	}
	l.Close()
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, address) }()
	if code, _, _ := get(t, address+"/healthz"); code != 200 {
		t.Errorf("status %d", code)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
