// Package clock tells the time to code that must be testable without waiting: state is compared with Now, never
// with the machine's clock.
package clock

import (
	"sync"
	"time"
)

// Clock tells the time.
type Clock interface {
	Now() time.Time
}

// Real is the machine's clock.
type Real struct{}

// Now is the present time.
func (Real) Now() time.Time { return time.Now() }

// Manual is a clock that only moves when told to. Its zero value stands at the zero time; it is safe for concurrent use.
type Manual struct {
	mu  sync.Mutex
	now time.Time
}

// NewManual is a clock that stands at now.
func NewManual(now time.Time) *Manual { return &Manual{now: now} }

// Now is the time the clock stands at.
func (m *Manual) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// Advance moves the clock on by d.
func (m *Manual) Advance(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = m.now.Add(d)
}
