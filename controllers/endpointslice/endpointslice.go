// Package endpointslice writes which pods stand behind a service, in slices of at most a hundred endpoints.
//
// Invariants: an endpoint is in one slice only; a change rewrites as few slices as possible, and no change writes nothing;
// of a burst of pod changes the first is written at once and the rest together.
package endpointslice

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/backends"
	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/slicing"
	"github.com/coracle-dev/coracle/internal/loop"
)

// pace is how far apart a service's slices are written during a burst of changes; the first is written at once.
const pace = 30 * time.Millisecond

const byService = "coracle/service"

// Controller serves the slices of services that have a selector.
type Controller struct {
	client   kubernetes.Interface
	services corelisters.ServiceLister
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
	slices   cache.Indexer
	events   record.EventRecorder
	triggers *backends.Triggers
	lag      *loop.Lag
	loop     *loop.Loop
}

// New makes the controller.
func New(e env.Env) (*Controller, error) {
	core := e.Informers.Core().V1()
	slices := e.Informers.Discovery().V1().EndpointSlices().Informer()
	c := &Controller{
		client: e.Client, services: core.Services().Lister(), pods: core.Pods().Lister(), nodes: core.Nodes().Lister(), slices: slices.GetIndexer(),
		events: e.Recorder("endpoint-slice-controller"), triggers: backends.NewTriggers(), lag: loop.NewLag(e.Clock),
	}
	c.loop = e.Loop(loop.Config{Name: "endpointslice", Sync: c.sync, Pace: pace})
	loop.On(c.loop, core.Services().Informer(), func(old, cur *corev1.Service) {
		if cur == nil {
			cur = old
		}
		c.loop.AddObject(cur)
	})
	loop.On(c.loop, core.Pods().Informer(), func(old, cur *corev1.Pod) {
		for _, service := range backends.Affected(c.services, old, cur) {
			c.wake(service)
		}
	})
	loop.On(c.loop, core.Nodes().Informer(), c.nodeChanged)
	return c, slicing.Follow(c.loop, c.lag, slices, byService, indexByService)
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func indexByService(obj any) ([]string, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || slice.Labels[discoveryv1.LabelManagedBy] != ManagedBy || slice.Labels[discoveryv1.LabelServiceName] == "" {
		return nil, nil
	}
	return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}, nil
}

func (c *Controller) wake(service *corev1.Service) {
	c.loop.AddPaced(service.Namespace + "/" + service.Name)
}

// nodeChanged looks at every service again when a node comes or moves to another zone. Both are rare.
func (c *Controller) nodeChanged(old, cur *corev1.Node) {
	if cur == nil || old != nil && old.Labels[corev1.LabelTopologyZone] == cur.Labels[corev1.LabelTopologyZone] {
		return
	}
	services, err := c.services.List(labels.Everything())
	if err != nil {
		return
	}
	for _, service := range services {
		if len(service.Spec.Selector) > 0 {
			c.wake(service)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // a key that is none cannot become one
	}
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.lag.Forget(key) // the slices follow their owner
		c.triggers.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	if len(service.Spec.Selector) == 0 || service.Spec.Type == corev1.ServiceTypeExternalName || service.DeletionTimestamp != nil {
		return nil
	}
	if wait := c.lag.Behind(key); wait > 0 {
		c.loop.AddAfter(key, wait) // the informer's next event comes long before
		return nil
	}
	s, err := c.look(key, service)
	if err != nil {
		return err
	}
	err = slicing.Write(ctx, c.client, decide(s), func(version string) { c.lag.Wrote(key, version) })
	if err != nil && !apierrors.IsConflict(err) {
		c.events.Eventf(service, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s/%s: %v", namespace, name, err)
	}
	return err
}

func (c *Controller) look(key string, service *corev1.Service) (snapshot, error) {
	list, err := c.pods.Pods(service.Namespace).List(labels.SelectorFromValidatedSet(service.Spec.Selector))
	if err != nil {
		return snapshot{}, err
	}
	objs, err := c.slices.ByIndex(byService, key)
	if err != nil {
		return snapshot{}, err
	}
	s := snapshot{service: service, pods: list, trigger: c.triggers.Next(key, service, list)}
	for _, obj := range objs {
		if slice, ok := obj.(*discoveryv1.EndpointSlice); ok && slice.DeletionTimestamp == nil {
			s.slices = append(s.slices, slice)
		}
	}
	s.node = func(name string) *corev1.Node {
		node, err := c.nodes.Get(name)
		if err != nil {
			return nil
		}
		return node
	}
	return s, nil
}
