package cache

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/watch"
)

const (
	// collectMost bounds how many changes a watcher takes from the history at once.
	collectMost = 256
	// initialPage bounds how many initial events one call of Next returns.
	initialPage = 500
	// bookmarkEvery is about how often a watcher that wants bookmarks gets one.
	bookmarkEvery = time.Minute
	// bookmarkBefore is how long before its deadline a watcher gets its last bookmark.
	bookmarkBefore = 2 * time.Second
)

// watcher is a cursor into a table's history: it holds no events of its own.
type watcher struct {
	cache   *Cache
	table   *table
	selects *compiled
	group   *group

	initial     *snapshot // state still to be sent, from the key behind sent on
	sent        string
	initialEnd  bool // a bookmark is due at the end of the initial events
	initialRev  int64
	after       int64 // no event up to this revision is of interest
	cursor      uint64
	sleeping    *signal // non-nil: nothing of interest lies between cursor and the signal's first
	bookmarks   bool
	nextMark    time.Time
	timer       *time.Timer
	taken       []*change
	events      []Event
	stop        chan struct{}
	stopOnce    sync.Once
	deadlineHit time.Time // the deadline whose bookmark has been sent
}

func newWatcher(c *Cache, t *table, o WatchOptions) (*watcher, error) {
	scope := ""
	if o.Scope != "" {
		scope = t.Prefix + o.Scope
	}
	w := &watcher{
		cache: c, table: t, bookmarks: o.Bookmarks, stop: make(chan struct{}),
		selects: selector{scope: scope, labels: o.Labels, fields: o.Fields}.compile(),
	}
	w.planBookmark(time.Now())
	reached := c.clock.now.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	if o.After == 0 || o.SendInitial {
		w.initial, w.initialEnd = t.snapshotLocked(), o.SendInitial
		w.initialRev = max(t.revision, reached)
		w.after, w.cursor = t.revision, t.history.head
	} else {
		seq, ok := t.history.behind(o.After)
		if !ok {
			return nil, ErrTooOld
		}
		w.after, w.cursor = o.After, seq
	}
	w.group = t.groups.join(keyOf(o.Scope, o.Fields))
	return w, nil
}

func (w *watcher) Stop() {
	w.stopOnce.Do(func() {
		close(w.stop)
		w.table.mu.Lock()
		w.table.groups.leave(w.group)
		w.table.mu.Unlock()
	})
}

func (w *watcher) Next(ctx context.Context) ([]Event, error) {
	clear(w.events)
	w.events = w.events[:0]
	for {
		if err := w.ended(ctx); err != nil {
			return nil, err
		}
		removed := w.table.removed() // looked at first, so that the last changes are seen
		if w.initial != nil {
			w.takeInitial()
		} else if err := w.takeChanges(ctx); err != nil {
			return nil, err
		}
		if len(w.events) > 0 {
			return w.events, nil
		}
		if w.sleeping != nil {
			if removed {
				return nil, ErrRemoved
			}
			w.sleep(ctx)
		}
	}
}

func (w *watcher) ended(ctx context.Context) error {
	select {
	case <-w.stop:
		return context.Canceled
	case <-w.cache.done:
		return errStopped
	default:
		return ctx.Err()
	}
}

// takeInitial puts the next initial events into events, and the bookmark that ends them.
func (w *watcher) takeInitial() {
	s, more := w.initial, false
	prefix := w.table.Prefix
	if w.selects != nil {
		prefix = max(prefix, w.selects.scope)
	}
	s.walk(prefix, w.sent, func(it item) bool {
		if len(w.events) == initialPage {
			more = true
			return false
		}
		w.sent = it.key
		if w.selects.matches(it.obj) {
			w.events = append(w.events, Event{Type: watch.Added, Object: it.obj, Revision: it.obj.Revision})
		}
		return true
	})
	if more {
		return
	}
	w.initial = nil
	if w.initialEnd {
		w.events = append(w.events, Event{Type: watch.Bookmark, Revision: w.initialRev, InitialEnd: true})
	}
}

