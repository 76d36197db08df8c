package cache

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/btree"
	"k8s.io/apimachinery/pkg/fields"
)

// item is an object in the index, with its key at hand.
type item struct {
	key string
	obj *Object
}

type index = btree.BTreeG[item]

func newIndex() *index {
	return btree.NewG(32, func(a, b item) bool { return a.key < b.key })
}

// snapshot is a resource's state from one revision until the one before its next change. Its index is
// never written, so it is read without a lock.
type snapshot struct {
	index *index
	from  int64
	until int64 // zero while no change has followed; guarded by the table's lock
}

// Bounds of the snapshots kept for the following pages of a list.
const (
	keptSnapshots   = 8
	keptSnapshotAge = 2 * time.Minute
)

type keptSnapshot struct {
	*snapshot
	used time.Time
}

// table is one resource's state, history and watchers. One goroutine writes it (the feed).
type table struct {
	Resource

	mu       sync.RWMutex
	live     *index
	revision int64     // of the last change
	current  *snapshot // of live, once somebody asked for it
	kept     []keptSnapshot
	history  history
	groups   groups

	// floor is the revision of the first state: the feed may bring changes that are part of it.
	floor int64
	// loading: the first state is not there, and the feed's changes wait in pending. loaded is closed then.
	loading bool
	pending batch
	loaded  chan struct{}
	// gone is closed when the resource is removed.
	gone chan struct{}
}

func newTable(r Resource) *table {
	return &table{
		Resource: r, live: newIndex(), groups: newGroups(), loading: true,
		loaded: make(chan struct{}), gone: make(chan struct{}),
	}
}

// fill sets the first state, all as of revision, and applies what came in behind it meanwhile. It reports false,
// and does nothing, where the first state is there already.
func (t *table) fill(objects []*Object, revision int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.loading {
		return false
	}
	for _, o := range objects {
		t.live.ReplaceOrInsert(item{o.Key, o})
	}
	t.revision, t.floor, t.history.since = revision, revision, revision
	t.loading = false
	pending := t.pending
	t.pending = batch{}
	// Nobody watches what has not been loaded: there is nobody to wake.
	t.applyLocked(pending.changes, pending.keys)
	close(t.loaded)
	return true
}

// since is the revision of the first state.
func (t *table) since() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.floor
}

// waitLoaded waits for the first state.
func (t *table) waitLoaded(ctx context.Context) error {
	select {
	case <-t.loaded:
		return nil
	default:
	}
	select {
	case <-t.loaded:
		return nil
	case <-t.gone:
		return ErrRemoved
	case <-ctx.Done():
		return ctx.Err()
	}
}

// apply takes changes in revision order, each to the object at the key of the same index, and wakes the
// watchers they concern. A change's prev is filled in here.
func (t *table) apply(changes []*change, keys []string) {
	t.mu.Lock()
	if t.loading {
		t.pending.changes = append(t.pending.changes, changes...)
		t.pending.keys = append(t.pending.keys, keys...)
		t.mu.Unlock()
		return
	}
	wake := t.applyLocked(changes, keys)
	t.mu.Unlock()
	wakeAll(wake)
}

func (t *table) applyLocked(changes []*change, keys []string) (wake []*signal) {
	for i, c := range changes {
		if c.revision <= t.floor {
			continue // the first state has it
		}
		if t.applyOne(c, keys[i]) {
			wake = t.groups.concern(wake, keys[i][len(t.Prefix):], c, t.history.head-1)
		}
	}
	return wake
}

// applyOne reports false where there is nothing to tell: an unknown key went.
func (t *table) applyOne(c *change, key string) bool {
	old, had := t.live.Get(item{key: key})
	if c.cur == nil && !had {
		return false
	}
	t.endSnapshot(c.revision)
	if c.cur != nil {
		t.live.ReplaceOrInsert(item{c.cur.Key, c.cur})
	} else {
		t.live.Delete(item{key: key})
	}
	if had {
		c.prev = old.obj
	}
	t.revision = c.revision
	t.history.add(c)
	return true
}

// endSnapshot marks that the current snapshot is history from revision on.
func (t *table) endSnapshot(revision int64) {
	if t.current != nil {
		t.current.until = revision - 1
		t.current = nil
	}
}

// trim drops history and snapshots that have grown stale.
func (t *table) trim(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.history.trim(now)
	t.kept = slices.DeleteFunc(t.kept, func(k keptSnapshot) bool { return now.Sub(k.used) > keptSnapshotAge })
}

func (t *table) stats() Stats {
	t.mu.RLock()
	defer t.mu.RUnlock()
	s := Stats{Resource: t.Name, Objects: t.live.Len(), Events: t.history.len()}
	for _, g := range t.groups.byKey {
		s.Watches += g.refs
	}
	return s
}

