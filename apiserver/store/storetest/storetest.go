// Package storetest is the conformance suite of the store engines: what package store promises, tested on
// whatever open returns.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/apiserver/store"
)

// Engine is what the suite needs: the store, and a way to drop history.
type Engine interface {
	store.Store
	// Compact drops the history before revision.
	Compact(ctx context.Context, revision int64) error
}

// Options tell what an engine cannot do as quickly as the suite assumes.
type Options struct {
	// TTL is the time to live that the expiry test uses, and ExpiresWithin how long it waits for the expiry
	// at most. Zero leaves the test out.
	TTL, ExpiresWithin time.Duration
}

// Run tests the engine that open returns. The suite is the only writer while it runs.
func Run(t *testing.T, open func(t *testing.T) Engine, opts Options) {
	s := suite{Engine: open(t)}
	expiring := s.startExpiry(t, opts)
	for _, test := range []struct {
		name string
		run  func(*testing.T, suite)
	}{
		{"Create", testCreate},
		{"Update", testUpdate},
		{"Delete", testDelete},
		{"ReadAtRevision", testReadAtRevision},
		{"List", testList},
		{"ListPages", testListPages},
		{"Large", testLarge},
		{"WatchFromRevision", testWatchFromRevision},
		{"WatchPrefix", testWatchPrefix},
		{"WatchConcurrent", testWatchConcurrent},
		{"WatchEnd", testWatchEnd},
		{"Progress", testProgress},
		{"CompareAndSwap", testCompareAndSwap},
		{"Linearizable", testLinearizable},
		{"Compaction", testCompaction},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s) })
	}
	t.Run("Expiry", func(t *testing.T) { expiring.test(t, s) })
}

// suite adds calls that must not fail to an engine.
type suite struct{ Engine }

