package rest_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coracle-dev/coracle/apiserver/rest"
)

func TestWatchFollowsSelectors(t *testing.T) {
	f := newFixture(t, nil)
	w := f.watch(mapsPath + "?watch=true&labelSelector=on%3Dyes")
	f.must("POST", mapsPath, configMap("a"))
	steps := []struct{ patch, want string }{
		{`{"metadata":{"labels":{"on":"yes"}}}`, "ADDED"},
		{`{"data":{"k":"v"}}`, "MODIFIED"},
		{`{"metadata":{"labels":{"on":"no"}}}`, "DELETED"},
	}
	for _, s := range steps {
		f.must("PATCH", mapsPath+"/a", s.patch, "Content-Type", mergeType)
		if e := w.next(t); e.Type != s.want {
			t.Errorf("after %s: %s, want %s", s.patch, e.Type, s.want)
		}
	}
}

// TestWatchDeleted: the last event of an object carries its last state under the version of its deletion.
func TestWatchDeleted(t *testing.T) {
	f := newFixture(t, nil)
	created := f.must("POST", mapsPath, `{"metadata":{"name":"a"},"data":{"k":"v"}}`)
	w := f.watch(mapsPath + "?watch=true&resourceVersion=" + created.obj.GetResourceVersion())
	f.must("DELETE", mapsPath+"/a", "")
	e := w.next(t)
	data, _ := e.Object.Object["data"].(map[string]any)
	if e.Type != "DELETED" || data["k"] != "v" || e.Object.GetResourceVersion() == created.obj.GetResourceVersion() {
		t.Errorf("%+v", e)
	}
}

// TestWatchTooOld: history that is gone is an ERROR event of a watch that was accepted.
func TestWatchTooOld(t *testing.T) {
	f := newFixture(t, nil)
	for range 3 {
		f.must("POST", mapsPath, `{"metadata":{"generateName":"x-"}}`)
	}
	f2 := newFixture(t, func(c *rest.Config) { c.Store = f.store }) // its history begins now
	w := f2.watch(mapsPath + "?watch=true&resourceVersion=1")
	e := w.next(t)
	if e.Type != "ERROR" || e.Object.Object["reason"] != "Expired" || e.Object.Object["code"] != float64(410) {
		t.Errorf("%+v", e)
	}
}

func TestStreamingList(t *testing.T) {
	f := newFixture(t, nil)
	f.must("POST", mapsPath, configMap("a"))
	f.must("POST", mapsPath, configMap("b"))
	w := f.watch(mapsPath + "?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
	for _, want := range []string{"a", "b"} {
		if e := w.next(t); e.Type != "ADDED" || e.Object.GetName() != want {
			t.Errorf("%+v", e)
		}
	}
	if e := w.next(t); e.Type != "BOOKMARK" || e.Object.GetAnnotations()["k8s.io/initial-events-end"] != "true" {
		t.Errorf("%+v", e)
	}
	f.must("POST", mapsPath, configMap("c"))
	if e := w.next(t); e.Type != "ADDED" || e.Object.GetName() != "c" {
		t.Errorf("%+v", e)
	}
}

func TestWatchesEndAtShutdown(t *testing.T) {
	f := newFixture(t, nil)
	w := f.watch(mapsPath + "?watch=true")
	f.rest.EndWatches()
	for range w.events {
	}
}

// TestWatchFromNow: without initial events and version, a watch begins at the newest state.
func TestWatchFromNow(t *testing.T) {
	f := newFixture(t, nil)
	f.must("POST", mapsPath, configMap("a"))
	w := f.watch(mapsPath + "?watch=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan")
	f.must("POST", mapsPath, configMap("b"))
	if e := w.next(t); e.Type != "ADDED" || e.Object.GetName() != "b" {
		t.Errorf("%+v", e)
	}
}

// TestGzip: large bodies are compressed for clients of other machines that ask for it.
func TestGzip(t *testing.T) {
	f := newFixture(t, nil)
	f.must("POST", mapsPath, `{"metadata":{"name":"big"},"data":{"k":"`+strings.Repeat("v", 200<<10)+`"}}`)
	f.must("POST", mapsPath, configMap("small"))
	for _, c := range []struct {
		path, from, accept string
		want               bool
	}{
		{"/big", "192.0.2.7:1", "gzip", true},
		{"/big", "192.0.2.7:1", "", false},
		{"/big", "127.0.0.1:1", "gzip", false},
		{"/big", "", "gzip", false},
		{"/small", "192.0.2.7:1", "gzip", false},
	} {
		req := httptest.NewRequest("GET", mapsPath+c.path, nil)
		req.RemoteAddr = c.from
		req.Header.Set("Accept-Encoding", c.accept)
		rec := httptest.NewRecorder()
		f.chain.ServeHTTP(rec, req)
		var body io.Reader = rec.Body
		if got := rec.Header().Get("Content-Encoding") == "gzip"; got != c.want {
			t.Errorf("%+v: compressed: %v", c, got)
		} else if got {
			var err error
			if body, err = gzip.NewReader(rec.Body); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := io.ReadAll(body); err != nil || !bytes.Contains(b, []byte(`"kind":"ConfigMap"`)) {
			t.Errorf("%+v: %.100s %v", c, b, err)
		}
	}
}
