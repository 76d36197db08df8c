package clock

import (
	"context"
	"testing"
	"time"
)

// TestJumps: a clock that nobody sets does not jump, and the watch ends with its context. Setting the machine's clock is not for tests.
func TestJumps(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := Jumps(ctx, time.Second, func(by time.Duration) { t.Errorf("the clock jumped by %v", by) }); err != nil {
		t.Error(err)
	}
}

func TestJump(t *testing.T) {
	was := time.Now()
	now := was.Add(time.Minute) // of both clocks
	if by := jump(was, now); by != 0 {
		t.Errorf("jumped by %v", by)
	}
}
