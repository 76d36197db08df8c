package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/apiserver/store"
)

// event is what the suite expects of a store.Event.
type event struct {
	kind     store.EventType
	key      string
	value    string
	revision int64
}

type watching struct {
	store.Watcher
	cancel  context.CancelFunc
	pending []store.Event
}

func (s suite) watch(t *testing.T, prefix string, after int64) *watching {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	return &watching{Watcher: s.Watch(ctx, prefix, after), cancel: cancel}
}

// next returns the next event.
func (w *watching) next(t *testing.T) store.Event {
	t.Helper()
	for len(w.pending) == 0 {
		select {
		case events, ok := <-w.Events():
			if !ok {
				t.Fatalf("the watch ended: %v", w.Err())
			}
			w.pending = events
		case <-time.After(10 * time.Second):
			t.Fatal("no event within ten seconds")
		}
	}
	e := w.pending[0]
	w.pending = w.pending[1:]
	return e
}

func (w *watching) want(t *testing.T, want ...event) {
	t.Helper()
	for _, x := range want {
		e := w.next(t)
		if got := (event{e.Type, e.Key, string(e.Value), e.Revision}); got != x {
			t.Fatalf("got event %+v, want %+v", got, x)
		}
	}
}

// end expects the watch to end with an error, or without one where want is nil.
func (w *watching) end(t *testing.T, want error) {
	t.Helper()
	select {
	case events, ok := <-w.Events():
		if ok {
			t.Fatalf("got events %v, want the end", events)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the watch did not end within ten seconds")
	}
	if err := w.Err(); !errors.Is(err, want) {
		t.Fatalf("the watch ended with %v, want %v", err, want)
	}
}

func testWatchFromRevision(t *testing.T, s suite) {
	key := keyOf(t, "a")
	first := s.create(t, key, "one")
	second := s.update(t, key, "two", first)
	now := s.watch(t, prefixOf(t), second)
	third := s.delete(t, key, second)
	fourth := s.create(t, key, "three")
	deletion := event{store.Deleted, key, "", third}
	creation := event{store.Created, key, "three", fourth}
	now.want(t, deletion, creation)
	past := s.watch(t, prefixOf(t), first)
	past.want(t, event{store.Modified, key, "two", second})
	e := past.next(t)
	if e.Type != store.Deleted || e.Revision != third || string(e.PrevValue) != "two" {
		t.Fatalf("got %+v for the deletion", e)
	}
	past.want(t, creation)
	future := s.watch(t, prefixOf(t), fourth+1)
	s.update(t, key, "unseen", fourth)
	sixth := s.update(t, key, "seen", fourth+1)
	future.want(t, event{store.Modified, key, "seen", sixth})
}

func testWatchPrefix(t *testing.T, s suite) {
	p := prefixOf(t)
	w := s.watch(t, p+"in/", s.create(t, p+"start", ""))
	s.create(t, p+"in", "outside")
	s.create(t, p+"in-between/x", "outside")
	rev := s.create(t, p+"in/x", "inside")
	w.want(t, event{store.Created, p + "in/x", "inside", rev})
}

// testWatchConcurrent has watches start while several writers write: each sees everything behind its start
// once, in revision order, and the sum is the state.
func testWatchConcurrent(t *testing.T, s suite) {
	const writers, writes = 8, 60
	p := prefixOf(t)
	start := s.create(t, p+"start", "")
	var wg sync.WaitGroup
	var watches []*watching
	watches = append(watches, s.watch(t, p, start))
	var mu sync.Mutex
	written := map[int64]event{}
	note := func(e event) {
		mu.Lock()
		defer mu.Unlock()
		if _, doubled := written[e.revision]; doubled {
			t.Errorf("two writes got revision %d", e.revision)
		}
		written[e.revision] = e
	}
	for i := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			s.writeSome(t, fmt.Sprintf("%sw%d", p, i), writes, note)
		}()
	}
	for range 5 {
		time.Sleep(3 * time.Millisecond)
		watches = append(watches, s.watch(t, p, start))
	}
	wg.Wait()
	if len(written) != writers*writes {
		t.Fatalf("%d writes were acknowledged, want %d", len(written), writers*writes)
	}
	for i, w := range watches {
		last := start
		for range writers * writes {
			e := w.next(t)
			if e.Revision <= last {
				t.Fatalf("watch %d: revision %d after %d", i, e.Revision, last)
			}
			last = e.Revision
			if got := (event{e.Type, e.Key, string(e.Value), e.Revision}); got != written[e.Revision] {
				t.Fatalf("watch %d: got %+v, want %+v", i, got, written[e.Revision])
			}
		}
	}
}

// writeSome creates, changes and deletes one key in turn.
func (s suite) writeSome(t *testing.T, key string, n int, note func(event)) {
	var rev int64
	var err error
	for i := range n {
		v := strconv.Itoa(i)
		switch i % 3 {
		case 0:
			rev, err = s.Create(t.Context(), key, []byte(v), store.CreateOptions{})
			note(event{store.Created, key, v, rev})
		case 1:
			rev, err = s.Update(t.Context(), key, []byte(v), rev)
			note(event{store.Modified, key, v, rev})
		case 2:
			rev, err = s.Delete(t.Context(), key, rev)
			note(event{store.Deleted, key, "", rev})
		}
		if err != nil {
			t.Errorf("write %d of %s: %v", i, key, err)
			return
		}
	}
}

func testWatchEnd(t *testing.T, s suite) {
	w := s.watch(t, prefixOf(t), s.create(t, keyOf(t, "a"), ""))
	w.cancel()
	w.end(t, nil)
}

func testProgress(t *testing.T, s suite) {
	p := prefixOf(t)
	first := s.create(t, p+"a", "")
	w := s.watch(t, p, first)
	second := s.update(t, p+"a", "x", first)
	outside := s.create(t, keyOf(t, "")[:len(p)-1]+"-outside", "")
	w.want(t, event{store.Modified, p + "a", "x", second})
	for range 100 {
		must(t, w.RequestProgress(ctxOf(t)))
		select {
		case events := <-w.Events():
			if len(events) == 0 {
				t.Fatalf("the watch ended: %v", w.Err())
			}
			for _, e := range events {
				if e.Type != store.Progress {
					t.Fatalf("got %+v, want progress", e)
				}
			}
			if events[len(events)-1].Revision >= outside {
				return
			}
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatalf("no progress to revision %d", outside)
}

// testCompareAndSwap has writers count in one key: no increment is lost.
func testCompareAndSwap(t *testing.T, s suite) {
	const writers, increments = 4, 15
	key := keyOf(t, "counter")
	s.create(t, key, "0")
	var wg sync.WaitGroup
	for range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range increments {
				if err := s.increment(t.Context(), key); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	got, err := s.Get(ctxOf(t), key, 0)
	must(t, err)
	if string(got.Value) != strconv.Itoa(writers*increments) {
		t.Fatalf("counted to %s, want %d", got.Value, writers*increments)
	}
}

func (s suite) increment(ctx context.Context, key string) error {
	current, err := s.Get(ctx, key, 0)
	for err == nil {
		var n int
		if n, err = strconv.Atoi(string(current.Value)); err != nil {
			return err
		}
		_, err = s.Update(ctx, key, []byte(strconv.Itoa(n+1)), current.Revision)
		var conflict *store.ConflictError
		if !errors.As(err, &conflict) {
			return err
		}
		current, err = conflict.Current, nil
	}
	return err
}
