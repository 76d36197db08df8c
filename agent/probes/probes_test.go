package probes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestCounter(t *testing.T) {
	for _, c := range []struct {
		success, failure int32
		answers, want    string // + - for answers; + - for a changed verdict, . for none
	}{
		{1, 3, "+--+---+", "+.....-+"},
		{2, 1, "-+++-", "-.+.-"},
		{1, 1, "++--", "+.-."},
		{1, 3, "--", ".."},
	} {
		k, got := counter{success: c.success, failure: c.failure}, ""
		for _, a := range c.answers {
			verdict, changed := k.count(a == '+')
			switch {
			case !changed:
				got += "."
			case verdict:
				got += "+"
			default:
				got += "-"
			}
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", c.answers, got, c.want)
		}
	}
}

func yes(r Result, message string) (bool, string) { return r.OK(), message }

func target(addr string) (Target, intstr.IntOrString) {
	ap := netip.MustParseAddrPort(addr)
	c := &v1.Container{Name: "app", Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(ap.Port())}}}
	return Target{Pod: &v1.Pod{}, Container: c, ID: "c1", IP: ap.Addr().String(), StartedAt: time.Now()}, intstr.FromString("web")
}

func TestHTTP(t *testing.T) {
	var seen atomic.Value
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Host + " " + r.Header.Get("X-A") + " " + r.UserAgent() + " " + r.URL.String())
		switch r.URL.Path {
		case "/no":
			w.WriteHeader(503)
		case "/away":
			http.Redirect(w, r, "http://example.invalid/", http.StatusFound)
		case "/slow":
			<-r.Context().Done()
		}
	}))
	defer srv.Close()
	tg, port := target(strings.TrimPrefix(srv.URL, "http://"))
	a := NewAsker(nil)
	ask := func(path string) (bool, string) {
		return yes(a.Ask(context.Background(), &v1.Probe{TimeoutSeconds: 1, ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: port,
			HTTPHeaders: []v1.HTTPHeader{{Name: "Host", Value: "h.test"}, {Name: "X-A", Value: "1"}}}}}, tg))
	}
	if ok, m := ask("/yes?q=1"); !ok {
		t.Error(m)
	}
	if got := seen.Load(); got != "h.test 1 kube-probe/1.37 /yes?q=1" {
		t.Errorf("request %q", got)
	}
	if ok, m := ask("/no"); ok || m != "HTTP probe failed with statuscode: 503" {
		t.Error(ok, m)
	}
	if ok, m := ask("/away"); !ok {
		t.Error(m)
	}
	if ok, m := ask("/slow"); ok || !strings.Contains(m, "deadline exceeded") {
		t.Error(ok, m)
	}
}

func TestTCPAndExec(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tg, port := target(l.Addr().String())
	a := NewAsker(func(_ context.Context, _ string, command []string, _ time.Duration) ([]byte, int, error) {
		return []byte("says " + command[0] + "\n"), len(command) - 1, nil
	})
	tcp := &v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: port}}}
	if ok, m := yes(a.Ask(context.Background(), tcp, tg)); !ok {
		t.Error(m)
	}
	l.Close()
	if ok, m := yes(a.Ask(context.Background(), tcp, tg)); ok || !strings.Contains(m, "connection refused") {
		t.Error(ok, m)
	}
	exec := func(command ...string) (bool, string) {
		return yes(a.Ask(context.Background(), &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: command}}}, tg))
	}
	if ok, _ := exec("a"); !ok {
		t.Error("exit 0 is a failure")
	}
	if ok, m := exec("a", "b"); ok || m != "says a" {
		t.Error(ok, m)
	}
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, h := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, h)
	go func() { _ = srv.Serve(l) }()
	defer srv.Stop()
	tg, _ := target(l.Addr().String())
	service := "db"
	p := &v1.Probe{ProbeHandler: v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: tg.Container.Ports[0].ContainerPort, Service: &service}}}
	a := NewAsker(nil)
	h.SetServingStatus("db", grpc_health_v1.HealthCheckResponse_SERVING)
	if ok, m := yes(a.Ask(context.Background(), p, tg)); !ok {
		t.Error(m)
	}
	h.SetServingStatus("db", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if ok, m := yes(a.Ask(context.Background(), p, tg)); ok || m != `service unhealthy (responded with "NOT_SERVING")` {
		t.Error(ok, m)
	}
}

