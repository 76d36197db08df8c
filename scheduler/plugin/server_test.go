package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/proto/scheduling"
)

// server is a plug-in under the test's control. It keeps nodes by the contract.
type server struct {
	scheduling.UnimplementedSchedulerPluginServer
	about scheduling.DescribeResponse
	judge func(context.Context, *server, *scheduling.EvaluateRequest) (*scheduling.EvaluateResponse, error)

	mu       sync.Mutex
	state    *scheduling.NodeState
	nodes    map[string]*corev1.Node
	syncs    []*scheduling.SyncNodesRequest
	requests []*scheduling.EvaluateRequest
}

func (s *server) Describe(context.Context, *scheduling.DescribeRequest) (*scheduling.DescribeResponse, error) {
	return &s.about, nil
}

func (s *server) SyncNodes(_ context.Context, r *scheduling.SyncNodesRequest) (*scheduling.SyncNodesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.syncs = append(s.syncs, r)
	if r.Base.Version == 0 {
		s.nodes, s.state = map[string]*corev1.Node{}, r.Base
	} else if s.state == nil || s.state.Session != r.Base.Session || s.state.Version != r.Base.Version {
		return &scheduling.SyncNodesResponse{UnknownState: true}, nil
	}
	for _, n := range r.Set {
		node := &corev1.Node{}
		err := json.Unmarshal(n.Object, node)
		if s.about.Objects == scheduling.ObjectFormat_PROTOBUF {
			err = node.Unmarshal(n.Object)
		}
		if err != nil || node.Name != n.Name {
			return nil, fmt.Errorf("node %q: %v", n.Name, err)
		}
		s.nodes[n.Name] = node
	}
	for _, name := range r.Removed {
		delete(s.nodes, name)
	}
	s.state = &scheduling.NodeState{Session: r.Base.Session, Version: r.Base.Version + 1}
	return &scheduling.SyncNodesResponse{}, nil
}

func (s *server) Evaluate(ctx context.Context, r *scheduling.EvaluateRequest) (*scheduling.EvaluateResponse, error) {
	s.mu.Lock()
	s.requests = append(s.requests, r)
	unknown := s.about.Nodes && (s.state == nil || s.state.Session != r.State.GetSession() || s.state.Version < r.State.GetVersion())
	s.mu.Unlock()
	if unknown {
		return &scheduling.EvaluateResponse{UnknownState: true}, nil
	}
	return s.judge(ctx, s, r)
}

// each answers every question by a verdict per node; nil passes.
func each(verdict func(s *server, node string) *scheduling.NodeVerdict) func(context.Context, *server, *scheduling.EvaluateRequest) (*scheduling.EvaluateResponse, error) {
	return func(_ context.Context, s *server, r *scheduling.EvaluateRequest) (*scheduling.EvaluateResponse, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		response := &scheduling.EvaluateResponse{}
		for _, pod := range r.Pods {
			answer := &scheduling.PodAnswer{Uid: pod.Uid}
			names := r.Nodes
			if len(pod.Candidates) > 0 {
				names = nil
				for _, i := range pod.Candidates {
					names = append(names, r.Nodes[i])
				}
			}
			for _, name := range names {
				v := verdict(s, name)
				if v == nil {
					v = &scheduling.NodeVerdict{}
				}
				v.Node = name
				answer.Nodes = append(answer.Nodes, v)
			}
			response.Pods = append(response.Pods, answer)
		}
		return response, nil
	}
}

func reject(reason string) *scheduling.NodeVerdict {
	return &scheduling.NodeVerdict{Verdict: &scheduling.NodeVerdict_Reject{Reject: reason}}
}

func points(score float64) *scheduling.NodeVerdict {
	return &scheduling.NodeVerdict{Verdict: &scheduling.NodeVerdict_Score{Score: score}}
}

// serve runs the plug-in on a socket until the returned function, or the test's end.
func (s *server) serve(t *testing.T, path string, options ...grpc.ServerOption) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(options...)
	scheduling.RegisterSchedulerPluginServer(g, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(listener) }()
	stop = func() { g.Stop(); <-done }
	t.Cleanup(stop)
	return stop
}

// client is one of a plug-in at path, with back-offs a tenth as long as a user's and a deadline no slow machine misses.
func client(t *testing.T, path string, change ...func(*Config)) *Client {
	t.Helper()
	cfg := Config{Name: "test", Address: "unix://" + path, Deadline: 20 * time.Second}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func socket(t *testing.T) string { return filepath.Join(t.TempDir(), "s") }

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name)}}
}

func nodes(names ...string) []*corev1.Node {
	list := make([]*corev1.Node, 0, len(names))
	for _, name := range names {
		list = append(list, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1"}})
	}
	return list
}

func both() scheduling.DescribeResponse {
	return scheduling.DescribeResponse{Name: "test", Version: "1", Filter: true, Score: true}
}

// hangingSync takes no nodes before release.
type hangingSync struct {
	*server
	release chan struct{}
}

func (h *hangingSync) SyncNodes(ctx context.Context, r *scheduling.SyncNodesRequest) (*scheduling.SyncNodesResponse, error) {
	<-h.release
	return h.server.SyncNodes(ctx, r)
}

// slowSync takes a while for each request.
type slowSync struct {
	*server
	takes time.Duration
}

func (h *slowSync) SyncNodes(ctx context.Context, r *scheduling.SyncNodesRequest) (*scheduling.SyncNodesResponse, error) {
	time.Sleep(h.takes)
	return h.server.SyncNodes(ctx, r)
}

// serveAs serves any implementation, or none.
func serveAs(t testing.TB, s scheduling.SchedulerPluginServer, path string) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	if s != nil {
		scheduling.RegisterSchedulerPluginServer(g, s)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(listener) }()
	return func() { g.Stop(); <-done }
}

func benchmark(b *testing.B, count int) (evaluate func(*corev1.Pod, []*corev1.Node), list []*corev1.Node) {
	s := &server{about: both(), judge: each(func(*server, string) *scheduling.NodeVerdict { return points(7) })}
	s.about.Nodes, s.about.Objects = true, scheduling.ObjectFormat_PROTOBUF
	path := filepath.Join(b.TempDir(), "s")
	b.Cleanup(serveAs(b, s, path))
	c, err := New(Config{Name: "test", Address: "unix://" + path, Deadline: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	for i := range count {
		list = append(list, nodes(fmt.Sprintf("node-%d", i))...)
	}
	return func(p *corev1.Pod, nodes []*corev1.Node) {
		if _, err := c.Evaluate(context.Background(), p, nodes); err != nil {
			b.Error(err)
		}
		s.mu.Lock()
		s.requests = nil
		s.mu.Unlock()
	}, list
}
