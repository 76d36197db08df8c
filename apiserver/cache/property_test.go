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
	"github.com/coracle-dev/coracle/apiserver/store/etcd"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
	"github.com/coracle-dev/coracle/apiserver/store/storetest"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"
)

// flakyStore breaks its watches when told to, and may compact right then, so that the watch cannot resume.
type flakyStore struct {
	storetest.Engine
	mu     sync.Mutex
	breaks []context.CancelFunc
}

type flakyWatch struct {
	store.Watcher
	broken context.Context
}

// Err is ErrUnavailable for a watch that was broken.
func (w flakyWatch) Err() error {
	if err := w.Watcher.Err(); err != nil || w.broken.Err() == nil {
		return err
	}
	return store.ErrUnavailable
}

func (s *flakyStore) Watch(ctx context.Context, prefix string, after int64) store.Watcher {
	broken, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	s.breaks = append(s.breaks, cancel)
	s.mu.Unlock()
	return flakyWatch{s.Engine.Watch(broken, prefix, after), broken}
}

func (s *flakyStore) breakWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.breaks {
		b()
	}
	s.breaks = nil
}

// mirror is what an informer knows: the state that a list and the events behind it add up to.
type mirror struct {
	resource string
	opts     WatchOptions
	state    map[string]int64
	revision int64
	relists  int
}

// TestAgreement writes at random from several goroutines, while watches break and history is compacted; in
// the end the cache and every informer on it hold what the store holds.
func TestAgreement(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			agreement(t, memory.New(), seed)
		})
	}
}

