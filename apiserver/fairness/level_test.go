package fairness

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// limited describes a level; no queues is one that rejects.
func limited(name string, shares, lend, queues, hand, length int32) *flowcontrolv1.PriorityLevelConfiguration {
	l := &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &shares, LendablePercent: &lend}
	l.LimitResponse.Type = flowcontrolv1.LimitResponseTypeReject
	if queues > 0 {
		l.LimitResponse.Type = flowcontrolv1.LimitResponseTypeQueue
		l.LimitResponse.Queuing = &flowcontrolv1.QueuingConfiguration{Queues: queues, HandSize: hand, QueueLengthLimit: length}
	}
	return &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "uid-l"},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: l}}
}

// world is a level in simulated time.
type world struct {
	t     *testing.T
	l     *level
	flow  *flow
	now   time.Time
	queue agenda
	n     int
	// waiting are requests and what to do once they execute.
	waiting map[*ticket]func()
}

type appointment struct {
	at time.Time
	n  int // what was planned first is first
	do func()
}

type agenda []appointment

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at.Before(a[j].at) || a[i].at.Equal(a[j].at) && a[i].n < a[j].n
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(appointment)) }
func (a *agenda) Pop() any {
	old := *a
	last := old[len(old)-1]
	*a = old[:len(old)-1]
	return last
}

func newWorld(t *testing.T, seats int, conf *flowcontrolv1.PriorityLevelConfiguration) *world {
	w := &world{t: t, l: &level{name: conf.Name}, now: epoch, waiting: map[*ticket]func(){}}
	w.flow = &flow{schema: "s", level: w.l}
	w.l.configure(conf)
	w.l.setLimit(epoch, seats)
	return w
}

func (w *world) after(d time.Duration, do func()) {
	w.n++
	heap.Push(&w.queue, appointment{w.now.Add(d), w.n, do})
}

func (w *world) run(until time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at.Sub(epoch) <= until {
		a := heap.Pop(&w.queue).(appointment)
		w.now = a.at
		a.do()
		for executing := w.l.running.last; executing != nil && executing.started.Equal(w.now); executing = executing.prev {
			if begin := w.waiting[executing]; begin != nil {
				delete(w.waiting, executing)
				begin()
			}
		}
		w.check()
	}
}

// check holds what holds at any time.
func (w *world) check() {
	w.t.Helper()
	l := w.l
	seats, executing, waiting := 0, 0, 0
	for _, q := range l.busy {
		seats += q.seats
		executing += q.executing
		waiting += q.waiting.n
		if q.executing == 0 && q.waiting.n == 0 {
			w.t.Fatalf("queue %d exists without requests", q.index)
		}
	}
	if seats != l.taken || waiting != l.waiting || len(l.busy) != len(l.queues) {
		w.t.Fatalf("queues have %d seats, %d wait; level has %d, %d", seats, waiting, l.taken, l.waiting)
	}
	if l.waiting > 0 && l.taken < l.limit {
		if head := l.next().waiting.first; l.fits(head.work.width()) {
			w.t.Fatalf("%d of %d seats are taken, and a request of %d waits", l.taken, l.limit, head.work.width())
		}
	}
}

// serve begins a request that takes some time once it has its turn; done is told how long it waited.
func (w *world) serve(flow string, seats int, takes time.Duration, done func(waited time.Duration)) reason {
	t := &ticket{flow: w.flow, work: work{seats: seats}}
	why := w.l.begin(w.now, t, hash("s", flow))
	if why != servedFine {
		return why
	}
	w.waiting[t] = func() {
		w.after(takes, func() {
			w.l.finish(w.now, t)
			done(t.started.Sub(t.arrived))
		})
	}
	if t.state == stateExecuting {
		w.waiting[t]()
		delete(w.waiting, t)
	}
	return servedFine
}

// loop keeps some requests of a flow going and adds up the seat-seconds it was given.
func (w *world) loop(flow string, width, parallel int, takes time.Duration) *float64 {
	got := new(float64)
	var again func(time.Duration)
	again = func(time.Duration) {
		*got += float64(width) * takes.Seconds()
		w.serve(flow, width, takes, again)
	}
	for range parallel {
		w.after(0, func() { w.serve(flow, width, takes, again) })
	}
	return got
}

// TestFlood: whoever else floods a level, a flow that asks for little waits for little.
func TestFlood(t *testing.T) {
	for seed := range 8 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, 4, limited("l", 1, 0, 64, 6, 1000))
			const takes = 50 * time.Millisecond
			w.loop(fmt.Sprint("elephant", seed), 1, 300, takes)
			worst, served := time.Duration(0), 0
			var mouse func()
			mouse = func() {
				w.serve(fmt.Sprint("mouse", seed), 1, takes, func(waited time.Duration) {
					worst = max(worst, waited)
					served++
				})
				w.after(200*time.Millisecond, mouse)
			}
			w.after(100*time.Millisecond, mouse)
			w.run(10 * time.Second)
			// 300 requests in 4 seats take 3.75 s from end to end.
			if served < 45 || worst > 4*takes {
				t.Errorf("%d served, the worst after %v", served, worst)
			}
		})
	}
}

