package backends

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/controllers/pods"
)

// Triggers knows, per service, up to which change its endpoints have been written, and so when the oldest change not yet written
// happened. Measuring tools read that time from an annotation.
type Triggers struct {
	mu      sync.Mutex
	written map[string]time.Time
}

// NewTriggers knows of no service.
func NewTriggers() *Triggers { return &Triggers{written: map[string]time.Time{}} }

// Next is the time of the oldest change since the last call for the service; zero when there is none, as after a deletion,
// which carries no time.
func (t *Triggers) Next(key string, service *corev1.Service, list []*corev1.Pod) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	since, known := t.written[key]
	var oldest time.Time
	newest := since
	see := func(at time.Time) {
		if at.After(since) && (oldest.IsZero() || at.Before(oldest)) {
			oldest = at
		}
		if at.After(newest) {
			newest = at
		}
	}
	if !known {
		see(service.CreationTimestamp.Time)
	}
	for _, pod := range list {
		if c := pods.Condition(pod, corev1.PodReady); c != nil {
			see(c.LastTransitionTime.Time)
		}
	}
	t.written[key] = newest
	return oldest
}

// Forget drops a service.
func (t *Triggers) Forget(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.written, key)
}
