package cache

import (
	"slices"
	"sort"
	"sync"
	"time"
)

// Bounds of one resource's history. It holds every event younger than historyFresh while that stays below
// historyMax events and historyBytes of stored values, and none older beyond historyMin: each holds a decoded object.
const (
	historyMin   = 100
	historyMax   = 10_000
	historyBytes = 12 << 20
	historyFresh = 75 * time.Second
)

// change is one event in a resource's history. cur is nil for a deletion, prev for a creation.
type change struct {
	revision  int64
	cur, prev *Object
	at        time.Time
	size      int

	goneOnce sync.Once
	gone     *Object
}

// departed is the object as watchers see it leave: its last state, at the revision at which it left.
func (c *change) departed() *Object {
	c.goneOnce.Do(func() { c.gone = c.prev.at(c.revision) })
	return c.gone
}

// history is a resource's newest changes in revision order, a ring addressed by sequence numbers that
// only grow: it holds the changes tail <= seq < head.
type history struct {
	ring       []*change // its length is a power of two, or zero
	tail, head uint64
	bytes      int
	// since is the revision behind which the history is complete.
	since int64
	blurs []blur
}

// blur is a span of revisions whose single changes are not known, only their sum: it stands in the history as
// changes behind from and up to to. A watcher may come to it or start behind it, but not within.
type blur struct{ from, to int64 }

func (h *history) len() int { return int(h.head - h.tail) }

func (h *history) slot(seq uint64) **change { return &h.ring[seq&uint64(len(h.ring)-1)] }

func (h *history) get(seq uint64) *change { return *h.slot(seq) }

// add appends a change and drops the oldest ones where the bounds call for it.
func (h *history) add(c *change) {
	for h.full(c) {
		h.dropOldest()
	}
	if h.len() == len(h.ring) {
		h.resize(max(128, 2*len(h.ring)))
	}
	*h.slot(h.head) = c
	h.head++
	h.bytes += c.size
}

// full tells whether c needs the oldest change to go.
func (h *history) full(c *change) bool {
	n := h.len()
	if n < historyMin {
		return false
	}
	if n >= historyMax || h.bytes+c.size > historyBytes {
		return true
	}
	return n >= len(h.ring) && c.at.Sub(h.get(h.tail).at) > historyFresh
}

func (h *history) dropOldest() {
	s := h.slot(h.tail)
	h.since = (*s).revision
	h.bytes -= (*s).size
	*s = nil
	h.tail++
	h.blurs = slices.DeleteFunc(h.blurs, func(b blur) bool { return b.to <= h.since })
}

// trim drops what is stale and gives back a ring grown too large for the rest.
func (h *history) trim(now time.Time) {
	for h.len() > historyMin && now.Sub(h.get(h.tail).at) > historyFresh {
		h.dropOldest()
	}
	if len(h.ring) > 512 && h.len() < len(h.ring)/4 {
		h.resize(len(h.ring) / 2)
	}
}

func (h *history) resize(n int) {
	ring := make([]*change, n)
	for seq := h.tail; seq < h.head; seq++ {
		ring[seq&uint64(n-1)] = h.get(seq)
	}
	h.ring = ring
}

// behind is the sequence number of the first change after revision; ok is false where that is no longer known.
func (h *history) behind(revision int64) (seq uint64, ok bool) {
	if revision < h.since {
		return 0, false
	}
	for _, b := range h.blurs {
		if b.from < revision && revision < b.to {
			return 0, false
		}
	}
	i := sort.Search(h.len(), func(i int) bool { return h.get(h.tail+uint64(i)).revision > revision })
	return h.tail + uint64(i), true
}