// TestFairShares: flows that ask for more than there is get the same seat-seconds, however wide or long their requests are.
func TestFairShares(t *testing.T) {
	for _, c := range []struct {
		name         string
		width        int
		takes        time.Duration
		other        int
		otherTakes   time.Duration
		seats        int
		low, highest float64
	}{
		{"equal", 1, 20 * time.Millisecond, 1, 20 * time.Millisecond, 10, 0.9, 1.1},
		{"wide", 5, 20 * time.Millisecond, 1, 20 * time.Millisecond, 10, 0.7, 1.4},
		{"long", 1, 200 * time.Millisecond, 1, 20 * time.Millisecond, 10, 0.7, 1.4},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.seats, limited("l", 1, 0, 1024, 1, 1000)) // one queue a flow
			a := w.loop("a", c.width, 100, c.takes)
			b := w.loop("b", c.other, 100, c.otherTakes)
			w.run(20 * time.Second)
			if ratio := *a / *b; ratio < c.low || ratio > c.highest {
				t.Errorf("%.1f and %.1f seat-seconds", *a, *b)
			}
			if used := (*a + *b) / 20 / float64(c.seats); used < 0.9 {
				t.Errorf("%.2f of the seats were used", used)
			}
		})
	}
}

// TestSeatsComeBack: whatever happens in whatever order, in the end all seats are free and nothing is left.
func TestSeatsComeBack(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, 1+r.IntN(8), limited("l", 1, 0, 8, 2, int32(1+r.IntN(4))))
		var open []*ticket
		for range 400 {
			w.now = w.now.Add(time.Duration(r.IntN(5)) * time.Millisecond)
			var tk *ticket
			if len(open) > 0 {
				tk = open[r.IntN(len(open))]
			}
			switch r.IntN(8) {
			case 0, 1, 2:
				tk = &ticket{flow: w.flow, work: work{seats: 1 + r.IntN(3)}}
				if r.IntN(3) == 0 {
					tk.work.final, tk.work.linger = 1+r.IntN(4), 5*time.Millisecond
				}
				if w.l.begin(w.now, tk, r.Uint64()) == servedFine {
					open = append(open, tk)
				}
			case 3:
				if tk != nil {
					w.l.abandon(w.now, tk, timedOut)
				}
			case 4, 5:
				if tk != nil {
					w.l.finish(w.now, tk)
				}
			case 6:
				if tk != nil {
					w.l.done(w.now, tk)
				}
			case 7:
				w.l.setLimit(w.now, r.IntN(9))
			}
			w.check()
		}
		w.l.setLimit(w.now, 4)
		for range 3 { // what waits comes to execute
			for _, tk := range open {
				w.l.finish(w.now, tk)
				w.l.done(w.now, tk)
				w.check()
			}
			for i := len(open) - 1; i >= 0; i-- {
				w.l.abandon(w.now, open[i], cancelled)
			}
		}
		if l := w.l; !l.idle() || len(l.queues) != 0 || l.virtual != 0 || l.running.n != 0 || l.wanted != 0 || w.flow.queued != 0 || w.flow.executing != 0 || w.flow.seats != 0 {
			t.Fatalf("seed %d: left %+v, flow %+v", seed, l, w.flow)
		}
	}
}

// TestFull: beyond queues is "queue-full", without queues "concurrency-limit"; without shares there is a jail.
func TestFull(t *testing.T) {
	none := func(time.Duration) {}
	w := newWorld(t, 2, limited("l", 1, 0, 1, 1, 3))
	for i := range 5 { // two execute, three wait
		if why := w.serve("a", 1, time.Second, none); why != servedFine {
			t.Fatal(i, why)
		}
	}
	if why := w.serve("a", 1, time.Second, none); why != queueFull || w.flow.rejected[queueFull] != 1 {
		t.Errorf("%q %v", why, w.flow.rejected)
	}
	w = newWorld(t, 2, limited("l", 1, 0, 0, 0, 0))
	w.serve("a", 2, time.Second, none)
	if why := w.l.begin(w.now, &ticket{flow: w.flow, work: work{seats: 1}}, 0); why != noSeats {
		t.Errorf("%q", why)
	}
	w = newWorld(t, 0, limited("l", 0, 0, 1, 1, 1))
	tk := &ticket{flow: w.flow, work: work{seats: 1}}
	if why := w.l.begin(w.now, tk, 0); why != servedFine || tk.state != stateWaiting {
		t.Errorf("%q, state %d: nothing leaves a level of zero seats", why, tk.state)
	}
	w.l.setLimit(w.now, 1)
	if tk.state != stateExecuting {
		t.Error("a limit that was raised lets nobody go")
	}
}

