package rest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/kinds"
	"github.com/coracle-dev/coracle/apiserver/rest"
	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// fixture is a Handler on a memory store, with as much of a chain as it needs.
type fixture struct {
	t     testing.TB
	store store.Store
	cache *cache.Cache
	rest  *rest.Handler
	chain http.Handler
}

func newFixture(t testing.TB, change func(*rest.Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, store: memory.New()}
	cfg := rest.Config{Kinds: kinds.All(), Scheme: kinds.Scheme(), Store: f.store}
	if change != nil {
		change(&cfg)
		f.store = cfg.Store
	}
	f.cache = cache.New(cfg.Store, rest.CacheResources(cfg.Kinds, cfg.Scheme))
	cfg.Cache = f.cache
	f.rest = rest.New(cfg)
	infos := &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	f.chain = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info, err := infos.NewRequestInfo(req)
		if err != nil {
			t.Error(err)
		}
		ctx := request.WithUser(request.WithRequestInfo(req.Context(), info), &user.DefaultInfo{Name: "tester"})
		f.rest.ServeHTTP(w, req.WithContext(ctx))
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.cache.Run(ctx) }()
	t.Cleanup(func() {
		f.rest.EndWatches()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if err := f.cache.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return f
}

// answer is a response with its decoded object.
type answer struct {
	code int
	obj  *unstructured.Unstructured
	text string
}

func (a answer) status() metav1.Status {
	var s metav1.Status
	_ = json.Unmarshal([]byte(a.text), &s)
	return s
}

func (f *fixture) do(method, path, body string, headers ...string) answer {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req := httptest.NewRequest(method, path, strings.NewReader(body)).WithContext(ctx)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	f.chain.ServeHTTP(rec, req)
	a := answer{code: rec.Code, text: rec.Body.String(), obj: &unstructured.Unstructured{}}
	_ = json.Unmarshal(rec.Body.Bytes(), &a.obj.Object)
	return a
}

// must is do where anything but success ends the test.
func (f *fixture) must(method, path, body string, headers ...string) answer {
	f.t.Helper()
	a := f.do(method, path, body, headers...)
	if a.code >= 300 {
		f.t.Fatalf("%s %s: %d %s", method, path, a.code, a.text)
	}
	return a
}

const (
	mapsPath  = "/api/v1/namespaces/default/configmaps"
	podsPath  = "/api/v1/namespaces/default/pods"
	mergeType = "application/merge-patch+json"
)

func configMap(name string) string { return fmt.Sprintf(`{"metadata":{"name":%q}}`, name) }

func (f *fixture) pod(name, node string) {
	f.t.Helper()
	f.must("POST", podsPath, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"containers":[{"name":"c","image":"i"}]}}`, name))
	if node != "" {
		f.must("POST", podsPath+"/"+name+"/binding", fmt.Sprintf(`{"target":{"name":%q}}`, node))
	}
}

// watching is a running watch.
type watching struct {
	events chan event
	cancel context.CancelFunc
}

type event struct {
	Type   string
	Object *unstructured.Unstructured
}

// pipeWriter is a response whose body is read while it is written.
type pipeWriter struct {
	header http.Header
	code   chan int
	out    *io.PipeWriter
}

func (w *pipeWriter) Header() http.Header         { return w.header }
func (w *pipeWriter) Write(b []byte) (int, error) { return w.out.Write(b) }
func (w *pipeWriter) WriteHeader(code int)        { w.code <- code }
func (w *pipeWriter) Flush()                      {}

func (f *fixture) watch(path string) *watching {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	in, out := io.Pipe()
	w := &pipeWriter{header: http.Header{}, code: make(chan int, 1), out: out}
	go func() {
		f.chain.ServeHTTP(w, httptest.NewRequest("GET", path, nil).WithContext(ctx))
		out.Close()
	}()
	if code := <-w.code; code != http.StatusOK {
		b, _ := io.ReadAll(in)
		f.t.Fatalf("watch %s: %d %s", path, code, b)
	}
	ws := &watching{events: make(chan event, 100), cancel: cancel}
	f.t.Cleanup(cancel)
	go func() {
		defer close(ws.events)
		lines := bufio.NewReader(in)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				in.CloseWithError(err)
				return
			}
			var raw struct {
				Type   string
				Object json.RawMessage
			}
			e := event{Object: &unstructured.Unstructured{}}
			if json.Unmarshal(bytes.TrimSpace(line), &raw) == nil {
				e.Type = raw.Type
				_ = json.Unmarshal(raw.Object, &e.Object.Object)
			}
			ws.events <- e
		}
	}()
	return ws
}

// next is the watch's next event.
func (w *watching) next(t testing.TB) event {
	t.Helper()
	select {
	case e, ok := <-w.events:
		if !ok {
			t.Fatal("the watch ended")
		}
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
	}
	return event{}
}
