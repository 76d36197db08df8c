package fairness

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/util/shufflesharding"
)

// guess is how many seconds a request is taken to last until it is done and the truth is known.
const guess = 0.003

// reason is why a request was turned away; empty is that it was not.
type reason string

// The reasons, as the metric has them.
const (
	queueFull  reason = "queue-full"
	noSeats    reason = "concurrency-limit"
	timedOut   reason = "time-out"
	cancelled  reason = "cancelled"
	servedFine reason = ""
)

// level is the state of one priority level. The methods that take the time want mu held, and times that do not go back.
type level struct {
	mu   sync.Mutex
	name string
	// conf is the object that describes it, replaced with the configuration.
	conf   *flowcontrolv1.PriorityLevelConfiguration
	dealer *shufflesharding.Dealer // nil has no queues
	// lengthLimit is how many requests may wait in one queue.
	lengthLimit int
	limits      limits
	// widest is limits.width, for any time.
	widest atomic.Int32
	// limit is how many seats it may use for now.
	limit int
	gone  bool // its object is

	queues map[int]*queue
	busy   []*queue // those that exist, in no order
	turn   int      // where the search among them begins
	deals  int

	running   tickets
	executing int // requests
	waiting   int // requests
	taken     int // seats
	wanted    int // seats, by those that wait

	now     time.Time // of the last change
	virtual float64   // R, in seat-seconds
	demand  demand
	drops   drops

	dispatched, rejected, late, left int // requests: served, turned away, of these too late, of these gone
}

// queue is one of a level's queues while it has requests.
type queue struct {
	index     int
	at        int // in busy
	waiting   tickets
	executing int
	seats     int
	start     float64 // virtual time at which its next request starts
	work      float64 // seat-seconds that wait
}

// configure sets what a level's object says. Requests that wait stay where they are.
func (l *level) configure(conf *flowcontrolv1.PriorityLevelConfiguration) {
	l.conf, l.gone, l.dealer, l.lengthLimit = conf, false, nil, 0
	if limited := conf.Spec.Limited; limited != nil && limited.LimitResponse.Queuing != nil {
		q := limited.LimitResponse.Queuing
		l.lengthLimit = int(q.QueueLengthLimit)
		l.dealer, _ = shufflesharding.NewDealer(int(q.Queues), int(q.HandSize)) // validation has seen to it
	}
}

func (l *level) exempt() bool { return l.conf.Spec.Limited == nil }

// advance brings virtual time and the record of demand to now.
func (l *level) advance(now time.Time) {
	if l.now.IsZero() {
		l.now = now
		l.demand.begin(now)
	}
	dt := now.Sub(l.now).Seconds()
	if dt <= 0 {
		return
	}
	l.now = now
	want := l.taken + l.wanted
	if n := len(l.busy); n > 0 {
		l.virtual += dt * float64(min(want, l.limit)) / float64(n)
	}
	l.demand.add(dt, want)
}

// begin takes a request in: it is executing or waiting afterwards, or turned away.
func (l *level) begin(now time.Time, t *ticket, flow uint64) reason {
	l.advance(now)
	t.arrived = now
	switch {
	case l.exempt():
		l.execute(t)
		return servedFine
	case l.dealer == nil:
		if !l.fits(t.work.width()) {
			return l.reject(t, noSeats)
		}
		l.execute(t)
		return servedFine
	}
	index := l.choose(flow)
	q := l.queues[index]
	if q != nil && l.taken >= l.limit && q.waiting.n >= l.lengthLimit {
		return l.reject(t, queueFull)
	}
	if q == nil {
		q = l.open(index)
	}
	l.enqueue(q, t)
	l.dispatch()
	if t.state == stateWaiting {
		t.ready = make(chan struct{})
	}
	return servedFine
}

func (l *level) reject(t *ticket, why reason) reason {
	l.rejected++
	t.flow.reject(why)
	l.drops.note(l.now)
	return why
}

// fits tells whether a request of some width can be served now. One that is wider than the limit is served alone.
func (l *level) fits(width int) bool {
	return l.taken+width <= l.limit || l.limit > 0 && l.executing == 0 && l.taken == 0
}

// choose deals a hand of queues and takes the one of them with the least work waiting.
func (l *level) choose(flow uint64) int {
	var space [16]int
	hand := l.dealer.DealIntoHand(flow, space[:0])
	l.deals++
	best, least := 0, math.Inf(1)
	for i := range hand {
		index := hand[(i+l.deals)%len(hand)]
		work := 0.0
		if q := l.queues[index]; q != nil {
			work = q.work
		}
		if work < least {
			best, least = index, work
		}
	}
	return best
}

func (l *level) open(index int) *queue {
	q := &queue{index: index, at: len(l.busy), start: l.virtual}
	if l.queues == nil {
		l.queues = map[int]*queue{}
	}
	l.queues[index] = q
	l.busy = append(l.busy, q)
	return q
}

