package memory

import (
	"context"
	"strings"

	"github.com/coracle-dev/coracle/apiserver/store"
)

// watchBatch bounds how many events are delivered at once.
const watchBatch = 1000

// watcher follows the log.
type watcher struct {
	store    *Store
	prefix   string
	next     int64 // the revision of the next event to look at
	seen     int64 // the revision up to which everything has been taken
	events   chan []store.Event
	progress chan struct{}
	err      error
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) store.Watcher {
	w := &watcher{
		store: s, prefix: prefix, next: max(after+1, 1),
		events: make(chan []store.Event), progress: make(chan struct{}, 1),
	}
	go w.run(ctx)
	return w
}

func (w *watcher) Events() <-chan []store.Event { return w.events }

func (w *watcher) Err() error { return w.err }

func (w *watcher) RequestProgress(ctx context.Context) error {
	select {
	case w.progress <- struct{}{}:
	default: // one is asked for already
	}
	return ctx.Err()
}

func (w *watcher) run(ctx context.Context) {
	defer close(w.events)
	asked := false
	for {
		events, grown, err := w.take()
		if err != nil {
			w.err = err
			return
		}
		if len(events) == 0 && asked {
			events = []store.Event{{Type: store.Progress, Entry: store.Entry{Revision: w.seen}}}
		}
		asked = false
		if len(events) == 0 {
			select {
			case <-grown:
			case <-w.progress:
				asked = true
			case <-ctx.Done():
				return
			}
			continue
		}
		select {
		case w.events <- events:
		case <-ctx.Done():
			return
		}
	}
}

// take returns the next events under the prefix, or, where there are none, what closes with the next write.
func (w *watcher) take() ([]store.Event, <-chan struct{}, error) {
	s := w.store
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, nil, store.ErrUnavailable
	}
	if w.next < s.compacted {
		return nil, nil, store.ErrCompacted
	}
	var events []store.Event
	// Without events before logStart there was nothing to see before it.
	for w.next = max(w.next, min(s.logStart, s.revision+1)); w.next <= s.revision && len(events) < watchBatch; w.next++ {
		if e := s.log[w.next-s.logStart]; strings.HasPrefix(e.Key, w.prefix) {
			events = append(events, e)
		}
	}
	w.seen = min(w.next-1, s.revision)
	return events, s.grown, nil
}
