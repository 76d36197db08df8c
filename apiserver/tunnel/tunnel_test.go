package tunnel_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"k8s.io/apiserver/pkg/endpoints/request"

	agent "github.com/coracle-dev/coracle/agent/tunnel"
	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/apiserver/tunnel"
	"github.com/coracle-dev/coracle/internal/pki"
	pb "github.com/coracle-dev/coracle/proto/tunnel"
)

// cluster is an API server's HTTPS port with the tunnel behind authentication.
type cluster struct {
	*tunnel.Server
	t    testing.TB
	pki  *pki.PKI
	addr string
	stop func()
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	p, err := pki.Open(pki.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, pki: p, addr: "127.0.0.1:0"}
	c.start()
	t.Cleanup(func() { c.stop() })
	return c
}

// start serves at c.addr, where a stopped one did.
func (c *cluster) start() {
	c.t.Helper()
	l, err := net.Listen("tcp", c.addr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.addr = l.Addr().String()
	c.Server = tunnel.New()
	authn, served := auth.NewAuthenticator(c.pki.CAPool(), nil), c.Server
	srv := &http.Server{
		TLSConfig: c.pki.ServerTLS(),
		HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: 250, MaxReceiveBufferPerStream: 256 << 10, MaxReceiveBufferPerConnection: 1 << 20},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			resp, ok, err := authn.AuthenticateRequest(r)
			if err != nil || !ok {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			served.ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), resp.User)))
		}),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.ServeTLS(l, "", "")
	}()
	c.stop = func() {
		_ = srv.Close()
		<-done
	}
}

func (c *cluster) tls(id *pki.Identity) *tls.Config {
	c.t.Helper()
	cfg := &tls.Config{RootCAs: c.pki.CAPool(), MinVersion: tls.VersionTLS12}
	if id == nil {
		return cfg
	}
	pair, err := c.pki.IssueClient(*id)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		c.t.Fatal(err)
	}
	cfg.Certificates = []tls.Certificate{cert}
	return cfg
}

// join runs a node's agent until the returned function is called.
func (c *cluster) join(node string, handler http.Handler) (leave func()) {
	c.t.Helper()
	id := pki.Node(node)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := agent.Run(ctx, agent.Config{Server: "https://" + c.addr, TLS: c.tls(&id), Handler: handler, MinBackoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond}); err != nil {
			c.t.Error(err)
		}
	}()
	var once sync.Once
	leave = func() {
		once.Do(func() {
			cancel()
			<-done
		})
	}
	c.t.Cleanup(leave)
	c.waitFor(node)
	return leave
}

func (c *cluster) waitFor(node string) {
	c.t.Helper()
	eventually(c.t, "node "+node+" connects", func() bool { return c.Connected(node) })
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("in vain: ", what)
		}
	}
}

// raw serves upgraded connections with the function of their path.
func raw(paths map[string]func(net.Conn, *bufio.Reader)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serve := paths[r.URL.Path]
		if serve == nil {
			fmt.Fprintf(w, "hello from %s", r.URL.Path)
			return
		}
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"); err == nil {
			serve(conn, buf.Reader)
		}
	})
}

func echo(conn net.Conn, r *bufio.Reader) { _, _ = io.Copy(conn, r) }

// upgraded is a connection whose handshake is done.
type upgraded struct {
	net.Conn
	r *bufio.Reader
}

func (u upgraded) Read(p []byte) (int, error) { return u.r.Read(p) }
func (u upgraded) CloseWrite() error          { return u.Conn.(interface{ CloseWrite() error }).CloseWrite() }

func (c *cluster) upgrade(node, path string) (upgraded, error) {
	conn, err := c.DialNode(context.Background(), node)
	if err != nil {
		return upgraded{}, err
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n", path); err != nil {
		return upgraded{}, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return upgraded{}, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return upgraded{}, errors.New(resp.Status)
	}
	return upgraded{conn, r}, conn.SetDeadline(time.Time{})
}

func TestHTTP(t *testing.T) {
	c := newCluster(t)
	c.join("n1", raw(nil))
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.DialNode(ctx, "n1") }}
	defer transport.CloseIdleConnections()
	for i := range 20 {
		resp, err := (&http.Client{Transport: transport}).Get(fmt.Sprintf("http://node/%d", i))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || string(body) != fmt.Sprintf("hello from /%d", i) {
			t.Fatal(string(body), err)
		}
	}
}

func TestConformsToNetConn(t *testing.T) {
	c := newCluster(t)
	conns := make(chan net.Conn)
	c.join("n1", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		conns <- conn
	}))
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		a, err := c.DialNode(t.Context(), "n1")
		if err != nil {
			return nil, nil, nil, err
		}
		if _, err := io.WriteString(a, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return nil, nil, nil, err
		}
		b := <-conns
		_ = b.SetDeadline(time.Time{})
		return a, b, func() { _, _ = a.Close(), b.Close() }, nil
	})
}

