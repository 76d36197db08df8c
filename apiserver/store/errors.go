package store

import (
	"errors"
	"fmt"
)

var (
	// ErrNotFound: the key does not exist (at that revision).
	ErrNotFound = errors.New("store: key not found")
	// ErrCompacted: the revision asked for is gone from history; the API answers 410 Gone.
	ErrCompacted = errors.New("store: revision compacted")
	// ErrFuture: the revision asked for has not been written yet.
	ErrFuture = errors.New("store: revision is in the future")
	// ErrUnavailable: the engine cannot answer now (no quorum, closed); the write may or may not have happened.
	ErrUnavailable = errors.New("store: unavailable")
	// ErrTooLarge: the value is over what the engine takes.
	ErrTooLarge = errors.New("store: value too large")
)

// ConflictError: a precondition failed. Current is what the key holds.
type ConflictError struct{ Current Entry }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("store: %s is at revision %d", e.Current.Key, e.Current.Revision)
}

// ExistsError: Create met a key that is there already. Current is what it holds.
type ExistsError struct{ Current Entry }

func (e *ExistsError) Error() string { return fmt.Sprintf("store: %s exists", e.Current.Key) }
