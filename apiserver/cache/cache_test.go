package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	podPrefix    = "/registry/pods/"
	configPrefix = "/registry/configmaps/"
)

// testResources are pods as ConfigMaps with a node in Data, and config maps.
func testResources() []Resource {
	decode := func(value []byte, revision int64) (runtime.Object, error) {
		cm := &v1.ConfigMap{}
		if err := json.Unmarshal(value, cm); err != nil {
			return nil, err
		}
		cm.ResourceVersion = strconv.FormatInt(revision, 10)
		return cm, nil
	}
	attrs := func(o runtime.Object) fields.Set {
		cm := o.(*v1.ConfigMap)
		return fields.Set{
			"metadata.name": cm.Name, "metadata.namespace": cm.Namespace, "spec.nodeName": cm.Data["node"],
		}
	}
	return []Resource{
		{Name: "pods", Prefix: podPrefix, Decode: decode, Fields: attrs},
		{Name: "configmaps", Prefix: configPrefix, Decode: decode, Fields: attrs},
	}
}

type cluster struct {
	*testing.T
	st    store.Store
	cache *Cache
}

// newCluster runs a cache on st, a new memory store where nil.
func newCluster(t *testing.T, st store.Store) *cluster {
	t.Helper()
	if st == nil {
		st = memory.New()
	}
	c := &cluster{T: t, st: st, cache: New(st, testResources())}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.cache.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c.must(c.cache.WaitReady(t.Context()))
	return c
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

type objectOption func(*v1.ConfigMap)

func withNode(name string) objectOption {
	return func(cm *v1.ConfigMap) { cm.Data = map[string]string{"node": name} }
}

func label(k, v string) objectOption {
	return func(cm *v1.ConfigMap) { cm.Labels = map[string]string{k: v} }
}

func withUID(uid string) objectOption { return func(cm *v1.ConfigMap) { cm.UID = types.UID(uid) } }

func value(ns, name string, opts ...objectOption) []byte {
	cm := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	for _, o := range opts {
		o(cm)
	}
	b, err := json.Marshal(cm)
	if err != nil {
		panic(err)
	}
	return b
}

func (c *cluster) create(path string, opts ...objectOption) int64 {
	c.Helper()
	ns, name := split(path)
	rev, err := c.st.Create(c.Context(), podPrefix+path, value(ns, name, opts...), store.CreateOptions{})
	c.must(err)
	return rev
}

func (c *cluster) update(path string, rev int64, opts ...objectOption) int64 {
	c.Helper()
	ns, name := split(path)
	rev, err := c.st.Update(c.Context(), podPrefix+path, value(ns, name, opts...), rev)
	c.must(err)
	return rev
}

func (c *cluster) delete(path string, rev int64) int64 {
	c.Helper()
	rev, err := c.st.Delete(c.Context(), podPrefix+path, rev)
	c.must(err)
	return rev
}

func split(path string) (ns, name string) {
	for i := range path {
		if path[i] == '/' {
			return path[:i], path[i+1:]
		}
	}
	return "", path
}

func (c *cluster) list(o ListOptions) ListResult {
	c.Helper()
	r, err := c.cache.List(c.Context(), "pods", o)
	c.must(err)
	return r
}

func (c *cluster) wantNames(r ListResult, want ...string) {
	c.Helper()
	var got []string
	for _, o := range r.Objects {
		got = append(got, o.Key[len(podPrefix):])
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		c.Fatalf("got %v, want %v", got, want)
	}
}

// follower collects a watch's events.
type follower struct {
	*cluster
	w       Watcher
	pending []Event
}

func (c *cluster) watch(o WatchOptions) *follower {
	c.Helper()
	w, err := c.cache.Watch(c.Context(), "pods", o)
	c.must(err)
	c.Cleanup(w.Stop)
	return &follower{cluster: c, w: w}
}

func (f *follower) next() Event {
	f.Helper()
	for len(f.pending) == 0 {
		ctx, cancel := context.WithTimeout(f.Context(), 5*time.Second)
		events, err := f.w.Next(ctx)
		cancel()
		f.must(err)
		f.pending = append(f.pending, events...)
	}
	e := f.pending[0]
	f.pending = f.pending[1:]
	return e
}

// want checks the next events, given as "ADDED ns/name@revision".
func (f *follower) want(want ...string) {
	f.Helper()
	for _, w := range want {
		if got := describe(f.next()); got != w {
			f.Fatalf("got event %q, want %q", got, w)
		}
	}
}

func describe(e Event) string {
	if e.Object == nil {
		return fmt.Sprintf("%s@%d", e.Type, e.Revision)
	}
	cm := e.Object.Object.(*v1.ConfigMap)
	return fmt.Sprintf("%s %s@%s", e.Type, e.Object.Key[len(podPrefix):], cm.ResourceVersion)
}

func ev(t watch.EventType, path string, rev int64) string {
	return fmt.Sprintf("%s %s@%d", t, path, rev)
}

// quiet checks that nothing comes.
func (f *follower) quiet() {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), 30*time.Millisecond)
	defer cancel()
	if events, err := f.w.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		f.Fatalf("got %d events (%v), want none", len(events), err)
	}
}

