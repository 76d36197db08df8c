package cache

import (
	"context"
	"errors"
	"slices"
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
	results := make([]loaded, 0, len(c.tables))
	for _, t := range c.tables {
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
				c.log.Error("stored object left out", "level", "error", "error", err)
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
// When exactly a key went in between is not known; a watcher must still be able to resume behind each event,
// so every deletion gets a revision of its own. Where there are not enough of them, the watchers start anew.
func (t *table) catchUp(objects []*Object, from, to int64) {
	b, ok := t.differences(objects, from, to)
	t.apply(b.changes, b.keys)
	if !ok {
		t.invalidate(to)
	}
}

func (t *table) differences(objects []*Object, from, to int64) (b batch, ok bool) {
	s, _ := t.newest(0)
	now := time.Now()
	type keyed struct {
		*change
		key string
	}
	var all []keyed
	taken := map[int64]bool{}
	add := func(key string, o *Object, revision int64) {
		taken[revision] = true
		all = append(all, keyed{&change{revision: revision, cur: o, at: now}, key})
	}
	present := make(map[string]bool, len(objects))
	for _, o := range objects {
		present[o.Key] = true
		old, had := s.index.Get(item{key: o.Key})
		if had && old.obj.Revision == o.Revision {
			continue
		}
		if had && uid(old.obj) != uid(o) {
			add(o.Key, nil, o.Revision-1) // it went, and came again as another
		}
		add(o.Key, o, o.Revision)
	}
	free := to
	ok = true
	s.index.Ascend(func(it item) bool {
		if present[it.key] {
			return true
		}
		for taken[free] {
			free--
		}
		if free <= from {
			ok, free = false, to
			taken = map[int64]bool{}
		}
		add(it.key, nil, free)
		return true
	})
	slices.SortStableFunc(all, func(a, b keyed) int { return int(a.revision - b.revision) })
	for _, k := range all {
		b.add(k.change, k.key)
	}
	return b, ok
}

func uid(o *Object) types.UID {
	m, err := meta.Accessor(o.Object)
	if err != nil {
		return ""
	}
	return m.GetUID()
}
