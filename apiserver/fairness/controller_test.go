package fairness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

func ask(name, verb string, groups ...string) *Request {
	return &Request{
		User: &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)},
		Info: &request.RequestInfo{IsResourceRequest: true, Verb: verb, APIVersion: "v1", Resource: "pods", Namespace: "default"},
	}
}

// clock stands still until it is told.
type clock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[int]timer
	n      int
}

type timer struct {
	at time.Time
	do func()
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) After(d time.Duration, do func()) func() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	n := c.n
	c.timers[n] = timer{c.now.Add(d), do}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.timers, n)
		return true
	}
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	end := c.now.Add(d)
	for {
		first := 0
		for n, t := range c.timers {
			if !t.at.After(end) && (first == 0 || t.at.Before(c.timers[first].at)) {
				first = n
			}
		}
		if first == 0 {
			break
		}
		t := c.timers[first]
		delete(c.timers, first)
		c.now = t.at
		c.mu.Unlock()
		t.do()
		c.mu.Lock()
	}
	c.now = end
	c.mu.Unlock()
}

func (c *clock) set() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.timers)
}

func withClock(seats int) (*Controller, *clock) {
	k := &clock{now: epoch, timers: map[int]timer{}}
	return New(Config{Seats: seats, Now: k.Now, After: k.After}), k
}

// twoLevels has users a... in the level "a" and b... in "b", of the same shares.
func twoLevels(c *Controller, lend int32) {
	c.Configure([]*flowcontrolv1.PriorityLevelConfiguration{limited("a", 50, lend, 64, 6, 50), limited("b", 50, lend, 64, 6, 50)},
		[]*flowcontrolv1.FlowSchema{schemaOf("a", 10, "a", everything, "a", "a2"), schemaOf("b", 10, "b", everything, "b")})
}

func (c *Controller) level(name string) *level { return c.config.Load().levels[name] }

func until(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("not in time")
		}
	}
}

// crowd begins n requests of a user; those that have their turn come over the channel.
func crowd(t *testing.T, c *Controller, name string, n int) chan *Seats {
	t.Helper()
	turns := make(chan *Seats, n)
	r := ask(name, "get")
	l := c.Classify(r).by.flow.level
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.executing + l.waiting
	}
	before := count()
	for range n {
		go func() {
			s, err := c.Begin(context.Background(), c.Classify(r), r, time.Hour)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			turns <- s
		}()
	}
	until(t, func() bool { return count() == before+n })
	return turns
}

func (c *Controller) limit(name string) int {
	l := c.level(name)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.limit
}

// TestBorrowing: a level that is asked for more than it has borrows what others lend, gives it back when they want it, and
// once nobody waits no timer is set.
func TestBorrowing(t *testing.T) {
	c, k := withClock(105)
	twoLevels(c, 80)
	if a, b := c.limit("a"), c.limit("b"); a != b || a < 40 {
		t.Fatalf("%d and %d seats at rest", a, b)
	}
	if k.set() != 0 {
		t.Error("a timer is set though nothing was asked for")
	}
	k.pass(time.Minute)
	as := crowd(t, c, "a", 120)
	k.pass(period)
	if a, b := c.limit("a"), c.limit("b"); a < 75 || b < 10 {
		t.Errorf("a asks for all: %d and %d", a, b)
	}
	if k.set() < 1 {
		t.Error("somebody waits, but no timer is set")
	}
	bs := crowd(t, c, "b", 60)
	for range 120 { // a's go and come no more
		(<-as).Release()
		k.pass(100 * time.Millisecond)
	}
	k.pass(period)
	if b := c.limit("b"); b < 50 {
		t.Errorf("b asks for its own: %d", b)
	}
	for range 60 {
		(<-bs).Release()
	}
	until(t, func() bool { return c.level("a").idle() && c.level("b").idle() })
	k.pass(2 * period)
	if n := k.set(); n != 0 {
		t.Errorf("%d timers are set though nobody waits", n)
	}
}