func TestGet(t *testing.T) {
	c := newCluster(t, nil)
	first := c.create("a/x")
	o, err := c.cache.Get(c.Context(), "pods", podPrefix+"a/x", Newest)
	c.must(err)
	if o.Revision != first || o.Object.(*v1.ConfigMap).Name != "x" {
		t.Fatalf("got %+v", o)
	}
	second := c.update("a/x", first, label("k", "v"))
	o, err = c.cache.Get(c.Context(), "pods", podPrefix+"a/x", second)
	c.must(err)
	if o.Revision != second || o.Labels["k"] != "v" {
		t.Fatalf("got %+v", o)
	}
	c.delete("a/x", second)
	if _, err = c.cache.Get(c.Context(), "pods", podPrefix+"a/x", Newest); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("got error %v after the deletion", err)
	}
	if _, err = c.cache.Get(c.Context(), "widgets", podPrefix+"a/x", 0); err == nil {
		t.Fatal("an unknown resource was found")
	}
}

func TestTooNew(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	rev := c.create("a/x")
	start := time.Now()
	if _, err := c.cache.Get(c.Context(), "pods", podPrefix+"a/x", rev+1); !errors.Is(err, ErrTooNew) {
		t.Fatalf("got error %v", err)
	}
	if waited := time.Since(start); waited < freshTimeout {
		t.Errorf("gave up after %v", waited)
	}
}

// TestForeignWrites: writes outside the cached resources move the cache's revision, too.
func TestForeignWrites(t *testing.T) {
	c := newCluster(t, nil)
	c.create("a/x")
	for _, key := range []string{"/registry/unknown/x", "/elsewhere", "/registry/pods"} {
		rev, err := c.st.Create(c.Context(), key, nil, store.CreateOptions{})
		c.must(err)
		r := c.list(ListOptions{Consistent: true})
		c.wantNames(r, "a/x")
		if r.Revision != rev {
			t.Fatalf("the list is as of %d, the store at %d", r.Revision, rev)
		}
	}
}

func TestList(t *testing.T) {
	c := newCluster(t, nil)
	c.create("b/1", withNode("n1"))
	c.create("a/2", withNode("n2"), label("app", "web"))
	c.create("a/1", withNode("n1"), label("app", "web"))
	c.create("ab/1")
	last := c.create("c")
	r := c.list(ListOptions{Consistent: true})
	c.wantNames(r, "a/1", "a/2", "ab/1", "b/1", "c")
	if r.Revision != last || r.More || r.Remaining != 0 {
		t.Fatalf("got %+v", r)
	}
	c.wantNames(c.list(ListOptions{Scope: "a/"}), "a/1", "a/2")
	c.wantNames(c.list(ListOptions{Labels: labels.SelectorFromSet(labels.Set{"app": "web"})}), "a/1", "a/2")
	c.wantNames(c.list(ListOptions{Fields: fields.OneTermEqualSelector("spec.nodeName", "n1")}), "a/1", "b/1")
	c.wantNames(c.list(ListOptions{Fields: fields.OneTermEqualSelector("spec.nodeName", "n1"), Scope: "b/"}), "b/1")
	byName := fields.OneTermEqualSelector("metadata.name", "1")
	c.wantNames(c.list(ListOptions{Fields: byName}), "a/1", "ab/1", "b/1")
	c.wantNames(c.list(ListOptions{Fields: byName, Scope: "b/"}), "b/1")
	c.wantNames(c.list(ListOptions{Fields: byName, Scope: "none/"}))
	c.wantNames(c.list(ListOptions{Fields: fields.OneTermEqualSelector("metadata.name", "c")}), "c")
	c.wantNames(c.list(ListOptions{Labels: labels.Everything(), Fields: fields.Everything(), Scope: "ab/"}), "ab/1")
}