// TestAgreementOnEtcd is the same with the embedded etcd underneath.
func TestAgreementOnEtcd(t *testing.T) {
	t.Parallel()
	e, err := etcd.OpenEmbedded(t.Context(), etcd.EmbeddedConfig{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	seed := rand.Uint64()
	t.Logf("seed %d", seed) // shown where the test fails
	agreement(t, e, seed)
}

func agreement(t *testing.T, engine storetest.Engine, seed uint64) {
	st := &flakyStore{Engine: engine}
	c := newCluster(t, st)
	mirrors := []*mirror{
		{resource: "configmaps", opts: WatchOptions{}},
		{resource: "configmaps", opts: WatchOptions{SendInitial: true, Scope: "b/"}},
		{opts: WatchOptions{}},
		{opts: WatchOptions{SendInitial: true}},
		{opts: WatchOptions{Scope: "a/"}},
		{opts: WatchOptions{Fields: fields.OneTermEqualSelector("spec.nodeName", "n1")}},
		{opts: WatchOptions{Labels: labels.SelectorFromSet(labels.Set{"app": "web"}), Bookmarks: true}},
		{opts: WatchOptions{Fields: fields.OneTermEqualSelector("metadata.name", "3"), Scope: "b/"}},
	}
	stop := make(chan struct{})
	var writers, followers sync.WaitGroup
	var final int64 // set before stop closes
	for _, m := range mirrors {
		if m.resource == "" {
			m.resource = "pods"
		}
		followers.Go(func() { m.follow(c, stop, &final) })
	}
	for w := range 4 {
		writers.Go(func() { c.writeRandomly(rand.New(rand.NewPCG(seed, uint64(w))), 150) })
	}
	writers.Go(func() { st.disturb(t, rand.New(rand.NewPCG(seed, 99))) })
	writers.Wait()
	var err error
	final, err = c.cache.StoreRevision(t.Context())
	c.must(err)
	close(stop)
	followers.Wait()
	for i, m := range mirrors {
		want := c.expected(m.resource, m.opts)
		if fmt.Sprint(m.state) != fmt.Sprint(want) {
			t.Errorf("informer %d (%d relists) holds\n%v, the store\n%v", i, m.relists, m.state, want)
		}
	}
	for _, resource := range []string{"pods", "configmaps"} {
		r, err := c.cache.List(t.Context(), resource, ListOptions{Consistent: true})
		c.must(err)
		got := map[string]int64{}
		for _, o := range r.Objects {
			got[o.Key] = o.Revision
		}
		if want := c.expected(resource, WatchOptions{}); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the cache holds of %s\n%v, the store\n%v", resource, got, want)
		}
	}
}

// expected is what the store holds of a selection.
func (c *cluster) expected(resource string, o WatchOptions) map[string]int64 {
	table := c.cache.tables.Load().byName[resource]
	l, err := c.st.List(c.Context(), table.Prefix, store.ListOptions{})
	c.must(err)
	sel := selector{scope: table.Prefix + o.Scope, labels: o.Labels, fields: o.Fields}.compile()
	want := map[string]int64{}
	for _, e := range l.Entries {
		obj, err := c.cache.decode(table, e)
		c.must(err)
		if sel.matches(obj) {
			want[e.Key] = e.Revision
		}
	}
	return want
}

func (c *cluster) writeRandomly(r *rand.Rand, n int) {
	for i := range n {
		ns, name := string("ab"[r.IntN(2)]), fmt.Sprint(r.IntN(6))
		key := []string{podPrefix, podPrefix, configPrefix}[r.IntN(3)] + ns + "/" + name
		v := value(ns, name, withNode(fmt.Sprint("n", r.IntN(2))), withUID(fmt.Sprint(i, r.Int())))
		if r.IntN(2) == 0 {
			v = value(ns, name, label("app", "web"))
		}
		current, err := c.st.Get(c.Context(), key, 0)
		switch {
		case errors.Is(err, store.ErrNotFound):
			_, _ = c.st.Create(c.Context(), key, v, store.CreateOptions{})
		case r.IntN(3) == 0:
			_, _ = c.st.Delete(c.Context(), key, current.Revision)
		default:
			_, _ = c.st.Update(c.Context(), key, v, current.Revision)
		}
		if r.IntN(8) == 0 {
			time.Sleep(time.Duration(r.IntN(1000)) * time.Microsecond)
		}
	}
}

// disturb breaks the watches, half of the time so that they cannot resume.
func (s *flakyStore) disturb(t *testing.T, r *rand.Rand) {
	for range 6 {
		time.Sleep(time.Duration(r.IntN(8)) * time.Millisecond)
		s.breakWatches()
		if r.IntN(2) == 0 {
			continue
		}
		for range 3 { // the watch is retried after a pause: leave it something to miss
			time.Sleep(4 * time.Millisecond)
			if l, err := s.List(t.Context(), store.Root, store.ListOptions{CountOnly: true}); err == nil {
				_ = s.Compact(t.Context(), l.Revision)
			}
		}
	}
}

// follow lists and watches as informers do, until the watch has reached the final revision.
func (m *mirror) follow(c *cluster, stop <-chan struct{}, final *int64) {
	for {
		switch err := m.listAndWatch(c, stop, final); {
		case err == nil:
			return
		case errors.Is(err, ErrTooOld):
			m.relists++
			m.revision = 0
		default:
			c.Error(err)
			return
		}
	}
}

func (m *mirror) listAndWatch(c *cluster, stop <-chan struct{}, final *int64) error {
	opts := m.opts
	if m.revision == 0 {
		m.state = map[string]int64{}
		if !opts.SendInitial {
			r, err := c.cache.List(c.Context(), m.resource, ListOptions{Scope: opts.Scope, Labels: opts.Labels, Fields: opts.Fields, Consistent: true})
			if err != nil {
				return err
			}
			for _, o := range r.Objects {
				m.state[o.Key] = o.Revision
			}
			m.revision = r.Revision
		}
	}
	if !opts.SendInitial {
		opts.After = m.revision
	}
	w, err := c.cache.Watch(c.Context(), m.resource, opts)
	if err != nil {
		return err
	}
	defer w.Stop()
	if opts.SendInitial {
		m.state, m.revision = map[string]int64{}, 0
	}
	for i := 0; ; i++ {
		last := m.isLast(c, stop, final)
		wait := 5 * time.Millisecond
		if last { // on a busy machine a short wait is over before Next has looked
			wait = 2 * time.Second
		}
		ctx, cancel := context.WithTimeout(c.Context(), wait)
		events, err := w.Next(ctx)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		quiet := true
		for _, e := range events {
			quiet = quiet && e.Type == watch.Bookmark
			if err := m.take(e); err != nil {
				c.Error(err)
			}
		}
		if quiet && last {
			return nil
		}
		if i%20 == 19 { // reconnect now and then
			break
		}
	}
	return m.listAndWatch(c, stop, final)
}

// isLast tells whether everything there will be is in the cache.
func (m *mirror) isLast(c *cluster, stop <-chan struct{}, final *int64) bool {
	select {
	case <-stop:
		return c.cache.Revision() >= *final
	default:
		return false
	}
}

// take applies an event and checks that it fits what is known.
func (m *mirror) take(e Event) error {
	if e.Type == watch.Bookmark {
		m.revision = max(m.revision, e.Revision)
		return nil
	}
	_, known := m.state[e.Object.Key]
	rv := e.Object.Object.(*v1.ConfigMap).ResourceVersion
	initial := e.Type == watch.Added && e.Revision == e.Object.Revision && m.opts.SendInitial
	switch {
	case fmt.Sprint(e.Revision) != rv:
		return fmt.Errorf("event at %d with an object at %s", e.Revision, rv)
	case e.Revision < m.revision && !initial:
		return fmt.Errorf("%s of %s at %d after %d", e.Type, e.Object.Key, e.Revision, m.revision)
	case known != (e.Type != watch.Added):
		return fmt.Errorf("%s of %s, known %v", e.Type, e.Object.Key, known)
	}
	if e.Type == watch.Deleted {
		delete(m.state, e.Object.Key)
	} else {
		m.state[e.Object.Key] = e.Object.Revision
	}
	m.revision = max(m.revision, e.Revision)
	return nil
}