// TestWiderThanTheLimit: such a request is served alone.
func TestWiderThanTheLimit(t *testing.T) {
	w := newWorld(t, 3, limited("l", 1, 0, 8, 2, 10))
	ask := func(seats int) *ticket {
		tk := &ticket{flow: w.flow, work: work{seats: seats}}
		w.l.begin(w.now, tk, uint64(seats)*7919)
		return tk
	}
	small, wide := ask(1), ask(10)
	if small.state != stateExecuting || wide.state != stateWaiting {
		t.Fatal(small.state, wide.state)
	}
	w.l.finish(w.now, small)
	if wide.state != stateExecuting || w.l.taken != 10 {
		t.Fatal(wide.state, w.l.taken)
	}
	if late := ask(1); late.state != stateWaiting {
		t.Error("served beside what is wider than the limit")
	}
}

func TestRetryAfter(t *testing.T) {
	var d drops
	now := epoch
	burst := func(n int) int {
		for range n {
			d.note(now)
		}
		return d.retryAfter()
	}
	if got := burst(1); got != 1 {
		t.Errorf("first: %d", got)
	}
	var got []int
	for range 100 {
		now = now.Add(time.Second)
		got = append(got, burst(10))
	}
	if got[2] != 2 || got[99] != maxRetryAfter {
		t.Errorf("under load: %v", got)
	}
	now = now.Add(time.Hour)
	if got := burst(1); got != 1 {
		t.Errorf("an hour later: %d", got)
	}
}

func TestDivide(t *testing.T) {
	level := func(nominal, lower, upper, peak int, smoothed float64) claim {
		return claim{limits: limits{nominal: nominal, lower: lower, upper: upper}, peak: peak, smoothed: smoothed}
	}
	exempt := func(peak int) claim { return claim{exempt: true, peak: peak} }
	for _, c := range []struct {
		name   string
		claims []claim
		want   []int
	}{
		{"nobody asks", []claim{level(100, 50, 1000, 0, 0), level(100, 50, 1000, 0, 0)}, []int{100, 100}},
		{"one asks for all", []claim{level(100, 50, 1000, 300, 300), level(100, 50, 1000, 0, 0)}, []int{150, 50}},
		{"one may not borrow", []claim{level(100, 50, 100, 300, 300), level(100, 50, 1000, 0, 0)}, []int{100, 100}},
		{"both ask for all", []claim{level(100, 10, 1000, 300, 300), level(50, 10, 1000, 300, 300)}, []int{75 + 25, 50}},
		{"nothing is lent", []claim{level(100, 100, 100, 300, 300), level(50, 50, 50, 0, 0)}, []int{100, 50}},
		{"exempt ones take their part", []claim{level(100, 50, 1000, 0, 0), level(100, 50, 1000, 0, 0), exempt(50)}, []int{75, 75, 50}},
		{"exempt ones take all", []claim{level(100, 50, 1000, 100, 100), level(100, 50, 1000, 100, 100), exempt(500)}, []int{50, 50, 500}},
		{"less than promised", []claim{level(100, 50, 1000, 100, 100), level(100, 50, 1000, 50, 50), exempt(75)}, []int{75, 50, 75}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := divide(c.claims); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// TestDivideHolds: whatever is claimed, bounds hold, what is promised is given, and nothing is left over that somebody may have.
func TestDivideHolds(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for range 2000 {
		claims := make([]claim, 1+r.IntN(8))
		total, upper := 0, 0
		for i := range claims {
			nominal := r.IntN(200)
			lower := r.IntN(nominal + 1)
			claims[i] = claim{limits: limits{nominal: nominal, lower: lower, upper: nominal + r.IntN(300)}, peak: r.IntN(500), smoothed: r.Float64() * 500}
			total += nominal
			upper += claims[i].limits.upper
		}
		sum := 0
		for i, got := range divide(claims) {
			c := &claims[i]
			if got < c.limits.lower || got > c.limits.upper || got < c.floor() {
				t.Fatalf("%+v gets %d", *c, got)
			}
			sum += got
		}
		if math.Abs(float64(sum-min(total, upper))) > float64(len(claims)) { // rounding
			t.Fatalf("%d of %d seats given to %+v", sum, total, claims)
		}
	}
}

func TestLimits(t *testing.T) {
	conf := limited("l", 100, 90, 128, 6, 50)
	if got, want := limitsOf(conf, 600, 245), (limits{nominal: 245, lower: 24, upper: 845, width: 10}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	conf.Spec.Limited.BorrowingLimitPercent = ptr.To(int32(50))
	if got, want := limitsOf(conf, 60, 245), (limits{nominal: 25, lower: 2, upper: 38, width: 4}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := limitsOf(conf, 60, 0); got.nominal != 0 {
		t.Errorf("%+v", got)
	}
}
