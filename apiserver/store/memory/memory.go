// Package memory is the store engine without a disk: for tests and for labs that may lose everything at the
// end of the process. Its invariant: every write appends exactly one event to the log, whose index follows
// from its revision, and a key's versions are the events that concern it.
package memory

import (
	"context"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/google/btree"
)

// MaxValue is the largest value taken, in bytes: that of the etcd engine.
const MaxValue = 1.5 * 1024 * 1024

// compactEvery is how long history is kept at least.
const compactEvery = 5 * time.Minute

// version is a key's value at a revision; deleted marks that it went.
type version struct {
	store.Entry
	deleted bool
}

// record is a key's versions, oldest first.
type record struct {
	key      string
	versions []version
	expiry   *time.Timer
}

func (r *record) last() *version { return &r.versions[len(r.versions)-1] }

// live is the version that holds at revision, or nil where the key does not exist then.
func (r *record) live(revision int64) *version {
	i := sort.Search(len(r.versions), func(i int) bool { return r.versions[i].Revision > revision })
	if i == 0 || r.versions[i-1].deleted {
		return nil
	}
	return &r.versions[i-1]
}

// Store is a store in memory. Use New.
type Store struct {
	mu        sync.RWMutex
	revision  int64
	compacted int64
	records   *btree.BTreeG[*record]
	log       []store.Event // the event of revision r is log[r-logStart]
	logStart  int64
	grown     chan struct{} // closed with the next write
	closed    bool
}

var _ store.Store = (*Store)(nil)

// New makes an empty store. Its first revision is 1, as etcd's.
func New() *Store {
	return &Store{
		revision: 1,
		logStart: 2,
		records:  btree.NewG(32, func(a, b *record) bool { return a.key < b.key }),
		grown:    make(chan struct{}),
	}
}

// Run drops old history every five minutes until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(compactEvery)
	defer tick.Stop()
	var seen int64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if seen > 0 {
				_ = s.Compact(ctx, seen) // somebody else compacted further
			}
			s.mu.RLock()
			seen = s.revision
			s.mu.RUnlock()
		}
	}
}

// Close ends the watches; later calls fail with store.ErrUnavailable.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.grown)
	}
	return nil
}

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, key string, value []byte, opts store.CreateOptions) (int64, error) {
	if len(value) > MaxValue {
		return 0, store.ErrTooLarge
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	r, ok := s.records.Get(&record{key: key})
	if !ok {
		r = &record{key: key}
		s.records.ReplaceOrInsert(r)
	} else if v := r.last(); !v.deleted {
		return 0, &store.ExistsError{Current: v.Entry}
	}
	s.write(r, store.Created, value)
	s.expireAfter(r, opts.TTL)
	return s.revision, nil
}

// expireAfter begins a record's time to live anew; zero changes nothing. The caller holds the lock.
func (s *Store) expireAfter(r *record, ttl time.Duration) {
	if ttl <= 0 {
		return
	}
	r.stopExpiry()
	var timer *time.Timer
	timer = time.AfterFunc(ttl, func() { s.expire(r, &timer) })
	r.expiry = timer
}

func (s *Store) expire(r *record, timer **time.Timer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.expiry == *timer && !s.closed {
		s.write(r, store.Deleted, nil)
	}
}

// write gives the record a new version. The caller holds the lock.
func (s *Store) write(r *record, t store.EventType, value []byte) {
	s.revision++
	e := store.Entry{Key: r.key, Value: slices.Clone(value), Revision: s.revision}
	ev := store.Event{Type: t, Entry: e}
	if t != store.Created {
		ev.PrevValue = r.last().Value
	}
	if t == store.Deleted {
		r.stopExpiry()
	}
	r.versions = append(r.versions, version{e, t == store.Deleted})
	s.log = append(s.log, ev)
	close(s.grown)
	s.grown = make(chan struct{})
}

func (r *record) stopExpiry() {
	if r.expiry != nil {
		r.expiry.Stop()
		r.expiry = nil
	}
}

func (s *Store) usable(ctx context.Context) error {
	if s.closed {
		return store.ErrUnavailable
	}
	return ctx.Err()
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, key string, value []byte, expected int64) (int64, error) {
	if len(value) > MaxValue {
		return 0, store.ErrTooLarge
	}
	return s.replace(ctx, key, store.Modified, value, expected)
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string, expected int64) (int64, error) {
	return s.replace(ctx, key, store.Deleted, nil, expected)
}

func (s *Store) replace(ctx context.Context, key string, t store.EventType, value []byte, expected int64) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	r, ok := s.records.Get(&record{key: key})
	if !ok || r.last().deleted {
		return 0, store.ErrNotFound
	}
	if v := r.last(); v.Revision != expected {
		return 0, &store.ConflictError{Current: v.Entry}
	}
	s.write(r, t, value)
	if t == store.Modified {
		s.expireAfter(r, store.TTLOf(ctx))
	}
	return s.revision, nil
}

// at checks a revision to read at; zero is the newest. The caller holds the lock.
func (s *Store) at(ctx context.Context, revision int64) (int64, error) {
	switch err := s.usable(ctx); {
	case err != nil:
		return 0, err
	case revision == 0:
		return s.revision, nil
	case revision > s.revision:
		return 0, store.ErrFuture
	case revision < s.compacted:
		return 0, store.ErrCompacted
	}
	return revision, nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string, revision int64) (store.Entry, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	revision, err := s.at(ctx, revision)
	if err != nil {
		return store.Entry{}, err
	}
	if r, ok := s.records.Get(&record{key: key}); ok {
		if v := r.live(revision); v != nil {
			return v.Entry, nil
		}
	}
	return store.Entry{}, store.ErrNotFound
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, opts store.ListOptions) (store.List, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	revision, err := s.at(ctx, opts.Revision)
	if err != nil {
		return store.List{}, err
	}
	l := store.List{Revision: revision}
	s.records.AscendGreaterOrEqual(&record{key: max(prefix, opts.After)}, func(r *record) bool {
		if !strings.HasPrefix(r.key, prefix) {
			return false
		}
		v := r.live(revision)
		switch {
		case v == nil || r.key == opts.After:
		case opts.CountOnly || opts.Limit > 0 && int64(len(l.Entries)) == opts.Limit:
			l.Remaining++
		default:
			l.Entries = append(l.Entries, v.Entry)
		}
		return true
	})
	return l, nil
}

// Revision implements store.Revisioner.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revision, s.usable(ctx)
}

// Compact drops the history before revision: reads at lower revisions and watches that need them get ErrCompacted.
func (s *Store) Compact(ctx context.Context, revision int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return err
	}
	if revision > s.revision {
		return store.ErrFuture
	}
	if revision <= s.compacted {
		return store.ErrCompacted
	}
	s.compacted = revision
	var gone []*record
	s.records.Ascend(func(r *record) bool {
		i := sort.Search(len(r.versions), func(i int) bool { return r.versions[i].Revision > revision })
		if i > 0 {
			r.versions = slices.Clone(r.versions[i-1:])
		}
		if len(r.versions) == 1 && r.versions[0].deleted && r.versions[0].Revision < revision {
			gone = append(gone, r)
		}
		return true
	})
	for _, r := range gone {
		s.records.Delete(r)
	}
	if revision > s.logStart {
		s.log = slices.Clone(s.log[revision-s.logStart:])
		s.logStart = revision
	}
	return nil
}