func TestListPages(t *testing.T) {
	c := newCluster(t, nil)
	for i := range 7 {
		c.create(fmt.Sprintf("a/%d", i), label("odd", strconv.FormatBool(i%2 == 1)))
	}
	first := c.list(ListOptions{Limit: 3, Consistent: true})
	c.wantNames(first, "a/0", "a/1", "a/2")
	if !first.More || first.Remaining != 4 {
		t.Fatalf("got %+v", first)
	}
	c.create("a/00")
	c.create("a/33")
	now := c.list(ListOptions{Consistent: true})
	second := c.list(ListOptions{Limit: 3, Revision: first.Revision, After: first.Objects[2].Key})
	c.wantNames(second, "a/3", "a/4", "a/5")
	if !second.More || second.Remaining != 1 || second.Revision != first.Revision {
		t.Fatalf("got %+v", second)
	}
	third := c.list(ListOptions{Limit: 3, Revision: first.Revision, After: second.Objects[2].Key, Scope: "a/"})
	c.wantNames(third, "a/6")
	if third.More || third.Remaining != 0 {
		t.Fatalf("got %+v", third)
	}
	odd := ListOptions{Limit: 2, Labels: labels.SelectorFromSet(labels.Set{"odd": "true"}), Revision: first.Revision}
	r := c.list(odd)
	c.wantNames(r, "a/1", "a/3")
	if !r.More || r.Remaining != -1 {
		t.Fatalf("got %+v", r)
	}
	odd.After = r.Objects[1].Key
	r = c.list(odd)
	c.wantNames(r, "a/5")
	if r.More {
		t.Fatalf("got %+v", r)
	}
	if _, err := c.cache.List(c.Context(), "pods", ListOptions{Revision: now.Revision - 1}); !errors.Is(err, ErrTooOld) {
		t.Fatalf("a state never kept gives %v", err)
	}
}

func TestWatch(t *testing.T) {
	c := newCluster(t, nil)
	first := c.create("a/x")
	now := c.watch(WatchOptions{After: first})
	second := c.update("a/x", first, label("k", "v"))
	third := c.delete("a/x", second)
	events := []string{
		ev(watch.Modified, "a/x", second),
		ev(watch.Deleted, "a/x", third),
	}
	now.want(events...)
	now.quiet()
	past := c.watch(WatchOptions{After: first - 1})
	past.want(ev(watch.Added, "a/x", first))
	past.want(events...)
	future := c.watch(WatchOptions{After: third + 1})
	c.create("a/unseen")
	fifth := c.create("a/seen")
	future.want(ev(watch.Added, "a/seen", fifth))
	if _, err := c.cache.Watch(c.Context(), "pods", WatchOptions{After: 0}); err != nil {
		t.Fatal(err)
	}
	// A deletion's object is the last state.
	past = c.watch(WatchOptions{After: second})
	e := past.next()
	if e.Object.Labels["k"] != "v" || e.Revision != third || e.Object.Revision != third {
		t.Fatalf("got %+v", e)
	}
}

func TestWatchBeforeStart(t *testing.T) {
	st := memory.New()
	before := newCluster(t, st)
	first := before.create("a/x")
	second := before.update("a/x", first)
	c := newCluster(t, st)
	if _, err := c.cache.Watch(c.Context(), "pods", WatchOptions{After: first}); !errors.Is(err, ErrTooOld) {
		t.Fatalf("got error %v", err)
	}
	f := c.watch(WatchOptions{After: second})
	f.quiet()
	f.want(ev(watch.Deleted, "a/x", c.delete("a/x", second)))
}

func TestWatchInitial(t *testing.T) {
	c := newCluster(t, nil)
	a := c.create("a/x")
	b := c.create("b/x")
	plain := c.watch(WatchOptions{Consistent: true})
	plain.want(ev(watch.Added, "a/x", a), ev(watch.Added, "b/x", b))
	plain.quiet()
	streaming := c.watch(WatchOptions{SendInitial: true, After: b, Scope: "b/"})
	streaming.want(ev(watch.Added, "b/x", b))
	if e := streaming.next(); !e.InitialEnd || e.Type != watch.Bookmark || e.Revision != b {
		t.Fatalf("got %+v", e)
	}
	third := c.update("b/x", b)
	plain.want(ev(watch.Modified, "b/x", third))
	streaming.want(ev(watch.Modified, "b/x", third))
	many := newCluster(t, nil)
	for i := range 2*initialPage + 1 {
		many.create(fmt.Sprintf("a/%05d", i))
	}
	f := many.watch(WatchOptions{SendInitial: true, Consistent: true})
	for i := range 2*initialPage + 1 {
		if e := f.next(); e.Object.Key != fmt.Sprintf("%sa/%05d", podPrefix, i) {
			t.Fatalf("got %s at %d", e.Object.Key, i)
		}
	}
	if e := f.next(); !e.InitialEnd {
		t.Fatalf("got %+v", e)
	}
	f.quiet()
}

