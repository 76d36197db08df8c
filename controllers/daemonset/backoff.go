package daemonset

import (
	"sync"
	"time"
)

// How long a failed pod is left alone before the next one: the first goes at once, each next one after twice as long.
const (
	minBackoff = time.Second
	maxBackoff = 15 * time.Minute
)

// backoff knows how often pods have failed lately, by key.
type backoff struct {
	mu      sync.Mutex
	entries map[string]failures
	sweep   int
}

type failures struct {
	last  time.Time
	delay time.Duration
}

func newBackoff() *backoff { return &backoff{entries: map[string]failures{}} }

// wait is how long the key is in back-off yet.
func (b *backoff) wait(key string, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.entries[key]
	if !ok || f.old(now) {
		return 0
	}
	return max(0, f.last.Add(f.delay).Sub(now))
}

// failed notes a failure.
func (b *backoff) failed(key string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.entries[key]
	if !ok || f.old(now) {
		f = failures{}
	}
	b.entries[key] = failures{last: now, delay: min(maxBackoff, max(minBackoff, 2*f.delay))}
	if len(b.entries) < max(b.sweep, 256) {
		return
	}
	for key, f := range b.entries {
		if f.old(now) {
			delete(b.entries, key)
		}
	}
	b.sweep = 2 * len(b.entries)
}

// old means that the key has been well for so long that its past no longer counts.
func (f failures) old(now time.Time) bool { return now.Sub(f.last) > 2*maxBackoff }
