// Package env is what every controller is given: a client, shared informers, a recorder of events, a log and a clock.
// Controllers hold no other way to the world.
package env

import (
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
)

// Env is shared by the controllers of one process. A controller takes its informers from it in its constructor,
// before they are started.
type Env struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Events    record.EventBroadcaster
	Log       *slog.Logger
	Clock     clock.Clock
	// Metrics count the loops' work; nil counts nothing.
	Metrics *loop.Metrics
}

// Recorder writes events whose source is component, as upstream's controllers name themselves.
func (e Env) Recorder(component string) record.EventRecorder {
	return e.Events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
}

// Loop makes a loop that logs to the environment's log and counts in its metrics.
func (e Env) Loop(cfg loop.Config) *loop.Loop {
	cfg.Log, cfg.Metrics = e.Log, e.Metrics
	return loop.New(cfg)
}
