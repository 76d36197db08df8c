// Package endpoints writes the Endpoints object of every service that has a selector, for clients older than EndpointSlices.
//
// Invariant: only services with a selector are served; an Endpoints object that its user made is never written, only removed with
// its service, as upstream does.
package endpoints

//lint:file-ignore SA1019 Endpoints are deprecated, and served for as long as the API has them.

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/backends"
	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/loop"
)

// pace is how far apart one object's writes are during a burst of changes; the first is written at once.
const pace = 50 * time.Millisecond

// Controller serves Endpoints.
type Controller struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister
	events    record.EventRecorder
	triggers  *backends.Triggers
	loop      *loop.Loop
}

// New makes the controller.
func New(e env.Env) *Controller {
	core := e.Informers.Core().V1()
	c := &Controller{
		client: e.Client, services: core.Services().Lister(), pods: core.Pods().Lister(), endpoints: core.Endpoints().Lister(),
		events: e.Recorder("endpoint-controller"), triggers: backends.NewTriggers(),
	}
	c.loop = e.Loop(loop.Config{Name: "endpoints", Sync: c.sync, Pace: pace})
	loop.On(c.loop, core.Services().Informer(), func(old, cur *corev1.Service) {
		if cur == nil {
			cur = old
		}
		c.loop.AddObject(cur)
	})
	loop.On(c.loop, core.Pods().Informer(), func(old, cur *corev1.Pod) {
		for _, service := range backends.Affected(c.services, old, cur) {
			c.loop.AddPaced(service.Namespace + "/" + service.Name)
		}
	})
	loop.On(c.loop, core.Endpoints().Informer(), func(old, cur *corev1.Endpoints) {
		switch {
		case cur == nil:
			c.loop.AddObject(old)
		case old == nil && cur.Labels[labelManagedBy] == managedBy:
			c.loop.AddObject(cur) // its service may have gone while nobody watched
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // a key that is none cannot become one
	}
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.triggers.Forget(key)
		return c.remove(ctx, namespace, name)
	}
	if err != nil {
		return err
	}
	if len(service.Spec.Selector) == 0 || service.Spec.Type == corev1.ServiceTypeExternalName || service.DeletionTimestamp != nil {
		return nil
	}
	list, err := c.pods.Pods(namespace).List(labels.SelectorFromValidatedSet(service.Spec.Selector))
	if err != nil {
		return err
	}
	have, err := c.endpoints.Endpoints(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		have, err = nil, nil
	}
	if err != nil {
		return err
	}
	want := decide(snapshot{service: service, pods: list, have: have, trigger: c.triggers.Next(key, service, list)})
	if want == nil {
		return nil
	}
	return c.write(ctx, service, have, want)
}

func (c *Controller) remove(ctx context.Context, namespace, name string) error {
	if _, err := c.endpoints.Endpoints(namespace).Get(name); apierrors.IsNotFound(err) {
		return nil
	}
	err := c.client.CoreV1().Endpoints(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *Controller) write(ctx context.Context, service *corev1.Service, have, want *corev1.Endpoints) error {
	if have == nil {
		_, err := c.client.CoreV1().Endpoints(want.Namespace).Create(ctx, want, metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // nothing can be created there any more, and the service is about to go
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			c.events.Eventf(service, corev1.EventTypeWarning, "FailedToCreateEndpoint", "Failed to create endpoint for service %s/%s: %v", want.Namespace, want.Name, err)
		}
		return err
	}
	_, err := c.client.CoreV1().Endpoints(want.Namespace).Update(ctx, want, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsConflict(err) {
		c.events.Eventf(have, corev1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %s/%s: %v", want.Namespace, want.Name, err)
	}
	return err
}
