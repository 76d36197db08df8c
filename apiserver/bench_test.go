package apiserver_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// sink is a response that goes nowhere.
type sink struct {
	header http.Header
	code   int
	n      int
	body   *bytes.Buffer // kept only for errors
}

func newSink() *sink                { return &sink{header: http.Header{}} }
func (s *sink) Header() http.Header { return s.header }
func (s *sink) WriteHeader(c int)   { s.code = c }
func (s *sink) Flush()              {}
func (s *sink) Write(b []byte) (int, error) {
	if s.code >= 400 {
		if s.body == nil {
			s.body = &bytes.Buffer{}
		}
		s.body.Write(b)
	}
	s.n += len(b)
	return len(b), nil
}

var admin = auth.WithLocalUser(context.Background(), apiservertest.Admin)

func request(method, path, accept, body string) *http.Request {
	req := httptest.NewRequest(method, path, strings.NewReader(body)).WithContext(admin)
	req.Header.Set("Accept", accept)
	req.Header.Set("Content-Type", "application/json")
	return req
}

const protobuf = "application/vnd.kubernetes.protobuf"

func do(tb testing.TB, h http.Handler, req *http.Request) *sink {
	w := newSink()
	h.ServeHTTP(w, req)
	if w.code >= 300 {
		tb.Fatalf("%s %s: %d %s", req.Method, req.URL, w.code, w.body)
	}
	return w
}

// podBody is a pod of about 1.5 KB.
func podBody(name string) string {
	env := make([]string, 10)
	for i := range env {
		env[i] = fmt.Sprintf(`{"name":"VARIABLE_%d","value":"the value of variable number %d"}`, i, i)
	}
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"labels":{"app":"bench","tier":"front"}},"spec":{"containers":[
		{"name":"c","image":"registry.example.com/team/image:v1","env":[%s],"ports":[{"containerPort":8080}],
		"resources":{"requests":{"cpu":"100m","memory":"64Mi"},"limits":{"memory":"128Mi"}}}]}}`, name, strings.Join(env, ","))
}

const podsPath = "/api/v1/namespaces/default/pods"

func startBench(b *testing.B, pods int) http.Handler {
	b.Helper()
	s := apiservertest.StartServer(b, apiserver.Config{Store: memory.New()})
	for i := range pods {
		do(b, s.Handler(), request("POST", podsPath, protobuf, podBody(fmt.Sprintf("pod-%05d", i))))
	}
	return s.Handler()
}

func BenchmarkCreate(b *testing.B) {
	h := startBench(b, 0)
	var n atomic.Int64
	b.SetParallelism(8)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			do(b, h, request("POST", podsPath, protobuf, podBody(fmt.Sprintf("pod-%d", n.Add(1)))))
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
}

func BenchmarkGet(b *testing.B) {
	h := startBench(b, 100)
	for _, accept := range []string{protobuf, "application/json"} {
		b.Run(accept[len("application/"):], func(b *testing.B) {
			var n atomic.Int64
			b.SetParallelism(8)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					do(b, h, request("GET", fmt.Sprintf("%s/pod-%05d", podsPath, n.Add(1)%100), accept, ""))
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "gets/s")
		})
	}
}

func BenchmarkPatch(b *testing.B) {
	h := startBench(b, 100)
	for _, kind := range []string{"merge-patch+json", "strategic-merge-patch+json"} {
		b.Run(kind, func(b *testing.B) {
			var n atomic.Int64
			b.SetParallelism(8)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := n.Add(1)
					req := request("PATCH", fmt.Sprintf("%s/pod-%05d", podsPath, i%100), protobuf, fmt.Sprintf(`{"metadata":{"labels":{"n":"%d"}}}`, i))
					req.Header.Set("Content-Type", "application/"+kind)
					do(b, h, req)
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "patches/s")
		})
	}
}

func BenchmarkList5000(b *testing.B) {
	h := startBench(b, 5000)
	for _, accept := range []string{protobuf, "application/json"} {
		b.Run(accept[len("application/"):], func(b *testing.B) {
			do(b, h, request("GET", podsPath, accept, ""))
			b.ReportAllocs()
			for b.Loop() {
				b.SetBytes(int64(do(b, h, request("GET", podsPath, accept, "")).n))
			}
		})
	}
}

// eventCounter counts the frames of a JSON watch.
type eventCounter struct {
	sink
	frames atomic.Int64
}

func (c *eventCounter) Write(b []byte) (int, error) {
	c.frames.Add(int64(bytes.Count(b, []byte("\n"))))
	return len(b), nil
}

func BenchmarkWatchFanOut(b *testing.B) {
	const watchers = 200
	h := startBench(b, 1)
	ctx, cancel := context.WithCancel(admin)
	counters := make([]*eventCounter, watchers)
	var wg sync.WaitGroup
	for i := range counters {
		counters[i] = &eventCounter{sink: *newSink()}
		wg.Go(func() {
			h.ServeHTTP(counters[i], request("GET", podsPath+"?watch=true", "application/json", "").WithContext(ctx))
		})
	}
	total := func() (n int64) {
		for _, c := range counters {
			n += c.frames.Load()
		}
		return n
	}
	wait := func(want int64) {
		for total() < want {
			time.Sleep(time.Millisecond)
		}
	}
	wait(watchers)
	b.ResetTimer()
	for i := range b.N {
		req := request("PATCH", podsPath+"/pod-00000", protobuf, fmt.Sprintf(`{"metadata":{"labels":{"n":"%d"}}}`, i))
		req.Header.Set("Content-Type", "application/merge-patch+json")
		do(b, h, req)
	}
	wait(int64(b.N+1) * watchers)
	b.ReportMetric(float64(b.N*watchers)/b.Elapsed().Seconds(), "deliveries/s")
	b.StopTimer()
	cancel()
	wg.Wait()
}
