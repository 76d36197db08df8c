package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
	"k8s.io/apimachinery/pkg/watch"
)

const widgetPrefix = "/registry/example.com/widgets/"

func widgets() Resource {
	r := testResources()[0]
	r.Name, r.Prefix = "widgets.example.com", widgetPrefix
	return r
}

// TestAddUnderWrites adds a resource while it is written and the store's watch breaks: each time, what its first
// list and the events behind it add up to is what the store holds.
func TestAddUnderWrites(t *testing.T) {
	for round := range 8 {
		st := &flakyStore{Engine: memory.New()}
		c := newCluster(t, st)
		r := rand.New(rand.NewPCG(uint64(round), 1))
		stop := make(chan struct{})
		var writers sync.WaitGroup
		for w := range 2 {
			seed := r.Uint64()
			writers.Go(func() { c.writeWidgets(rand.New(rand.NewPCG(seed, uint64(w))), stop) })
		}
		time.Sleep(time.Duration(r.IntN(5)) * time.Millisecond)
		if round%2 == 1 {
			writers.Go(func() { st.disturb(t, rand.New(rand.NewPCG(uint64(round), 2))) })
		}
		c.must(c.cache.Add(t.Context(), widgets()))
		l, err := c.cache.List(t.Context(), "widgets.example.com", ListOptions{})
		c.must(err)
		seen := map[string]int64{}
		for _, o := range l.Objects {
			seen[o.Key] = o.Revision
		}
		w, err := c.cache.Watch(t.Context(), "widgets.example.com", WatchOptions{After: l.Revision})
		c.must(err)
		time.Sleep(10 * time.Millisecond)
		close(stop)
		writers.Wait()
		last, err := c.cache.StoreRevision(t.Context())
		c.must(err)
		// A last write marks the end.
		_, err = st.Create(t.Context(), widgetPrefix+"z/end", value("z", "end"), store.CreateOptions{})
		c.must(err)
		ended := false
		for !ended {
			events, err := w.Next(t.Context())
			if errors.Is(err, ErrTooOld) {
				break // the blur of a list fell around the start: clients list again
			}
			c.must(err)
			for _, e := range events {
				_, known := seen[e.Object.Key]
				if known != (e.Type != watch.Added) {
					t.Fatalf("round %d: %s of %s at %d, known %v (end at %d)", round, e.Type, e.Object.Key, e.Revision, known, last)
				}
				seen[e.Object.Key] = e.Object.Revision
				if e.Type == watch.Deleted {
					delete(seen, e.Object.Key)
				}
				ended = ended || e.Object.Key == widgetPrefix+"z/end"
			}
		}
		w.Stop()
		stored, err := st.List(t.Context(), widgetPrefix, store.ListOptions{})
		c.must(err)
		want := map[string]int64{}
		for _, e := range stored.Entries {
			want[e.Key] = e.Revision
		}
		if ended && fmt.Sprint(seen) != fmt.Sprint(want) {
			t.Errorf("round %d: watched\n%v, stored\n%v", round, seen, want)
		}
	}
}

func (c *cluster) writeWidgets(r *rand.Rand, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(r.IntN(200)) * time.Microsecond):
		}
		name := fmt.Sprint(r.IntN(6))
		key := widgetPrefix + "a/" + name
		v := value("a", name, withUID(fmt.Sprint(i, r.Int())))
		current, err := c.st.Get(context.Background(), key, 0)
		switch {
		case errors.Is(err, store.ErrNotFound):
			_, _ = c.st.Create(context.Background(), key, v, store.CreateOptions{})
		case r.IntN(3) == 0:
			_, _ = c.st.Delete(context.Background(), key, current.Revision)
		default:
			_, _ = c.st.Update(context.Background(), key, v, current.Revision)
		}
	}
}

func TestRemoveEndsWatches(t *testing.T) {
	c := newCluster(t, nil)
	c.must(c.cache.Add(t.Context(), widgets()))
	if err := c.cache.Add(t.Context(), widgets()); err == nil {
		t.Error("the same resource was added twice")
	}
	w, err := c.cache.Watch(t.Context(), "widgets.example.com", WatchOptions{})
	c.must(err)
	rev, err := c.st.Create(t.Context(), widgetPrefix+"a/x", value("a", "x"), store.CreateOptions{})
	c.must(err)
	c.must(c.cache.reach(t.Context(), rev))
	ended := make(chan error, 1)
	c.cache.Remove("widgets.example.com")
	go func() {
		var events []Event
		for {
			got, err := w.Next(context.Background())
			if err != nil {
				if len(events) != 1 {
					err = fmt.Errorf("%d events before %w", len(events), err)
				}
				ended <- err
				return
			}
			events = append(events, got...)
		}
	}()
	if err := <-ended; !errors.Is(err, ErrRemoved) || err.Error() != ErrRemoved.Error() {
		t.Errorf("the watch ended with %v", err)
	}
	if _, err := c.cache.List(t.Context(), "widgets.example.com", ListOptions{}); !errors.Is(err, ErrRemoved) {
		t.Errorf("a list of what was removed gives %v", err)
	}
	c.must(c.cache.Add(t.Context(), widgets()))
	l, err := c.cache.List(t.Context(), "widgets.example.com", ListOptions{})
	c.must(err)
	if len(l.Objects) != 1 {
		t.Errorf("%d objects after the resource came again", len(l.Objects))
	}
}
