// Package queue holds the pods that wait for a node. A pod is in exactly one place: active (to be tried now, by
// priority, then age), backing off (to be tried at a time), or waiting (until an event that could make it
// fit). Time is handed in. Not safe for concurrent use.
package queue

import (
	"container/heap"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"

	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
)

// The back-off of a pod that was rejected doubles from initialBackoff to maxBackoff. A waiting pod is
// tried again after maxWait even if nothing happened, in case an event was missed.
const (
	initialBackoff = time.Second
	maxBackoff     = 10 * time.Second
	maxWait        = 5 * time.Minute
)

type place uint8

const (
	active place = iota
	backingOff
	waiting
)

// Item is one pod in the queue.
type Item struct {
	Pod *model.Pod
	// Attempts counts the tries that ended without a node.
	Attempts int

	priority int32
	added    time.Time
	place    place
	ready    time.Time // when its back-off ends; where waiting, when it is tried regardless
	backoff  time.Time // end of the back-off earned by the last try
	wokenBy  filter.Event
	index    int
	sequence uint64
}

// Queue is the set of pods to place.
type Queue struct {
	items    map[types.UID]*Item
	active   itemHeap
	later    itemHeap // backing off and waiting, by ready
	sequence uint64
}

// New is an empty queue.
func New() *Queue {
	q := &Queue{items: map[types.UID]*Item{}}
	q.active.less = func(a, b *Item) bool {
		if a.priority != b.priority {
			return a.priority > b.priority
		}
		if !a.added.Equal(b.added) {
			return a.added.Before(b.added)
		}
		return a.sequence < b.sequence
	}
	q.later.less = func(a, b *Item) bool { return a.ready.Before(b.ready) }
	return q
}

// Len counts the pods that are active, back off and wait.
func (q *Queue) Len() (now, later, wait int) {
	for _, it := range q.later.items {
		if it.place == waiting {
			wait++
		}
	}
	return len(q.active.items), len(q.later.items) - wait, wait
}

// Set adds a pod, or replaces its object. A change of a pod's own spec or labels makes it active again at
// once, since it may be what was missing.
func (q *Queue) Set(pod *model.Pod, now time.Time) {
	it := q.items[pod.Pod.UID]
	if it == nil {
		q.sequence++
		it = &Item{added: now, sequence: q.sequence}
		q.items[pod.Pod.UID] = it
		it.Pod, it.priority = pod, schedulinghelper.PodPriority(pod.Pod)
		it.place = active
		heap.Push(&q.active, it)
		return
	}
	old := it.Pod.Pod
	it.Pod = pod
	if it.place != active && old.Generation != pod.Pod.Generation {
		q.move(it, active)
	}
}

// Delete forgets a pod.
func (q *Queue) Delete(uid types.UID) {
	if it := q.items[uid]; it != nil {
		q.detach(it)
		delete(q.items, uid)
	}
}

// Pop takes the next pod out of the queue; nil where none is due. Put it back with Rejected or Failed.
func (q *Queue) Pop(now time.Time) *Item {
	for len(q.later.items) > 0 && !q.later.items[0].ready.After(now) {
		q.move(q.later.items[0], active)
	}
	if len(q.active.items) == 0 {
		return nil
	}
	it := heap.Pop(&q.active).(*Item)
	delete(q.items, it.Pod.Pod.UID)
	return it
}

// Rejected puts back a popped pod that fits nowhere. It waits for one of the events.
func (q *Queue) Rejected(it *Item, wokenBy filter.Event, now time.Time) {
	q.putBack(it, now)
	it.wokenBy, it.place, it.ready = wokenBy, waiting, now.Add(maxWait)
	heap.Push(&q.later, it)
}

// Failed puts back a popped pod after an error; it is tried again after its back-off.
func (q *Queue) Failed(it *Item, now time.Time) {
	q.putBack(it, now)
	it.place, it.ready = backingOff, it.backoff
	heap.Push(&q.later, it)
}

func (q *Queue) putBack(it *Item, now time.Time) {
	it.Attempts++
	it.backoff = now.Add(backoffOf(it.Attempts))
	q.items[it.Pod.Pod.UID] = it
}

func backoffOf(attempts int) time.Duration {
	d := initialBackoff
	for ; attempts > 1 && d < maxBackoff; attempts-- {
		d *= 2
	}
	return min(d, maxBackoff)
}

// Wake lets the waiting pods that the event may help be tried, each when its back-off is over.
func (q *Queue) Wake(event filter.Event, now time.Time) {
	var woken []*Item
	for _, it := range q.later.items {
		if it.place == waiting && it.wokenBy&event != 0 {
			woken = append(woken, it)
		}
	}
	for _, it := range woken {
		if it.backoff.After(now) {
			it.ready = it.backoff
			q.move(it, backingOff)
		} else {
			q.move(it, active)
		}
	}
}

// Next gives when the next pod becomes due; ok is false where none ever will by itself.
func (q *Queue) Next(now time.Time) (at time.Time, ok bool) {
	if len(q.active.items) > 0 {
		return now, true
	}
	if len(q.later.items) > 0 {
		return q.later.items[0].ready, true
	}
	return time.Time{}, false
}

func (q *Queue) move(it *Item, to place) {
	q.detach(it)
	it.place = to
	if to == active {
		heap.Push(&q.active, it)
	} else {
		heap.Push(&q.later, it)
	}
}

func (q *Queue) detach(it *Item) {
	if it.place == active {
		heap.Remove(&q.active, it.index)
	} else {
		heap.Remove(&q.later, it.index)
	}
}

// Gated tells whether the pod asks not to be scheduled yet.
func Gated(pod *corev1.Pod) bool { return len(pod.Spec.SchedulingGates) > 0 }

type itemHeap struct {
	items []*Item
	less  func(a, b *Item) bool
}

func (h *itemHeap) Len() int           { return len(h.items) }
func (h *itemHeap) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }
func (h *itemHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index, h.items[j].index = i, j
}

func (h *itemHeap) Push(x any) {
	it := x.(*Item)
	it.index = len(h.items)
	h.items = append(h.items, it)
}

func (h *itemHeap) Pop() any {
	last := len(h.items) - 1
	it := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	return it
}
