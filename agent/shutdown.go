package agent

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/agent/lifecycle"
)

// Shutdown is how pods end before their machine does.
type Shutdown struct {
	// Grace is the time for all pods; CriticalGrace is the part of it that is kept for critical ones, which end last. Without
	// Grace nothing is done.
	Grace, CriticalGrace time.Duration
	// Imminent is received from, or closed, when the machine is about to go down.
	Imminent <-chan struct{}
}

const (
	// criticalPriority is that of system-cluster-critical, from which on pods are critical.
	criticalPriority = 2_000_000_000

	nodeShutdownReason  = "NodeShutdown"
	nodeShutdownMessage = "Pod was rejected as the node is shutting down."
	terminatedReason    = "Terminated"
	terminatedMessage   = "Pod was terminated in response to imminent node shutdown."
	shuttingDown        = "node is shutting down"
)

// awaitShutdown ends the pods in the order of their priority once the machine is about to go down. The node is not ready from
// then on, and takes no pods.
func (a *Agent) awaitShutdown(ctx context.Context) {
	cfg := a.cfg.Shutdown
	if cfg.Grace <= 0 || cfg.Imminent == nil {
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-cfg.Imminent:
	}
	a.cfg.Log.Info("the node is shutting down: its pods end", "grace", cfg.Grace, "critical", cfg.CriticalGrace)
	a.goesDown.Store(true)
	a.reporter.Poke()
	a.endPods(ctx, max(cfg.Grace-cfg.CriticalGrace, time.Second), func(p *v1.Pod) bool { return !critical(p) })
	a.endPods(ctx, max(cfg.CriticalGrace, time.Second), critical)
	a.cfg.Log.Info("pods have ended, as far as there was time")
}

func critical(pod *v1.Pod) bool {
	return pod.Spec.Priority != nil && *pod.Spec.Priority >= criticalPriority
}

// endPods ends the chosen pods and waits for them, for no longer than grace.
func (a *Agent) endPods(ctx context.Context, grace time.Duration, chosen func(*v1.Pod) bool) {
	var workers []*worker
	for _, pod := range a.taken() {
		if w := a.worker(string(pod.UID)); w != nil && chosen(pod) {
			w.endForShutdown(grace)
			workers = append(workers, w)
		}
	}
	deadline := time.NewTimer(grace)
	defer deadline.Stop()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for _, w := range workers {
		for !w.over() {
			select {
			case <-ctx.Done():
				return
			case <-deadline.C:
				return
			case <-look.C:
			}
		}
	}
}

func (w *worker) endForShutdown(grace time.Duration) {
	w.mu.Lock()
	if w.state.Rejection == nil && w.state.Stage == lifecycle.Syncing {
		w.state.Rejection = &lifecycle.Rejection{Reason: terminatedReason, Message: terminatedMessage, Grace: grace, Disruption: true}
	}
	w.mu.Unlock()
	w.poke()
}

// over: nothing of the pod runs, and the API server knows, unless it has no such pod.
func (w *worker) over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.Stage >= lifecycle.Terminated && (w.state.Gone || w.reported())
}
