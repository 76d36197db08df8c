// Package store is the seam between the API server and its database: a revisioned, ordered map from
// keys to bytes. The invariant every engine keeps, and storetest checks: revisions are positive, grow
// by one with each write, and are the same for every reader; a write is acknowledged only once it is
// durable; a watch delivers every write after its starting revision exactly once, in revision order.
//
// Keys are laid out as upstream Kubernetes lays them out in etcd (/registry/pods/default/web) and
// values carry upstream's envelope, so an engine stores them untouched.
package store

import (
	"context"
	"time"
)

// Root is the prefix under which every key lives.
const Root = "/registry/"

// Entry is one key at one revision.
type Entry struct {
	Key   string
	Value []byte
	// Revision is the store's revision at which this value was written.
	Revision int64
}

// CreateOptions tune Create.
type CreateOptions struct {
	// TTL, if positive, deletes the key once it has passed. Engines may delay the
	// deletion by up to a minute, to let keys of a like age share one lease.
	TTL time.Duration
}

// ListOptions select a page of a prefix.
type ListOptions struct {
	// Revision to read at; zero reads the newest, linearizably.
	Revision int64
	// After is the exclusive start key; empty starts at the prefix.
	After string
	// Limit is the page's size; zero is no limit.
	Limit int64
	// CountOnly leaves Entries empty; with it, List is the cheapest way to learn the current revision.
	CountOnly bool
}

// List is a page of entries in key order.
type List struct {
	Entries []Entry
	// Revision the whole page was read at; read the following page at the same.
	Revision int64
	// Remaining counts the entries behind the last one of the page.
	Remaining int64
}

// EventType tells what an Event reports.
type EventType uint8

const (
	// Created: the key did not exist before.
	Created EventType = iota
	// Modified: the key's value changed.
	Modified
	// Deleted: the key went; Value is empty and PrevValue is what it held.
	Deleted
	// Progress carries only Revision: every event up to it has been delivered.
	Progress
)

// Event is one change. For Deleted, Revision is that of the deletion.
type Event struct {
	Type EventType
	Entry
	PrevValue []byte
}

// Watcher delivers events in revision order, several at a time where they are at hand.
type Watcher interface {
	// Events is closed when the watch ends; Err then tells why.
	Events() <-chan []Event
	// Err is ErrCompacted where history is gone, nil after the context's end. Call it after Events closed.
	Err() error
	// RequestProgress asks for a Progress event soon; it does not wait for it.
	RequestProgress(ctx context.Context) error
}

// Store is what an engine offers. All methods are safe for concurrent use and return the package's errors.
type Store interface {
	// Create writes a key that must not exist; otherwise *ExistsError.
	Create(ctx context.Context, key string, value []byte, opts CreateOptions) (revision int64, err error)
	// Get reads a key at a revision (zero: newest, linearizable). ErrNotFound, ErrCompacted, ErrFuture.
	Get(ctx context.Context, key string, revision int64) (Entry, error)
	// Update replaces a key whose revision must be expected; otherwise *ConflictError, or ErrNotFound
	// where it is gone. The key keeps the expiry it was created with, unless WithTTL gives it another.
	Update(ctx context.Context, key string, value []byte, expected int64) (revision int64, err error)
	// Delete removes a key whose revision must be expected; errors as Update. It returns the deletion's revision.
	Delete(ctx context.Context, key string, expected int64) (revision int64, err error)
	// List reads the keys that start with prefix.
	List(ctx context.Context, prefix string, opts ListOptions) (List, error)
	// Watch delivers every change under prefix after the given revision (exclusive), until ctx ends.
	Watch(ctx context.Context, prefix string, after int64) Watcher
}

// Revisioner is offered by engines that know their current revision at less cost than a list.
type Revisioner interface {
	// Revision is the store's newest revision, linearizably.
	Revision(ctx context.Context) (int64, error)
}
