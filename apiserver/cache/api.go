// Package cache is the watch cache: the newest state of every served kind, and a bounded history of
// its changes, kept current by one watch on the store. Its invariant: an object enters it once, in
// revision order, is immutable from then on, is decoded once and encoded at most once per encoding,
// and every list and watcher shares that one object and those bytes.
package cache

import (
	"context"
	"errors"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// ErrTooOld: the revision asked for is older than the history kept; the API answers 410 Gone (reason Expired).
var ErrTooOld = errors.New("cache: too old resource version")

// ErrTooNew: the cache did not reach the revision asked for in time; the API answers 504 with a retry hint
// (upstream's "Too large resource version").
var ErrTooNew = errors.New("cache: too large resource version")

// Resource tells the cache how one stored resource looks. Resource names its objects to the other calls.
type Resource struct {
	// Name identifies it, as "pods" or "deployments.apps".
	Name string
	// Prefix of its keys, with both slashes: "/registry/pods/".
	Prefix string
	// Decode turns a stored value into an object with its resourceVersion set to revision.
	Decode func(value []byte, revision int64) (runtime.Object, error)
	// Fields gives what field selectors see of the object (metadata.name and .namespace included).
	Fields func(runtime.Object) fields.Set
	// LateField, where set, gives the values of field labels that hold a colon. They are found out when a selector
	// first asks for them, and remembered: that may take long, which Decode and Fields must not.
	LateField func(obj runtime.Object, label string) string
}

// Object is one version of an object. It must never be changed; encodings are memoised on it.
type Object struct {
	// Key is the whole key in the store, as "/registry/pods/default/web".
	Key      string
	Revision int64
	Object   runtime.Object
	Labels   labels.Set
	Fields   fields.Set

	late      *lateFields // nil where the resource has none
	encodings             // memoised bytes, by encoding name
}

// ListOptions select objects.
type ListOptions struct {
	// Scope is the key prefix below the resource's own ("default/"), or empty for all.
	Scope string
	// MinRevision makes the call wait until the cache has seen it; zero takes what is there.
	MinRevision int64
	// Consistent makes the call wait for the store's revision at the time of the call (a linearizable list).
	Consistent bool
	// Revision, if positive, asks for the state at exactly that revision, as the pages behind the first need it.
	// ErrTooOld where no snapshot of it is kept: the store may still have it.
	Revision int64
	// Labels and Fields select; nil selects everything.
	Labels labels.Selector
	Fields fields.Selector
	// After is the whole key behind which the page starts, Limit the page's size (zero: no limit). The state
	// that a page with more behind it was taken from is kept for a while: pass its revision as Revision.
	After string
	Limit int
}

// ListResult is a page of objects in key order, all as of Revision.
type ListResult struct {
	Objects  []*Object
	Revision int64
	// More tells that objects follow the last one; Remaining counts them, or is -1 where a selector makes that unknown.
	More      bool
	Remaining int64
}

// WatchOptions select events.
type WatchOptions struct {
	Scope string
	// After is the revision to start behind; zero starts with synthetic Added events for what is there.
	After int64
	// SendInitial sends Added events for the state first, then a bookmark annotated as upstream's
	// streaming lists do, then what follows (After is then the minimum revision).
	SendInitial bool
	// Consistent makes the initial state at least as new as the store at the time of the call. It has a
	// meaning only where there is an initial state: After zero, or SendInitial.
	Consistent bool
	// Bookmarks asks for a bookmark about once a minute, and shortly before the deadline of Next's context.
	Bookmarks bool
	// Labels and Fields select; nil selects everything.
	Labels labels.Selector
	Fields fields.Selector
}

// Event is what a watcher gets. Object is nil for bookmarks, whose meaning is Revision alone.
// An object that stops matching a selector arrives as Deleted, one that starts to as Added.
type Event struct {
	Type     watch.EventType
	Object   *Object
	Revision int64
	// InitialEnd marks the bookmark that ends the initial events.
	InitialEnd bool
}

// Watcher delivers a watch. It serves one caller at a time.
type Watcher interface {
	// Next blocks until there is at least one event, and returns those at hand; the slice is valid until the
	// next call. All events of one revision come in one slice. It returns ErrTooOld when the watcher fell
	// behind the history kept, ctx's error at its end (the watch may go on then), context.Canceled after
	// Stop, ErrRemoved once the resource has been removed, and store.ErrUnavailable once the cache has stopped.
	Next(ctx context.Context) ([]Event, error)
	// Stop ends the watch and wakes Next; it may be called from anywhere, more than once.
	Stop()
}
