// Package scheduler gives each pending pod a node. Its invariant: decisions are made one at a time on one model,
// which counts a pod from the moment it is decided; what it writes is pods/binding (with the pod's UID), the PodScheduled
// condition, nominatedNodeName, the removal of pods that make room, and Events, nothing else.
package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/leader"
	"github.com/coracle-dev/coracle/scheduler/decide"
	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
	"github.com/coracle-dev/coracle/scheduler/plugin"
	"github.com/coracle-dev/coracle/scheduler/profile"
	"github.com/coracle-dev/coracle/scheduler/queue"
)

// LeaseName is the lease in kube-system that a scheduler waits for where one must lead: upstream's, so that the two never work
// at the same time.
const LeaseName = "kube-scheduler"

// Config is what Run needs.
type Config struct {
	// RestConfig leads to the API server. Required.
	RestConfig *rest.Config
	// Shared, inside the server's process, is where pods and nodes come from.
	Shared client.Shared
	// Profiles are what the schedulerNames mean; the zero value is upstream's one profile.
	Profiles profile.Config
	// LeaderElect makes the process wait for the lease; so does a configuration in Profiles that says so.
	LeaderElect bool
	// Binders is how many bindings may be under way at once; zero is 32.
	Binders int
	// Metrics collects what is measured; nil measures all the same, for nobody.
	Metrics *Metrics
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// framework decides for the pods of one schedulerName.
type framework struct {
	profile  profile.Profile
	decider  *decide.Decider
	plugins  []*plugin.Client
	recorder events.EventRecorder
	local    uint32 // the bits of the filters that look at one node alone
}

// Scheduler is the running loop.
type Scheduler struct {
	cfg     Config
	kube    kubernetes.Interface
	log     *slog.Logger
	binders chan struct{}
	wake    chan struct{}
	// outside are the pods that plug-ins out of process are to judge.
	outside *backlog

	mu         sync.Mutex
	cluster    *model.Cluster
	queue      *queue.Queue
	frameworks map[string]*framework
	// inFlight are pods whose plug-ins are asked, whose binding is under way, or not yet seen from the API server, by UID.
	inFlight map[types.UID]*queue.Item
	// stirred is closed, and replaced, when those who wait for volumes should look again.
	stirred chan struct{}
}

// Run schedules until ctx ends, or until leadership is lost, which is an error.
func Run(ctx context.Context, cfg Config) error {
	if len(cfg.Profiles.Profiles) == 0 {
		cfg.Profiles = profile.Default()
	}
	if cfg.Binders == 0 {
		cfg.Binders = 32
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	for _, note := range cfg.Profiles.Notes {
		slog.Warn("configuration: "+note, "component", "scheduler")
	}
	if !cfg.LeaderElect && !cfg.Profiles.LeaderElect {
		return work(ctx, cfg)
	}
	lease := leader.Config{RestConfig: cfg.RestConfig, Name: LeaseName, Duration: cfg.Profiles.LeaseDuration}
	if cfg.Profiles.LeaseName != "" {
		lease.Name = cfg.Profiles.LeaseName
	}
	return leader.Run(ctx, lease, func(ctx context.Context, fenced *rest.Config) error {
		cfg.RestConfig = fenced
		return work(ctx, cfg)
	})
}

func work(ctx context.Context, cfg Config) error {
	kube, err := client.Config{RestConfig: cfg.RestConfig, Component: "scheduler"}.Clientset()
	if err != nil {
		return err
	}
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: kube.EventsV1()})
	defer broadcaster.Shutdown()
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("scheduler: record events: %w", err)
	}
	s, err := newScheduler(cfg, kube, func(name string) events.EventRecorder { return broadcaster.NewRecorder(scheme.Scheme, name) })
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.watch(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	stop := s.judgeOutside(ctx)
	defer stop()
	s.loop(ctx)
	return nil
}

func newScheduler(cfg Config, kube kubernetes.Interface, recorder func(name string) events.EventRecorder) (*Scheduler, error) {
	s := &Scheduler{
		cfg: cfg, kube: kube, log: slog.With("component", "scheduler"),
		binders: make(chan struct{}, cfg.Binders), wake: make(chan struct{}, 1), outside: newBacklog(),
		cluster: model.New(), queue: queue.New(cfg.Profiles.Backoff), frameworks: map[string]*framework{}, inFlight: map[types.UID]*queue.Item{},
		stirred: make(chan struct{}),
	}
	for _, p := range cfg.Profiles.Profiles {
		f := &framework{profile: p, recorder: recorder(p.Name)}
		s.frameworks[p.Name] = f
		var err error
		if f.decider, err = decide.New(p.Settings); err != nil {
			s.close()
			return nil, fmt.Errorf("profile %q: %w", p.Name, err)
		}
		f.local = f.decider.Local()
		for _, c := range p.Plugins {
			outside, err := plugin.New(c)
			if err != nil {
				s.close()
				return nil, fmt.Errorf("profile %q: %w", p.Name, err)
			}
			f.plugins = append(f.plugins, outside)
		}
	}
	cfg.Metrics.attach(s)
	return s, nil
}

func (s *Scheduler) close() {
	for _, f := range s.frameworks {
		for _, p := range f.plugins {
			p.Close()
		}
	}
}

