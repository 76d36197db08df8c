package admission

import (
	"context"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
)

// queues let one request a namespace charge quotas at a time: on one server they would only be in each other's way. While
// there is a queue, it remembers the quotas as they were written last, of which the watch cache may be behind.
type queues struct {
	mu         sync.Mutex
	namespaces map[string]*queue
}

type queue struct {
	turn    chan struct{} // holds a token while somebody charges
	waiting int
	quotas  map[string]*corev1.ResourceQuota
}

func newQueues() *queues { return &queues{namespaces: map[string]*queue{}} }

// enter waits for the namespace's turn, or for ctx to end.
func (qs *queues) enter(ctx context.Context, namespace string) (leave func(), err error) {
	qs.mu.Lock()
	q := qs.namespaces[namespace]
	if q == nil {
		q = &queue{turn: make(chan struct{}, 1), quotas: map[string]*corev1.ResourceQuota{}}
		qs.namespaces[namespace] = q
	}
	q.waiting++
	qs.mu.Unlock()
	gone := func() {
		qs.mu.Lock()
		defer qs.mu.Unlock()
		if q.waiting--; q.waiting == 0 {
			delete(qs.namespaces, namespace)
		}
	}
	select {
	case q.turn <- struct{}{}:
		return func() { <-q.turn; gone() }, nil
	case <-ctx.Done():
		gone()
		return nil, ctx.Err()
	}
}

// saw remembers a quota's state while its namespace has a queue.
func (qs *queues) saw(quota *corev1.ResourceQuota) {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	if q := qs.namespaces[quota.Namespace]; q != nil {
		q.quotas[quota.Name] = quota
	}
}

// newest is the later of what is given and what is remembered.
func (qs *queues) newest(quota *corev1.ResourceQuota) *corev1.ResourceQuota {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	q := qs.namespaces[quota.Namespace]
	if q == nil {
		return quota
	}
	if have := q.quotas[quota.Name]; have != nil && have.UID == quota.UID && version(have) > version(quota) {
		return have
	}
	return quota
}

func version(q *corev1.ResourceQuota) uint64 {
	n, _ := strconv.ParseUint(q.ResourceVersion, 10, 64)
	return n
}
