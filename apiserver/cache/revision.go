package cache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// revisionClock is the revision that the whole cache has reached, and those who wait for it to come further.
type revisionClock struct {
	now     atomic.Int64
	mu      sync.Mutex
	waiters map[*revisionWaiter]struct{}
}

type revisionWaiter struct {
	revision int64
	reached  chan struct{}
}

// advance moves the clock; it never goes back.
func (c *revisionClock) advance(revision int64) {
	if revision <= c.now.Load() {
		return
	}
	c.now.Store(revision)
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.waiters {
		if w.revision <= revision {
			close(w.reached)
			delete(c.waiters, w)
		}
	}
}

// wait registers for revision. The caller calls forget in the end.
func (c *revisionClock) wait(revision int64) *revisionWaiter {
	w := &revisionWaiter{revision: revision, reached: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now.Load() >= revision {
		close(w.reached)
		return w
	}
	if c.waiters == nil {
		c.waiters = map[*revisionWaiter]struct{}{}
	}
	c.waiters[w] = struct{}{}
	return w
}

func (c *revisionClock) forget(w *revisionWaiter) {
	c.mu.Lock()
	delete(c.waiters, w)
	c.mu.Unlock()
}

// reach waits until the cache has seen revision, and asks the store for progress where no event brings it.
func (c *Cache) reach(ctx context.Context, revision int64) error {
	if c.clock.now.Load() >= revision {
		return nil
	}
	w := c.clock.wait(revision)
	defer c.clock.forget(w)
	limit := time.NewTimer(freshTimeout)
	defer limit.Stop()
	ask := time.NewTimer(progressFirst)
	defer ask.Stop()
	for {
		select {
		case <-w.reached:
			return nil
		case <-ask.C:
			c.requestProgress(ctx)
			ask.Reset(progressEvery)
		case <-limit.C:
			return ErrTooNew
		case <-ctx.Done():
			return ctx.Err()
		case <-c.done:
			return errStopped
		}
	}
}
