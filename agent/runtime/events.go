package runtime

import (
	"context"
	"fmt"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"
)

// listener collects the UIDs of pods to wake; one that is slow gets each pod once.
type listener struct {
	pending map[string]struct{}
	ready   chan struct{}
}

// Events returns the UIDs of pods of which something ended, was killed for memory or may have been missed. The
// channel is closed at ctx's end. What happened is asked of Pod.
func (r *Runtime) Events(ctx context.Context) <-chan string {
	l := &listener{pending: map[string]struct{}{}, ready: make(chan struct{}, 1)}
	out := make(chan string)
	r.mu.Lock()
	r.listeners[l] = struct{}{}
	r.mu.Unlock()
	go func() {
		defer close(out)
		defer func() {
			r.mu.Lock()
			delete(r.listeners, l)
			r.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-l.ready:
			}
			r.mu.Lock()
			batch := l.pending
			l.pending = map[string]struct{}{}
			r.mu.Unlock()
			for uid := range batch {
				select {
				case out <- uid:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

func (r *Runtime) wake(uid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.listeners {
		l.pending[uid] = struct{}{}
		select {
		case l.ready <- struct{}{}:
		default:
		}
	}
}

// Run watches containerd's events until ctx ends. Each time the stream breaks it subscribes anew and looks at
// every container, so that what happened in between is found.
func (r *Runtime) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := r.watch(ctx)
		if ctx.Err() != nil {
			break
		}
		r.log.Debug("containerd's event stream ended", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	r.detachAll()
	return nil
}

func (r *Runtime) watch(ctx context.Context) error {
	stream, cancel := context.WithCancel(ctx) // not for what an event leads to: that goes on when containerd is back
	defer cancel()
	filter := func(topic string) string { return fmt.Sprintf("namespace==%s,topic==%q", r.cfg.Namespace, topic) }
	envelopes, errs := r.client.EventService().Subscribe(stream, filter("/tasks/exit"), filter("/tasks/oom"))
	if _, err := r.List(ctx); err != nil {
		return err
	}
	for {
		select {
		case e := <-envelopes:
			if e != nil {
				r.handle(ctx, e)
			}
		case err := <-errs:
			return err
		}
	}
}

func (r *Runtime) handle(ctx context.Context, e *events.Envelope) {
	v, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		return
	}
	switch ev := v.(type) {
	case *eventtypes.TaskExit:
		if c := r.lookup(ev.ContainerID); c != nil && ev.ID == ev.ContainerID {
			go r.reap(ctx, c, ev) // pods do not wait for each other
		}
	case *eventtypes.TaskOOM:
		if c := r.lookup(ev.ContainerID); c != nil {
			r.mu.Lock()
			c.oom = true
			r.mu.Unlock()
			r.wake(c.meta.Pod.UID)
		}
	}
}

// detachAll lets go of the logs at the agent's end: what was read is written, the rest stays in the pipes.
func (r *Runtime) detachAll() {
	r.mu.Lock()
	var pumps []*logPump
	for _, c := range r.containers {
		pumps = append(pumps, c.logs)
	}
	r.mu.Unlock()
	for _, p := range pumps {
		p.detach()
	}
}
