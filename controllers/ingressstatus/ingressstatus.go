// Package ingressstatus tells in the status of Ingresses by which addresses they are reached, and in events what of them cannot be served. Each
// node serves Ingresses on its own; what concerns them all is said here, once.
//
// Invariant: only Ingresses of a class of ours are written, and only where their status is another one.
package ingressstatus

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/ingress"
	"github.com/coracle-dev/coracle/internal/loop"
)

// Reasons of events beside those of package ingress.
const (
	reasonService  = "ServiceNotSupported"
	reasonPort     = "ServicePortNotFound"
	reasonConflict = "PathTaken"
)

// Controller writes status and events.
type Controller struct {
	client    kubernetes.Interface
	ingresses networkinglisters.IngressLister
	byPath    cache.Indexer
	classes   networkinglisters.IngressClassLister
	services  corelisters.ServiceLister
	nodes     corelisters.NodeLister
	events    record.EventRecorder
	loop      *loop.Loop
	// published is the Service whose addresses count, as namespace/name; empty: those of nodes do.
	published string

	mu sync.Mutex
	// told has, by Ingress, the problems that its events have told.
	told map[string][]ingress.Problem
}

// New makes the controller. published names, as namespace/name, the Service that leads to the Ingresses; empty: clients come to the nodes.
func New(e env.Env, published string) (*Controller, error) {
	ingresses, classes := e.Informers.Networking().V1().Ingresses(), e.Informers.Networking().V1().IngressClasses()
	services, nodes := e.Informers.Core().V1().Services(), e.Informers.Core().V1().Nodes()
	c := &Controller{
		client: e.Client, ingresses: ingresses.Lister(), byPath: ingresses.Informer().GetIndexer(), classes: classes.Lister(), services: services.Lister(), nodes: nodes.Lister(),
		events: e.Recorder("ingress-controller"), published: published, told: map[string][]ingress.Problem{},
	}
	c.loop = e.Loop(loop.Config{Name: "ingressstatus", Sync: c.sync, Workers: 2})
	if err := ingresses.Informer().AddIndexers(cache.Indexers{pathIndex: paths}); err != nil {
		return nil, err
	}
	loop.On(c.loop, ingresses.Informer(), func(old, cur *networkingv1.Ingress) { c.loop.AddObject(loop.Either(cur, old)) })
	loop.On(c.loop, classes.Informer(), func(_, _ *networkingv1.IngressClass) { c.wake("") })
	loop.On(c.loop, services.Informer(), c.service)
	loop.On(c.loop, nodes.Informer(), func(old, cur *corev1.Node) {
		if published == "" && !apiequality.Semantic.DeepEqual(addresses(old), addresses(cur)) {
			c.wake("")
		}
	})
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// wake looks at all Ingresses of a namespace; empty: of all.
func (c *Controller) wake(namespace string) {
	all, err := c.ingresses.Ingresses(namespace).List(labels.Everything())
	if err != nil {
		return // a lister of an informer's store has none
	}
	for _, i := range all {
		c.loop.AddObject(i)
	}
}

func (c *Controller) service(old, cur *corev1.Service) {
	s := loop.Either(cur, old)
	switch {
	case s.Namespace+"/"+s.Name == c.published:
		c.wake("")
	case old == nil || cur == nil || old.Spec.Type != cur.Spec.Type || !apiequality.Semantic.DeepEqual(old.Spec.Ports, cur.Spec.Ports):
		c.wake(s.Namespace)
	}
}

// pathIndex finds Ingresses by a host and path of theirs.
const pathIndex = "ingress-path"

func paths(obj any) ([]string, error) {
	i, ok := obj.(*networkingv1.Ingress)
	if !ok {
		return nil, nil
	}
	rules, _ := ingress.Parse(i)
	var keys []string
	for _, p := range rules.Paths {
		keys = append(keys, pathKey(p))
	}
	return keys, nil
}

func pathKey(p ingress.Path) string { return fmt.Sprintf("%s %t %s", p.Host, p.Exact, p.Path) }

func (c *Controller) served(class string) bool {
	have, err := c.classes.Get(class)
	return err == nil && have.Spec.Controller == ingress.Controller
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	i, err := c.ingresses.Ingresses(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (i.DeletionTimestamp != nil || !ingress.Ours(i, c.served)) {
		c.tell(key, nil, nil)
		return nil
	}
	if err != nil {
		return err
	}
	c.tell(key, i, c.problems(i))
	want, err := c.want()
	if err != nil || apiequality.Semantic.DeepEqual(i.Status.LoadBalancer.Ingress, want) {
		return err
	}
	changed := i.DeepCopy()
	changed.Status.LoadBalancer.Ingress = want
	_, err = c.client.NetworkingV1().Ingresses(namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// tell writes what is newly wrong with an Ingress. One that is nil is not told of any more.
func (c *Controller) tell(key string, i *networkingv1.Ingress, problems []ingress.Problem) {
	c.mu.Lock()
	before := c.told[key]
	if len(problems) == 0 {
		delete(c.told, key)
	} else {
		c.told[key] = problems
	}
	c.mu.Unlock()
	for _, p := range problems {
		if !slices.Contains(before, p) {
			c.events.Event(i, corev1.EventTypeWarning, p.Reason, p.Message)
		}
	}
}

// problems are what of an Ingress cannot be served.
func (c *Controller) problems(i *networkingv1.Ingress) []ingress.Problem {
	rules, found := ingress.Parse(i)
	add := func(p ingress.Problem) {
		if p.Reason != "" && !slices.Contains(found, p) {
			found = append(found, p)
		}
	}
	if rules.Default != nil {
		add(c.backend(i.Namespace, *rules.Default))
	}
	for _, p := range rules.Paths {
		add(c.backend(i.Namespace, p.Backend))
		others, err := c.byPath.ByIndex(pathIndex, pathKey(p))
		if err != nil {
			continue // only where there is no such index
		}
		for _, obj := range others {
			o, ok := obj.(*networkingv1.Ingress)
			if ok && older(o, i) && ingress.Ours(o, c.served) {
				add(ingress.Problem{Reason: reasonConflict, Message: fmt.Sprintf("host %q, path %q: the older Ingress %s/%s has it", p.Host, p.Path, o.Namespace, o.Name)})
			}
		}
	}
	return found
}

// older orders Ingresses as those do who serve them.
func older(a, b *networkingv1.Ingress) bool {
	if at, bt := a.CreationTimestamp.Unix(), b.CreationTimestamp.Unix(); at != bt {
		return at < bt
	}
	return strings.Compare(a.Namespace+"\x00"+a.Name, b.Namespace+"\x00"+b.Name) < 0
}

// backend tells what is wrong with a backend. That there is no such Service is no problem yet: it may come.
func (c *Controller) backend(namespace string, b ingress.Backend) ingress.Problem {
	s, err := c.services.Services(namespace).Get(b.Service)
	switch {
	case err != nil:
		return ingress.Problem{}
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return ingress.Problem{Reason: reasonService, Message: fmt.Sprintf("Service %s is of type ExternalName, which is not served", b.Service)}
	}
	for i := range s.Spec.Ports {
		if p := &s.Spec.Ports[i]; b.Port != "" && p.Name == b.Port || b.Port == "" && p.Port == b.Number {
			return ingress.Problem{}
		}
	}
	return ingress.Problem{Reason: reasonPort, Message: fmt.Sprintf("Service %s has no port %s", b.Service, strings.TrimPrefix(b.String(), b.Service+":"))}
}

// want is by which addresses Ingresses are reached.
func (c *Controller) want() ([]networkingv1.IngressLoadBalancerIngress, error) {
	if c.published != "" {
		return c.publishedAddresses()
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var all []string
	for _, n := range nodes {
		all = append(all, addresses(n)...)
	}
	slices.Sort(all)
	var out []networkingv1.IngressLoadBalancerIngress
	for _, a := range slices.Compact(all) {
		out = append(out, networkingv1.IngressLoadBalancerIngress{IP: a})
	}
	return out, nil
}

func (c *Controller) publishedAddresses() ([]networkingv1.IngressLoadBalancerIngress, error) {
	namespace, name, _ := strings.Cut(c.published, "/")
	s, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []networkingv1.IngressLoadBalancerIngress
	for _, in := range s.Status.LoadBalancer.Ingress {
		out = append(out, networkingv1.IngressLoadBalancerIngress{IP: in.IP, Hostname: in.Hostname})
	}
	for _, ip := range s.Spec.ExternalIPs {
		out = append(out, networkingv1.IngressLoadBalancerIngress{IP: ip})
	}
	return out, nil
}

// addresses are those by which a node serves Ingresses: none where it does not, or is not ready. Its external ones come before its internal
// ones, if it has any.
func addresses(n *corev1.Node) []string {
	if n == nil || n.DeletionTimestamp != nil || n.Labels[ingress.NodeLabel] == "false" {
		return nil
	}
	if _, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]; excluded {
		return nil
	}
	ready := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	if !ready {
		return nil
	}
	var internal, external []string
	for _, a := range n.Status.Addresses {
		switch a.Type {
		case corev1.NodeExternalIP:
			external = append(external, a.Address)
		case corev1.NodeInternalIP:
			internal = append(internal, a.Address)
		}
	}
	if len(external) > 0 {
		return external
	}
	return internal
}