func ctxOf(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func keyOf(t *testing.T, name string) string { return prefixOf(t) + name }

func prefixOf(t *testing.T) string { return fmt.Sprintf("%stest/%s/", store.Root, t.Name()) }

func (s suite) create(t *testing.T, key, value string) int64 {
	t.Helper()
	rev, err := s.Create(ctxOf(t), key, []byte(value), store.CreateOptions{})
	must(t, err)
	return rev
}

func (s suite) update(t *testing.T, key, value string, expected int64) int64 {
	t.Helper()
	rev, err := s.Update(ctxOf(t), key, []byte(value), expected)
	must(t, err)
	return rev
}

func (s suite) delete(t *testing.T, key string, expected int64) int64 {
	t.Helper()
	rev, err := s.Delete(ctxOf(t), key, expected)
	must(t, err)
	return rev
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func wantEntry(t *testing.T, got store.Entry, key, value string, revision int64) {
	t.Helper()
	if got.Key != key || string(got.Value) != value || got.Revision != revision {
		t.Fatalf("got %s=%q at %d, want %s=%q at %d", got.Key, got.Value, got.Revision, key, value, revision)
	}
}

func wantConflict(t *testing.T, err error, key, value string, revision int64) {
	t.Helper()
	var c *store.ConflictError
	if !errors.As(err, &c) {
		t.Fatalf("got error %v, want a ConflictError", err)
	}
	wantEntry(t, c.Current, key, value, revision)
}

func testCreate(t *testing.T, s suite) {
	key := keyOf(t, "a")
	if _, err := s.Get(ctxOf(t), key, 0); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("got error %v before the creation", err)
	}
	first := s.create(t, key, "one")
	if first <= 0 {
		t.Fatalf("revision %d is not positive", first)
	}
	got, err := s.Get(ctxOf(t), key, 0)
	must(t, err)
	wantEntry(t, got, key, "one", first)

	_, err = s.Create(ctxOf(t), key, []byte("two"), store.CreateOptions{})
	var exists *store.ExistsError
	if !errors.As(err, &exists) {
		t.Fatalf("got error %v, want an ExistsError", err)
	}
	wantEntry(t, exists.Current, key, "one", first)

	if second := s.create(t, keyOf(t, "b"), "x"); second != first+1 {
		t.Fatalf("the next write has revision %d after %d", second, first)
	}
	s.create(t, keyOf(t, "empty"), "")
}

func testUpdate(t *testing.T, s suite) {
	key := keyOf(t, "a")
	_, err := s.Update(ctxOf(t), key, []byte("x"), 1)
	wantErr(t, err, store.ErrNotFound)
	first := s.create(t, key, "one")
	second := s.update(t, key, "two", first)
	if second != first+1 {
		t.Fatalf("revision %d after %d", second, first)
	}
	_, err = s.Update(ctxOf(t), key, []byte("three"), first)
	wantConflict(t, err, key, "two", second)
	_, err = s.Update(ctxOf(t), key, []byte("three"), 0)
	wantConflict(t, err, key, "two", second)
	got, err := s.Get(ctxOf(t), key, 0)
	must(t, err)
	wantEntry(t, got, key, "two", second)
	_, err = s.Update(ctxOf(t), keyOf(t, "none"), []byte("x"), 0)
	wantErr(t, err, store.ErrNotFound)
}

func testDelete(t *testing.T, s suite) {
	key := keyOf(t, "a")
	_, err := s.Delete(ctxOf(t), key, 1)
	wantErr(t, err, store.ErrNotFound)
	first := s.create(t, key, "one")
	second := s.update(t, key, "two", first)
	_, err = s.Delete(ctxOf(t), key, first)
	wantConflict(t, err, key, "two", second)
	gone := s.delete(t, key, second)
	if gone != second+1 {
		t.Fatalf("revision %d after %d", gone, second)
	}
	_, err = s.Get(ctxOf(t), key, 0)
	wantErr(t, err, store.ErrNotFound)
	_, err = s.Update(ctxOf(t), key, []byte("x"), second)
	wantErr(t, err, store.ErrNotFound)
	if again := s.create(t, key, "three"); again != gone+1 {
		t.Fatalf("revision %d after %d", again, gone)
	}
}

func testReadAtRevision(t *testing.T, s suite) {
	key := keyOf(t, "a")
	first := s.create(t, key, "one")
	second := s.update(t, key, "two", first)
	third := s.delete(t, key, second)
	for rev, want := range map[int64]string{first: "one", second: "two"} {
		got, err := s.Get(ctxOf(t), key, rev)
		must(t, err)
		wantEntry(t, got, key, want, rev)
	}
	for _, rev := range []int64{first - 1, third} {
		_, err := s.Get(ctxOf(t), key, rev)
		wantErr(t, err, store.ErrNotFound)
	}
	_, err := s.Get(ctxOf(t), key, third+1000)
	wantErr(t, err, store.ErrFuture)
	_, err = s.List(ctxOf(t), prefixOf(t), store.ListOptions{Revision: third + 1000})
	wantErr(t, err, store.ErrFuture)
}

func testList(t *testing.T, s suite) {
	p := prefixOf(t)
	s.create(t, p[:len(p)-1]+"-other/x", "outside")
	var last int64
	for _, name := range []string{"b", "a/1", "c", "a/2"} {
		last = s.create(t, p+name, name)
	}
	l, err := s.List(ctxOf(t), p, store.ListOptions{})
	must(t, err)
	wantKeys(t, l, p, "a/1", "a/2", "b", "c")
	if r, ok := s.Engine.(store.Revisioner); ok {
		if now, err := r.Revision(ctxOf(t)); err != nil || now != last {
			t.Fatalf("the revision is %d (%v), want %d", now, err, last)
		}
	}
	if l.Revision != last || l.Remaining != 0 {
		t.Fatalf("list at revision %d with %d remaining, want %d and 0", l.Revision, l.Remaining, last)
	}
	l, err = s.List(ctxOf(t), p+"a/", store.ListOptions{})
	must(t, err)
	wantKeys(t, l, p, "a/1", "a/2")
	l, err = s.List(ctxOf(t), p, store.ListOptions{CountOnly: true})
	must(t, err)
	if len(l.Entries) != 0 || l.Remaining != 4 || l.Revision != last {
		t.Fatalf("count gave %d entries, %d remaining at %d", len(l.Entries), l.Remaining, l.Revision)
	}
	l, err = s.List(ctxOf(t), p+"nothing/", store.ListOptions{})
	must(t, err)
	wantKeys(t, l, p)
}

func wantKeys(t *testing.T, l store.List, prefix string, names ...string) {
	t.Helper()
	var got, want []string
	for _, e := range l.Entries {
		got = append(got, e.Key)
	}
	for _, n := range names {
		want = append(want, prefix+n)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got keys %v, want %v", got, want)
	}
}

func testListPages(t *testing.T, s suite) {
	p := prefixOf(t)
	const n = 25
	revs := map[string]int64{}
	for i := range n {
		k := fmt.Sprintf("%sk%02d", p, i)
		revs[k] = s.create(t, k, "old")
	}
	opts := store.ListOptions{Limit: 10}
	seen := 0
	for {
		l, err := s.List(ctxOf(t), p, opts)
		must(t, err)
		if opts.Revision != 0 && l.Revision != opts.Revision {
			t.Fatalf("a page of revision %d came as of %d", opts.Revision, l.Revision)
		}
		for _, e := range l.Entries {
			wantEntry(t, e, fmt.Sprintf("%sk%02d", p, seen), "old", revs[e.Key])
			seen++
		}
		if l.Remaining != int64(n-seen) {
			t.Fatalf("%d remaining after %d of %d", l.Remaining, seen, n)
		}
		if l.Remaining == 0 {
			break
		}
		opts.Revision, opts.After = l.Revision, l.Entries[len(l.Entries)-1].Key
		// What is written between the pages must not show in them.
		k := fmt.Sprintf("%sk%02d", p, n-1)
		revs["new"] = s.update(t, k, "new", max(revs["new"], revs[k]))
		s.create(t, fmt.Sprintf("%sk%02d-later", p, seen), "later")
	}
	if seen != n {
		t.Fatalf("saw %d of %d entries", seen, n)
	}
}

func testLarge(t *testing.T, s suite) {
	key := keyOf(t, "big")
	big := bytes.Repeat([]byte("x"), 1<<20)
	rev, err := s.Create(ctxOf(t), key, big, store.CreateOptions{})
	must(t, err)
	got, err := s.Get(ctxOf(t), key, 0)
	must(t, err)
	if !bytes.Equal(got.Value, big) {
		t.Fatalf("got %d bytes back", len(got.Value))
	}
	tooBig := bytes.Repeat([]byte("x"), 2<<20)
	_, err = s.Create(ctxOf(t), keyOf(t, "too-big"), tooBig, store.CreateOptions{})
	wantErr(t, err, store.ErrTooLarge)
	_, err = s.Update(ctxOf(t), key, tooBig, rev)
	wantErr(t, err, store.ErrTooLarge)
}

func testCompaction(t *testing.T, s suite) {
	p := prefixOf(t)
	first := s.create(t, p+"a", "one")
	gone := s.create(t, p+"gone", "x")
	s.delete(t, p+"gone", gone)
	second := s.update(t, p+"a", "two", first)
	third := s.update(t, p+"a", "three", second)
	must(t, s.Compact(ctxOf(t), second))

	_, err := s.Get(ctxOf(t), p+"a", first)
	wantErr(t, err, store.ErrCompacted)
	_, err = s.List(ctxOf(t), p, store.ListOptions{Revision: first})
	wantErr(t, err, store.ErrCompacted)
	wantErr(t, s.Compact(ctxOf(t), first), store.ErrCompacted)

	got, err := s.Get(ctxOf(t), p+"a", second)
	must(t, err)
	wantEntry(t, got, p+"a", "two", second)
	l, err := s.List(ctxOf(t), p, store.ListOptions{Revision: third})
	must(t, err)
	wantKeys(t, l, p, "a")

	w := s.watch(t, p, first-1)
	w.end(t, store.ErrCompacted)
	w = s.watch(t, p, second-1)
	w.want(t, event{store.Modified, p + "a", "two", second}, event{store.Modified, p + "a", "three", third})
}

// expiry is a key that is to go during the suite.
type expiry struct {
	opts     Options
	key      string
	created  time.Time
	revision int64
	updated  string
}

func (s suite) startExpiry(t *testing.T, opts Options) expiry {
	e := expiry{opts: opts, key: keyOf(t, "expires"), created: time.Now(), updated: keyOf(t, "expires-updated")}
	if opts.TTL == 0 {
		return e
	}
	var err error
	e.revision, err = s.Create(ctxOf(t), e.key, []byte("x"), store.CreateOptions{TTL: opts.TTL})
	must(t, err)
	_, err = s.Create(ctxOf(t), keyOf(t, "stays"), []byte("x"), store.CreateOptions{TTL: time.Hour})
	must(t, err)
	rev, err := s.Create(ctxOf(t), e.updated, []byte("x"), store.CreateOptions{TTL: opts.TTL})
	must(t, err)
	s.update(t, e.updated, "y", rev)
	rev, err = s.Create(ctxOf(t), keyOf(t, "renewed"), []byte("x"), store.CreateOptions{TTL: opts.TTL})
	must(t, err)
	_, err = s.Update(store.WithTTL(ctxOf(t), time.Hour), keyOf(t, "renewed"), []byte("y"), rev)
	must(t, err)
	return e
}

func (e expiry) test(t *testing.T, s suite) {
	if e.opts.TTL == 0 {
		t.Skip("the engine's expiry is not tested")
	}
	deadline := e.created.Add(e.opts.ExpiresWithin)
	for _, key := range []string{e.key, e.updated} {
		for {
			_, err := s.Get(ctxOf(t), key, 0)
			if errors.Is(err, store.ErrNotFound) {
				break
			}
			must(t, err)
			if time.Now().After(deadline) {
				t.Fatalf("%s is still there after %v", key, time.Since(e.created))
			}
			time.Sleep(20 * time.Millisecond)
		}
		if age := time.Since(e.created); age < e.opts.TTL {
			t.Errorf("%s went after %v, before its time %v", key, age, e.opts.TTL)
		}
	}
	for _, name := range []string{"stays", "renewed"} {
		if _, err := s.Get(ctxOf(t), e.key[:len(e.key)-len("expires")]+name, 0); err != nil {
			t.Errorf("the key with an hour to live that %s: %v", name, err)
		}
	}
}
