package probes

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Kind of a probe.
type Kind int

// The kinds of probes.
const (
	Startup Kind = iota
	Readiness
	Liveness
)

func (k Kind) String() string { return [...]string{"Startup", "Readiness", "Liveness"}[k] }

// Target is one running container instance.
type Target struct {
	Pod       *v1.Pod
	Container *v1.Container
	ID        string
	IP        string
	StartedAt time.Time
	// Started: the startup probe was passed before, in another life of the agent.
	Started bool
}

// Listener takes what probes find. It must not block.
type Listener interface {
	// Verdict is told when the answer, after thresholds, has changed.
	Verdict(t Target, k Kind, ok bool)
	// Tell is told what an event is to say of a question: its reason and message.
	Tell(t Target, reason, message string)
}

// Manager watches containers.
type Manager struct {
	ctx    context.Context
	asker  *Asker
	listen Listener

	mu      sync.Mutex
	watched map[string]*watched // by container ID
}

type watched struct {
	target  Target
	started chan struct{} // closed when the startup probe has passed, or there is none
	cancel  context.CancelFunc
	calm    context.CancelFunc // ends startup and liveness only
	wg      sync.WaitGroup
	asked   [Liveness + 1][3]atomic.Uint64 // by kind and outcome
}

// outcomes are the results of questions as metrics name them.
var outcomes = [...]string{"successful", "failed", "unknown"}

func (w *watched) count(k Kind, r Result) {
	switch {
	case r.OK():
		w.asked[k][0].Add(1)
	case r == Failure:
		w.asked[k][1].Add(1)
	default:
		w.asked[k][2].Add(1)
	}
}

// Counts tells how often each container that is watched was asked, by kind and outcome.
func (m *Manager) Counts(tell func(t Target, k Kind, outcome string, n uint64)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.watched {
		for k := range w.asked {
			for i := range w.asked[k] {
				if n := w.asked[k][i].Load(); n > 0 {
					tell(w.target, Kind(k), outcomes[i], n)
				}
			}
		}
	}
}

// New makes a Manager whose probes end with ctx.
func New(ctx context.Context, asker *Asker, listen Listener) *Manager {
	return &Manager{ctx: ctx, asker: asker, listen: listen, watched: map[string]*watched{}}
}

// Watch probes the instance from now on. Another call for the same instance changes nothing.
func (m *Manager) Watch(t Target) {
	c := t.Container
	if c.StartupProbe == nil && c.ReadinessProbe == nil && c.LivenessProbe == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.watched[t.ID] != nil || m.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(m.ctx)
	restless, calm := context.WithCancel(ctx)
	w := &watched{target: t, started: make(chan struct{}), cancel: cancel, calm: calm}
	m.watched[t.ID] = w
	if c.StartupProbe != nil && !t.Started {
		w.wg.Go(func() { m.run(restless, w, Startup, c.StartupProbe) })
	} else {
		close(w.started)
	}
	if c.ReadinessProbe != nil {
		w.wg.Go(func() { m.run(ctx, w, Readiness, c.ReadinessProbe) })
	}
	if c.LivenessProbe != nil {
		w.wg.Go(func() { m.run(restless, w, Liveness, c.LivenessProbe) })
	}
}

// Calm ends what could stop the instance, which is being stopped anyway; readiness is still asked for.
func (m *Manager) Calm(id string) {
	m.mu.Lock()
	w := m.watched[id]
	m.mu.Unlock()
	if w != nil {
		w.calm()
	}
}

// Forget ends all probes of the instance. It does not wait for a question under way; its answer is dropped.
func (m *Manager) Forget(id string) {
	m.mu.Lock()
	w := m.watched[id]
	delete(m.watched, id)
	m.mu.Unlock()
	if w != nil {
		w.cancel()
	}
}

// Close ends everything and waits for it.
func (m *Manager) Close() {
	m.mu.Lock()
	list := m.watched
	m.watched = map[string]*watched{}
	m.mu.Unlock()
	for _, w := range list {
		w.cancel()
		w.wg.Wait()
	}
}

// run asks until ctx ends, or the startup probe has passed.
func (m *Manager) run(ctx context.Context, w *watched, k Kind, p *v1.Probe) {
	if k != Startup {
		select {
		case <-w.started:
		case <-ctx.Done():
			return
		}
	}
	period := time.Duration(max(p.PeriodSeconds, 1)) * time.Second
	initial := time.Duration(p.InitialDelaySeconds) * time.Second
	// A start that seems to be in the future is one before the clock was set back.
	timer := time.NewTimer(firstDelay(min(time.Until(w.target.StartedAt.Add(initial)), initial), period))
	defer timer.Stop()
	c := counter{success: max(p.SuccessThreshold, 1), failure: max(p.FailureThreshold, 1)}
	eager := time.Duration(0)
	if k == Readiness {
		eager = firstRetry
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		result, message := m.asker.Ask(ctx, p, w.target)
		if ctx.Err() != nil {
			return
		}
		w.count(k, result)
		ok := result.OK()
		if ok {
			eager = 0
		}
		if result != Success && (eager == 0 || eager > quietRetries) {
			m.listen.Tell(w.target, reasonOf(result), fmt.Sprintf(wordsOf(result), k, message))
		}
		if verdict, changed := c.count(ok); changed {
			m.listen.Verdict(w.target, k, verdict)
			if k == Startup && verdict {
				close(w.started)
			}
			if k != Readiness && !verdict || k == Startup {
				return // the container will be stopped, or has started
			}
		}
		pause := period
		if eager > 0 {
			pause = min(period, eager)
			eager = min(2*eager, lastRetry)
		}
		timer.Reset(max(pause-time.Since(began), 0))
	}
}

// firstDelay is how long to wait before the first question, of which due is left. One that is long overdue, as when the agent
// comes back to a node full of containers, is asked at some moment of the first period, so that not all are at once.
func firstDelay(due, period time.Duration) time.Duration {
	if due < -period {
		return rand.N(period)
	}
	return max(due, 0)
}

// reasonOf and wordsOf are the kubelet's for an event about a question.
func reasonOf(r Result) string {
	if r == Warning {
		return "ProbeWarning"
	}
	return "Unhealthy"
}

func wordsOf(r Result) string {
	switch r {
	case Warning:
		return "%s probe warning: %s"
	case Unknown:
		return "%s probe errored and resulted in unknown state: %s"
	}
	return "%s probe failed: %s"
}

// Until a container was ready once, its readiness is asked for more often than its period says, from firstRetry to lastRetry
// apart: a server that needs a moment to listen would otherwise lose a whole period. Failures before quietRetries are
// the normal course of a start and no event.
const (
	firstRetry   = 50 * time.Millisecond
	quietRetries = 800 * time.Millisecond
	lastRetry    = time.Second
)

// counter turns answers into verdicts by thresholds.
type counter struct {
	success, failure int32
	run              int32 // answers in a row that were like last
	last             bool
	known, verdict   bool
}

// count takes an answer; changed tells that the verdict is another one than before.
func (c *counter) count(ok bool) (verdict, changed bool) {
	if c.run == 0 || ok != c.last {
		c.run, c.last = 0, ok
	}
	c.run++
	need := c.failure
	if ok {
		need = c.success
	}
	if c.run < need || c.known && c.verdict == ok {
		return c.verdict, false
	}
	c.known, c.verdict = true, ok
	return ok, true
}
