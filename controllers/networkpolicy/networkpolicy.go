// Package networkpolicy resolves the peers of NetworkPolicies: each distinct group of pods that some policy's rule names is published
// once, as EndpointSlices of package netpolicy, which nodes watch instead of all pods.
//
// Invariants: only slices in kube-system that carry this controller's label are written; a group that no policy names has none; a pod's change costs
// one write for each group that it comes into or leaves, of a hundred addresses at most; of a burst of changes the first is written at once and the
// rest together.
package networkpolicy

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/slicing"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/netpolicy"
)

// pace is how far apart a group's slices are written during a burst of changes; the first is written at once.
const pace = 30 * time.Millisecond

const byGroup = "coracle/policy-peers"

// Controller serves the groups.
type Controller struct {
	client     kubernetes.Interface
	pods       corelisters.PodLister
	namespaces corelisters.NamespaceLister
	slices     cache.Indexer
	lag        *loop.Lag
	loop       *loop.Loop

	mu     sync.RWMutex
	groups *groups
}

// New makes the controller.
func New(e env.Env) (*Controller, error) {
	core := e.Informers.Core().V1()
	slices := e.Informers.Discovery().V1().EndpointSlices().Informer()
	c := &Controller{client: e.Client, pods: core.Pods().Lister(), namespaces: core.Namespaces().Lister(), slices: slices.GetIndexer(),
		lag: loop.NewLag(e.Clock), groups: newGroups()}
	c.loop = e.Loop(loop.Config{Name: "networkpolicy", Sync: c.sync, Pace: pace})
	loop.On(c.loop, e.Informers.Networking().V1().NetworkPolicies().Informer(), c.policyChanged)
	loop.On(c.loop, core.Pods().Informer(), c.podChanged)
	loop.On(c.loop, core.Namespaces().Informer(), c.namespaceChanged)
	return c, slicing.Follow(c.loop, c.lag, slices, byGroup, indexByGroup)
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func indexByGroup(obj any) ([]string, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || slice.Namespace != netpolicy.Namespace || slice.Labels[discoveryv1.LabelManagedBy] != netpolicy.ManagedBy || slice.Labels[netpolicy.Label] == "" {
		return nil, nil
	}
	return []string{slice.Labels[netpolicy.Label]}, nil
}

func (c *Controller) policyChanged(old, cur *networkingv1.NetworkPolicy) {
	policy := loop.Either(cur, old)
	var named map[string]netpolicy.Peers
	if cur != nil {
		named = netpolicy.Of(cur)
	}
	c.mu.Lock()
	changed := c.groups.set(policy.Namespace+"/"+policy.Name, named)
	c.mu.Unlock()
	for _, key := range changed {
		c.loop.AddPaced(key)
	}
}

func (c *Controller) podChanged(old, cur *corev1.Pod) {
	if old != nil && cur != nil && netpolicy.Address(old) == netpolicy.Address(cur) && labels.Equals(old.Labels, cur.Labels) {
		return
	}
	for _, pod := range []*corev1.Pod{old, cur} {
		if pod == nil || netpolicy.Address(pod) == "" {
			continue
		}
		ofNamespace := c.namespaceLabels(pod.Namespace)
		c.mu.RLock()
		keys := c.groups.matching(pod.Namespace, ofNamespace, pod.Labels)
		c.mu.RUnlock()
		for _, key := range keys {
			c.loop.AddPaced(key)
		}
	}
}

// namespaceLabels are those of a namespace, or none where it is not known yet: its coming wakes the groups that it belongs to.
func (c *Controller) namespaceLabels(name string) map[string]string {
	namespace, err := c.namespaces.Get(name)
	if err != nil {
		return nil
	}
	return namespace.Labels
}

func (c *Controller) namespaceChanged(old, cur *corev1.Namespace) {
	if old != nil && cur != nil && labels.Equals(old.Labels, cur.Labels) {
		return
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	for key, group := range c.groups.wide {
		if selects(group, old) != selects(group, cur) {
			c.loop.AddPaced(key)
		}
	}
}

func selects(group netpolicy.Peers, namespace *corev1.Namespace) bool {
	return namespace != nil && group.Namespaces.Matches(labels.Set(namespace.Labels))
}

func (c *Controller) sync(ctx context.Context, key string) error {
	if wait := c.lag.Behind(key); wait > 0 {
		c.loop.AddAfter(key, wait) // the informer's next event comes long before
		return nil
	}
	have, err := c.published(key)
	if err != nil {
		return err
	}
	c.mu.RLock()
	group, used := c.groups.get(key)
	c.mu.RUnlock()
	if !used {
		c.lag.Forget(key)
		return slicing.Write(ctx, c.client, slicing.Plan{Remove: have}, nil)
	}
	pods, err := c.resolve(group)
	if err != nil {
		return err
	}
	return slicing.Write(ctx, c.client, slicing.Decide(desired(key, group, pods), have), func(version string) { c.lag.Wrote(key, version) })
}

func (c *Controller) published(key string) ([]*discoveryv1.EndpointSlice, error) {
	objs, err := c.slices.ByIndex(byGroup, key)
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

// resolve lists the pods that the group's selectors match.
func (c *Controller) resolve(group netpolicy.Peers) ([]*corev1.Pod, error) {
	if group.In != "" {
		return c.pods.Pods(group.In).List(group.Pods)
	}
	if group.Namespaces.Empty() {
		return c.pods.List(group.Pods)
	}
	namespaces, err := c.namespaces.List(group.Namespaces)
	if err != nil {
		return nil, err
	}
	var all []*corev1.Pod
	for _, namespace := range namespaces {
		pods, err := c.pods.Pods(namespace.Name).List(group.Pods)
		if err != nil {
			return nil, err
		}
		all = append(all, pods...)
	}
	return all, nil
}
