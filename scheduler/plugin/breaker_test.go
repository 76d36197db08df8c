package plugin

import (
	"errors"
	"testing"
	"time"
)

func TestBreaker(t *testing.T) {
	now := time.Unix(0, 0)
	b := newBreaker(func() time.Time { return now })
	failure := errors.New("broken")
	admit := func(want bool) bool {
		t.Helper()
		probe, err := b.admit()
		if (err == nil) != want {
			t.Fatalf("admitted: %v, want %v", err, want)
		}
		return probe
	}
	report := func(probe bool, err error, want change) {
		t.Helper()
		if got := b.report(probe, err); got != want {
			t.Fatalf("report did %v, want %v", got, want)
		}
	}
	report(admit(true), failure, unchanged)
	report(admit(true), failure, unchanged)
	report(admit(true), nil, unchanged) // not in a row
	report(admit(true), failure, unchanged)
	report(admit(true), failure, unchanged)
	report(admit(true), failure, opened)
	report(false, nil, unchanged) // one that was still under way
	for _, wait := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		if got := b.retryAfter(); got != wait*time.Second {
			t.Errorf("retry after %v, want %v s", got, wait)
		}
		now = now.Add(wait*time.Second - 1)
		admit(false)
		now = now.Add(1)
		probe := admit(true)
		if !probe {
			t.Error("no probe")
		}
		admit(false) // one at a time
		b.release(probe)
		report(admit(true), failure, reopened)
	}
	now = now.Add(longestWait)
	report(admit(true), nil, closed)
	report(admit(true), failure, unchanged)
	report(admit(true), failure, unchanged)
	report(admit(true), failure, opened)
	if got := b.retryAfter(); got != firstWait {
		t.Errorf("after a success the wait is %v", got)
	}
}
