// Package queue holds the pods that wait for a node. A pod is in exactly one place: active (to be tried now, by
// priority, then age), backing off (to be tried at a time), or waiting (until an event that could make it
// fit). Time is handed in. Not safe for concurrent use.
//
// Pods that were rejected alike wait as one group: an event wakes only the first of them, and each that is placed wakes the
// next. So ten thousand pods that wait for the same room cost one try for each room that comes free.
package queue

import (
	"container/heap"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/scheduler/model"
)

// Backoff says how long a pod that was rejected is left alone: from Initial, doubling with each try, to Max. A waiting pod
// is tried again after Wait even if nothing happened, in case an event was missed.
type Backoff struct{ Initial, Max, Wait time.Duration }

// DefaultBackoff is upstream's.
func DefaultBackoff() Backoff {
	return Backoff{Initial: time.Second, Max: 10 * time.Second, Wait: 5 * time.Minute}
}

type place uint8

const (
	out place = iota // popped, or not in the queue any more
	active
	backingOff
	waiting
)

// Item is one pod in the queue.
type Item struct {
	Pod *model.Pod
	// Attempts counts the tries that ended without a node.
	Attempts int
	// RejectedBy are the filters that rejected it last, as bits.
	RejectedBy uint32
	// Added is when the pod came.
	Added time.Time

	place    place
	ready    time.Time // when its back-off ends; where waiting, when it is tried regardless
	backoff  time.Time // end of the back-off earned by the last try
	group    *group    // that it waits in, or that it was woken from
	first    bool      // it was woken from its group for the others, too
	held     bool      // not to be tried until released
	woken    bool      // what it waits for happened while it was held
	index    int
	sequence uint64
}

// group is pods that were rejected alike.
type group struct {
	key   string
	items map[types.UID]*Item
}

// Queue is the set of pods to place.
type Queue struct {
	limits   Backoff
	items    map[types.UID]*Item
	active   itemHeap
	later    itemHeap // backing off and waiting, by ready
	groups   map[string]*group
	sequence uint64
}

// New is an empty queue.
func New(limits Backoff) *Queue {
	q := &Queue{limits: limits, items: map[types.UID]*Item{}, groups: map[string]*group{}}
	q.active.less = func(a, b *Item) bool {
		if a.Pod.Priority != b.Pod.Priority {
			return a.Pod.Priority > b.Pod.Priority
		}
		return a.older(b)
	}
	q.later.less = func(a, b *Item) bool { return a.ready.Before(b.ready) }
	return q
}

func (it *Item) older(other *Item) bool {
	if !it.Added.Equal(other.Added) {
		return it.Added.Before(other.Added)
	}
	return it.sequence < other.sequence
}

// Len counts the pods that are active, back off and wait.
func (q *Queue) Len() (now, later, wait int) {
	for _, g := range q.groups {
		wait += len(g.items)
	}
	return len(q.active.items), len(q.later.items) - wait, wait
}

// Get is the item of a pod in the queue; nil where there is none.
func (q *Queue) Get(uid types.UID) *Item { return q.items[uid] }

// Set adds a pod, or replaces its object. A change of a pod's own spec or labels makes it active again at
// once, since it may be what was missing.
func (q *Queue) Set(pod *model.Pod, now time.Time) {
	it := q.items[pod.Pod.UID]
	if it == nil {
		q.sequence++
		q.Put(&Item{Pod: pod, Added: now, sequence: q.sequence})
		return
	}
	old := it.Pod
	if it.place == active && old.Priority != pod.Priority {
		q.detach(it)
		it.Pod = pod
		q.move(it, active)
		return
	}
	it.Pod = pod
	if it.place != active && !it.held && (old.Pod.Generation != pod.Pod.Generation || !maps.Equal(old.Pod.Labels, pod.Pod.Labels)) {
		q.move(it, active)
	}
}

// Put makes a popped item active again, as if it had never been tried.
func (q *Queue) Put(it *Item) {
	q.items[it.Pod.Pod.UID] = it
	q.move(it, active)
}

// Delete forgets a pod.
func (q *Queue) Delete(uid types.UID, now time.Time) {
	if it := q.items[uid]; it != nil {
		q.detach(it)
		delete(q.items, uid)
		q.Placed(it, now)
	}
}

// Pop takes the next pod out of the queue; nil where none is due. Put it back with Rejected, Failed, Hold or Put, or say Placed.
func (q *Queue) Pop(now time.Time) *Item {
	for len(q.later.items) > 0 && !q.later.items[0].ready.After(now) {
		it := q.later.items[0]
		if it.held {
			q.detach(it) // its time does not come before it is released
			it.ready = now.Add(q.limits.Wait)
			q.move(it, waiting)
			continue
		}
		it.first = it.first || it.place == waiting // if an event was missed, it was for all of its group
		q.move(it, active)
	}
	if len(q.active.items) == 0 {
		return nil
	}
	it := heap.Pop(&q.active).(*Item)
	it.place = out
	delete(q.items, it.Pod.Pod.UID)
	return it
}

// Placed says that a popped item is in place. If it was woken for its group, the next one is.
func (q *Queue) Placed(it *Item, now time.Time) {
	if it.first && it.group != nil {
		q.wakeFirst(it.group, now)
	}
	it.first, it.group = false, nil
}

