package scheduler

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/scheduler/decide"
	"github.com/coracle-dev/coracle/scheduler/explain"
	"github.com/coracle-dev/coracle/scheduler/model"
	"github.com/coracle-dev/coracle/scheduler/plugin"
	"github.com/coracle-dev/coracle/scheduler/profile"
	"github.com/coracle-dev/coracle/scheduler/queue"
)

// byPlugin is the bit in RejectedBy of plug-ins out of process.
const byPlugin = 1 << 31

// judges is how many pods are with plug-ins at a time. Their calls are gathered into few; those of other profiles wait for none of them.
const judges = 64

// backlog is the pods that wait for a plug-in's judgement, first in first out. It is as long as there are such pods.
type backlog struct {
	mu    sync.Mutex
	items []*queue.Item
	more  chan struct{}
}

func newBacklog() *backlog { return &backlog{more: make(chan struct{}, judges)} }

func (b *backlog) put(item *queue.Item) {
	b.mu.Lock()
	b.items = append(b.items, item)
	b.mu.Unlock()
	select {
	case b.more <- struct{}{}:
	default: // as many wakings are under way as there are who could be woken
	}
}

func (b *backlog) take() *queue.Item {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.items) == 0 {
		return nil
	}
	item := b.items[0]
	b.items[0] = nil
	b.items = b.items[1:]
	return item
}

// judgeOutside runs until stop what asks plug-ins; nothing where no profile has any.
func (s *Scheduler) judgeOutside(ctx context.Context) (stop func()) {
	if !slices.ContainsFunc(s.cfg.Profiles.Profiles, hasPlugins) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	nodes := s.nodes()
	for _, f := range s.frameworks {
		for _, p := range f.plugins {
			all.Go(func() { // the first pods need not wait for thousands of nodes then
				if err := p.Sync(ctx, nodes); err != nil && ctx.Err() == nil {
					s.log.Warn("a plug-in could not be sent the nodes", "plugin", p.Config().Name, "error", err)
				}
			})
		}
	}
	for range judges {
		all.Go(func() {
			for {
				for item := s.outside.take(); item != nil; item = s.outside.take() {
					s.judge(ctx, item)
				}
				select {
				case <-ctx.Done():
					return
				case <-s.outside.more:
				}
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

func hasPlugins(p profile.Profile) bool { return len(p.Plugins) > 0 }

func (s *Scheduler) nodes() []*corev1.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	var nodes []*corev1.Node
	for _, n := range s.cluster.Nodes() {
		nodes = append(nodes, n.Node)
	}
	return nodes
}

// judge decides for one pod with its profile's plug-ins. They are asked without the lock; what they say is then held against the
// cluster as it is by then.
func (s *Scheduler) judge(ctx context.Context, item *queue.Item) {
	pod := item.Pod.Pod
	s.mu.Lock()
	if s.inFlight[pod.UID] != item {
		s.mu.Unlock()
		return // deleted, or placed by another
	}
	f := s.frameworks[pod.Spec.SchedulerName]
	nodes, totals, decision := f.decider.Candidates(s.cluster, item.Pod)
	if len(nodes) == 0 {
		s.finish(ctx, s.settle(f, item, decision))
		return
	}
	v := verdictOn(nodes, totals)
	all := len(s.cluster.Nodes())
	s.mu.Unlock()
	for _, p := range f.plugins {
		if err := v.ask(ctx, p, pod); err != nil {
			s.putOff(ctx, f, item, err)
			return
		}
	}
	if len(v.nodes) == 0 {
		s.mu.Lock()
		if s.inFlight[pod.UID] == item {
			s.refuse(ctx, f, item, v, all)
			return
		}
		s.mu.Unlock()
		return
	}
	s.place(ctx, f, item, v)
}

// finish unlocks and carries out what is left of a decision.
func (s *Scheduler) finish(ctx context.Context, then func(context.Context)) {
	s.mu.Unlock()
	then(ctx)
}

// place takes the best of the nodes that still has room.
func (s *Scheduler) place(ctx context.Context, f *framework, item *queue.Item, v *verdict) {
	v.sort()
	s.mu.Lock()
	if s.inFlight[item.Pod.Pod.UID] != item {
		s.mu.Unlock()
		return
	}
	for _, c := range v.nodes {
		node := s.cluster.Node(c.node.Name)
		if node != nil && f.decider.Fits(s.cluster, item.Pod, node) == nil {
			s.finish(ctx, s.settle(f, item, decide.Decision{Node: node.Name}))
			return
		}
	}
	delete(s.inFlight, item.Pod.Pod.UID)
	s.queue.Put(item) // others took all the room meanwhile
	s.signal()
	s.mu.Unlock()
}

// refuse explains a pod that the plug-ins let nowhere. The lock is held, and released.
func (s *Scheduler) refuse(ctx context.Context, f *framework, item *queue.Item, v *verdict, all int) {
	then := s.settle(f, item, decide.Decision{Message: explain.Message(all, v.reasons), RejectedBy: byPlugin})
	if v.retry > 0 {
		s.queue.RetryAfter(item, v.retry, s.cfg.Now())
	}
	s.finish(ctx, then)
}

// putOff tries a pod again later whose plug-in is down.
func (s *Scheduler) putOff(ctx context.Context, f *framework, item *queue.Item, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pod := item.Pod.Pod
	if s.inFlight[pod.UID] != item || ctx.Err() != nil {
		return
	}
	delete(s.inFlight, pod.UID)
	s.queue.Failed(item, s.cfg.Now())
	var down *plugin.Unavailable
	if errors.As(err, &down) && down.RetryAfter > 0 {
		s.queue.RetryAfter(item, down.RetryAfter, s.cfg.Now())
	}
	s.signal()
	go s.report(ctx, f, pod, err.Error(), false)
}

// verdict is what the plug-ins have left of the feasible nodes.
type verdict struct {
	nodes   []judged
	reasons map[string]int
	retry   time.Duration
}

type judged struct {
	node  *corev1.Node
	total int64
}

func verdictOn(nodes []*model.Node, totals []int64) *verdict {
	v := &verdict{reasons: map[string]int{}}
	for i, n := range nodes {
		v.nodes = append(v.nodes, judged{n.Node, totals[i]})
	}
	return v
}

// ask takes one plug-in's answer in.
func (v *verdict) ask(ctx context.Context, p *plugin.Client, pod *corev1.Pod) error {
	if len(v.nodes) == 0 {
		return nil
	}
	nodes := make([]*corev1.Node, len(v.nodes))
	for i := range v.nodes {
		nodes[i] = v.nodes[i].node
	}
	answer, err := p.Evaluate(ctx, pod, nodes)
	if err != nil {
		return err
	}
	if answer.PodRejected != "" {
		v.reasons[answer.PodRejected] += len(v.nodes)
		v.nodes = nil
	}
	left := v.nodes[:0]
	for _, c := range v.nodes {
		if reason, rejected := answer.Rejected[c.node.Name]; rejected {
			v.reasons[reason]++
			continue
		}
		c.total += p.Config().Weight * answer.Scores[c.node.Name]
		left = append(left, c)
	}
	v.nodes = left
	v.retry = max(v.retry, answer.RetryAfter)
	return nil
}

// sort puts the best first; of equals, the first found.
func (v *verdict) sort() {
	slices.SortStableFunc(v.nodes, func(a, b judged) int { return cmp.Compare(b.total, a.total) })
}
