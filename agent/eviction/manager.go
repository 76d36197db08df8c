package eviction

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	corev1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/coracle-dev/coracle/agent/lifecycle"
)

// Node is what the Manager acts on.
type Node interface {
	// Active are the pods that have not ended and are not being ended by the node.
	Active() []*v1.Pod
	// Usage measures a pod; written asks also for what it has on disk, which costs a walk through it.
	Usage(ctx context.Context, pod *v1.Pod, written bool) (u PodUsage, ok bool)
	// Evict begins to end the pod for good and tells of it.
	Evict(pod *v1.Pod, e Eviction)
	// Ended tells whether a pod's containers have ended and what it held is given back.
	Ended(pod *v1.Pod) bool
	// Reclaim removes dead containers and unused images.
	Reclaim(ctx context.Context) error
	// Changed is told of new conditions; a warning, if not empty, is an event of the node.
	Changed(warning string)
}

// Eviction is how a pod is ended.
type Eviction struct {
	Message     string
	Annotations map[string]string
	Grace       time.Duration
	// Disruption: it is the node's doing and not the pod's, which the condition DisruptionTarget tells.
	Disruption bool
}

const (
	interval = 10 * time.Second
	// shortest is how long after a look the next one follows at the earliest, however loud the kernel's alarm.
	shortest = time.Second
	// A hard threshold leaves a pod no time.
	noGrace = time.Second
	// cleanup is for how long an evicted pod's end is waited for before others are looked at.
	cleanup      = 30 * time.Second
	cleanupCheck = 200 * time.Millisecond
)

// Config of a Manager.
type Config struct {
	Policy Policy
	Node   Node
	// Observe reads the signals.
	Observe func(context.Context) (Observations, error)
	// SplitImages: images have a file system of their own.
	SplitImages bool
	// Alarm, if set, has an element when memory runs short.
	Alarm <-chan struct{}
	Log   *slog.Logger
}

// Manager guards one node.
type Manager struct {
	cfg      Config
	pressure pressure // of Run alone, after New

	mu         sync.Mutex
	conditions []v1.NodeConditionType
}

// New makes a Manager that knows the node's conditions already; Run must follow.
func New(ctx context.Context, cfg Config) *Manager {
	if cfg.Policy.Interval == 0 {
		cfg.Policy.Interval = interval
	}
	m := &Manager{cfg: cfg}
	_, _ = m.look(ctx)
	return m
}

// Run looks at the node from time to time, and when memory runs short, until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	timer := time.NewTimer(m.cfg.Policy.Interval)
	defer timer.Stop()
	for {
		regular := false
		select {
		case <-ctx.Done():
			return
		case <-m.cfg.Alarm:
		case <-timer.C:
			regular = true
		}
		evicted := m.check(ctx, regular)
		for _, pod := range evicted {
			m.awaitEnd(ctx, pod)
		}
		next := m.cfg.Policy.Interval
		if len(evicted) > 0 {
			next = min(next, shortest) // perhaps that was not enough
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
		case <-time.After(min(shortest, next)):
		}
	}
}

// Conditions are the pressures that the node is under, sorted.
func (m *Manager) Conditions() []v1.NodeConditionType {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.conditions
}

// Admit refuses pods that would make the pressure worse.
func (m *Manager) Admit(pod *v1.Pod) *lifecycle.Rejection {
	under := m.Conditions()
	if len(under) == 0 || Critical(pod) {
		return nil
	}
	if len(under) == 1 && under[0] == v1.NodeMemoryPressure {
		taint := []v1.Taint{{Key: v1.TaintNodeMemoryPressure, Effect: v1.TaintEffectNoSchedule}}
		_, untolerated := corev1.FindMatchingUntoleratedTaint(klog.Background(), taint, pod.Spec.Tolerations, nil, false)
		if lifecycle.QOSClass(&pod.Spec) != v1.PodQOSBestEffort || !untolerated {
			return nil
		}
	}
	return &lifecycle.Rejection{Reason: lifecycle.ReasonEvicted, Message: fmt.Sprintf("Pod was rejected: The node had condition: %v. ", under)}
}