// Rejected puts back a popped pod that fits nowhere. It waits for an event, together with all that were put back with the same
// alike; where that is empty, alone.
func (q *Queue) Rejected(it *Item, by uint32, alike string, now time.Time) {
	former, first := it.group, it.first
	q.putBack(it, now)
	it.RejectedBy, it.ready = by, now.Add(q.limits.Wait)
	q.wait(it, alike)
	switch {
	case !first || former == nil || former.key == alike:
	case alike == "": // why may be its own affair
		q.wakeFirst(former, now)
	default:
		q.merge(former, it.group, by)
	}
}

// merge lets a group wait for what the one of it that was tried now waits for: it is what keeps them all off.
func (q *Queue) merge(from, into *group, by uint32) {
	for uid, it := range from.items {
		it.group, it.RejectedBy = into, by
		into.items[uid] = it
	}
	clear(from.items)
	if q.groups[from.key] == from {
		delete(q.groups, from.key)
	}
}

// Hold puts back a popped pod for which room is being made. It earns no back-off, and is not tried before Release.
func (q *Queue) Hold(it *Item, by uint32, now time.Time) {
	q.Placed(it, now) // room may be made for the others, too
	q.items[it.Pod.Pod.UID] = it
	it.RejectedBy, it.ready, it.backoff = by, now.Add(q.limits.Wait), now
	it.held, it.woken = true, false
	q.wait(it, "")
}

// Release ends a Hold. The pod is tried at once if an event came meanwhile that may help it.
func (q *Queue) Release(uid types.UID) {
	it := q.items[uid]
	if it == nil || !it.held {
		return
	}
	it.held = false
	if it.woken {
		q.move(it, active)
	}
}

// Activate lets a pod be tried at once, wherever it waits.
func (q *Queue) Activate(it *Item) {
	if it.place != active && it.place != out {
		it.held = false
		q.move(it, active)
	}
}

// Retry lets a pod be tried after its back-off, and ends a Hold.
func (q *Queue) Retry(it *Item, now time.Time) {
	it.held = false
	q.detach(it)
	q.Failed(it, now)
}

// RetryAfter lets a pod that was put back be tried after d, even if nothing happens.
func (q *Queue) RetryAfter(it *Item, d time.Duration, now time.Time) {
	if it.place == backingOff || it.place == waiting {
		it.ready = now.Add(d)
		heap.Fix(&q.later, it.index)
	}
}

// Failed puts back a popped pod after an error; it is tried again after its back-off.
func (q *Queue) Failed(it *Item, now time.Time) {
	q.Placed(it, now)
	q.putBack(it, now)
	it.ready = it.backoff
	q.move(it, backingOff)
}

func (q *Queue) putBack(it *Item, now time.Time) {
	it.Attempts++
	it.backoff = now.Add(q.limits.after(it.Attempts))
	q.items[it.Pod.Pod.UID] = it
}

func (b Backoff) after(attempts int) time.Duration {
	d := b.Initial
	for ; attempts > 1 && d < b.Max; attempts-- {
		d *= 2
	}
	return min(d, b.Max)
}

// wait joins the group of a key.
func (q *Queue) wait(it *Item, key string) {
	if key == "" {
		key = "\x00" + string(it.Pod.Pod.UID)
	}
	g := q.groups[key]
	if g == nil {
		g = &group{key: key, items: map[types.UID]*Item{}}
		q.groups[key] = g
	}
	it.group, it.first = g, false
	q.move(it, waiting)
}

// Wake lets those that wait and that the event may help be tried, each when its back-off is over. Of pods that were rejected alike helps
// is asked about one.
func (q *Queue) Wake(helps func(*Item) bool, now time.Time) {
	var woken []*group
	for _, g := range q.groups {
		for _, it := range g.items {
			if helps(it) {
				woken = append(woken, g)
			}
			break
		}
	}
	for _, g := range woken {
		q.wakeFirst(g, now)
	}
}

// wakeFirst wakes the one of a group that may be tried first.
func (q *Queue) wakeFirst(g *group, now time.Time) {
	var first *Item
	for _, it := range g.items {
		switch {
		case it.held:
			it.woken = true
		case first == nil || it.sooner(first, now):
			first = it
		}
	}
	if first == nil {
		return
	}
	to := active
	if first.backoff.After(now) {
		to, first.ready = backingOff, first.backoff
	}
	q.move(first, to)
	first.group, first.first = g, true
}

// sooner tells which of two may be tried first: the older one, but not before its back-off is over.
func (it *Item) sooner(other *Item, now time.Time) bool {
	a, b := it.backoff.After(now), other.backoff.After(now)
	if a || b {
		return a != b && b || a && b && it.backoff.Before(other.backoff)
	}
	return it.older(other)
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
	g := it.group
	q.detach(it)
	it.place = to
	switch to {
	case active:
		heap.Push(&q.active, it)
	case waiting:
		g.items[it.Pod.Pod.UID] = it
		q.groups[g.key] = g
		fallthrough
	default:
		heap.Push(&q.later, it)
	}
}

// detach takes an item from where it is.
func (q *Queue) detach(it *Item) {
	switch it.place {
	case active:
		heap.Remove(&q.active, it.index)
	case waiting:
		delete(it.group.items, it.Pod.Pod.UID)
		if len(it.group.items) == 0 {
			delete(q.groups, it.group.key)
		}
		fallthrough
	case backingOff:
		heap.Remove(&q.later, it.index)
	}
	it.place = out
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
