// Package encrypted keeps chosen values unreadable in the store. Its invariant: what lies below a chosen prefix is written by that
// prefix's first provider alone, in upstream's format ("k8s:enc:aesgcm:v1:key1:"), bound to its key in the store, and read by any of them.
package encrypted

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/coracle-dev/coracle/apiserver/store"
)

// sealer encrypts and decrypts values. where is the store's key, to which the result is bound if the algorithm can.
type sealer interface {
	seal(value []byte, where string) ([]byte, error)
	open(sealed []byte, where string) ([]byte, error)
}

// provider is one key of one algorithm.
type provider struct {
	prefix string // of values; empty is identity
	sealer
}

// providers are those of one kind of value, the one that writes first.
type providers []provider

// magic is how every encrypted value begins.
const magic = "k8s:enc:"

func (ps providers) seal(value []byte, where string) ([]byte, error) {
	p := ps[0]
	if p.prefix == "" {
		return value, nil
	}
	sealed, err := p.sealer.seal(value, where)
	return append([]byte(p.prefix), sealed...), err
}

// open gives a value as it was before seal; stale tells that another provider than the first wrote it.
func (ps providers) open(value []byte, where string) (plain []byte, stale bool, err error) {
	var errs []error
	for i, p := range ps {
		if p.prefix == "" {
			if !bytes.HasPrefix(value, []byte(magic)) {
				return value, i > 0, nil
			}
			continue
		}
		sealed, ok := bytes.CutPrefix(value, []byte(p.prefix))
		if !ok {
			continue
		}
		plain, err := p.sealer.open(sealed, where)
		if err == nil {
			return plain, i > 0, nil
		}
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, false, fmt.Errorf("decrypt %s: %w", where, errors.Join(errs...))
	}
	return nil, false, fmt.Errorf("decrypt %s: no matching prefix found", where)
}

// Store encrypts what lies below some prefixes of another store.
type Store struct {
	store.Store
	rules []rule

	mu sync.Mutex
	// stale are keys whose values another provider than the first wrote, as far as they were read.
	stale map[string]bool
}

// rule chooses the providers of keys.
type rule struct {
	covers    func(key string) bool
	providers providers
}

// New encrypts by cfg what inner stores.
func New(inner store.Store, cfg *Config) *Store {
	return &Store{Store: inner, rules: cfg.rules, stale: map[string]bool{}}
}

func (s *Store) providers(key string) providers {
	for i := range s.rules {
		if s.rules[i].covers(key) {
			return s.rules[i].providers
		}
	}
	return nil
}

// Stale tells whether a key's value, as it was read last, should be written again even if nothing else changes.
func (s *Store) Stale(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stale[key]
}

func (s *Store) mark(key string, stale bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stale {
		s.stale[key] = true
	} else if len(s.stale) > 0 {
		delete(s.stale, key)
	}
}

func (s *Store) seal(key string, value []byte) ([]byte, error) {
	if ps := s.providers(key); ps != nil {
		return ps.seal(value, key)
	}
	return value, nil
}

// open decrypts an entry in its place.
func (s *Store) open(e *store.Entry) error {
	ps := s.providers(e.Key)
	if ps == nil || e.Value == nil {
		return nil
	}
	plain, stale, err := ps.open(e.Value, e.Key)
	if err != nil {
		return err
	}
	e.Value = plain
	s.mark(e.Key, stale)
	return nil
}

// openCurrent decrypts what an error of the store tells.
func (s *Store) openCurrent(err error) error {
	var exists *store.ExistsError
	var conflict *store.ConflictError
	switch {
	case errors.As(err, &exists):
		if openErr := s.open(&exists.Current); openErr != nil {
			return openErr
		}
	case errors.As(err, &conflict):
		if openErr := s.open(&conflict.Current); openErr != nil {
			return openErr
		}
	}
	return err
}

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, key string, value []byte, opts store.CreateOptions) (int64, error) {
	sealed, err := s.seal(key, value)
	if err != nil {
		return 0, err
	}
	revision, err := s.Store.Create(ctx, key, sealed, opts)
	return revision, s.openCurrent(err)
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string, revision int64) (store.Entry, error) {
	e, err := s.Store.Get(ctx, key, revision)
	if err == nil {
		err = s.open(&e)
	}
	return e, err
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, key string, value []byte, expected int64) (int64, error) {
	sealed, err := s.seal(key, value)
	if err != nil {
		return 0, err
	}
	revision, err := s.Store.Update(ctx, key, sealed, expected)
	if err == nil {
		s.mark(key, false)
	}
	return revision, s.openCurrent(err)
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string, expected int64) (int64, error) {
	revision, err := s.Store.Delete(ctx, key, expected)
	if err == nil {
		s.mark(key, false)
	}
	return revision, s.openCurrent(err)
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, opts store.ListOptions) (store.List, error) {
	l, err := s.Store.List(ctx, prefix, opts)
	for i := 0; err == nil && i < len(l.Entries); i++ {
		err = s.open(&l.Entries[i])
	}
	return l, err
}

// Revision implements store.Revisioner, at the price of a list where the inner store does not.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	if r, ok := s.Store.(store.Revisioner); ok {
		return r.Revision(ctx)
	}
	l, err := s.Store.List(ctx, store.Root, store.ListOptions{CountOnly: true})
	return l.Revision, err
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) store.Watcher {
	w := &watcher{Watcher: s.Store.Watch(ctx, prefix, after), events: make(chan []store.Event)}
	go w.run(ctx, s)
	return w
}

type watcher struct {
	store.Watcher
	events chan []store.Event
	failed error
}

// Events implements store.Watcher.
func (w *watcher) Events() <-chan []store.Event { return w.events }

// Err implements store.Watcher.
func (w *watcher) Err() error {
	if w.failed != nil {
		return w.failed
	}
	return w.Watcher.Err()
}

func (w *watcher) run(ctx context.Context, s *Store) {
	defer close(w.events)
	for events := range w.Watcher.Events() {
		out, err := s.openEvents(events)
		if err != nil {
			w.failed = err
			return
		}
		select {
		case w.events <- out:
		case <-ctx.Done():
			return
		}
	}
}

// openEvents decrypts a copy: an engine may hand the same events to several watchers.
func (s *Store) openEvents(events []store.Event) ([]store.Event, error) {
	chosen := func(e *store.Event) bool { return e.Type != store.Progress && s.providers(e.Key) != nil }
	out := events
	copied := false
	for i := range events {
		if !chosen(&events[i]) {
			continue
		}
		if !copied {
			out, copied = slices.Clone(events), true
		}
		e := &out[i]
		if e.PrevValue != nil {
			previous := store.Entry{Key: e.Key, Value: e.PrevValue}
			if err := s.open(&previous); err != nil {
				return nil, err
			}
			e.PrevValue = previous.Value
		}
		if e.Type == store.Deleted {
			s.mark(e.Key, false)
			continue
		}
		if err := s.open(&e.Entry); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// below covers the keys that start with a prefix.
func below(prefix string) func(string) bool {
	return func(key string) bool { return strings.HasPrefix(key, prefix) }
}