// TestNominalShare: what one level asks for does not take from another what it is promised.
func TestNominalShare(t *testing.T) {
	c, k := withClock(20)
	twoLevels(c, 0)
	crowd(t, c, "a", 100)
	k.pass(3 * period)
	crowd(t, c, "b", 9)
	l := c.level("b")
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting != 0 || l.executing != 9 {
		t.Errorf("%d wait, %d execute", l.waiting, l.executing)
	}
}

// TestPatience: who waits too long is turned away, as is who goes, and nobody else's turn is lost.
func TestPatience(t *testing.T) {
	c, k := withClock(2)
	c.Configure([]*flowcontrolv1.PriorityLevelConfiguration{limited("a", 100, 0, 1, 1, 50)}, []*flowcontrolv1.FlowSchema{schemaOf("a", 10, "a", everything, "a")})
	r := ask("a", "get")
	class := c.Classify(r)
	running := crowd(t, c, "a", 2)
	l := c.level("a")
	waiting := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.waiting
	}
	errs := make(chan error, 2)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, err := c.Begin(context.Background(), class, r, 15*time.Second)
		errs <- err
	}()
	until(t, func() bool { return waiting() == 1 })
	go func() {
		_, err := c.Begin(ctx, class, r, time.Hour)
		errs <- err
	}()
	until(t, func() bool { return waiting() == 2 })
	k.pass(14 * time.Second)
	if waiting() != 2 {
		t.Fatal("turned away too soon")
	}
	k.pass(time.Second)
	var rejected *Rejected
	if err := <-errs; !errors.As(err, &rejected) || rejected.Reason != "time-out" || rejected.RetryAfter < 1 {
		t.Errorf("%v", err)
	}
	cancel()
	if err := <-errs; !errors.As(err, &rejected) || rejected.Reason != "cancelled" {
		t.Errorf("%v", err)
	}
	for range 2 {
		s := <-running
		s.Release()
		s.Release() // for nothing
	}
	if !l.idle() || l.dispatched != 2 || l.late != 1 || l.left != 1 {
		t.Errorf("%+v", l)
	}
}

// TestReconfigure: a level whose object goes drains; another that comes takes requests at once; mandatory ones are always there.
func TestReconfigure(t *testing.T) {
	c, _ := withClock(20)
	twoLevels(c, 0)
	running := crowd(t, c, "a", 15)
	c.Configure([]*flowcontrolv1.PriorityLevelConfiguration{limited("b", 50, 0, 64, 6, 50)},
		[]*flowcontrolv1.FlowSchema{schemaOf("a", 10, "b", everything, "a"), schemaOf("lost", 10, "a", everything, "a2")})
	if _, l := c.Classify(ask("a", "get")).Names(); l != "b" {
		t.Errorf("moved to %s", l)
	}
	if _, l := c.Classify(ask("a2", "get")).Names(); l != "catch-all" {
		t.Errorf("a schema without a level is used: %s", l)
	}
	if l := c.level("a"); l == nil || !l.gone || l.limits.nominal == 0 {
		t.Errorf("a level with requests is gone: %+v", l)
	}
	for range 15 {
		(<-running).Release()
	}
	if c.level("a") != nil {
		t.Error("a level without an object is kept though it is idle")
	}
	if c.level("exempt") == nil || c.level("catch-all") == nil {
		t.Error("a mandatory level is missing")
	}
	if s, _ := c.Classify(ask("x", "get", user.SystemPrivilegedGroup)).Names(); s != "exempt" {
		t.Errorf("administrators: %s", s)
	}
}

