// Package loop is the one shape of a controller: keys wake workers, and what a worker does depends on state alone.
//
// Invariants: a key is never synced by two workers at once; a sync that fails or panics is retried with growing
// back-off until it succeeds; no sync starts before every watched informer has delivered its first list; an idle
// loop does nothing.
package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Back-off of a key that keeps failing: the first retry comes after minBackoff, each next one after twice as long.
const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Minute
)

// longestSync is how long a sync may take unless its loop says otherwise; after a hangShare of that it counts as hanging. At most
// mostSpares workers stand in for those that hang.
const (
	longestSync = 10 * time.Minute
	hangShare   = 20
	mostSpares  = 64
)

// quietFailures is how many times in a row a key may fail before it is worth a warning: conflicts with other
// writers are the daily bread of a level-triggered loop.
const quietFailures = 8

// Config says what a loop does.
type Config struct {
	// Name is the controller's, used in logs.
	Name string
	// Sync brings the world closer to what the object of key asks for. An error means: try again later.
	Sync func(ctx context.Context, key string) error
	// Workers is how many keys are synced at the same time; 4 when zero. Where it is more than one, syncs that hang get others in their
	// place until they end.
	Workers int
	// Pace is how far apart two syncs of one key that AddPaced asks for are: the first of a burst comes at once, the rest
	// together.
	Pace time.Duration
	// Limit ends a sync's context, so that what hangs is tried again; ten minutes when zero.
	Limit time.Duration
	// Metrics count the work; nil counts nothing.
	Metrics *Metrics
	Log     *slog.Logger
}

// Loop is a keyed queue and its workers. Keys may be added before Run.
type Loop struct {
	cfg    Config
	queue  workqueue.TypedRateLimitingInterface[string]
	synced []cache.DoneChecker
	err    error
	spares atomic.Int32

	mu sync.Mutex
	// busy is since when the keys that are being synced have been.
	busy map[string]time.Time
	// paced has the turns of the keys asked for by AddSpaced. Those that have passed are swept when it has doubled in size.
	paced map[string]turn
	sweep int
}

// turn is when a key that is asked for again and again is synced.
type turn struct {
	waits time.Time // a sync has been asked for at this time
	next  time.Time // the earliest one after that
}

// New makes a loop that has yet to Run.
func New(cfg Config) *Loop {
	if cfg.Workers == 0 {
		cfg.Workers = 4
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Limit == 0 {
		cfg.Limit = longestSync
	}
	cfg.Log = cfg.Log.With("controller", cfg.Name)
	return &Loop{cfg: cfg, queue: newQueue(cfg.Name, cfg.Metrics), busy: map[string]time.Time{}, paced: map[string]turn{}}
}

// Add wakes a worker for key. Adding a key that waits already costs nothing.
func (l *Loop) Add(key string) { l.queue.Add(key) }

// AddAfter wakes a worker for key once d has passed; of several delays of one key the earliest counts.
func (l *Loop) AddAfter(key string, d time.Duration) { l.queue.AddAfter(key, d) }

// AddPaced wakes a worker for key at once, or, if one has been woken for it by AddPaced within the pace, when that has passed.
func (l *Loop) AddPaced(key string) { l.AddSpaced(key, l.cfg.Pace) }

// AddSpaced is AddPaced with a pace of the caller's, which may differ from key to key: a sync that is dear may have
// more to wait for.
func (l *Loop) AddSpaced(key string, pace time.Duration) {
	if wait, needed := l.space(key, pace, time.Now()); needed && wait <= 0 {
		l.queue.Add(key)
	} else if needed {
		l.queue.AddAfter(key, wait)
	}
}

// space says how long key has to wait; it is not needed where one that waits already will do.
func (l *Loop) space(key string, pace time.Duration, now time.Time) (wait time.Duration, needed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.paced[key]
	switch {
	case p.waits.After(now):
		return 0, false
	case p.next.After(now):
		wait = min(p.next.Sub(now), pace)
		at := now.Add(wait)
		l.paced[key] = turn{waits: at, next: at.Add(pace)}
		return wait, true
	}
	l.paced[key] = turn{next: now.Add(pace)}
	l.sweepPaced(now)
	return 0, true
}

// sweepPaced keeps paced about as large as the number of keys that change at the same time.
func (l *Loop) sweepPaced(now time.Time) {
	if len(l.paced) < max(l.sweep, 256) {
		return
	}
	for key, turn := range l.paced {
		if turn.next.Before(now) {
			delete(l.paced, key)
		}
	}
	l.sweep = 2 * len(l.paced)
}

// AddObject adds the namespace/name of obj, which may also be an informer's tombstone.
func (l *Loop) AddObject(obj any) {
	if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
		l.queue.Add(key)
	}
}

// Wait makes Run wait for the informer's first list. Call it before Run.
func (l *Loop) Wait(informer cache.SharedInformer) {
	l.synced = append(l.synced, informer.HasSyncedChecker())
}

// Either is the object that a change is about: as it is now, or where it went, as it was.
func Either[T comparable](cur, old T) T {
	var none T
	if cur != none {
		return cur
	}
	return old
}

// On calls changed for every change that the informer sees, and makes Run wait for its first list. On creation old is
// nil, on deletion cur is nil and old is the last state known. A relist's replay of an unchanged object is no change, and another object by the
// same name is a deletion and a creation. Call it before Run. T is the pointer type the
// informer holds; other objects are passed over.
func On[T comparable](l *Loop, informer cache.SharedInformer, changed func(old, cur T)) {
	reg, err := informer.AddEventHandler(handler(changed))
	if err != nil {
		l.err = errors.Join(l.err, err)
		return
	}
	l.synced = append(l.synced, reg.HasSyncedChecker())
}