func (t *table) get(key string, cacheRevision int64) (*Object, int64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	it, _ := t.live.Get(item{key: key})
	return it.obj, max(t.revision, cacheRevision)
}

// newest returns the newest state and the revision it is as of, given one that the whole cache had reached before.
func (t *table) newest(cacheRevision int64) (*snapshot, int64) {
	t.mu.RLock()
	s, revision := t.current, max(t.revision, cacheRevision)
	t.mu.RUnlock()
	if s != nil {
		return s, revision
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.snapshotLocked(), max(t.revision, cacheRevision)
}

func (t *table) snapshotLocked() *snapshot {
	if t.current == nil {
		t.current = &snapshot{index: t.live.Clone(), from: t.revision}
	}
	return t.current
}

// exactly returns the state at one revision, or nil where it is not kept.
func (t *table) exactly(revision, cacheRevision int64) *snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.revision <= revision && revision <= max(t.revision, cacheRevision) {
		return t.snapshotLocked()
	}
	for _, k := range t.kept {
		if k.from <= revision && (k.until == 0 || revision <= k.until) {
			return k.snapshot
		}
	}
	return nil
}

// keep retains a snapshot whose further pages may be asked for.
func (t *table) keep(s *snapshot, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = slices.DeleteFunc(t.kept, func(k keptSnapshot) bool { return k.snapshot == s })
	if len(t.kept) >= keptSnapshots {
		t.kept = slices.Delete(t.kept, 0, 1)
	}
	t.kept = append(t.kept, keptSnapshot{s, now})
}

// list walks the snapshot for one page.
func (s *snapshot) list(t *table, o ListOptions) ListResult {
	var r ListResult
	selects := selector{labels: o.Labels, fields: o.Fields}.compile()
	prefix := t.Prefix + o.Scope
	if it, ok := s.byName(prefix, o); ok {
		if it.obj != nil && selects.matches(it.obj) && it.key > o.After {
			r.Objects = []*Object{it.obj}
		}
		return r
	}
	if selects == nil && o.Scope == "" && o.After == "" {
		n := s.index.Len()
		if o.Limit > 0 {
			n = min(n, o.Limit)
		}
		r.Objects = make([]*Object, 0, n)
	}
	s.walk(prefix, o.After, func(it item) bool {
		if !selects.matches(it.obj) {
			return true
		}
		if o.Limit > 0 && len(r.Objects) == o.Limit {
			r.More = true
			return false
		}
		r.Objects = append(r.Objects, it.obj)
		return true
	})
	if r.More {
		r.Remaining = s.remaining(prefix, o, r.Objects[len(r.Objects)-1].Key, selects)
	}
	return r
}

// byName serves the commonest selective list, of one name, without a walk. ok is false where a walk is needed.
func (s *snapshot) byName(prefix string, o ListOptions) (it item, ok bool) {
	if o.Fields == nil {
		return item{}, false
	}
	name, exact := o.Fields.RequiresExactMatch("metadata.name")
	if !exact {
		return item{}, false
	}
	it, found := s.index.Get(item{key: prefix + name})
	// Without a scope the names of a namespaced resource are not at prefix+name.
	return it, found || o.Scope != ""
}

func (s *snapshot) remaining(prefix string, o ListOptions, last string, selects *compiled) int64 {
	if selects != nil {
		return -1
	}
	if o.Scope == "" && o.After == "" {
		return int64(s.index.Len() - o.Limit)
	}
	var n int64
	s.walk(prefix, last, func(item) bool { n++; return true })
	return n
}

// walk visits the items under prefix whose key is greater than after, in key order, until visit returns false.
func (s *snapshot) walk(prefix, after string, visit func(item) bool) {
	start := max(prefix, after)
	s.index.AscendGreaterOrEqual(item{key: start}, func(it item) bool {
		if it.key == after {
			return true
		}
		return strings.HasPrefix(it.key, prefix) && visit(it)
	})
}

// exactField is the requirement of a field selector that watchers are indexed by: a name above all, then
// whatever must be equal, but for the namespace, which the scope covers.
func exactField(s fields.Selector) (field, value string, ok bool) {
	if s == nil {
		return "", "", false
	}
	if v, found := s.RequiresExactMatch("metadata.name"); found {
		return "metadata.name", v, true
	}
	for _, r := range s.Requirements() {
		if r.Field == "metadata.namespace" || isLate(r.Field) {
			continue
		}
		if v, found := s.RequiresExactMatch(r.Field); found {
			return r.Field, v, true
		}
	}
	return "", "", false
}