// takeChanges puts what the history holds for the watcher into events. At the history's end it sets sleeping,
// and adds the bookmark that is due.
func (w *watcher) takeChanges(ctx context.Context) error {
	revision, err := w.collect()
	if err != nil {
		return err
	}
	for _, c := range w.taken {
		w.translate(c)
	}
	clear(w.taken)
	if w.sleeping != nil && w.bookmarks {
		w.bookmark(ctx, revision)
	}
	return nil
}

// collect copies the next changes from the history and moves the cursor. At the end of the history it sets
// sleeping and returns the revision up to which the watcher has seen everything.
func (w *watcher) collect() (int64, error) {
	t := w.table
	reached := w.cache.clock.now.Load()
	t.mu.RLock()
	defer t.mu.RUnlock()
	w.taken = w.taken[:0]
	h := &t.history
	if s := w.sleeping; s != nil {
		w.cursor = h.head
		if w.group.signal != s {
			w.cursor = s.first
		}
		w.sleeping = nil
	}
	if w.cursor < h.tail {
		return 0, ErrTooOld
	}
	for w.cursor < h.head {
		c := h.get(w.cursor)
		if n := len(w.taken); n >= collectMost && c.revision != w.taken[n-1].revision {
			return 0, nil
		}
		w.taken = append(w.taken, c)
		w.cursor++
	}
	w.sleeping = w.group.signal
	w.sleeping.used.Store(true)
	return max(t.revision, reached), nil
}

// translate turns a change into what the watcher's selectors make of it.
func (w *watcher) translate(c *change) {
	if c.revision <= w.after {
		return
	}
	is := c.cur != nil && w.selects.matches(c.cur)
	was := c.prev != nil && w.selects.matches(c.prev)
	e := Event{Object: c.cur, Revision: c.revision}
	switch {
	case is && was:
		e.Type = watch.Modified
	case is:
		e.Type = watch.Added
	case was:
		e.Type, e.Object = watch.Deleted, c.departed()
	default:
		return
	}
	w.events = append(w.events, e)
}

// bookmark adds a bookmark if one is due.
func (w *watcher) bookmark(ctx context.Context, revision int64) {
	now := time.Now()
	due := !now.Before(w.nextMark)
	if dl, ok := ctx.Deadline(); ok && !dl.Equal(w.deadlineHit) && dl.Sub(now) <= bookmarkBefore {
		due, w.deadlineHit = true, dl
	}
	if !due {
		return
	}
	w.planBookmark(now)
	if revision >= w.after {
		w.events = append(w.events, Event{Type: watch.Bookmark, Revision: revision})
	}
}

// planBookmark spreads the watchers' bookmarks over time.
func (w *watcher) planBookmark(now time.Time) {
	w.nextMark = now.Add(bookmarkEvery*3/4 + rand.N(bookmarkEvery/4))
}

// sleep waits for something to do: a change that concerns the group, a bookmark due, an end.
func (w *watcher) sleep(ctx context.Context) {
	var mark <-chan time.Time
	if w.bookmarks {
		mark = w.alarm(ctx)
	}
	select {
	case <-w.sleeping.ch:
	case <-mark:
	case <-ctx.Done():
	case <-w.stop:
	case <-w.table.gone:
	case <-w.cache.done:
	}
}

// alarm sets the timer for the next bookmark.
func (w *watcher) alarm(ctx context.Context) <-chan time.Time {
	at := w.nextMark
	if dl, ok := ctx.Deadline(); ok && !dl.Equal(w.deadlineHit) {
		if last := dl.Add(-bookmarkBefore); last.Before(at) {
			at = last
		}
	}
	if w.timer == nil {
		w.timer = time.NewTimer(time.Until(at))
	} else {
		w.timer.Reset(time.Until(at))
	}
	return w.timer.C
}