func handler[T comparable](changed func(old, cur T)) cache.ResourceEventHandlerFuncs {
	var none T
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if cur, ok := obj.(T); ok {
				changed(none, cur)
			}
		},
		UpdateFunc: func(before, after any) {
			old, ok1 := before.(T)
			cur, ok2 := after.(T)
			switch {
			case !ok1 || !ok2 || same(old, cur):
			case namesakes(old, cur):
				changed(old, none)
				changed(none, cur)
			default:
				changed(old, cur)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if old, ok := obj.(T); ok {
				changed(old, none)
			}
		},
	}
}

// namesakes tells whether a relist shows as a change of one object what is the end of one and the beginning of another.
func namesakes(old, cur any) bool {
	a, ok1 := old.(metav1.Object)
	b, ok2 := cur.(metav1.Object)
	return ok1 && ok2 && a.GetUID() != b.GetUID()
}

// same tells a relist's replay from a change.
func same(old, cur any) bool {
	a, ok1 := old.(metav1.Object)
	b, ok2 := cur.(metav1.Object)
	return ok1 && ok2 && a.GetResourceVersion() != "" && a.GetResourceVersion() == b.GetResourceVersion()
}

// Run works until ctx ends and every worker has returned. Its error is nil at ctx's end.
func (l *Loop) Run(ctx context.Context) error {
	defer l.queue.ShutDown()
	if l.err != nil {
		return fmt.Errorf("%s: watch: %w", l.cfg.Name, l.err)
	}
	if !cache.WaitFor(ctx, "", l.synced...) {
		return nil
	}
	l.cfg.Metrics.watch(l, true)
	defer l.cfg.Metrics.watch(l, false)
	var g errgroup.Group
	for range l.cfg.Workers {
		l.work(ctx, &g, func() bool { return false })
	}
	<-ctx.Done()
	l.queue.ShutDown()
	return g.Wait()
}

// work starts a worker, which ends with the queue, or once it is needed no more.
func (l *Loop) work(ctx context.Context, g *errgroup.Group, superfluous func() bool) {
	g.Go(func() error {
		for !superfluous() && l.next(ctx, g) {
		}
		return nil
	})
}

// standIn starts a worker in the place of one whose sync hangs, until that has ended.
func (l *Loop) standIn(ctx context.Context, g *errgroup.Group, ended func() bool) {
	if l.spares.Add(1) > mostSpares || ctx.Err() != nil {
		l.spares.Add(-1)
		return
	}
	l.work(ctx, g, func() bool {
		over := ended()
		if over {
			l.spares.Add(-1)
		}
		return over
	})
}

// next syncs one key; false once the queue is shut down.
func (l *Loop) next(ctx context.Context, g *errgroup.Group) bool {
	key, shutdown := l.queue.Get()
	if shutdown {
		return false
	}
	defer l.queue.Done(key)
	if ctx.Err() != nil {
		return true // drain without work
	}
	err := l.guarded(ctx, key, g)
	if err == nil {
		l.queue.Forget(key)
		return true
	}
	if ctx.Err() != nil {
		return true
	}
	l.report(key, err)
	l.queue.AddRateLimited(key)
	return true
}

// guarded syncs a key, and has another worker stand in if that hangs.
func (l *Loop) guarded(ctx context.Context, key string, g *errgroup.Group) error {
	if l.cfg.Workers == 1 {
		return l.sync(ctx, key)
	}
	var mu sync.Mutex // held while the other starts: this worker has not ended then, and Run still waits
	var ended atomic.Bool
	hangs := time.AfterFunc(l.cfg.Limit/hangShare, func() {
		mu.Lock()
		defer mu.Unlock()
		if !ended.Load() {
			l.standIn(ctx, g, ended.Load)
		}
	})
	err := l.sync(ctx, key)
	hangs.Stop()
	mu.Lock()
	defer mu.Unlock()
	ended.Store(true)
	return err
}

// sync calls Sync and turns a panic into an error, so that one bad object cannot stop a controller.
func (l *Loop) sync(ctx context.Context, key string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Limit)
	defer cancel()
	l.began(key, time.Now())
	defer func() {
		l.mu.Lock()
		delete(l.busy, key)
		l.mu.Unlock()
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			l.cfg.Log.Error("sync panicked", "key", key, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	return l.cfg.Sync(ctx, key)
}

// began notes that a sync has started: what is asked for from now on needs another. The queue joins delays of one key, so that the one
// that was asked for last may have been this.
func (l *Loop) began(key string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy[key] = now
	if p, ok := l.paced[key]; ok {
		p.waits = time.Time{}
		l.paced[key] = p
	}
}

// running is how long the syncs under way have run: all together, and the oldest.
func (l *Loop) running(now time.Time) (total, oldest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, since := range l.busy {
		age := now.Sub(since)
		total, oldest = total+age, max(oldest, age)
	}
	return total, oldest
}

func (l *Loop) report(key string, err error) {
	level := slog.LevelDebug
	if failures := l.queue.NumRequeues(key); failures >= quietFailures || !apierrors.IsConflict(err) && failures > 0 {
		level = slog.LevelWarn
	}
	l.cfg.Log.Log(context.Background(), level, "sync failed, will retry", "key", key, "err", err)
}