// look observes and brings the conditions up to date.
func (m *Manager) look(ctx context.Context) ([]Threshold, Observations) {
	o, err := m.cfg.Observe(ctx)
	if err != nil {
		m.cfg.Log.Warn("the node's resources not observed", "error", err)
	}
	drive, conditions := m.pressure.observe(m.cfg.Policy, o, time.Now())
	m.mu.Lock()
	changed := !slices.Equal(conditions, m.conditions)
	m.conditions = conditions
	m.mu.Unlock()
	if changed {
		m.cfg.Node.Changed("")
	}
	return drive, o
}

// check looks once and does what is to be done; it returns the pods that it began to evict. An alarm is no cause to measure
// what pods have written.
func (m *Manager) check(ctx context.Context, regular bool) []*v1.Pod {
	drive, o := m.look(ctx)
	pods := m.cfg.Node.Active()
	if regular {
		if over := m.enforceLimits(ctx, pods); len(over) > 0 {
			return over // see first what that gives
		}
	}
	if len(drive) == 0 {
		return nil
	}
	t := drive[0]
	m.cfg.Log.Warn("the node runs short", "signal", t.Signal, "available", o[t.Signal].Available, "capacity", o[t.Signal].Capacity)
	m.cfg.Node.Changed(fmt.Sprintf("Attempting to reclaim %s", signals[t.Signal].resource))
	on, reclaim := m.places(t.Signal)
	if reclaim && m.reclaimed(ctx) {
		return nil
	}
	return m.evictOne(ctx, pods, t, o, on)
}

// places are the file systems that count for a signal, and whether removing images and containers may help.
func (m *Manager) places(s Signal) (on places, reclaim bool) {
	switch s {
	case NodeFsAvailable, NodeFsInodesFree:
		return places{node: true, image: !m.cfg.SplitImages}, !m.cfg.SplitImages
	case ImageFsAvailable, ImageFsInodesFree:
		return places{node: !m.cfg.SplitImages, image: true}, true
	}
	return places{}, false
}

// reclaimed gives back what nobody needs, and tells whether that was enough.
func (m *Manager) reclaimed(ctx context.Context) bool {
	if err := m.cfg.Node.Reclaim(ctx); err != nil {
		m.cfg.Log.Warn("not all that is unused was removed", "error", err)
	}
	o, err := m.cfg.Observe(ctx)
	return err == nil && !slices.ContainsFunc(m.cfg.Policy.Thresholds, func(t Threshold) bool { return o.met(t, true) })
}

// enforceLimits ends every pod that uses more local storage than it may.
func (m *Manager) enforceLimits(ctx context.Context, pods []*v1.Pod) (evicted []*v1.Pod) {
	for _, pod := range pods {
		if !limited(pod) || Critical(pod) {
			continue
		}
		if u, ok := m.cfg.Node.Usage(ctx, pod, true); ok {
			if why := overuse(pod, u); why != "" {
				m.cfg.Node.Evict(pod, Eviction{Message: why, Grace: noGrace})
				evicted = append(evicted, pod)
			}
		}
	}
	return evicted
}

// evictOne ends the first pod in order.
func (m *Manager) evictOne(ctx context.Context, pods []*v1.Pod, t Threshold, o Observations, on places) []*v1.Pod {
	var list []candidate
	for _, pod := range pods {
		if Critical(pod) {
			continue
		}
		c := candidate{pod: pod}
		c.usage, c.known = m.cfg.Node.Usage(ctx, pod, on.node || on.image)
		list = append(list, c)
	}
	if len(list) == 0 {
		m.cfg.Log.Error("no pod is left that could be evicted", "signal", t.Signal)
		return nil
	}
	rank(list, t.Signal, on)
	victim := list[0]
	grace := noGrace
	if !t.hard() {
		grace = m.cfg.Policy.MaxPodGrace
		if own := victim.pod.Spec.TerminationGracePeriodSeconds; own != nil {
			grace = min(grace, time.Duration(*own)*time.Second)
		}
	}
	message, annotations := words(t, o, victim)
	m.cfg.Node.Evict(victim.pod, Eviction{Message: message, Annotations: annotations, Grace: grace, Disruption: true})
	return []*v1.Pod{victim.pod}
}

// awaitEnd waits for a pod to have given back what it held.
func (m *Manager) awaitEnd(ctx context.Context, pod *v1.Pod) {
	for deadline := time.Now().Add(cleanup); !m.cfg.Node.Ended(pod) && time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return
		case <-time.After(cleanupCheck):
		}
	}
}
