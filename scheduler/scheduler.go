// Package scheduler gives each pending pod a node. Its invariant: decisions are made one at a time on one model,
// which counts a pod from the moment it is decided; what it writes is pods/binding (with the pod's UID), the
// PodScheduled condition, and Events, nothing else.
package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
	"github.com/coracle-dev/coracle/scheduler/queue"
)

// Config is what Run needs.
type Config struct {
	Client kubernetes.Interface
	// Shared, inside the server's process, is where pods and nodes come from.
	Shared client.Shared
	// Name is the schedulerName whose pods are placed; empty is default-scheduler.
	Name string
	// Binders is how many bindings may be under way at once; zero is 32.
	Binders int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Scheduler is the running loop.
type Scheduler struct {
	cfg      Config
	log      *slog.Logger
	recorder events.EventRecorder
	binders  chan struct{}
	wake     chan struct{}

	mu      sync.Mutex
	cluster *model.Cluster
	queue   *queue.Queue
	decider *decider
	// bindings are pods whose binding is under way or not yet seen from the API server, by UID.
	bindings map[types.UID]*queue.Item
}

// Run schedules until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Name == "" {
		cfg.Name = corev1.DefaultSchedulerName
	}
	if cfg.Binders == 0 {
		cfg.Binders = 32
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: cfg.Client.EventsV1()})
	defer broadcaster.Shutdown()
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("scheduler: record events: %w", err)
	}
	s := newScheduler(cfg, broadcaster.NewRecorder(scheme.Scheme, cfg.Name))
	if err := s.watch(ctx); err != nil {
		return err
	}
	s.loop(ctx)
	return nil
}

func newScheduler(cfg Config, recorder events.EventRecorder) *Scheduler {
	return &Scheduler{
		cfg:      cfg,
		log:      slog.With("component", "scheduler"),
		recorder: recorder,
		binders:  make(chan struct{}, cfg.Binders),
		wake:     make(chan struct{}, 1),
		cluster:  model.New(),
		queue:    queue.New(),
		decider:  newDecider(),
		bindings: map[types.UID]*queue.Item{},
	}
}

// watch feeds the model and the queue, and returns once both hold the present state.
func (s *Scheduler) watch(ctx context.Context) error {
	nodes, pods := s.informer(client.Nodes, &corev1.Node{}, ""), s.informer(client.Pods, &corev1.Pod{}, "status.phase!=Succeeded,status.phase!=Failed")
	nodeHandler, err := nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { s.setNode(nil, obj.(*corev1.Node)) },
		UpdateFunc: func(old, obj any) { s.setNode(old.(*corev1.Node), obj.(*corev1.Node)) },
		DeleteFunc: func(obj any) { s.deleteNode(object[*corev1.Node](obj)) },
	})
	if err != nil {
		return err
	}
	podHandler, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { s.setPod(obj.(*corev1.Pod)) },
		UpdateFunc: func(_, obj any) { s.setPod(obj.(*corev1.Pod)) },
		DeleteFunc: func(obj any) { s.deletePod(object[*corev1.Pod](obj)) },
	})
	if err != nil {
		return err
	}
	go nodes.RunWithContext(ctx)
	go pods.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), nodeHandler.HasSynced, podHandler.HasSynced) {
		return ctx.Err()
	}
	return nil
}

// informer follows a resource: what a field selector leaves of it.
func (s *Scheduler) informer(resource schema.GroupVersionResource, object runtime.Object, selector string) cache.SharedIndexInformer {
	if s.cfg.Shared == nil {
		lw := cache.NewFilteredListWatchFromClient(s.cfg.Client.CoreV1().RESTClient(), resource.Resource, metav1.NamespaceAll, func(o *metav1.ListOptions) {
			o.FieldSelector = selector
		})
		i := cache.NewSharedIndexInformer(lw, object, 0, cache.Indexers{})
		_ = i.SetTransform(client.DropManagedFields) // fails only where it runs already
		return i
	}
	from := cache.ToListerWatcherWithContext(s.cfg.Shared(resource))
	return cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return from.ListWithContext(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return from.WatchWithContext(ctx, o)
		},
	}, object, 0, cache.Indexers{})
}

// object unwraps what a delete handler gets; nil where it is something else.
func object[T runtime.Object](obj any) T {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	typed, _ := obj.(T)
	return typed
}

func (s *Scheduler) setNode(old, node *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster.SetNode(node)
	if old == nil || nodeMatters(old, node) {
		s.queue.Wake(filter.NodeChanged, s.cfg.Now())
		s.signal()
	}
}

func (s *Scheduler) deleteNode(node *corev1.Node) {
	if node == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster.RemoveNode(node.Name)
}

// setPod takes in one pod in whatever state it is.
func (s *Scheduler) setPod(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	switch {
	case pod.Spec.NodeName != "":
		s.queue.Delete(pod.UID)
		delete(s.bindings, pod.UID)
		if s.cluster.NodeOf(pod.UID) != pod.Spec.NodeName {
			s.queue.Wake(filter.PodPlaced, now)
		}
		s.cluster.SetPod(model.NewPod(pod), pod.Spec.NodeName)
	case s.bindings[pod.UID] != nil:
		// Decided already; what we hold of it stays until the API server shows it bound, or binding fails.
	case pod.Spec.SchedulerName != s.cfg.Name || pod.DeletionTimestamp != nil:
		s.queue.Delete(pod.UID)
	case queue.Gated(pod):
		s.queue.Delete(pod.UID)
	default:
		s.queue.Set(model.NewPod(pod), now)
	}
	s.signal()
}

func (s *Scheduler) deletePod(pod *corev1.Pod) {
	if pod == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue.Delete(pod.UID)
	delete(s.bindings, pod.UID)
	if s.cluster.RemovePod(pod.UID) {
		s.queue.Wake(filter.PodGone, s.cfg.Now())
		s.signal()
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
	d := s.decider.schedule(s.cluster, item.Pod)
	if d.node != "" {
		s.cluster.SetPod(item.Pod, d.node)
		s.bindings[item.Pod.Pod.UID] = item
	} else {
		s.queue.Rejected(item, d.wokenBy, s.cfg.Now())
	}
	pod := item.Pod.Pod
	s.mu.Unlock()
	go func() {
		defer func() { <-s.binders }()
		if d.node != "" {
			s.bind(ctx, item, pod, d.node)
		} else {
			s.report(ctx, pod, d.message)
		}
	}()
	return true
}

// nodeMatters tells whether a change of a node could let a rejected pod in.
func nodeMatters(old, node *corev1.Node) bool {
	if old.Spec.Unschedulable != node.Spec.Unschedulable || len(old.Spec.Taints) != len(node.Spec.Taints) {
		return true
	}
	for i := range old.Spec.Taints {
		if !old.Spec.Taints[i].MatchTaint(&node.Spec.Taints[i]) || old.Spec.Taints[i].Value != node.Spec.Taints[i].Value {
			return true
		}
	}
	return !equalMaps(old.Labels, node.Labels) || !equalQuantities(old.Status.Allocatable, node.Status.Allocatable)
}

func equalMaps(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, has := b[k]; !has || v != w {
			return false
		}
	}
	return true
}

func equalQuantities(a, b corev1.ResourceList) bool {
	if len(a) != len(b) {
		return false
	}
	for name, q := range a {
		if other, has := b[name]; !has || q.Cmp(other) != 0 {
			return false
		}
	}
	return true
}
