package agent

import (
	"context"
	"time"

	"github.com/coracle-dev/coracle/internal/clock"
)

// clockSet is by how much the clock must have been set before what is valid until a time of day is looked at again.
const clockSet = 10 * time.Second

// watchClock renews what the API server takes only until a time of day when the clock was set, or the machine slept. Everything else waits by time
// that goes on evenly, so that nothing else happens then.
func (a *Agent) watchClock(ctx context.Context) {
	err := clock.Jumps(ctx, clockSet, func(by time.Duration) {
		a.cfg.Log.Warn("the clock was set", "by", by)
		a.volumes.RenewTokens()
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, w := range a.workers {
			w.volumesChanged()
		}
		a.reporter.Poke()
	})
	if err != nil {
		a.cfg.Log.Warn("the clock is not watched: tokens are late if it is set", "error", err)
	}
}
