package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/internal/run"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	// freshTimeout bounds the wait for a revision (upstream's watch cache waits as long).
	freshTimeout = 3 * time.Second
	// progressFirst is how long a waiter gives the store to bring the revision by itself.
	progressFirst = 2 * time.Millisecond
	progressEvery = 50 * time.Millisecond
	// sweepEvery is how often history, snapshots and encodings that nobody needs are dropped.
	sweepEvery = 15 * time.Second
)

// Newest, as the minRevision of Get, asks for a consistent read: one that sees every write acknowledged
// before the call.
const Newest int64 = -1

// errStopped is what calls get once Run has ended.
var errStopped = fmt.Errorf("cache stopped: %w", store.ErrUnavailable)

// Cache holds the newest state and the recent history of a set of resources. Its methods are safe for
// concurrent use; those that read wait until the first state is there.
type Cache struct {
	store  store.Store
	log    *slog.Logger
	change sync.Mutex // held to put other tables in place
	tables atomic.Pointer[tables]
	clock  revisionClock
	pool   *encodingPool
	feed   atomic.Pointer[store.Watcher]
	ready  chan struct{}
	done   chan struct{}
}

// New makes a cache of resources on st, empty until Run. Resources may share a prefix.
func New(st store.Store, resources []Resource) *Cache {
	c := &Cache{
		store: st,
		log:   slog.With("component", "cache"),
		pool:  &encodingPool{},
		ready: make(chan struct{}),
		done:  make(chan struct{}),
	}
	c.tables.Store(newTables(resources))
	return c
}

// Run fills the cache and keeps it current until ctx ends. Call it once. It outlasts failures of the store;
// while those last, reads that ask for a fresh state get ErrTooNew or the store's error.
func (c *Cache) Run(ctx context.Context) error {
	defer close(c.done)
	return run.All(ctx, c.follow, c.sweep)
}

func (c *Cache) sweep(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			for _, t := range c.tables.Load().byName {
				t.trim(now)
			}
			c.pool.sweep()
		}
	}
}

// Ready tells whether the first state is there.
func (c *Cache) Ready() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}

// WaitReady waits for the first state.
func (c *Cache) WaitReady(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	default:
	}
	select {
	case <-c.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return errStopped
	}
}

// Revision is the store's revision that the whole cache has reached; zero before the first state.
func (c *Cache) Revision() int64 { return c.clock.now.Load() }

// StoreRevision is the store's revision at the time of the call: at least that of every write acknowledged before.
func (c *Cache) StoreRevision(ctx context.Context) (int64, error) {
	if r, ok := c.store.(store.Revisioner); ok {
		return r.Revision(ctx)
	}
	// No key is below this prefix, so that nothing is counted.
	l, err := c.store.List(ctx, store.Root+"-/", store.ListOptions{CountOnly: true})
	return l.Revision, err
}

// Get returns the object at a whole key, as of minRevision or later: zero takes what is there, Newest reads
// consistently. store.ErrNotFound when there is none, ErrTooNew when the revision does not come in time.
func (c *Cache) Get(ctx context.Context, resource, key string, minRevision int64) (*Object, error) {
	t, err := c.fresh(ctx, resource, minRevision, minRevision == Newest)
	if err != nil {
		return nil, err
	}
	o, _ := t.get(key, 0)
	if o == nil {
		return nil, store.ErrNotFound
	}
	return o, nil
}

// List returns a page of objects. The slice is the caller's, the objects are shared.
func (c *Cache) List(ctx context.Context, resource string, o ListOptions) (ListResult, error) {
	t, err := c.fresh(ctx, resource, max(o.MinRevision, o.Revision), o.Consistent)
	if err != nil {
		return ListResult{}, err
	}
	reached := c.clock.now.Load()
	var s *snapshot
	revision := o.Revision
	if revision > 0 {
		s = t.exactly(revision, reached)
	} else {
		s, revision = t.newest(reached)
	}
	if s == nil {
		return ListResult{}, ErrTooOld
	}
	r := s.list(t, o)
	r.Revision = revision
	if r.More {
		t.keep(s, time.Now())
	}
	return r, nil
}

// Watch starts a watch. ErrTooOld where the history no longer reaches back to opts.After.
func (c *Cache) Watch(ctx context.Context, resource string, opts WatchOptions) (Watcher, error) {
	var minimum int64
	if opts.SendInitial {
		minimum = opts.After
	}
	consistent := opts.Consistent && (opts.SendInitial || opts.After == 0)
	t, err := c.fresh(ctx, resource, minimum, consistent)
	if err != nil {
		return nil, err
	}
	return newWatcher(c, t, opts)
}

// Stats tells how much of one resource the cache holds.
type Stats struct {
	Resource string
	// Objects in the newest state, Events in the history, Watches going on.
	Objects, Events, Watches int
}

// Stats are those of every resource, by name.
func (c *Cache) Stats() []Stats {
	ts := c.tables.Load()
	all := make([]Stats, 0, len(ts.byName))
	for _, t := range ts.byName {
		all = append(all, t.stats())
	}
	slices.SortFunc(all, func(a, b Stats) int { return strings.Compare(a.Resource, b.Resource) })
	return all
}

// Objects is how many objects of a resource there are; zero where it is not kept.
func (c *Cache) Objects(resource string) int {
	t := c.tables.Load().byName[resource]
	if t == nil {
		return 0
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.live.Len()
}

// fresh returns the resource's table once it is as new as asked.
func (c *Cache) fresh(ctx context.Context, resource string, minRevision int64, consistent bool) (*table, error) {
	t := c.tables.Load().byName[resource]
	if t == nil {
		return nil, fmt.Errorf("%w: %s", ErrRemoved, resource)
	}
	if err := c.WaitReady(ctx); err != nil {
		return nil, err
	}
	if err := t.waitLoaded(ctx); err != nil {
		return nil, err
	}
	if consistent {
		revision, err := c.StoreRevision(ctx)
		if err != nil {
			return nil, err
		}
		minRevision = max(minRevision, revision)
	}
	if minRevision <= 0 {
		return t, nil
	}
	return t, c.reach(ctx, minRevision)
}

func (c *Cache) requestProgress(ctx context.Context) {
	w := c.feed.Load()
	if w == nil {
		return
	}
	if err := (*w).RequestProgress(ctx); err != nil && !errors.Is(err, context.Canceled) {
		c.log.Debug("progress not requested", "error", err)
	}
}

// decode makes the object of a stored value.
func (c *Cache) decode(t *table, e store.Entry) (*Object, error) {
	obj, err := t.Decode(e.Value, e.Revision)
	if err != nil {
		return nil, fmt.Errorf("decode %s at revision %d: %w", e.Key, e.Revision, err)
	}
	o := &Object{Key: e.Key, Revision: e.Revision, Object: obj, encodings: encodings{pool: c.pool}}
	if m, err := meta.Accessor(obj); err == nil {
		o.Labels = labels.Set(m.GetLabels())
	}
	if t.Fields != nil {
		o.Fields = t.Fields(obj)
	}
	if t.LateField != nil {
		o.late = &lateFields{object: obj, find: t.LateField, known: fields.Set{}}
	}
	return o, nil
}

// at is a copy of the object with another resource version.
func (o *Object) at(revision int64) *Object {
	c := &Object{
		Key: o.Key, Revision: revision, Object: o.Object.DeepCopyObject(),
		Labels: o.Labels, Fields: o.Fields, late: o.late, encodings: encodings{pool: o.encodings.pool},
	}
	if m, err := meta.Accessor(c.Object); err == nil {
		m.SetResourceVersion(strconv.FormatInt(revision, 10))
	}
	return c
}