// settle keeps what holds of a queue from which something was taken.
func (l *level) settle(q *queue) {
	switch {
	case q.waiting.first != nil:
		q.start = max(q.start, q.waiting.first.arrivedAt)
	case q.executing == 0:
		delete(l.queues, q.index)
		last := len(l.busy) - 1
		l.busy[q.at] = l.busy[last]
		l.busy[q.at].at = q.at
		l.busy[last] = nil
		l.busy = l.busy[:last]
		if last == 0 {
			l.virtual = 0 // nothing refers to it any more
		}
	}
}

func (l *level) enqueue(q *queue, t *ticket) {
	t.queue, t.state, t.arrivedAt = q, stateWaiting, l.virtual
	q.waiting.push(t)
	q.work += t.work.cost()
	q.start = max(q.start, q.waiting.first.arrivedAt)
	l.waiting++
	l.wanted += t.work.width()
	t.flow.queued++
	l.demand.peaked(l.taken + l.wanted)
}

// dequeue takes a request out of its queue.
func (l *level) dequeue(t *ticket) {
	q := t.queue
	q.waiting.remove(t)
	q.work -= t.work.cost()
	if q.waiting.n == 0 {
		q.work = 0 // without what rounding left
	}
	l.waiting--
	l.wanted -= t.work.width()
	t.flow.queued--
}

// dispatch starts as many of the requests that wait as there are seats for.
func (l *level) dispatch() {
	for l.waiting > 0 && l.taken < l.limit {
		q := l.next()
		t := q.waiting.first
		if !l.fits(t.work.width()) {
			return
		}
		l.turn = q.at
		l.dequeue(t)
		q.executing++
		q.seats += t.work.width()
		q.start += t.work.cost()
		l.execute(t)
		l.settle(q)
	}
}

// next is the queue whose first request would finish first. Among equals it is one after the other's turn.
func (l *level) next() *queue {
	var best *queue
	least := math.Inf(1)
	n := len(l.busy)
	for i := range n {
		q := l.busy[(l.turn+1+i)%n]
		if q.waiting.first == nil {
			continue
		}
		if finish := q.start + q.waiting.first.work.cost(); finish < least {
			best, least = q, finish
		}
	}
	return best
}

// execute gives a request its seats.
func (l *level) execute(t *ticket) {
	waited := t.state == stateWaiting
	t.state, t.started = stateExecuting, l.now
	l.running.push(t)
	l.executing++
	l.dispatched++
	l.taken += t.work.width()
	t.flow.start(t)
	l.demand.peaked(l.taken + l.wanted)
	if waited && t.ready != nil {
		close(t.ready)
	}
}

// abandon takes back a request that waits; false is that it does not: it executes.
func (l *level) abandon(now time.Time, t *ticket, why reason) bool {
	l.advance(now)
	if t.state != stateWaiting {
		return false
	}
	l.dequeue(t)
	t.state = stateDone
	t.flow.lost.observe(now.Sub(t.arrived).Seconds())
	if why == timedOut {
		l.late++
	} else {
		l.left++
	}
	l.reject(t, why)
	l.settle(t.queue)
	l.dispatch() // a wide one may have stood before others
	return true
}

// finish ends a request. Where it leaves work behind it keeps seats; linger is how long, and then done is to be called.
func (l *level) finish(now time.Time, t *ticket) (linger time.Duration) {
	l.advance(now)
	if t.state != stateExecuting {
		return 0
	}
	l.running.remove(t)
	l.executing--
	t.flow.end(t)
	if q := t.queue; q != nil {
		q.start += float64(t.work.seats) * (now.Sub(t.started).Seconds() - guess)
	}
	if l.exempt() || t.work.linger <= 0 {
		l.free(t, t.work.width())
		return 0
	}
	t.state = stateLingering
	if over := t.work.width() - t.work.final; over > 0 {
		l.taken -= over
		if t.queue != nil {
			t.queue.seats -= over
		}
	}
	l.dispatch()
	return t.work.linger
}

// done ends the time for which a finished request keeps seats.
func (l *level) done(now time.Time, t *ticket) {
	l.advance(now)
	if t.state == stateLingering {
		l.free(t, t.work.final)
	}
}

func (l *level) free(t *ticket, seats int) {
	t.state = stateDone
	l.taken -= seats
	if q := t.queue; q != nil {
		q.seats -= seats
		q.executing--
		l.settle(q)
	}
	l.dispatch()
}

// setLimit changes how many seats there are.
func (l *level) setLimit(now time.Time, seats int) {
	l.advance(now)
	l.limit = seats
	l.dispatch()
}

func (l *level) idle() bool { return l.waiting == 0 && l.taken == 0 && l.executing == 0 }
