package plugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/proto/scheduling"
)

const (
	// maxWaiting is how many pods may wait for their turn, maxWorkers how many calls are under way at once. Pods that come
	// while all are go together in the next.
	maxWaiting = 1024
	maxWorkers = 4
	// maxBatch and maxBatchBytes (of encoded pods; the JSON form of a message adds a third) bound one call: gRPC's servers
	// take 4 MiB unless told otherwise.
	maxBatch      = 32
	maxBatchBytes = 2 << 20
)

// call is one Evaluate that waits.
type call struct {
	pod      *corev1.Pod
	nodes    []*corev1.Node
	deadline time.Time
	probe    bool
	done     chan result // has room: whoever waits may be gone
	batch    *batch      // once taken
	encoded  []byte      // the pod, as the plug-in wants it
}

type result struct {
	answer Answer
	err    error
}

// batch is the calls that go to the plug-in together.
type batch struct {
	calls    []*call
	deadline time.Time // the latest
	isProbe  bool
	once     sync.Once // the breaker hears of a batch once
}

func (c *Client) put(call *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ctx.Err() != nil:
		return errClosed
	case len(c.waiting) >= maxWaiting:
		return errBusy
	}
	c.waiting = append(c.waiting, call)
	if c.workers < maxWorkers {
		c.workers++
		go c.work()
	}
	return nil
}

// withdraw takes a call out of the queue, or gives the batch with which it went.
func (c *Client) withdraw(call *call) *batch {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.waiting, call); i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
	}
	return call.batch
}

// take makes a batch of what waits; nil, where nothing does, ends the worker.
func (c *Client) take() *batch {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := &batch{}
	left := c.waiting[:0]
	for _, call := range c.waiting {
		if len(b.calls) >= maxBatch || b.has(call.pod) {
			left = append(left, call)
			continue
		}
		call.batch = b
		b.calls = append(b.calls, call)
		b.isProbe = b.isProbe || call.probe
		if call.deadline.After(b.deadline) {
			b.deadline = call.deadline
		}
	}
	clear(c.waiting[len(left):])
	c.waiting = left
	if len(b.calls) == 0 {
		c.workers--
		return nil
	}
	return b
}

// has tells whether the pod is in the batch: answers refer to pods by UID, so that each can be in it once.
func (b *batch) has(pod *corev1.Pod) bool {
	return slices.ContainsFunc(b.calls, func(c *call) bool { return c.pod.UID == pod.UID })
}

func (c *Client) work() {
	for b := c.take(); b != nil; b = c.take() {
		c.process(b)
	}
}

// process carries a batch to the plug-in and the answers back.
func (c *Client) process(b *batch) {
	ctx, cancel := context.WithDeadline(c.ctx, b.deadline)
	defer cancel()
	answers, err := c.exchange(ctx, b)
	if errors.Is(err, errTooLarge) {
		c.breaker.release(b.isProbe)
		return
	}
	if err != nil {
		err = plain(err, c.cfg.Deadline)
		c.report(b, err)
		for _, call := range b.calls {
			call.done <- result{err: err}
		}
		return
	}
	var invalid error
	results := make([]result, len(b.calls))
	for i, call := range b.calls {
		results[i].answer, results[i].err = answers.check(call)
		if invalid == nil {
			invalid = results[i].err
		}
	}
	c.report(b, invalid) // before anyone who waits can ask again
	for i, call := range b.calls {
		call.done <- results[i]
	}
}

// exchange asks, twice where the plug-in has lost its nodes.
func (c *Client) exchange(ctx context.Context, b *batch) (*answers, error) {
	l, err := c.connect()
	if err != nil {
		return nil, err
	}
	for range 2 {
		about, state, err := c.ready(ctx, l, b.nodes())
		if err != nil {
			return nil, err
		}
		if err := c.encode(b, about.Objects); err != nil {
			return nil, err
		}
		response, err := l.stub.Evaluate(ctx, c.question(b, state))
		if err != nil {
			return nil, err
		}
		if !response.UnknownState {
			return newAnswers(response, about, c.cfg)
		}
		if state == nil {
			return nil, fmt.Errorf("%w: it misses nodes that it did not ask for", ErrInvalid)
		}
		c.startOver(l, state)
	}
	return nil, fmt.Errorf("%w: it misses the nodes that it was just sent", ErrInvalid)
}

// nodes are the candidates of all calls, each once.
func (b *batch) nodes() []*corev1.Node {
	if len(b.calls) == 1 {
		return b.calls[0].nodes
	}
	var all []*corev1.Node
	seen := map[string]bool{}
	for _, call := range b.calls {
		for _, node := range call.nodes {
			if !seen[node.Name] {
				seen[node.Name] = true
				all = append(all, node)
			}
		}
	}
	return all
}

// encode readies the pods of a batch and takes out those that make it too large: back into the queue what fits alone, and
// what does not is told so. That no plug-in could be sent such a pod says nothing of this one, so that the breaker does not hear of it.
func (c *Client) encode(b *batch, format scheduling.ObjectFormat) error {
	bytes := 0
	calls := b.calls[:0]
	for _, call := range b.calls {
		object, err := encode(call.pod, format)
		switch {
		case err != nil:
			return err
		case len(object) > maxBatchBytes:
			call.done <- result{err: errTooLarge}
			continue
		case bytes+len(object) > maxBatchBytes:
			c.putBack(call)
			continue
		}
		bytes += len(object)
		call.encoded = object
		calls = append(calls, call)
	}
	if b.calls = calls; len(calls) == 0 {
		return errTooLarge
	}
	return nil
}

func (c *Client) putBack(call *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	call.batch = nil
	c.waiting = append(c.waiting, call)
}

func (c *Client) question(b *batch, state *scheduling.NodeState) *scheduling.EvaluateRequest {
	nodes := b.nodes()
	q := &scheduling.EvaluateRequest{State: state, Nodes: make([]string, len(nodes)), Filter: c.cfg.Filter, Score: c.cfg.Score}
	for i, node := range nodes {
		q.Nodes[i] = node.Name
	}
	var index map[string]uint32
	for _, call := range b.calls {
		pod := &scheduling.PodQuestion{Uid: string(call.pod.UID), Object: call.encoded}
		if len(call.nodes) < len(nodes) {
			if index == nil {
				index = make(map[string]uint32, len(nodes))
				for i, name := range q.Nodes {
					index[name] = uint32(i)
				}
			}
			for _, node := range call.nodes {
				pod.Candidates = append(pod.Candidates, index[node.Name])
			}
		}
		q.Pods = append(q.Pods, pod)
	}
	return q
}

// report tells the breaker how a batch ended, once, and the log where that changes something.
func (c *Client) report(b *batch, err error) {
	b.once.Do(func() {
		if c.ctx.Err() != nil {
			return
		}
		if c.filling.Load() {
			c.breaker.release(b.isProbe)
			return
		}
		did := c.breaker.report(b.isProbe, err)
		if (did == opened || did == reopened) && !c.connecting() { // that, too, may take longer than a pod may wait
			c.hangUp()
		}
		switch did {
		case opened:
			c.log.Warn("the plug-in is not available", "error", err, "when_down", c.cfg.WhenDown)
		case closed:
			c.log.Info("the plug-in is available again")
		}
	})
}