// TestRequestEndsWithItsConnection: also one that took its connection over and does not read it learns that the other end has gone.
func TestRequestEndsWithItsConnection(t *testing.T) {
	c := newCluster(t)
	gone := make(chan struct{})
	c.join("a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
		<-r.Context().Done()
		close(gone)
	}))
	c.waitFor("a")
	conn, err := c.upgrade("a", "/")
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
		t.Error("the request has ended before its connection")
	case <-time.After(50 * time.Millisecond):
	}
	conn.Close()
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Error("the request goes on")
	}
}

func TestThousandConnections(t *testing.T) {
	c := newCluster(t)
	c.join("n1", raw(map[string]func(net.Conn, *bufio.Reader){"/echo": echo}))
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	var ready sync.WaitGroup
	ready.Add(1000)
	for i := range 1000 {
		wg.Go(func() {
			conn, err := c.upgrade("n1", "/echo")
			ready.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			ready.Wait() // all are open at once
			text := strings.Repeat(fmt.Sprintf("%04d", i), 500)
			go func() {
				_, _ = io.WriteString(conn, text)
				_ = conn.CloseWrite()
			}()
			if got, err := io.ReadAll(conn); err != nil || string(got) != text {
				t.Errorf("%d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
	eventually(t, fmt.Sprintf("goroutines come back to %d", before), func() bool { return runtime.NumGoroutine() <= before+20 })
}

func TestLargeTransfersBothWays(t *testing.T) {
	c := newCluster(t)
	const size = 24 << 20
	c.join("n1", raw(map[string]func(net.Conn, *bufio.Reader){"/both": func(conn net.Conn, r *bufio.Reader) {
		// Answers with as many bytes as it is sent, and then with the digest of what it was sent.
		sent := sha256.New()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(sent, r)
		}()
		_, _ = io.CopyN(conn, random(2), size)
		<-done
		_, _ = conn.Write(sent.Sum(nil))
	}}))
	conn, err := c.upgrade("n1", "/both")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	start := time.Now()
	want := sha256.New()
	go func() {
		_, _ = io.CopyN(io.MultiWriter(conn, want), random(1), size)
		_ = conn.CloseWrite()
	}()
	got, expected := sha256.New(), sha256.New()
	if _, err := io.CopyN(got, conn, size); err != nil {
		t.Fatal(err)
	}
	digest, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.CopyN(expected, random(2), size)
	if string(got.Sum(nil)) != string(expected.Sum(nil)) || string(digest) != string(want.Sum(nil)) {
		t.Error("what arrived is not what was sent")
	}
	t.Logf("%d MiB each way in %v", size>>20, time.Since(start))
}

// random is an endless reproducible stream.
func random(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

func TestStalledReaderHoldsUpNobody(t *testing.T) {
	c := newCluster(t)
	wrote := make(chan int64, 1)
	c.join("n1", raw(map[string]func(net.Conn, *bufio.Reader){
		"/echo": echo,
		"/flood": func(conn net.Conn, _ *bufio.Reader) {
			n, _ := io.CopyN(conn, random(1), 64<<20)
			wrote <- n
		},
	}))
	stalled, err := c.upgrade("n1", "/flood")
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	live, err := c.upgrade("n1", "/echo")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	_ = live.SetDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 100)
	for range 100 {
		if _, err := live.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(live, buf); err != nil {
			t.Fatal(err)
		}
	}
	_ = stalled.Close()
	select {
	case n := <-wrote:
		if n > 2<<20 {
			t.Errorf("%d bytes were taken from a connection that nobody reads", n)
		}
	case <-time.After(10 * time.Second):
		t.Error("the writer was not told that its peer has gone")
	}
}

func TestIdentity(t *testing.T) {
	c := newCluster(t)
	c.join("n1", raw(nil))
	listen := func(cfg *tls.Config) error {
		conn, err := grpc.NewClient("passthrough:///"+c.addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
		if err != nil {
			return err
		}
		defer conn.Close()
		stream, err := pb.NewNodeTunnelClient(conn).Listen(t.Context(), &pb.ListenRequest{})
		if err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	if err := listen(c.tls(&pki.Admin)); status.Code(err) != codes.PermissionDenied {
		t.Error("an admin is no node:", err)
	}
	if err := listen(c.tls(&pki.Identity{Name: "system:node:n1"})); status.Code(err) != codes.PermissionDenied {
		t.Error("a node's name without its group:", err)
	}
	if err := listen(c.tls(nil)); status.Code(err) != codes.PermissionDenied {
		t.Error("nobody:", err)
	}
	other := newCluster(t)
	id := pki.Node("n1")
	foreign := other.tls(&id)
	foreign.RootCAs = c.pki.CAPool()
	// A client may keep a certificate back that the server's list of CAs does not fit: then it is nobody.
	if err := listen(foreign); status.Code(err) != codes.Unauthenticated && status.Code(err) != codes.PermissionDenied {
		t.Error("a certificate of another CA:", err)
	}
}

func TestOnlyTheDialledNodeAnswers(t *testing.T) {
	c := newCluster(t)
	id := pki.Node("n1")
	client := func(id pki.Identity) pb.NodeTunnelClient {
		conn, err := grpc.NewClient("passthrough:///"+c.addr, grpc.WithTransportCredentials(credentials.NewTLS(c.tls(&id))))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return pb.NewNodeTunnelClient(conn)
	}
	listening, err := client(id).Listen(t.Context(), &pb.ListenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	c.waitFor("n1")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	dialled := make(chan error, 1)
	go func() {
		_, err := c.DialNode(ctx, "n1")
		dialled <- err
	}()
	if _, err := listening.Recv(); err != nil { // the greeting
		t.Fatal(err)
	}
	open, err := listening.Recv()
	if err != nil {
		t.Fatal(err)
	}
	steal := func(id pki.Identity, open string) error {
		stream, err := client(id).Carry(t.Context())
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.Chunk{Id: open}); err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	if err := steal(pki.Node("n2"), open.Id); status.Code(err) != codes.NotFound {
		t.Error("another node took the connection:", err)
	}
	if err := steal(id, "guess"); status.Code(err) != codes.NotFound {
		t.Error("an id that was never given:", err)
	}
	if err := <-dialled; !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `node "n1" did not answer`) {
		t.Error(err)
	}
	if err := steal(id, open.Id); status.Code(err) != codes.NotFound {
		t.Error("an answer that is late:", err)
	}
}

func TestNotConnected(t *testing.T) {
	c := newCluster(t)
	_, err := c.DialNode(t.Context(), "n9")
	if !errors.Is(err, tunnel.ErrNotConnected) || err.Error() != `node "n9": its agent is not connected to the API server` {
		t.Error(err)
	}
	leave := c.join("n9", raw(map[string]func(net.Conn, *bufio.Reader){"/echo": echo}))
	conn, err := c.upgrade("n9", "/echo")
	if err != nil {
		t.Fatal(err)
	}
	leave()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the agent has gone and the connection does not tell")
	}
	eventually(t, "the node is forgotten", func() bool { return !c.Connected("n9") })
}

func TestServerRestart(t *testing.T) {
	c := newCluster(t)
	ended := make(chan error, 1)
	c.join("n1", raw(map[string]func(net.Conn, *bufio.Reader){"/wait": func(_ net.Conn, r *bufio.Reader) {
		_, err := r.ReadByte()
		ended <- err
	}}))
	if _, err := c.upgrade("n1", "/wait"); err != nil {
		t.Fatal(err)
	}
	c.stop()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("no error")
		}
	case <-time.After(5 * time.Second):
		t.Error("the agent's connection outlives the server")
	}
	c.start()
	c.waitFor("n1")
	if _, err := c.upgrade("n1", "/wait"); err != nil {
		t.Error(err)
	}
}

func TestNewestAgentWins(t *testing.T) {
	c := newCluster(t)
	answer := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
	}
	who := func() string {
		transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.DialNode(ctx, "n1") }}
		resp, err := (&http.Client{Transport: transport}).Get("http://node/")
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	leave := c.join("n1", answer("old"))
	if got := who(); got != "old" {
		t.Fatal(got)
	}
	c.join("n1", answer("new"))
	eventually(t, "the new agent answers", func() bool { return who() == "new" })
	leave()
	eventually(t, "the new agent stays", func() bool { return who() == "new" })
}

func BenchmarkDial(b *testing.B) {
	c := newCluster(b)
	c.join("n1", raw(map[string]func(net.Conn, *bufio.Reader){"/echo": echo}))
	for b.Loop() {
		conn, err := c.upgrade("n1", "/echo")
		if err != nil {
			b.Fatal(err)
		}
		_ = conn.Close()
	}
}

func BenchmarkThroughput(b *testing.B) {
	c := newCluster(b)
	c.join("n1", raw(map[string]func(net.Conn, *bufio.Reader){"/flood": func(conn net.Conn, _ *bufio.Reader) { _, _ = io.Copy(conn, zeroes{}) }}))
	conn, err := c.upgrade("n1", "/flood")
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 1<<20)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if _, err := io.ReadFull(conn, buf); err != nil {
			b.Fatal(err)
		}
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { return len(p), nil }
