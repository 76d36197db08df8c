package cache

import (
	"context"
	"errors"
	"sort"
	"time"

	"github.com/coracle-dev/coracle/apiserver/store"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
)

// loadPage is how many entries one read of the store brings at most.
const loadPage = 1000

// load reads every resource at one revision: the first state, or what changed while the watch was broken.
func (c *Cache) load(ctx context.Context) error {
	for {
		revision, err := c.StoreRevision(ctx)
		if err != nil {
			return err
		}
		err = c.loadAt(ctx, revision)
		if !errors.Is(err, store.ErrCompacted) {
			return err
		}
	}
}

func (c *Cache) loadAt(ctx context.Context, revision int64) error {
	type loaded struct {
		t       *table
		objects []*Object
	}
	ts := c.tables.Load()
	results := make([]loaded, 0, len(ts.byName))
	for _, t := range ts.byName {
		results = append(results, loaded{t: t})
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i := range results {
		g.Go(func() (err error) {
			results[i].objects, err = c.read(gctx, results[i].t, revision)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	first := !c.Ready()
	for _, r := range results {
		if first {
			r.t.fill(r.objects, revision)
		} else {
			r.t.catchUp(r.objects, c.Revision(), revision)
		}
	}
	c.clock.advance(revision)
	if first {
		close(c.ready)
	}
	return nil
}

// read lists one resource at revision, in key order. Before the first state nothing is there to reuse; later,
// objects that did not change are taken from the cache.
func (c *Cache) read(ctx context.Context, t *table, revision int64) ([]*Object, error) {
	var objects []*Object
	opts := store.ListOptions{Revision: revision, Limit: loadPage}
	for {
		page, err := c.store.List(ctx, t.Prefix, opts)
		if err != nil {
			return nil, err
		}
		for _, e := range page.Entries {
			if o, _ := t.get(e.Key, 0); o != nil && o.Revision == e.Revision {
				objects = append(objects, o)
				continue
			}
			o, err := c.decode(t, e)
			if err != nil {
				c.log.Error("stored object left out", "error", err)
				continue
			}
			objects = append(objects, o)
		}
		if page.Remaining == 0 || len(page.Entries) == 0 {
			return objects, nil
		}
		opts.After = page.Entries[len(page.Entries)-1].Key
	}
}

// catchUp applies the differences between the table's state, as of revision from, and objects, as of to.
func (t *table) catchUp(objects []*Object, from, to int64) {
	if t.fill(objects, to) { // it was waiting for its first state
		return
	}
	floor := t.since()
	if floor >= to {
		return
	}
	from = max(from, floor)
	b := t.differences(objects, from, to)
	t.mu.Lock()
	t.endSnapshot(from + 1)
	wake := t.applyLocked(b.changes, b.keys)
	t.revision = to
	t.history.blurs = append(t.history.blurs, blur{from, to})
	t.mu.Unlock()
	wakeAll(wake)
}

// differences are changes that lead from the table's state to objects. Those of one key are in order, and all
// revisions lie behind from and not behind to; but when a key went is not known, so that the revision of its
// deletion is the last possible but one: to itself must not be seen before the last change is.
func (t *table) differences(objects []*Object, from, to int64) batch {
	s, _ := t.newest(0)
	now := time.Now()
	var b batch
	present := make(map[string]bool, len(objects))
	for _, o := range objects {
		present[o.Key] = true
		old, had := s.index.Get(item{key: o.Key})
		if had && old.obj.Revision == o.Revision {
			continue
		}
		if had && uid(old.obj) != uid(o) { // it went, and came again as another
			b.add(&change{revision: max(from+1, o.Revision-1), at: now}, o.Key)
		}
		b.add(&change{revision: o.Revision, cur: o, at: now}, o.Key)
	}
	gone := max(from+1, to-1)
	s.index.Ascend(func(it item) bool {
		if !present[it.key] {
			b.add(&change{revision: gone, at: now}, it.key)
		}
		return true
	})
	sort.Stable(&b)
	return b
}

func uid(o *Object) types.UID {
	m, err := meta.Accessor(o.Object)
	if err != nil {
		return ""
	}
	return m.GetUID()
}
