package fairness

import "time"

type state uint8

const (
	stateNew state = iota
	stateWaiting
	stateExecuting
	stateLingering // answered, with seats kept for what it caused
	stateDone
)

// ticket is one request at a level.
type ticket struct {
	flow          *flow
	request       Request
	distinguisher string
	work          work
	state         state
	queue         *queue // nil in a level without
	arrived       time.Time
	arrivedAt     float64 // in virtual time
	started       time.Time
	ready         chan struct{} // closed when one that had to wait executes
	prev, next    *ticket
}

// tickets is a list in order of arrival. A ticket is in one list at a time.
type tickets struct {
	first, last *ticket
	n           int
}

func (l *tickets) push(t *ticket) {
	t.prev, t.next = l.last, nil
	if l.last == nil {
		l.first = t
	} else {
		l.last.next = t
	}
	l.last = t
	l.n++
}

func (l *tickets) remove(t *ticket) {
	if t.prev == nil {
		l.first = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		l.last = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.prev, t.next = nil, nil
	l.n--
}

// flow counts the requests of one flow schema at its level; the level's lock guards it.
type flow struct {
	schema     string
	level      *level
	queued     int
	executing  int
	seats      int
	dispatched int
	rejected   map[reason]int
	// waits and lost observe in seconds how long requests waited that were then served, and those that were not.
	waits, lost histogram
}

func (f *flow) start(t *ticket) {
	f.executing++
	f.seats += t.work.width()
	f.dispatched++
	if !f.level.exempt() {
		f.waits.observe(t.started.Sub(t.arrived).Seconds())
	}
}

func (f *flow) end(t *ticket) {
	f.executing--
	f.seats -= t.work.width()
}

func (f *flow) reject(why reason) {
	if f.rejected == nil {
		f.rejected = map[reason]int{}
	}
	f.rejected[why]++
}

// buckets are the upper bounds of waits, in seconds.
var buckets = [...]float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30}

type histogram struct {
	counts [len(buckets)]uint64 // not cumulative; what is above the last bound is in n alone
	n      uint64
	sum    float64
}

func (h *histogram) observe(v float64) {
	h.n++
	h.sum += v
	for i, bound := range buckets {
		if v <= bound {
			h.counts[i]++
			return
		}
	}
}

// cumulative is the form that Prometheus wants.
func (h *histogram) cumulative() map[float64]uint64 {
	out := make(map[float64]uint64, len(buckets))
	var n uint64
	for i, bound := range buckets {
		n += h.counts[i]
		out[bound] = n
	}
	return out
}

// maxRetryAfter is in seconds.
const maxRetryAfter = 32

// drops finds out when clients that were turned away should come again: later while there are many, sooner again when
// there are few.
type drops struct {
	since time.Time
	count int
	after int // seconds; zero is 1
}

func (d *drops) note(now time.Time) {
	d.count++
	period := d.retryAfter()
	gone := now.Sub(d.since)
	if gone < time.Duration(period)*time.Second {
		return
	}
	switch {
	case gone > 2*maxRetryAfter*time.Second:
		period = 1
	case d.count >= 3*period:
		period = min(2*period, maxRetryAfter)
	case d.count < period:
		period--
	}
	d.since, d.count, d.after = now, 0, period
}

func (d *drops) retryAfter() int { return max(d.after, 1) }
