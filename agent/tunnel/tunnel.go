// Package tunnel is the agent's end of the node tunnel: it dials the API server, waits for connections to be opened, and
// serves HTTP on them. Its invariant: the agent listens on no port, and while ctx lives it comes back after every failure.
package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/coracle-dev/coracle/internal/carry"
	pb "github.com/coracle-dev/coracle/proto/tunnel"
)

// Config is what the agent's end needs.
type Config struct {
	// Server is the API server's URL or host:port.
	Server string
	// TLS has the node's client certificate and the cluster CA.
	TLS *tls.Config
	// Renewed, if set, gives a channel that is closed when TLS has another certificate to show: what is opened from then on is
	// opened with that, and what is open goes on.
	Renewed func() <-chan struct{}
	// Handler answers what the API server asks: the kubelet's paths, over HTTP/1.1, hijacking included.
	Handler http.Handler
	// MinBackoff and MaxBackoff bound the wait between attempts; 250 ms and 10 s by default.
	MinBackoff, MaxBackoff time.Duration
}

const (
	// A dead server is noticed within pingAfter + pingTimeout.
	pingAfter   = 20 * time.Second
	pingTimeout = 10 * time.Second
	// lingering is how long a closed connection waits for the server to take what was written last.
	lingering = 5 * time.Second
)

// Run keeps the tunnel until ctx ends; then connections are closed.
func Run(ctx context.Context, cfg Config) error {
	t, err := newTunnel(cfg)
	if err != nil {
		return err
	}
	defer t.pool.close()
	server := &http.Server{
		Handler:           cfg.Handler,
		ReadHeaderTimeout: 30 * time.Second,
		ConnContext:       connContext,
		ErrorLog:          slog.NewLogLogger(t.log.Handler(), slog.LevelDebug),
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(t.conns); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
			return fmt.Errorf("tunnel: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		_ = server.Close()
		return nil
	})
	group.Go(func() error {
		t.keepListening(ctx)
		return nil
	})
	return group.Wait()
}

type tunnel struct {
	cfg   Config
	pool  *pool
	conns *listener
	log   *slog.Logger
	carry sync.WaitGroup
}

func newTunnel(cfg Config) (*tunnel, error) {
	address := cfg.Server
	if u, err := url.Parse(cfg.Server); err == nil && u.Host != "" {
		address = u.Host
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, fmt.Errorf("tunnel: server %q: want https://HOST:PORT", cfg.Server)
	}
	if cfg.Renewed == nil {
		cfg.Renewed = func() <-chan struct{} { return nil }
	}
	if cfg.MinBackoff == 0 {
		cfg.MinBackoff = 250 * time.Millisecond
	}
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = 10 * time.Second
	}
	dial := func() (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+address,
			grpc.WithTransportCredentials(credentials.NewTLS(cfg.TLS.Clone())),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout, PermitWithoutStream: true}),
			grpc.WithStaticStreamWindowSize(2*carry.Window), grpc.WithStaticConnWindowSize(16*carry.Window),
			grpc.WithDisableServiceConfig(), grpc.WithIdleTimeout(0), grpc.WithUserAgent("coracle-agent"))
	}
	return &tunnel{cfg: cfg, pool: &pool{dial: dial}, conns: newListener(), log: slog.With("component", "tunnel")}, nil
}

// keepListening holds a Listen stream, again and again. Only changes are logged.
func (t *tunnel) keepListening(ctx context.Context) {
	defer t.carry.Wait()
	backoff, failing := t.cfg.MinBackoff, false
	renewed := t.cfg.Renewed()
	for {
		heard, err := t.listen(ctx, renewed)
		if ctx.Err() != nil {
			return
		}
		if isClosed(renewed) {
			renewed = t.cfg.Renewed()
			t.pool.renew()
			continue
		}
		if heard {
			backoff, failing = t.cfg.MinBackoff, false
		}
		if status.Code(err) == codes.Aborted { // another agent is this node: let the two not take turns all the time
			backoff = t.cfg.MaxBackoff
		}
		if !failing {
			t.log.Warn("The tunnel to the API server is down; logs, exec and port-forward wait for it", "server", t.cfg.Server, "err", err)
			failing = true
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff/2 + rand.N(backoff)):
		}
		backoff = min(backoff*2, t.cfg.MaxBackoff)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// listen holds one Listen stream until it breaks, or the certificate is renewed; heard tells that the server took it.
func (t *tunnel) listen(ctx context.Context, renewed <-chan struct{}) (heard bool, err error) {
	member, err := t.pool.get()
	if err != nil {
		return false, err
	}
	defer member.release()
	listening, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-renewed:
			cancel()
		case <-listening.Done():
		}
	}()
	member.conn.ResetConnectBackoff() // the wait between attempts is this loop's
	stream, err := pb.NewNodeTunnelClient(member.conn).Listen(listening, &pb.ListenRequest{})
	if err != nil {
		return false, err
	}
	for {
		open, err := stream.Recv()
		if err != nil {
			return heard, err
		}
		if !heard {
			t.log.Debug("The tunnel to the API server is up", "server", t.cfg.Server)
			heard = true
		}
		if open.Id != "" {
			t.carry.Go(func() { t.accept(ctx, open.Id) })
		}
	}
}

// accept answers one Open and returns when its connection is over. The connection outlives the Listen stream
// it was opened by: only the end of the agent, or of the server, ends it.
func (t *tunnel) accept(ctx context.Context, id string) {
	member, err := t.pool.get()
	if err != nil {
		return
	}
	defer member.release()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewNodeTunnelClient(member.conn).Carry(ctx)
	if err != nil {
		t.log.Debug("A connection could not be opened", "err", err)
		return
	}
	if err := stream.Send(&pb.Chunk{Id: id}); err != nil {
		return
	}
	over := make(chan struct{})
	defer close(over)
	var conn *carry.Conn
	conn = carry.New(stream, carry.Addr("node"), carry.Addr("apiserver"), func() {
		go conn.Between(func() { _ = stream.CloseSend() })
		go func() { // the server then ends the stream; one that does not is not waited for
			select {
			case <-over:
			case <-time.After(lingering):
				cancel()
			}
		}()
	})
	if !t.conns.put(tunnelled{conn, ctx}) {
		return
	}
	conn.Receive()
}

// tunnelled is a connection and what ends with it: also when it was hijacked, the context of its request.
type tunnelled struct {
	*carry.Conn
	ctx context.Context
}

func connContext(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(tunnelled); ok {
		return t.ctx
	}
	return ctx
}

// listener hands the opened connections to the HTTP server.
type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *listener) put(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
		return false
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, io.EOF
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return carry.Addr("node") }
