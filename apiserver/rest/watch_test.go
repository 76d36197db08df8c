package rest_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

// dial opens a WebSocket on a path of the fixture's API.
func (f *fixture) dial(path string, header http.Header, protocols ...string) (*websocket.Conn, error) {
	f.t.Helper()
	server := httptest.NewServer(f.chain)
	f.t.Cleanup(server.Close)
	config, err := websocket.NewConfig("ws"+strings.TrimPrefix(server.URL, "http")+path, "http://localhost")
	if err != nil {
		f.t.Fatal(err)
	}
	config.Protocol = protocols
	maps.Copy(config.Header, header)
	socket, err := config.DialContext(f.t.Context())
	if err == nil {
		f.t.Cleanup(func() { _ = socket.Close() })
		if err := socket.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			f.t.Fatal(err)
		}
	}
	return socket, err
}

// TestWatchWebSocket: an event is a message, of text where it is JSON.
func TestWatchWebSocket(t *testing.T) {
	for _, protocols := range [][]string{nil, {"binary.k8s.io"}, {"base64.binary.k8s.io"}, {"other", "base64.binary.k8s.io"}} {
		f := newFixture(t, nil)
		f.must("POST", mapsPath, configMap("a"))
		f.must("POST", mapsPath, configMap("b"))
		socket, err := f.dial(mapsPath+"?watch=true&resourceVersion=0", nil, protocols...)
		if err != nil {
			t.Fatalf("%v: %v", protocols, err)
		}
		if got := socket.Config().Protocol; len(protocols) > 0 && (len(got) != 1 || got[0] != protocols[len(protocols)-1]) {
			t.Errorf("of %v the server chose %v", protocols, got)
		}
		f.must("DELETE", mapsPath+"/a", "")
		for _, want := range []string{"ADDED a", "ADDED b", "DELETED a"} {
			frame, err := socket.NewFrameReader()
			if err != nil {
				t.Fatal(err)
			}
			if frame.PayloadType() != websocket.TextFrame {
				t.Errorf("%v: a frame of type %d", protocols, frame.PayloadType())
			}
			var e struct {
				Type   string
				Object struct{ Metadata struct{ Name string } }
			}
			if err := json.NewDecoder(frame).Decode(&e); err != nil {
				t.Fatal(err)
			}
			if got := e.Type + " " + e.Object.Metadata.Name; got != want {
				t.Errorf("%v: %s, want %s", protocols, got, want)
			}
			if _, err := io.Copy(io.Discard, frame); err != nil {
				t.Fatal(err)
			}
		}
		f.rest.EndWatches()
		if n, err := socket.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%v: after the server's end: %d bytes, %v", protocols, n, err)
		}
	}
}

// TestWatchWebSocketProtobuf: messages are binary and carry no length before them.
func TestWatchWebSocketProtobuf(t *testing.T) {
	f := newFixture(t, nil)
	f.must("POST", mapsPath, configMap("a"))
	socket, err := f.dial(mapsPath+"?watch=true&resourceVersion=0", http.Header{"Accept": {"application/vnd.kubernetes.protobuf;stream=watch"}})
	if err != nil {
		t.Fatal(err)
	}
	frame, err := socket.NewFrameReader()
	if err != nil {
		t.Fatal(err)
	}
	if frame.PayloadType() != websocket.BinaryFrame {
		t.Errorf("a frame of type %d", frame.PayloadType())
	}
	b, err := io.ReadAll(frame)
	if err != nil {
		t.Fatal(err)
	}
	var e metav1.WatchEvent
	if err := e.Unmarshal(b); err != nil || e.Type != "ADDED" || !bytes.HasPrefix(e.Object.Raw, []byte("k8s\x00")) {
		t.Errorf("%s %q, %v", e.Type, e.Object.Raw, err)
	}
}

// TestWatchWebSocketRefused: what is wrong with a request is told before the upgrade, what is wrong later by an event.
func TestWatchWebSocketRefused(t *testing.T) {
	f := newFixture(t, nil)
	if _, err := f.dial(mapsPath+"?watch=true", nil, "one", "two"); err == nil {
		t.Error("protocols of which none is known were accepted")
	}
	if _, err := f.dial(mapsPath+"?watch=true&labelSelector=%21%21", nil); err == nil {
		t.Error("a selector that is none was accepted")
	}
	f.must("POST", mapsPath, configMap("a"))
	f.must("POST", mapsPath, configMap("b"))
	f2 := newFixture(t, func(c *rest.Config) { c.Store = f.store })
	socket, err := f2.dial(mapsPath+"?watch=true&resourceVersion=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	var text string
	if err := websocket.Message.Receive(socket, &text); err != nil || !strings.Contains(text, `"reason":"Expired"`) {
		t.Errorf("%q, %v", text, err)
	}
}
