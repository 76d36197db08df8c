package ingress

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// While many requests are served, most of the garbage is theirs, and every collection marks all that the process holds for other reasons: a quarter of the
// processor time in the process of a whole cluster. So for that time the collector may wait until there is twice as much garbage, and no longer: each
// collection looks how many requests there were since the last one. Idle processes are as small as ever.
type collector struct {
	served atomic.Int64

	mu    sync.Mutex
	usual int  // the GC percentage as it was
	busy  bool // it is doubled
	ended bool
	count int64
	since time.Time
}

// manyRequests a second are worth it.
const manyRequests = 500

// watch looks at every collection until ctx ends, and leaves things as they were.
func (c *collector) watch(ctx context.Context) {
	c.since = time.Now()
	c.again()
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ended = true
		c.set(false)
	})
}

// again calls collected after the next collection.
func (c *collector) again() {
	type mark struct{ _ [16]byte } // larger than what shares its memory with other objects
	runtime.AddCleanup(&mark{}, func(c *collector) { c.collected(time.Now()) }, c)
}

func (c *collector) collected(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	served := c.served.Load()
	c.set(float64(served-c.count) > manyRequests*now.Sub(c.since).Seconds())
	c.count, c.since = served, now
	c.again()
}

func (c *collector) set(busy bool) {
	if busy == c.busy {
		return
	}
	c.busy = busy
	if !busy {
		debug.SetGCPercent(c.usual)
		return
	}
	if c.usual = debug.SetGCPercent(200); c.usual < 0 || c.usual > 200 {
		debug.SetGCPercent(c.usual) // who said so has reasons
	}
}
