package loop

import (
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/internal/clock"
)

// lagLimit ends the wait for a write that the informer never shows, as after a restore of an older store.
const lagLimit = 2 * time.Minute

// Lag knows which of a controller's own writes its informer has not shown yet. A controller that counts objects asks
// it first, or it would create or delete twice while the watch trails behind.
//
// It rests on resource versions of one resource being ordered: a creation has been seen once anything as
// new has been seen. Deletions answer with no reliable version, so they are kept by UID until the object is gone from
// the controller's view.
type Lag struct {
	clock clock.Clock

	mu   sync.Mutex
	seen uint64
	keys map[string]*pending
}

type pending struct {
	version uint64
	since   time.Time
	deleted map[types.UID]time.Time
}

// NewLag makes a Lag that has seen nothing.
func NewLag(c clock.Clock) *Lag {
	return &Lag{clock: c, keys: map[string]*pending{}}
}

// Saw notes an object version from the informer. Call it before the object's keys are queued.
func (l *Lag) Saw(resourceVersion string) {
	version, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = max(l.seen, version)
}

// Wrote notes that an object of key was created or changed at resourceVersion.
func (l *Lag) Wrote(key, resourceVersion string) {
	version, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.pending(key)
	p.version, p.since = max(p.version, version), l.clock.Now()
}

// Deleted notes that an object of key was deleted, or has begun to be.
func (l *Lag) Deleted(key string, uid types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.pending(key)
	if p.deleted == nil {
		p.deleted = map[types.UID]time.Time{}
	}
	p.deleted[uid] = l.clock.Now()
}

func (l *Lag) pending(key string) *pending {
	p := l.keys[key]
	if p == nil {
		p = &pending{}
		l.keys[key] = p
	}
	return p
}

// Behind is zero when the informer has shown every write noted by Wrote; else how much longer to wait for it at most.
func (l *Lag) Behind(key string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.keys[key]
	if p == nil {
		return 0
	}
	if p.version <= l.seen {
		if len(p.deleted) == 0 {
			delete(l.keys, key)
		}
		return 0
	}
	return max(0, lagLimit-l.clock.Now().Sub(p.since))
}

// Deleting tells whether deletions of the key are remembered, so that it is worth asking for the Doomed.
func (l *Lag) Deleting(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.keys[key]
	return p != nil && len(p.deleted) > 0
}

// Doomed gives those of the alive UIDs that this controller has deleted already, and forgets the ones no longer alive.
func (l *Lag) Doomed(key string, alive map[types.UID]bool) map[types.UID]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.keys[key]
	if p == nil {
		return nil
	}
	doomed := map[types.UID]bool{}
	for uid, since := range p.deleted {
		if !alive[uid] || l.clock.Now().Sub(since) > lagLimit {
			delete(p.deleted, uid)
			continue
		}
		doomed[uid] = true
	}
	if len(p.deleted) == 0 && p.version <= l.seen {
		delete(l.keys, key)
	}
	return doomed
}

// Forget drops all that is known of key.
func (l *Lag) Forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.keys, key)
}