// signal wakes the loop.
func (s *Scheduler) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// loop decides while pods are due, then sleeps until one becomes so or something happens.
func (s *Scheduler) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		for s.step(ctx) {
		}
		s.mu.Lock()
		at, due := s.queue.Next(s.cfg.Now())
		s.mu.Unlock()
		if due {
			timer.Reset(max(0, at.Sub(s.cfg.Now())))
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// step decides for one pod and sets off what follows; false where no pod is due.
func (s *Scheduler) step(ctx context.Context) bool {
	select {
	case s.binders <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	s.mu.Lock()
	item := s.queue.Pop(s.cfg.Now())
	if item == nil {
		s.mu.Unlock()
		<-s.binders
		return false
	}
	f := s.frameworks[item.Pod.Pod.Spec.SchedulerName]
	if len(f.plugins) > 0 {
		s.inFlight[item.Pod.Pod.UID] = item
		s.mu.Unlock()
		<-s.binders
		s.outside.put(item)
		return true
	}
	started := time.Now()
	then := s.settle(f, item, f.decider.Schedule(s.cluster, item.Pod))
	s.cfg.Metrics.decided(started)
	s.mu.Unlock()
	go func() {
		defer func() { <-s.binders }()
		then(ctx)
	}()
	return true
}

// settle takes a decision into the model and the queue, and gives what is left to be written. The lock is held.
func (s *Scheduler) settle(f *framework, item *queue.Item, d decide.Decision) (then func(context.Context)) {
	pod, now := item.Pod.Pod, s.cfg.Now()
	delete(s.inFlight, pod.UID)
	switch {
	case d.Node != "":
		return s.assume(f, item, d.Node)
	case d.Preempt != nil:
		s.cfg.Metrics.preempted(len(d.Preempt.Victims))
		s.cluster.Nominate(pod.UID, item.Pod, d.Preempt.Node)
		for _, victim := range d.Preempt.Victims {
			victim.Doomed = true
		}
		for _, p := range d.Preempt.Displaced {
			s.cluster.Nominate(p.Pod.UID, nil, "")
		}
		s.queue.Hold(item, d.RejectedBy, now)
		return func(ctx context.Context) { s.makeRoom(ctx, f, pod, d) }
	}
	clear := d.Unnominate && pod.Status.NominatedNodeName != ""
	if d.Unnominate {
		s.cluster.Nominate(pod.UID, nil, "")
	}
	s.queue.Rejected(item, d.RejectedBy, s.alike(f, item, d), now)
	return func(ctx context.Context) { s.report(ctx, f, pod, d.Message, clear) }
}

// assume counts the pod on its node from now on.
func (s *Scheduler) assume(f *framework, item *queue.Item, node string) (then func(context.Context)) {
	now := s.cfg.Now()
	s.queue.Placed(item, now)
	s.cluster.SetPod(item.Pod, node)
	s.inFlight[item.Pod.Pod.UID] = item
	s.happened(&filter.Event{Kind: filter.PodPlaced, Pod: item.Pod})
	if plan := s.planVolumes(f, item, node); !plan.Empty() {
		s.cluster.AssumeVolumes(item.Pod.Pod.UID, plan)
		return func(ctx context.Context) { go s.bindVolumes(ctx, f, item, plan) } // it may wait for minutes, and others are not to wait for it
	}
	return func(ctx context.Context) { s.bind(ctx, f, item, node) }
}

// alike is equal for pods that were rejected for the same reasons by what looks at single nodes only, so that what helps one helps
// all; empty for a pod that is alone with its troubles.
func (s *Scheduler) alike(f *framework, item *queue.Item, d decide.Decision) string {
	if d.RejectedBy&^f.local != 0 || s.cluster.NominatedTo(item.Pod.Pod.UID) != "" {
		return ""
	}
	return fmt.Sprint(f.profile.Name, "|", d.RejectedBy, "|", item.Pod.Class())
}

// happened wakes the pods that an event may help. The lock is held.
func (s *Scheduler) happened(e *filter.Event) {
	s.queue.Wake(func(item *queue.Item) bool { return s.helps(item, e) }, s.cfg.Now())
	s.signal()
}

// helps asks the filters that rejected the pod.
func (s *Scheduler) helps(item *queue.Item, e *filter.Event) bool {
	if e.Kind == filter.PodGone && e.At != nil && s.cluster.NominatedTo(item.Pod.Pod.UID) == e.At.Name {
		return true // if it does not fit after all, it must look elsewhere
	}
	f := s.frameworks[item.Pod.Pod.Spec.SchedulerName]
	if f == nil {
		return false
	}
	if item.RejectedBy&byPlugin != 0 {
		return true // what a plug-in waits for is not known
	}
	for i, each := range f.decider.Filters() {
		if item.RejectedBy&(1<<i) != 0 && each.Helps(item.Pod, e) {
			return true
		}
	}
	return item.RejectedBy == ^uint32(0)
}

// mine tells whether the pod is one to be placed here.
func (s *Scheduler) mine(pod *corev1.Pod) bool {
	return s.frameworks[pod.Spec.SchedulerName] != nil && pod.DeletionTimestamp == nil && !queue.Gated(pod)
}
