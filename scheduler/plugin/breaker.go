package plugin

import (
	"sync"
	"time"
)

const (
	// tolerated is how many failures in a row open the breaker; it then stays open for firstWait, doubled by each failed
	// probe up to longestWait.
	tolerated   = 3
	firstWait   = time.Second
	longestWait = 30 * time.Second
)

// breaker keeps calls from a plug-in that fails: while it is open they fail at once, but for one probe after each wait.
type breaker struct {
	now func() time.Time

	mu       sync.Mutex
	failures int           // in a row
	wait     time.Duration // the present one; 0 while closed
	until    time.Time     // no probe before
	probing  bool
	cause    error
}

func newBreaker(now func() time.Time) *breaker { return &breaker{now: now} }

// change is what a report did.
type change int

const (
	unchanged change = iota
	opened
	reopened // by a failed probe
	closed
)

// admit lets a call through or says why not. Every admitted call must end in report or release.
func (b *breaker) admit() (probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.wait == 0:
		return false, nil
	case b.probing || b.now().Before(b.until):
		return false, refusedError{b.cause}
	}
	b.probing = true
	return true, nil
}

// refusedError is the last failure, without another try.
type refusedError struct{ error }

func (r refusedError) Unwrap() error { return r.error }

// release says that a call ended without having been tried.
func (b *breaker) release(probe bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe {
		b.probing = false
	}
}

// report says how a call ended. While the breaker is open only the probe's end counts.
func (b *breaker) report(probe bool, err error) change {
	b.mu.Lock()
	defer b.mu.Unlock()
	open := b.wait > 0
	if open && !probe {
		return unchanged
	}
	b.probing = false
	if err == nil {
		b.failures, b.wait, b.cause = 0, 0, nil
		if open {
			return closed
		}
		return unchanged
	}
	b.failures++
	b.cause = err
	did := opened
	switch {
	case open:
		b.wait, did = min(2*b.wait, longestWait), reopened
	case b.failures >= tolerated:
		b.wait = firstWait
	default:
		return unchanged
	}
	b.until = b.now().Add(b.wait)
	return did
}

// retryAfter is when the next try may help.
func (b *breaker) retryAfter() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wait == 0 {
		return firstWait
	}
	return max(b.until.Sub(b.now()), firstWait/10)
}
