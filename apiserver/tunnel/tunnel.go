// Package tunnel is the API server's end of the node tunnel: agents dial in, and DialNode opens connections to them. Its
// invariant: a node is who its certificate says, it can take only connections that were opened to it, and of two agents that
// claim one node the newer is believed.
package tunnel

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/internal/carry"
	pb "github.com/coracle-dev/coracle/proto/tunnel"
)

// ErrNotConnected: the node's agent holds no tunnel to this server now.
var ErrNotConnected = errors.New("its agent is not connected to the API server")

// dialTimeout bounds DialNode where its context does not.
const dialTimeout = 10 * time.Second

// Server serves the NodeTunnel service. It expects the authenticated user in the requests' contexts.
type Server struct {
	grpc *grpc.Server
	log  *slog.Logger

	mu    sync.Mutex
	nodes map[string]*agent
	dials map[string]*dial
}

// agent is one Listen stream.
type agent struct {
	opens chan string   // ids of dials
	gone  chan struct{} // closed when the stream ended, or another took its place
	once  sync.Once
}

func (a *agent) end() { a.once.Do(func() { close(a.gone) }) }

// dial is one DialNode that waits for its Carry stream.
type dial struct {
	node string
	conn chan *carry.Conn // has room for the one
	// abandoned: nobody waits any more. Server.mu guards it.
	abandoned bool
}

// New makes a server without nodes.
func New() *Server {
	s := &Server{
		// The HTTP/2 server below looks after dead connections.
		grpc:  grpc.NewServer(),
		log:   slog.With("component", "tunnel"),
		nodes: map[string]*agent{},
		dials: map[string]*dial{},
	}
	pb.RegisterNodeTunnelServer(s.grpc, service{server: s})
	return s
}

// ServeHTTP takes the HTTP/2 requests of agents.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.grpc.ServeHTTP(w, r) }

// Connected tells whether a node's agent holds a tunnel to this server.
func (s *Server) Connected(node string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[node] != nil
}

// DialNode opens a connection to a node's agent. It ends with the agent's tunnel, not with ctx, which bounds only the
// dialling. The error wraps ErrNotConnected where the node has no tunnel.
func (s *Server) DialNode(ctx context.Context, node string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	id := rand.Text()
	d := &dial{node: node, conn: make(chan *carry.Conn, 1)}
	a, err := s.expect(id, d)
	if err != nil {
		return nil, err
	}
	select {
	case a.opens <- id:
	case <-a.gone:
		s.abandon(id, d)
		return nil, notConnected(node)
	case <-ctx.Done():
		s.abandon(id, d)
		return nil, fmt.Errorf("dialling node %q: %w", node, context.Cause(ctx))
	}
	select {
	case conn := <-d.conn:
		return conn, nil
	case <-a.gone:
		s.abandon(id, d)
		return nil, notConnected(node)
	case <-ctx.Done():
		s.abandon(id, d)
		return nil, fmt.Errorf("node %q did not answer through its tunnel: %w", node, context.Cause(ctx))
	}
}

func notConnected(node string) error { return fmt.Errorf("node %q: %w", node, ErrNotConnected) }

func (s *Server) expect(id string, d *dial) (*agent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.nodes[d.node]
	if a == nil {
		return nil, notConnected(d.node)
	}
	s.dials[id] = d
	return a, nil
}

// abandon forgets a dial; a connection that came in the same moment is closed.
func (s *Server) abandon(id string, d *dial) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.dials, id)
	d.abandoned = true
	select {
	case conn := <-d.conn:
		_ = conn.Close()
	default:
	}
}

// claim finds the dial that waits for a connection. Only the node that was dialled may answer, and once.
func (s *Server) claim(node, id string) *dial {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dials[id]
	if d == nil || d.node != node {
		return nil
	}
	delete(s.dials, id)
	return d
}

// hand gives the connection to the dial, if it still waits.
func (s *Server) hand(d *dial, conn *carry.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.abandoned {
		_ = conn.Close()
		return
	}
	d.conn <- conn
}

func (s *Server) join(node string) *agent {
	a := &agent{opens: make(chan string), gone: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.nodes[node]; old != nil {
		old.end()
	}
	s.nodes[node] = a
	return a
}

func (s *Server) leave(node string, a *agent) {
	a.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes[node] == a {
		delete(s.nodes, node)
	}
}

// service keeps the generated interface's methods off Server.
type service struct {
	pb.UnimplementedNodeTunnelServer
	server *Server
}

// nodeOf is the node that the authenticated user of a call is.
func nodeOf(ctx context.Context) (string, error) {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return "", status.Error(codes.Unauthenticated, "no client certificate")
	}
	node, ok := auth.NodeName(u)
	if !ok {
		return "", status.Errorf(codes.PermissionDenied, "user %q is not a node: the tunnel takes certificates of system:node:NAME in the group system:nodes", u.GetName())
	}
	return node, nil
}

// Listen implements the service: it passes on what is dialled until the agent leaves or a newer one comes.
func (svc service) Listen(_ *pb.ListenRequest, stream grpc.ServerStreamingServer[pb.Open]) error {
	s := svc.server
	node, err := nodeOf(stream.Context())
	if err != nil {
		return err
	}
	a := s.join(node)
	defer s.leave(node, a)
	s.log.Debug("Node connected", "node", node)
	// An empty Open tells the agent that it is heard.
	if err := stream.Send(&pb.Open{}); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case <-a.gone:
			return status.Error(codes.Aborted, "another agent has connected as this node")
		case id := <-a.opens:
			if err := stream.Send(&pb.Open{Id: id}); err != nil {
				return err
			}
		}
	}
}

// Carry implements the service: one connection, for as long as either end holds it.
func (svc service) Carry(stream grpc.BidiStreamingServer[pb.Chunk, pb.Chunk]) error {
	node, err := nodeOf(stream.Context())
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	d := svc.server.claim(node, first.Id)
	if d == nil {
		return status.Error(codes.NotFound, "nobody waits for this connection")
	}
	closed, received := make(chan struct{}), make(chan struct{})
	conn := carry.New(stream, carry.Addr("apiserver"), carry.Addr(node), func() { close(closed) })
	go func() {
		defer close(received)
		conn.Receive()
	}()
	svc.server.hand(d, conn)
	select {
	case <-closed: // by whoever dialled
	case <-received: // by the agent, or it is gone
	}
	return nil
}