// TestLinger: after a mutation that many watch, seats stay taken for a moment.
func TestLinger(t *testing.T) {
	c, k := withClock(600)
	for range 25 {
		c.Watch(ask("w", "watch"))
	}
	r := ask("jane", "update")
	s, err := c.Begin(context.Background(), c.Classify(r), r, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	l := s.t.flow.level
	if l.taken != 3 {
		t.Errorf("%d seats", l.taken)
	}
	s.Release()
	if l.taken != 3 || l.executing != 0 {
		t.Errorf("%d seats, %d execute", l.taken, l.executing)
	}
	k.pass(5 * time.Millisecond)
	if !l.idle() {
		t.Errorf("%d seats", l.taken)
	}
}

// TestCrowdOfUsers: many at once, some of whom give up, while the configuration changes: every seat comes back.
func TestCrowdOfUsers(t *testing.T) {
	c := New(Config{Seats: 8})
	twoLevels(c, 50)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 0))
			req := ask([]string{"a", "b", "a2", "other"}[i%4], []string{"get", "list", "create"}[i%3])
			for range 60 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(2000))*time.Microsecond)
				s, err := c.Begin(ctx, c.Classify(req), req, time.Duration(r.IntN(3000))*time.Microsecond)
				if err == nil {
					time.Sleep(time.Duration(r.IntN(100)) * time.Microsecond)
					s.Release()
				}
				cancel()
			}
		})
	}
	for i := range 20 {
		twoLevels(c, int32(i))
		_ = c.DumpRequests(&strings.Builder{}, true)
		time.Sleep(time.Millisecond)
	}
	wg.Wait()
	for name, l := range c.config.Load().levels {
		l.mu.Lock()
		if !l.idle() || len(l.busy) != 0 || l.running.n != 0 {
			t.Errorf("level %s keeps %d seats, %d queues", name, l.taken, len(l.busy))
		}
		l.mu.Unlock()
	}
}

func TestShows(t *testing.T) {
	c, k := withClock(4)
	c.Configure([]*flowcontrolv1.PriorityLevelConfiguration{limited("a", 95, 0, 4, 1, 50)}, []*flowcontrolv1.FlowSchema{schemaOf("a", 10, "a", everything, "a")})
	running := crowd(t, c, "a", 6)
	k.pass(time.Second)
	var levels, queues, requests strings.Builder
	if err := errors.Join(c.DumpLevels(&levels), c.DumpQueues(&queues), c.DumpRequests(&requests, true)); err != nil {
		t.Fatal(err)
	}
	fields := func(text string, line int) string {
		return strings.Join(strings.Fields(strings.Split(text, "\n")[line]), " ")
	}
	if got := fields(levels.String(), 1); got != "a, 1, false, false, 2, 4, 4, 0, 0, 0" {
		t.Errorf("%s", levels.String())
	}
	if got := fields(queues.String(), 1); !strings.HasPrefix(got, "a, ") || !strings.Contains(got, ", 2, 4, 4, ") {
		t.Errorf("%s", queues.String())
	}
	if got := strings.Count(requests.String(), "\n"); got != 7 || !strings.Contains(requests.String(), "2026-01-02T03:04:05Z") {
		t.Errorf("%s", requests.String())
	}
	for range 6 {
		(<-running).Release()
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(c.Collector())
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, f := range families {
		for _, m := range f.Metric {
			if len(m.Label) > 1 && m.Label[1].GetValue() == "a" || m.Label[0].GetValue() == "a" {
				text = append(text, fmt.Sprintf("%s %v %v %d", strings.TrimPrefix(f.GetName(), "apiserver_flowcontrol_"), m.GetGauge().GetValue(), m.GetCounter().GetValue(), m.GetHistogram().GetSampleCount()))
			}
		}
	}
	for _, want := range []string{"nominal_limit_seats 4 0 0", "dispatched_requests_total 0 6 0", "request_wait_duration_seconds 0 0 6", "current_inqueue_requests 0 0 0", "current_executing_requests 0 0 0"} {
		if !slices.Contains(text, want) {
			t.Errorf("no %s in %q", want, text)
		}
	}
}

func benchmark(b *testing.B, r *Request) {
	c := New(Config{Seats: 600})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ctx := context.Background()
		for pb.Next() {
			s, err := c.Begin(ctx, c.Classify(r), r, time.Second)
			if err != nil {
				b.Fatal(err)
			}
			s.Release()
		}
	})
}

// The cost of flow control for a request that does not wait.
func BenchmarkExempt(b *testing.B)  { benchmark(b, ask("admin", "get", user.SystemPrivilegedGroup)) }
func BenchmarkLimited(b *testing.B) { benchmark(b, ask("jane", "get", "a", "b")) }
func BenchmarkCreate(b *testing.B)  { benchmark(b, ask("jane", "create", "a", "b")) }
func BenchmarkNode(b *testing.B)    { benchmark(b, ask("system:node:n", "get", user.NodesGroup)) }
