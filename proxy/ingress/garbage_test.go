package ingress

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// percent gives the GC percentage.
func percent() int {
	now := debug.SetGCPercent(100)
	debug.SetGCPercent(now)
	return now
}

// TestCollector: garbage is collected half as often while many requests are served, and as usual before and after. It is the process's, so that this
// test does not run beside others.
func TestCollector(t *testing.T) {
	usual := percent()
	var c collector
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.watch(ctx)
	await := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); percent() != want; {
			if time.Now().After(deadline) {
				t.Fatalf("the percentage is %d, want %d", percent(), want)
			}
			if want != usual {
				c.served.Add(1_000_000)
			}
			runtime.GC()
			time.Sleep(5 * time.Millisecond)
		}
	}
	await(200)
	await(usual)
	await(200)
	cancel()
	await(usual)
	runtime.GC()
}