// recorder collects what it is told.
type recorder struct {
	mu  sync.Mutex
	log []string
	ch  chan string
}

func (r *recorder) Verdict(_ Target, k Kind, ok bool) { r.ch <- fmt.Sprintf("%s %t", k, ok) }
func (r *recorder) Tell(_ Target, reason, m string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, reason+": "+m)
}

func TestManagerAsksForReadinessAfterStartup(t *testing.T) {
	r := &recorder{ch: make(chan string, 10)}
	m := New(context.Background(), NewAsker(func(context.Context, string, []string, time.Duration) ([]byte, int, error) { return nil, 0, nil }), r)
	defer m.Close()
	p := &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"x"}}}}
	tg := Target{Pod: &v1.Pod{}, ID: "c1", StartedAt: time.Now(), Container: &v1.Container{StartupProbe: p, ReadinessProbe: p}}
	m.Watch(tg)
	m.Watch(tg)
	for _, want := range []string{"Startup true", "Readiness true"} {
		select {
		case got := <-r.ch:
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("no %s", want)
		}
	}
	m.Forget("c1")
	if len(r.ch) > 0 {
		t.Errorf("doubled verdict %s", <-r.ch)
	}
}

// TestWords: what events say of questions is what the kubelet says.
func TestWords(t *testing.T) {
	srv := httptest.NewServer(http.RedirectHandler("http://example.invalid/", http.StatusFound))
	defer srv.Close()
	tg, port := target(strings.TrimPrefix(srv.URL, "http://"))
	r := &recorder{ch: make(chan string, 10)}
	asker := NewAsker(func(_ context.Context, _ string, command []string, timeout time.Duration) ([]byte, int, error) {
		switch command[0] {
		case "late":
			return nil, 0, context.DeadlineExceeded
		case "absent":
			return nil, 0, errors.New("executable file not found in $PATH")
		}
		return []byte("not well\n"), 1, nil
	})
	m := New(context.Background(), asker, r)
	defer m.Close()
	exec := func(command string) v1.ProbeHandler {
		return v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{command}}}
	}
	for i, c := range []struct { // of a probe, and what is said of it
		handler v1.ProbeHandler
		want    string
	}{
		{exec("ill"), "Unhealthy: Liveness probe failed: not well"},
		{exec("late"), `Unhealthy: Liveness probe failed: command timed out: "late" timed out after 1s`},
		{exec("absent"), "Unhealthy: Liveness probe errored and resulted in unknown state: executable file not found in $PATH"},
		{v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: port}}, `ProbeWarning: Liveness probe warning: Probe terminated redirects, Response body: `},
		{v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: 1}}, `Unhealthy: Liveness probe failed: timeout: failed to connect service "127.0.0.1:1" within 1s`},
		{v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromString("none")}}, "Unhealthy: Liveness probe errored and resulted in unknown state: invalid port number: none"},
	} {
		r.mu.Lock()
		r.log = nil
		r.mu.Unlock()
		at := tg
		at.ID, at.Container = fmt.Sprint("c", i), tg.Container.DeepCopy()
		at.Container.LivenessProbe = &v1.Probe{PeriodSeconds: 100, FailureThreshold: 1, ProbeHandler: c.handler}
		m.Watch(at)
		<-r.ch
		m.Forget(at.ID)
		r.mu.Lock()
		if len(r.log) != 1 || !strings.HasPrefix(r.log[0], c.want) {
			t.Errorf("got %q, want %q", r.log, c.want)
		}
		r.mu.Unlock()
	}
}

// BenchmarkIdleProbes is the CPU that 200 probes of 10 s take, a hundredth of their time apart: one iteration is one second of that.
func BenchmarkIdleProbes(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer srv.Close()
	tg, port := target(strings.TrimPrefix(srv.URL, "http://"))
	a := NewAsker(nil)
	p := &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: port}}}
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	for b.Loop() {
		for range 20 {
			if r, m := a.Ask(b.Context(), p, tg); !r.OK() {
				b.Fatal(m)
			}
		}
	}
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	used := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	b.ReportMetric(float64(used.Microseconds())/float64(b.N)/1e4, "%cpu")
}
