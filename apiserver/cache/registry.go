package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/coracle-dev/coracle/apiserver/store"
)

// ErrRemoved: the resource is no longer in the cache. Watchers get it once they have seen every change before.
var ErrRemoved = errors.New("cache: resource is no longer served")

// tables is the set of resources at one moment. It is never changed: Add and Remove put another in its place.
type tables struct {
	byName   map[string]*table
	byPrefix map[string][]*table
}

func newTables(resources []Resource) *tables {
	ts := &tables{byName: make(map[string]*table, len(resources)), byPrefix: make(map[string][]*table, len(resources))}
	for _, r := range resources {
		ts.put(newTable(r))
	}
	return ts
}

func (ts *tables) put(t *table) {
	ts.byName[t.Name] = t
	ts.byPrefix[t.Prefix] = append(slices.Clip(ts.byPrefix[t.Prefix]), t)
}

func (ts *tables) clone() *tables {
	return &tables{byName: maps.Clone(ts.byName), byPrefix: maps.Clone(ts.byPrefix)}
}

// Add takes a further resource into the running cache and returns once its first state is there. From then on
// every change of it arrives by the one watch: what the watch brought while the state was being read is kept
// aside and applied behind it, and what the state holds already is left out. An error leaves the cache as it was.
func (c *Cache) Add(ctx context.Context, r Resource) error {
	if err := c.WaitReady(ctx); err != nil {
		return err
	}
	t := newTable(r)
	if err := c.enter(t); err != nil {
		return err
	}
	// The revision is learnt behind enter: the feed brings all that comes later to t.
	if err := c.loadTable(ctx, t); err != nil {
		c.leave(t)
		return fmt.Errorf("cache: add %s: %w", r.Name, err)
	}
	return nil
}

// Remove takes a resource out of the cache and ends its watches with ErrRemoved. Unknown names are no error.
func (c *Cache) Remove(name string) {
	if t := c.tables.Load().byName[name]; t != nil {
		c.leave(t)
	}
}

// Has tells whether a resource is in the cache.
func (c *Cache) Has(name string) bool { return c.tables.Load().byName[name] != nil }

func (c *Cache) enter(t *table) error {
	c.change.Lock()
	defer c.change.Unlock()
	ts := c.tables.Load()
	if ts.byName[t.Name] != nil {
		return fmt.Errorf("cache: resource %q is there already", t.Name)
	}
	ts = ts.clone()
	ts.put(t)
	c.tables.Store(ts)
	return nil
}

func (c *Cache) leave(t *table) {
	c.change.Lock()
	defer c.change.Unlock()
	ts := c.tables.Load()
	if ts.byName[t.Name] != t {
		return
	}
	ts = ts.clone()
	delete(ts.byName, t.Name)
	left := slices.DeleteFunc(slices.Clone(ts.byPrefix[t.Prefix]), func(o *table) bool { return o == t })
	if len(left) == 0 {
		delete(ts.byPrefix, t.Prefix)
	} else {
		ts.byPrefix[t.Prefix] = left
	}
	c.tables.Store(ts)
	close(t.gone)
}

func (c *Cache) loadTable(ctx context.Context, t *table) error {
	for {
		revision, err := c.StoreRevision(ctx)
		if err != nil {
			return err
		}
		objects, err := c.read(ctx, t, revision)
		if errors.Is(err, store.ErrCompacted) {
			continue
		}
		if err != nil {
			return err
		}
		t.fill(objects, revision)
		return nil
	}
}

func (t *table) removed() bool {
	select {
	case <-t.gone:
		return true
	default:
		return false
	}
}
