package rest_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/coracle-dev/coracle/apiserver/rest"
)

// pipeListener makes connections without a network.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (l *pipeListener) dial() (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// fakeNode serves a node's API.
type fakeNode struct{ l *pipeListener }

func (n fakeNode) DialNode(_ context.Context, node string) (net.Conn, error) {
	if node != "n1" {
		return nil, errors.New("no tunnel")
	}
	return n.l.dial()
}

func serveOn(t *testing.T, h http.Handler) *pipeListener {
	l := newPipeListener()
	srv := &http.Server{Handler: h}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	return l
}

// nodeFixture is an API server, reached over connections, with a node whose API is h.
func nodeFixture(t *testing.T, h http.Handler) (*fixture, *pipeListener) {
	node := serveOn(t, h)
	f := newFixture(t, func(c *rest.Config) { c.Nodes = fakeNode{node} })
	f.pod("p", "n1")
	f.pod("lost", "n2")
	return f, serveOn(t, f.chain)
}

func TestLogs(t *testing.T) {
	more := make(chan struct{})
	f, l := nodeFixture(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Query().Get("previous") != "" {
			http.Error(w, `previous terminated container "c" in pod "p" not found`, http.StatusBadRequest)
			return
		}
		if req.URL.Query().Get("sinceSeconds") == "7" {
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"as the node says","reason":"Conflict","code":409}`)
			return
		}
		fmt.Fprintf(w, "%s\n", req.URL)
		w.(http.Flusher).Flush()
		<-more
		fmt.Fprint(w, "more\n")
	}))
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return l.dial() }}}
	resp, err := client.Get("http://api" + podsPath + "/p/log?follow=true&tailLines=3&timestamps=true&sinceSeconds=5&limitBytes=10")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	want := "/containerLogs/default/p/c?follow=true&limitBytes=10&sinceSeconds=5&tailLines=3&timestamps=true\n"
	if line, err := lines.ReadString('\n'); err != nil || line != want {
		t.Errorf("the first line %q %v, want %q", line, err, want)
	}
	close(more)
	if rest, _ := io.ReadAll(lines); string(rest) != "more\n" {
		t.Errorf("the rest %q", rest)
	}
	if a := f.do("GET", podsPath+"/p/log?previous=true", ""); a.code != http.StatusBadRequest || !strings.Contains(a.text, `previous terminated container \"c\"`) {
		t.Errorf("%d %s", a.code, a.text)
	}
	if a := f.do("GET", podsPath+"/p/log?sinceSeconds=7", ""); a.code != http.StatusConflict || !strings.Contains(a.text, `"message":"as the node says"`) {
		t.Errorf("%d %s", a.code, a.text)
	}
	if a := f.do("GET", podsPath+"/lost/log", ""); a.code != http.StatusServiceUnavailable || !strings.Contains(a.text, `node \"n2\" cannot be reached: no tunnel`) {
		t.Errorf("%d %s", a.code, a.text)
	}
}

// TestUpgrade: once both sides agree, bytes pass untouched, and an end of one side ends the other.
func TestUpgrade(t *testing.T) {
	var asked *http.Request
	_, l := nodeFixture(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked = req
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nhello ")
		line, _ := buf.ReadString('\n')
		fmt.Fprint(conn, strings.ToUpper(line))
	}))
	conn, err := l.dial()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	// The client speaks before it has seen the answer.
	go fmt.Fprintf(conn, "POST %s/p/exec?command=cat&command=a+b&stdin=true&stdout=1&tty=false HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nAuthorization: Bearer secret\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nping\n", podsPath)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("X-Stream-Protocol-Version") != "v4.channel.k8s.io" {
		t.Fatalf("%v %v", resp, err)
	}
	all, err := io.ReadAll(in)
	if string(all) != "hello PING\n" {
		t.Errorf("%q %v", all, err)
	}
	if got, want := asked.URL.String(), "/exec/default/p/c?command=cat&command=a+b&input=1&output=1"; got != want {
		t.Errorf("the node was asked %s, want %s", got, want)
	}
	if asked.Header.Get("Authorization") != "" {
		t.Error("the client's credentials reached the node")
	}
}

// TestLogsOverWebSocket: in messages of text as it is, or in base64.
func TestLogsOverWebSocket(t *testing.T) {
	_, l := nodeFixture(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "what was\nlogged\n") }))
	for protocol, want := range map[string]string{
		"": "what was\nlogged\n", "binary.k8s.io": "what was\nlogged\n", "base64.binary.k8s.io": base64.StdEncoding.EncodeToString([]byte("what was\nlogged\n")),
	} {
		d := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return l.dial() }}
		if protocol != "" {
			d.Subprotocols = []string{protocol}
		}
		conn, _, err := d.Dial("ws://api"+podsPath+"/p/log", nil)
		if err != nil {
			t.Fatalf("%q: %v", protocol, err)
		}
		var got strings.Builder
		for {
			_, m, err := conn.ReadMessage()
			if err != nil {
				break
			}
			got.Write(m)
		}
		conn.Close()
		if got.String() != want {
			t.Errorf("%q: %q, want %q", protocol, got.String(), want)
		}
	}
}

func TestUpgradeRefused(t *testing.T) {
	f, _ := nodeFixture(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/attach") {
			http.Error(w, `container not found ("c")`, http.StatusInternalServerError)
			return
		}
		http.Error(w, "you must specify at least 1 of stdin, stdout, stderr", http.StatusBadRequest)
	}))
	for path, want := range map[string]string{
		"/p/exec":                             "you must specify at least 1 of stdin, stdout, stderr",
		"/p/attach?container=x":               "container x is not valid for pod p",
		"/p/portforward?ports=0":              `unable to parse \"0\" as a port`,
		"/p/exec?dryRun=All":                  "dryRun is not supported",
		"/lost/exec?container=c&command=true": `node \"n2\" cannot be reached`,
	} {
		a := f.do("POST", podsPath+path, "", "Upgrade", "SPDY/3.1", "Connection", "Upgrade")
		if plain := path == "/p/exec"; plain == strings.Contains(a.text, `"kind":"Status"`) { // what a node says reaches its client as it is
			t.Errorf("%s: %s", path, a.text)
		}
		if a.code < 400 || !strings.Contains(a.text, want) {
			t.Errorf("%s: %d %s", path, a.code, a.text)
		}
	}
}
