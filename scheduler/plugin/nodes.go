package plugin

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/coracle-dev/coracle/proto/scheduling"
)

const (
	// chunkBytes is about how much one SyncNodes carries: gRPC's servers take 4 MiB unless told otherwise, and JSON
	// messages grow by a third.
	chunkBytes = 1 << 20
	// chunkDeadline bounds one SyncNodes. It is longer than a pod's deadline: thousands of nodes are sent while pods come
	// and go.
	chunkDeadline = 10 * time.Second
)

// nodeSet is what the plug-in knows of nodes and what it is to know.
type nodeSet struct {
	mu      sync.Mutex
	prefix  string
	resets  int
	version uint64
	entries map[string]*nodeEntry
	dirty   map[string]bool // in entries, not as sent
	removed map[string]bool // not in entries, but sent
}

type nodeEntry struct {
	node *corev1.Node
	sent bool // in any version
}

func newNodeSet() *nodeSet {
	return &nodeSet{prefix: string(uuid.NewUUID()), entries: map[string]*nodeEntry{}, dirty: map[string]bool{}, removed: map[string]bool{}}
}

// want adds nodes, each in its newest version.
func (s *nodeSet) want(nodes []*corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, node := range nodes {
		e := s.entries[node.Name]
		switch {
		case e == nil:
			s.entries[node.Name] = &nodeEntry{node: node, sent: s.removed[node.Name]}
			delete(s.removed, node.Name)
		case e.node == node || older(node, e.node):
			continue
		default:
			same := node.UID == e.node.UID && node.ResourceVersion != "" && node.ResourceVersion == e.node.ResourceVersion
			if e.node = node; same {
				continue
			}
		}
		s.dirty[node.Name] = true
	}
}

// older tells whether a is an earlier state of b, as a pod brings that has waited.
func older(a, b *corev1.Node) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && order < 0 && a.UID == b.UID
}

func (s *nodeSet) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[name]
	if e == nil {
		return
	}
	delete(s.entries, name)
	delete(s.dirty, name)
	if e.sent {
		s.removed[name] = true
	}
}

func (s *nodeSet) state() *scheduling.NodeState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stateLocked()
}

func (s *nodeSet) stateLocked() *scheduling.NodeState {
	return &scheduling.NodeState{Session: s.prefix + "/" + strconv.Itoa(s.resets), Version: s.version}
}

// startOver begins a new session, unless that has happened since the one named.
func (s *nodeSet) startOver(session string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stateLocked().Session != session {
		return
	}
	s.resets++
	s.version = 0
	clear(s.removed)
	for name, e := range s.entries {
		e.sent = false
		s.dirty[name] = true
	}
}

// changes is one request's worth of what the plug-in lacks, and which objects those are; nil where it lacks nothing. more
// tells whether it is not the last.
func (s *nodeSet) changes(format scheduling.ObjectFormat) (request *scheduling.SyncNodesRequest, nodes []*corev1.Node, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.dirty) == 0 && len(s.removed) == 0 {
		return nil, nil, false, nil
	}
	request = &scheduling.SyncNodesRequest{Base: s.stateLocked()}
	size := 0
	for name := range s.removed {
		request.Removed = append(request.Removed, name)
	}
	for name := range s.dirty {
		node := s.entries[name].node
		object, err := encode(node, format)
		if err != nil {
			return nil, nil, false, err
		}
		if size += len(object); size > chunkBytes && len(nodes) > 0 {
			break
		}
		nodes = append(nodes, node)
		request.Set = append(request.Set, &scheduling.Node{Name: name, Object: object})
	}
	return request, nodes, len(nodes) < len(s.dirty), nil
}

// took notes that the plug-in has taken a request in.
func (s *nodeSet) took(request *scheduling.SyncNodesRequest, nodes []*corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	for _, name := range request.Removed {
		delete(s.removed, name)
	}
	for _, node := range nodes {
		switch e := s.entries[node.Name]; {
		case e == nil:
			s.removed[node.Name] = true // it went meanwhile
		case e.node == node:
			delete(s.dirty, node.Name)
			e.sent = true
		default:
			e.sent = true
		}
	}
	for _, name := range request.Removed {
		if e := s.entries[name]; e != nil { // it came back meanwhile
			e.sent = false
		}
	}
}

// ready makes sure that the plug-in is known and knows the nodes. Sending goes on after ctx has ended: thousands of nodes take
// longer than a pod may wait.
func (c *Client) ready(ctx context.Context, l *link, nodes []*corev1.Node) (*scheduling.DescribeResponse, *scheduling.NodeState, error) {
	select {
	case c.talking <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ErrDeadline
	}
	about, err := c.describe(ctx, l)
	if err != nil || !about.Nodes {
		<-c.talking
		return about, nil, err
	}
	c.nodes.want(nodes)
	if c.nodes.synced() {
		state := c.nodes.state()
		<-c.talking
		return about, state, nil
	}
	done := make(chan error, 1)
	go func() {
		err := c.send(l, about)
		<-c.talking
		done <- err
	}()
	select {
	case err := <-done:
		return about, c.nodes.state(), err
	case <-ctx.Done():
		return nil, nil, ErrDeadline
	}
}

func (s *nodeSet) synced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.dirty) == 0 && len(s.removed) == 0
}

// send brings the plug-in up to date. After an error nobody knows what it has taken in, so that it starts over.
func (c *Client) send(l *link, about *scheduling.DescribeResponse) error {
	defer c.filling.Store(false)
	lost := 0
	for {
		request, nodes, more, err := c.nodes.changes(about.Objects)
		if err != nil || request == nil {
			return err
		}
		if more {
			c.filling.Store(true)
		}
		ctx, cancel := context.WithTimeout(c.ctx, chunkDeadline)
		response, err := l.stub.SyncNodes(ctx, request)
		cancel()
		switch {
		case err != nil:
			c.nodes.startOver(request.Base.Session)
			return err
		case !response.UnknownState:
			c.nodes.took(request, nodes)
		case lost > 0 || request.Base.Version == 0:
			return fmt.Errorf("%w: it refuses nodes though none came before", ErrInvalid)
		default:
			lost++
			c.nodes.startOver(request.Base.Session)
		}
	}
}

// startOver forgets what the plug-in was taken to be, as it seems to be another now.
func (c *Client) startOver(l *link, state *scheduling.NodeState) {
	c.nodes.startOver(state.Session)
	l.about.Store(nil)
}