func TestWatchSelectors(t *testing.T) {
	c := newCluster(t, nil)
	start := c.create("z/z")
	onN1 := c.watch(WatchOptions{After: start, Fields: fields.OneTermEqualSelector("spec.nodeName", "n1")})
	unscheduled := c.watch(WatchOptions{After: start, Fields: fields.OneTermEqualSelector("spec.nodeName", "")})
	named := c.watch(WatchOptions{After: start, Scope: "b/", Fields: fields.OneTermEqualSelector("metadata.name", "x")})
	web := c.watch(WatchOptions{After: start, Labels: labels.SelectorFromSet(labels.Set{"app": "web"})})
	inB := c.watch(WatchOptions{After: start, Scope: "b/"})
	notN1 := c.watch(WatchOptions{After: start, Scope: "a/", Fields: fields.OneTermNotEqualSelector("spec.nodeName", "n1")})

	r1 := c.create("a/x")
	r2 := c.update("a/x", r1, withNode("n1"), label("app", "web"))
	r3 := c.update("a/x", r2, withNode("n1"))
	r4 := c.update("a/x", r3, withNode("n2"))
	r5 := c.delete("a/x", r4)
	r6 := c.create("b/x", withNode("n1"))
	r7 := c.delete("b/x", r6)

	onN1.want(ev(watch.Added, "a/x", r2), ev(watch.Modified, "a/x", r3))
	gone := onN1.next()
	if describe(gone) != ev(watch.Deleted, "a/x", r4) || gone.Object.Object.(*v1.ConfigMap).Data["node"] != "n1" {
		t.Fatalf("got %s with %v: a departure shows the last state that matched", describe(gone), gone.Object.Object)
	}
	onN1.want(ev(watch.Added, "b/x", r6), ev(watch.Deleted, "b/x", r7))
	unscheduled.want(ev(watch.Added, "a/x", r1), ev(watch.Deleted, "a/x", r2))
	web.want(ev(watch.Added, "a/x", r2), ev(watch.Deleted, "a/x", r3))
	notN1.want(ev(watch.Added, "a/x", r1), ev(watch.Deleted, "a/x", r2), ev(watch.Added, "a/x", r4), ev(watch.Deleted, "a/x", r5))
	for _, f := range []*follower{named, inB} {
		f.want(ev(watch.Added, "b/x", r6), ev(watch.Deleted, "b/x", r7))
	}
	want := []Stats{{Resource: "configmaps"}, {Resource: "pods", Objects: 1, Events: 8, Watches: 6}}
	if got := c.cache.Stats(); !slices.Equal(got, want) {
		t.Errorf("got stats %+v, want %+v", got, want)
	}
	for _, f := range []*follower{onN1, unscheduled, named, web, inB, notN1} {
		f.quiet()
		f.w.Stop()
	}
	if g := c.cache.tables.Load().byName["pods"].groups; len(g.byKey) != 0 || len(g.fields) != 0 || g.scopes != 0 {
		t.Errorf("groups are left behind: %+v", g)
	}
}

// TestSleepingWatcher: a watcher whom no event concerned is not too old, however many there were.
func TestSleepingWatcher(t *testing.T) {
	c := newCluster(t, nil)
	rev := c.create("a/x", withNode("n1"))
	f := c.watch(WatchOptions{After: rev, Fields: fields.OneTermEqualSelector("spec.nodeName", "n1")})
	slow := c.watch(WatchOptions{After: rev})
	f.quiet() // it sleeps from here on
	other := c.create("a/other")
	for range historyMax + 10 {
		other = c.update("a/other", other)
	}
	if _, err := c.cache.Get(c.Context(), "pods", podPrefix+"a/x", Newest); err != nil {
		t.Fatal(err)
	}
	f.quiet()
	rev = c.update("a/x", rev, withNode("n1"))
	f.want(ev(watch.Modified, "a/x", rev))
	if _, err := slow.w.Next(c.Context()); !errors.Is(err, ErrTooOld) {
		t.Fatalf("the slow watcher got %v", err)
	}
	if _, err := c.cache.Watch(c.Context(), "pods", WatchOptions{After: rev - historyMax - 2}); !errors.Is(err, ErrTooOld) {
		t.Fatalf("got error %v", err)
	}
}

