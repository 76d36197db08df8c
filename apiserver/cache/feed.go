package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/coracle-dev/coracle/apiserver/store"
)

// Back-off between attempts to reach the store.
const (
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
)

// follow fills the cache and feeds it from one watch on the whole store; where that watch loses history, the
// store is listed again and the differences are applied.
func (c *Cache) follow(ctx context.Context) error {
	stale, pause := true, retryFirst
	for ctx.Err() == nil {
		var err error
		if stale {
			if err = c.load(ctx); err == nil {
				stale, pause = false, retryFirst
			}
		}
		if !stale {
			before := c.Revision()
			err = c.feedFrom(ctx, before)
			stale = errors.Is(err, store.ErrCompacted)
			if stale || c.Revision() > before {
				pause = retryFirst
			}
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		c.log.Warn("watching the store failed, trying again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause + rand.N(pause)):
		}
		pause = min(2*pause, retryMost)
	}
	return nil
}

// feedFrom applies what the store reports after revision until its watch ends.
func (c *Cache) feedFrom(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := c.store.Watch(ctx, store.Root, revision)
	c.feed.Store(&w)
	defer c.feed.Store(nil)
	for events := range w.Events() {
		c.apply(events)
	}
	if err := w.Err(); err != nil {
		return fmt.Errorf("watch behind revision %d: %w", c.Revision(), err)
	}
	return store.ErrUnavailable
}

// batch collects the changes that go to one table in one step.
type batch struct {
	changes []*change
	keys    []string
}

func (b *batch) add(c *change, key string) {
	b.changes = append(b.changes, c)
	b.keys = append(b.keys, key)
}

// A batch sorts by revision.
func (b *batch) Len() int           { return len(b.changes) }
func (b *batch) Less(i, j int) bool { return b.changes[i].revision < b.changes[j].revision }
func (b *batch) Swap(i, j int) {
	b.changes[i], b.changes[j] = b.changes[j], b.changes[i]
	b.keys[i], b.keys[j] = b.keys[j], b.keys[i]
}

// apply takes events in revision order. The cache's revision moves once all tables have them.
func (c *Cache) apply(events []store.Event) {
	if len(events) == 0 {
		return
	}
	now := time.Now()
	batches := map[*table]*batch{}
	ts := c.tables.Load()
	for i := range events {
		e := &events[i]
		if e.Type == store.Progress {
			continue
		}
		for _, t := range ts.of(e.Key) {
			b := batches[t]
			if b == nil {
				b = &batch{}
				batches[t] = b
			}
			b.add(c.changeOf(t, e, now), e.Key)
		}
	}
	for t, b := range batches {
		t.apply(b.changes, b.keys)
	}
	c.clock.advance(events[len(events)-1].Revision)
}

// changeOf decodes an event. What cannot be decoded is as good as gone, for the cache as for its clients.
func (c *Cache) changeOf(t *table, e *store.Event, now time.Time) *change {
	ch := &change{revision: e.Revision, at: now, size: len(e.Value)}
	if e.Type == store.Deleted {
		return ch
	}
	o, err := c.decode(t, e.Entry)
	if err != nil {
		c.log.Error("stored object left out", "error", err)
		return ch
	}
	ch.cur = o
	return ch
}

// of finds the tables whose prefix a key has: one to three path elements below the root.
func (ts *tables) of(key string) []*table {
	if !strings.HasPrefix(key, store.Root) {
		return nil
	}
	for end := len(store.Root); ; {
		i := strings.IndexByte(key[end:], '/')
		if i < 0 {
			return nil
		}
		end += i + 1
		if found := ts.byPrefix[key[:end]]; found != nil {
			return found
		}
	}
}
