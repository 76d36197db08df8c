// Package podmetrics serves metrics.k8s.io: what nodes and pods use, as their agents measure it.
//
// Invariant: no node is asked but while clients ask, and for a while after the last of them did: a cluster of which nobody wants
// to know costs nothing, and answers a first question within seconds.
package podmetrics

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/apiserver/reach"
)

const (
	// resolution is how far apart samples are while they are taken.
	resolution = 15 * time.Second
	// linger is how long sampling goes on after the last question.
	linger = 2 * time.Minute
	// firstWindow is how far apart the first two samples are: rates need two.
	firstWindow = time.Second
	// askTimeout bounds one question to a node.
	askTimeout = 5 * time.Second
	// atOnce is how many nodes are asked at the same time.
	atOnce = 32
	// stale is how long what a node said last is believed when it does not answer.
	stale = time.Minute
)

// Reader looks at live objects, which are not to be changed.
type Reader interface {
	Get(ctx context.Context, gr schema.GroupResource, namespace, name string) (runtime.Object, error)
	List(ctx context.Context, gr schema.GroupResource, namespace string) ([]runtime.Object, metav1.ListMeta, error)
}

// Config is what New needs.
type Config struct {
	Reader Reader
	// Nodes leads to the nodes' own APIs; nil reaches none.
	Nodes reach.Nodes
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Collector asks the nodes while somebody asks it.
type Collector struct {
	cfg  Config
	log  *slog.Logger
	wake chan struct{} // has room for one

	mu sync.Mutex
	// awake: samples are being taken. ready is closed once rates are known.
	awake bool
	ready chan struct{}
	asked time.Time // last
	nodes map[string]*history
}

// history is a node's last two samples.
type history struct {
	prev, last *sample
	heard      time.Time // when last came, by this machine's clock
}

// New makes a collector that sleeps until it runs and is asked.
func New(cfg Config) *Collector {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Collector{cfg: cfg, log: slog.With("component", "podmetrics"), wake: make(chan struct{}, 1), ready: make(chan struct{}), nodes: map[string]*history{}}
}

// Run takes samples until ctx ends, while they are asked for.
func (c *Collector) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
			c.follow(ctx)
		}
	}
}

// follow takes samples until nobody has asked for a while, and forgets them.
func (c *Collector) follow(ctx context.Context) {
	c.round(ctx)
	if !pause(ctx, firstWindow) {
		return
	}
	c.round(ctx)
	c.mu.Lock()
	close(c.ready)
	c.mu.Unlock()
	for pause(ctx, resolution) && !c.sleep() {
		c.round(ctx)
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// sleep forgets everything if nobody has asked for a while.
func (c *Collector) sleep() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cfg.Now().Sub(c.asked) < linger {
		return false
	}
	c.awake, c.ready, c.nodes = false, make(chan struct{}), map[string]*history{}
	return true
}

// await notes that somebody asks, and returns once there is an answer. The error is ctx's.
func (c *Collector) await(ctx context.Context) error {
	c.mu.Lock()
	c.asked = c.cfg.Now()
	if !c.awake {
		c.awake = true
		c.wake <- struct{}{}
	}
	ready := c.ready
	c.mu.Unlock()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("metrics are not known yet: %w", context.Cause(ctx))
	}
}

// round asks every node once.
func (c *Collector) round(ctx context.Context) {
	objs, _, err := c.cfg.Reader.List(ctx, schema.GroupResource{Resource: "nodes"}, "")
	if err != nil {
		c.log.Warn("cannot list the nodes", "error", err)
		return
	}
	names := map[string]bool{}
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, obj := range objs {
		node, ok := obj.(*corev1.Node)
		if !ok || c.cfg.Nodes == nil {
			continue
		}
		names[node.Name] = true
		g.Go(func() error {
			s, err := c.ask(ctx, node.Name)
			if err != nil {
				c.log.Debug("a node does not tell what it uses", "node", node.Name, "error", err)
				return nil
			}
			c.note(node.Name, s)
			return nil
		})
	}
	_ = g.Wait() // nobody returns an error
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.nodes {
		if !names[name] {
			delete(c.nodes, name)
		}
	}
}

func (c *Collector) note(node string, s *sample) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.nodes[node]
	if h == nil {
		h = &history{}
		c.nodes[node] = h
	}
	switch {
	case h.last == nil || s.node.at.After(h.last.node.at):
		h.prev, h.last = h.last, s
	case s.node.at.Before(h.last.node.at): // its clock was set back
		h.prev, h.last = nil, s
	}
	h.heard = c.cfg.Now()
}

// of gives a node's last two samples; nil where none is known, or has been for a while.
func (c *Collector) of(node string) (prev, last *sample) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.nodes[node]
	if h == nil || c.cfg.Now().Sub(h.heard) > stale {
		return nil, nil
	}
	return h.prev, h.last
}

// ask has a node tell what it uses.
func (c *Collector) ask(ctx context.Context, node string) (*sample, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := c.cfg.Nodes.DialNode(ctx, node)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	req := &http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: node, Path: "/metrics/resource"}, Host: node, Header: http.Header{"Accept": {accept}}}
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answered %s", resp.Status)
	}
	return read(resp.Body, resp.Header)
}