func TestWatchEnds(t *testing.T) {
	c := newCluster(t, nil)
	rev := c.create("a/x")
	f := c.watch(WatchOptions{After: rev})
	go func() {
		time.Sleep(5 * time.Millisecond)
		f.w.Stop()
	}()
	if _, err := f.w.Next(c.Context()); !errors.Is(err, context.Canceled) {
		t.Fatalf("after Stop: %v", err)
	}
	f.w.Stop()

	ctx, cancel := context.WithCancel(context.Background())
	short := New(memory.New(), testResources())
	done := make(chan error)
	go func() { done <- short.Run(ctx) }()
	c.must(short.WaitReady(c.Context()))
	w, err := short.Watch(c.Context(), "pods", WatchOptions{})
	c.must(err)
	cancel()
	c.must(<-done)
	if _, err := w.Next(c.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("after the end: %v", err)
	}
}

func TestBookmarks(t *testing.T) {
	c := newCluster(t, nil)
	rev := c.create("a/x")
	f := c.watch(WatchOptions{After: rev, Bookmarks: true, Scope: "b/"})
	other, err := c.st.Create(c.Context(), "/registry/other", nil, store.CreateOptions{})
	c.must(err)
	c.list(ListOptions{Consistent: true})
	// The deadline is nearer than bookmarkBefore: there is a last bookmark, then nothing.
	ctx, cancel := context.WithTimeout(c.Context(), 100*time.Millisecond)
	defer cancel()
	events, err := f.w.Next(ctx)
	c.must(err)
	if len(events) != 1 || describe(events[0]) != fmt.Sprintf("BOOKMARK@%d", other) {
		t.Fatalf("got %d events, first %+v", len(events), events[0])
	}
	if _, err := f.w.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	w := f.w.(*watcher)
	w.nextMark = time.Now().Add(20 * time.Millisecond)
	if e := f.next(); e.Type != watch.Bookmark || e.Revision != other || e.InitialEnd {
		t.Fatalf("got %+v", e)
	}
	if left := time.Until(w.nextMark); left < bookmarkEvery/2 || left > bookmarkEvery {
		t.Errorf("the next bookmark is due in %v", left)
	}
}

func TestEncoded(t *testing.T) {
	c := newCluster(t, nil)
	c.create("a/x")
	r := c.list(ListOptions{Consistent: true})
	var calls atomic.Int32
	encode := func(o runtime.Object) ([]byte, error) {
		calls.Add(1)
		return json.Marshal(o)
	}
	get := func(name string) []byte {
		b, err := r.Objects[0].Encoded(name, encode)
		c.must(err)
		return b
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			get("json")
			get("other")
		})
	}
	wg.Wait()
	if n := calls.Load(); n != 2 {
		t.Fatalf("%d encodings for two names", n)
	}
	if first, again := get("json"), get("json"); &first[0] != &again[0] {
		t.Fatal("the bytes are not shared")
	}
	for range keptEpochs - 1 {
		get("json")
		c.cache.pool.sweep()
	}
	get("json")
	c.cache.pool.sweep()
	get("json")
	if n := calls.Load(); n != 2 {
		t.Fatalf("bytes in use were dropped: %d calls", n)
	}
	for range keptEpochs + 1 {
		c.cache.pool.sweep()
	}
	if n := len(c.cache.pool.holders); n != 0 {
		t.Errorf("%d holders are left", n)
	}
	if get("json"); calls.Load() != 3 {
		t.Errorf("unused bytes were kept: %d calls", calls.Load())
	}
	if n := len(c.cache.pool.holders); n != 1 {
		t.Errorf("%d holders, want 1", n)
	}
}

// TestUndecodable: a value that cannot be decoded is as good as gone.
func TestUndecodable(t *testing.T) {
	c := newCluster(t, nil)
	rev := c.create("a/x")
	f := c.watch(WatchOptions{After: rev})
	bad, err := c.st.Update(c.Context(), podPrefix+"a/x", []byte("?"), rev)
	c.must(err)
	f.want(ev(watch.Deleted, "a/x", bad))
	c.wantNames(c.list(ListOptions{Consistent: true}))
	f.want(ev(watch.Added, "a/x", c.update("a/x", bad)))
}
