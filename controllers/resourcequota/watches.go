package resourcequota

import (
	"context"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"

	"github.com/coracle-dev/coracle/internal/quota"
)

// Waits before a watch that ended is begun again.
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 30 * time.Second
)

// watches tell when objects of counted resources go. They keep no objects.
type watches struct {
	metadata metadata.Interface
	wake     func(gr schema.GroupResource, namespace string)
	log      *slog.Logger

	mu      sync.Mutex
	ctx     context.Context
	running map[schema.GroupVersionResource]context.CancelFunc
	group   sync.WaitGroup
}

func newWatches(m metadata.Interface, wake func(schema.GroupResource, string), log *slog.Logger) *watches {
	return &watches{metadata: m, wake: wake, log: log, running: map[schema.GroupVersionResource]context.CancelFunc{}}
}

// start allows watches until ctx ends.
func (w *watches) start(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ctx = ctx
}

// wait returns once every watch has ended, after start's context has.
func (w *watches) wait() { w.group.Wait() }

// set begins the watches that are wanted and ends the others.
func (w *watches) set(wanted map[schema.GroupVersionResource]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx == nil || w.ctx.Err() != nil {
		return
	}
	for gvr := range wanted {
		if w.running[gvr] == nil {
			ctx, cancel := context.WithCancel(w.ctx)
			w.running[gvr] = cancel
			w.group.Go(func() { w.watch(ctx, gvr) })
		}
	}
	for gvr, cancel := range w.running {
		if !wanted[gvr] {
			cancel()
			delete(w.running, gvr)
		}
	}
}

func (w *watches) watch(ctx context.Context, gvr schema.GroupVersionResource) {
	for wait := minRetry; ; wait = min(2*wait, maxRetry) {
		begun := time.Now()
		if err := w.once(ctx, gvr); err != nil && ctx.Err() == nil {
			w.log.Debug("cannot watch what quotas count", "controller", "resourcequota", "resource", gvr.String(), "err", err)
		}
		if time.Since(begun) > maxRetry {
			wait = minRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// once watches from now on. Whatever went before is found by a count of everything.
func (w *watches) once(ctx context.Context, gvr schema.GroupVersionResource) error {
	client := w.metadata.Resource(gvr)
	now, err := client.List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	events, err := client.Watch(ctx, metav1.ListOptions{ResourceVersion: now.ResourceVersion, AllowWatchBookmarks: true})
	if err != nil {
		return err
	}
	defer events.Stop()
	gr := gvr.GroupResource()
	w.wake(gr, "")
	for e := range events.ResultChan() {
		if e.Type != watch.Deleted && (e.Type != watch.Modified || gr != quota.Claims) {
			continue
		}
		if obj, ok := e.Object.(*metav1.PartialObjectMetadata); ok {
			w.wake(gr, obj.Namespace)
		}
	}
	return nil
}
