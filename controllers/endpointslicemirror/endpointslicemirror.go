// Package endpointslicemirror copies Endpoints that users make, for services without a selector, into EndpointSlices, which are all that
// proxies read.
//
// Invariant: only slices marked as managed by this controller are written; they follow their Endpoints object exactly.
package endpointslicemirror

//lint:file-ignore SA1019 Endpoints are deprecated, and served for as long as the API has them.

import (
	"context"
	"maps"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/owner"
	"github.com/coracle-dev/coracle/controllers/slicing"
	"github.com/coracle-dev/coracle/internal/loop"
)

// ManagedBy marks the slices that this controller alone writes.
const ManagedBy = "endpointslicemirroring-controller.k8s.io"

// capacity is how many addresses of one subset are mirrored at most.
const capacity = 1000

const (
	byService        = "coracle/mirrored"
	leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"
	pace             = 50 * time.Millisecond
)

var endpointsKind = corev1.SchemeGroupVersion.WithKind("Endpoints")

// Controller serves mirrored slices.
type Controller struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	endpoints corelisters.EndpointsLister
	slices    cache.Indexer
	events    record.EventRecorder
	lag       *loop.Lag
	loop      *loop.Loop
}

// New makes the controller.
func New(e env.Env) (*Controller, error) {
	core := e.Informers.Core().V1()
	slices := e.Informers.Discovery().V1().EndpointSlices().Informer()
	c := &Controller{
		client: e.Client, services: core.Services().Lister(), endpoints: core.Endpoints().Lister(), slices: slices.GetIndexer(),
		events: e.Recorder("endpoint-slice-mirroring-controller"), lag: loop.NewLag(e.Clock),
	}
	c.loop = e.Loop(loop.Config{Name: "endpointslicemirror", Sync: c.sync, Workers: 2, Pace: pace})
	loop.On(c.loop, core.Endpoints().Informer(), func(old, cur *corev1.Endpoints) {
		if old != nil && mirrorable(old) || cur != nil && mirrorable(cur) {
			c.loop.AddObject(loop.Either(cur, old))
		}
	})
	loop.On(c.loop, core.Services().Informer(), func(old, cur *corev1.Service) {
		if old == nil || cur == nil || (len(old.Spec.Selector) == 0) != (len(cur.Spec.Selector) == 0) {
			c.loop.AddObject(loop.Either(cur, old))
		}
	})
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

// mirrorable tells whether an Endpoints object may have a mirror; its service decides too.
func mirrorable(e *corev1.Endpoints) bool {
	_, lock := e.Annotations[leaderAnnotation]
	return !lock && e.Labels[discoveryv1.LabelSkipMirror] != "true"
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // a key that is none cannot become one
	}
	if wait := c.lag.Behind(key); wait > 0 {
		c.loop.AddAfter(key, wait)
		return nil
	}
	have, err := c.mirrors(key)
	if err != nil {
		return err
	}
	endpoints, err := c.source(namespace, name)
	if err != nil {
		return err
	}
	if endpoints == nil {
		c.lag.Forget(key)
		return slicing.Write(ctx, c.client, slicing.Plan{Remove: have}, nil)
	}
	err = slicing.Write(ctx, c.client, slicing.Decide(desired(endpoints), have), func(version string) { c.lag.Wrote(key, version) })
	if err != nil && !apierrors.IsConflict(err) {
		c.events.Eventf(endpoints, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Endpoints %s/%s: %v", namespace, name, err)
	}
	return err
}

func (c *Controller) mirrors(key string) ([]*discoveryv1.EndpointSlice, error) {
	objs, err := c.slices.ByIndex(byService, key)
	if err != nil {
		return nil, err
	}
	var list []*discoveryv1.EndpointSlice
	for _, obj := range objs {
		if slice, ok := obj.(*discoveryv1.EndpointSlice); ok && slice.DeletionTimestamp == nil {
			list = append(list, slice)
		}
	}
	return list, nil
}

// source is the Endpoints object to mirror; nil when there is none or it is not to be mirrored.
func (c *Controller) source(namespace, name string) (*corev1.Endpoints, error) {
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && len(service.Spec.Selector) > 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	endpoints, err := c.endpoints.Endpoints(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (!mirrorable(endpoints) || endpoints.DeletionTimestamp != nil) {
		return nil, nil
	}
	return endpoints, err
}

// desired says what the mirror of e shows. It is pure.
func desired(e *corev1.Endpoints) slicing.Desired {
	want := slicing.Desired{
		Namespace: e.Namespace, Name: e.Name, Labels: maps.Clone(e.Labels), Annotations: maps.Clone(e.Annotations), Owner: *owner.Reference(e, endpointsKind),
		Families: []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6},
	}
	if want.Labels == nil {
		want.Labels = map[string]string{}
	}
	want.Labels[discoveryv1.LabelServiceName], want.Labels[discoveryv1.LabelManagedBy] = e.Name, ManagedBy
	delete(want.Annotations, corev1.LastAppliedConfigAnnotation)
	delete(want.Annotations, corev1.EndpointsLastChangeTriggerTime)
	if at, err := time.Parse(time.RFC3339Nano, e.Annotations[corev1.EndpointsLastChangeTriggerTime]); err == nil {
		want.Trigger = at
	}
	for _, subset := range e.Subsets {
		ports := portsOf(subset)
		room := capacity
		for i, list := range [][]corev1.EndpointAddress{subset.Addresses, subset.NotReadyAddresses} {
			for j := range list[:min(room, len(list))] {
				want.Endpoints = append(want.Endpoints, endpoint(&list[j], ports, i == 0))
				room--
			}
		}
	}
	return want
}

func portsOf(subset corev1.EndpointSubset) []discoveryv1.EndpointPort {
	ports := make([]discoveryv1.EndpointPort, 0, len(subset.Ports))
	for i := range subset.Ports {
		p := &subset.Ports[i]
		ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	return ports
}

func endpoint(a *corev1.EndpointAddress, ports []discoveryv1.EndpointPort, ready bool) slicing.Endpoint {
	e := slicing.Endpoint{
		Family: discoveryv1.AddressTypeIPv4, Ports: ports,
		Endpoint: discoveryv1.Endpoint{Addresses: []string{a.IP}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, TargetRef: a.TargetRef, NodeName: a.NodeName},
	}
	if ip, err := netip.ParseAddr(a.IP); err == nil && ip.Is6() {
		e.Family = discoveryv1.AddressTypeIPv6
	}
	if a.Hostname != "" {
		e.Endpoint.Hostname = &a.Hostname
	}
	return e
}
