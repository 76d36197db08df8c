// Package plugin asks scheduler plug-ins out of process, over the contract in proto/scheduling.
//
// Its invariant: Evaluate returns within the deadline whatever the plug-in does, with an answer that keeps every rule of the
// contract or with what the configuration says of a plug-in that is down. What a plug-in that hangs can make the client hold is
// bounded: maxWaiting pods, maxWorkers calls, one connection, and the nodes once.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// DefaultDeadline is how long a plug-in may take unless configured.
const DefaultDeadline = 200 * time.Millisecond

// WhenDown is what becomes of pods while the plug-in does not answer.
type WhenDown string

// The values of WhenDown.
const (
	// Ignore lets every node pass, with score 0.
	Ignore WhenDown = "Ignore"
	// Reject makes the pod wait.
	Reject WhenDown = "Reject"
)

// Encoding is that of the messages.
type Encoding string

// The values of Encoding.
const (
	Protobuf Encoding = "protobuf"
	JSON     Encoding = "json"
)

// Config is one plug-in as configured.
type Config struct {
	// Name is that in the profile, which messages and logs say.
	Name string
	// Address is unix:///path or host:port; the latter wants TLS unless the host is this one's loopback.
	Address string
	TLS     TLS
	// Deadline bounds Evaluate; zero is DefaultDeadline.
	Deadline time.Duration
	// WhenDown is Reject when empty.
	WhenDown WhenDown
	// Encoding is Protobuf when empty.
	Encoding Encoding
	// Weight is for who sums up scores; the client only carries it.
	Weight int64
	// Filter and Score are the extension points the plug-in is enabled at; none set means both.
	Filter, Score bool
}

// TLS names PEM files, and the name in the plug-in's certificate where that is not the address's.
type TLS struct {
	CAFile, CertFile, KeyFile string
	ServerName                string
}

// Answer is what a plug-in said of one pod. Nodes that are in neither map pass with score 0.
type Answer struct {
	// PodRejected is why the pod may run nowhere now; empty where nodes were judged one by one.
	PodRejected string
	// Rejected maps nodes to the reason, Scores to 0..100 without weight. Nil where there are none.
	Rejected map[string]string
	Scores   map[string]int64
	// RetryAfter is after how long a pod that was rejected everywhere is to be asked for again; zero when something changed.
	RetryAfter time.Duration
	// Ignored is why there is no answer, where the configuration says to go on without.
	Ignored *Unavailable
}

// Unavailable says that a plug-in gave no answer that counts.
type Unavailable struct {
	Name  string
	Cause error
	// RetryAfter is when asking again may help.
	RetryAfter time.Duration
}

// Error is the reason shown on pods.
func (u *Unavailable) Error() string {
	return fmt.Sprintf("plug-in %q is not available: %v", u.Name, u.Cause)
}

// Unwrap gives the cause.
func (u *Unavailable) Unwrap() error { return u.Cause }

// Causes of Unavailable, besides what gRPC says.
var (
	// ErrInvalid is an answer that breaks the contract.
	ErrInvalid = errors.New("invalid answer")
	// ErrDeadline is no answer in time.
	ErrDeadline = errors.New("no answer in time")
	errBusy     = errors.New("too many pods wait for it")
	errFilling  = fmt.Errorf("%w: it is being sent the nodes", ErrDeadline)
	errTooLarge = errors.New("the pod is too large to be sent")
	errClosed   = errors.New("the scheduler is stopping")
)

// Client asks one plug-in. It is safe for concurrent use.
type Client struct {
	cfg     Config
	log     *slog.Logger
	breaker *breaker
	counts  counts
	nodes   *nodeSet
	dial    func() (*link, error)
	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	// talking is held while the plug-in is described or sent nodes: one at a time.
	talking chan struct{}
	// filling is set while so many nodes are sent that it takes several requests. Pods need not wait for that.
	filling atomic.Bool

	mu      sync.Mutex
	waiting []*call
	workers int
	link    *link // nil before the first call and after the breaker opened
}

// New checks the configuration, files included. The plug-in need not be there yet.
func New(cfg Config) (*Client, error) {
	if cfg.Deadline == 0 {
		cfg.Deadline = DefaultDeadline
	}
	if cfg.WhenDown == "" {
		cfg.WhenDown = Reject
	}
	if !cfg.Filter && !cfg.Score {
		cfg.Filter, cfg.Score = true, true
	}
	dial, err := dialer(cfg)
	if err != nil {
		return nil, fmt.Errorf("plug-in %q: %w", cfg.Name, err)
	}
	c := &Client{
		cfg:     cfg,
		log:     slog.With("component", "scheduler", "plugin", cfg.Name),
		breaker: newBreaker(time.Now),
		nodes:   newNodeSet(),
		dial:    dial,
		talking: make(chan struct{}, 1),
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c, nil
}

// Config is what the client was made of, with defaults.
func (c *Client) Config() Config { return c.cfg }

// Close ends the connection and every call.
func (c *Client) Close() {
	c.stop()
	c.hangUp()
}

// Evaluate asks about one pod and the nodes that are candidates for it. The error is ctx's, or *Unavailable where WhenDown is
// Reject. Objects must not change afterwards; the slice may.
func (c *Client) Evaluate(ctx context.Context, pod *corev1.Pod, nodes []*corev1.Node) (Answer, error) {
	if len(nodes) == 0 {
		return Answer{}, nil
	}
	answer, err := c.ask(ctx, pod, nodes)
	c.counts.add(err)
	if err == nil {
		return answer, nil
	}
	if ctx.Err() != nil {
		return Answer{}, ctx.Err()
	}
	down := &Unavailable{Name: c.cfg.Name, Cause: err, RetryAfter: c.breaker.retryAfter()}
	if c.cfg.WhenDown == Ignore {
		return Answer{Ignored: down}, nil
	}
	return Answer{}, down
}

func (c *Client) ask(ctx context.Context, pod *corev1.Pod, nodes []*corev1.Node) (Answer, error) {
	if c.filling.Load() {
		return Answer{}, errFilling
	}
	probe, err := c.breaker.admit()
	if err != nil {
		return Answer{}, err
	}
	deadline := time.Now().Add(c.cfg.Deadline)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	call := &call{pod: pod, nodes: slices.Clone(nodes), deadline: deadline, probe: probe, done: make(chan result, 1)}
	if err := c.put(call); err != nil {
		c.breaker.release(probe)
		return Answer{}, err
	}
	select {
	case r := <-call.done:
		return r.answer, r.err
	case <-ctx.Done():
	}
	late := fmt.Errorf("%w: %v", ErrDeadline, c.cfg.Deadline)
	switch b := c.withdraw(call); {
	case b == nil:
		c.breaker.release(probe)
	case !time.Now().Before(deadline):
		c.report(b, late)
	}
	return Answer{}, late
}

// Sync sends the nodes ahead of the first pod; it returns when the plug-in has them, cannot be reached, or ctx ends. Nothing
// rests on it but the first pods' not having to wait for thousands of nodes.
func (c *Client) Sync(ctx context.Context, nodes []*corev1.Node) error {
	l, err := c.connect()
	if err == nil {
		_, _, err = c.ready(ctx, l, nodes)
	}
	return err
}

// Forget says that a node is gone. It does not block.
func (c *Client) Forget(node string) { c.nodes.forget(node) }
