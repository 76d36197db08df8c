// Package resourcequota counts what the objects of a namespace use, and keeps the status of its ResourceQuotas at that.
//
// Invariant: status.used is never set below what the objects that are there use plus what the API server has charged for
// objects about to be there. The server charges before it stores, so a count alone may miss what is on its way: what has been
// charged since a moment ago is added to it.
package resourcequota

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/quota"
)

const (
	// settle is longer than a server takes to store what it has charged.
	settle = 250 * time.Millisecond
	// pace is how far apart the counts of one quota are while objects come and go: at least this, and costs times as long as a count takes, so that
	// counting never takes more than a tenth of a processor.
	pace  = 200 * time.Millisecond
	costs = 10
	// verify is when a count is repeated that was made while others charged.
	verify = time.Second
	// unknownWait is when a resource that the API does not serve is looked for again.
	unknownWait = 10 * time.Second
	// resync finds what no event told of: charges of servers that died, pods that are overdue.
	resync = 5 * time.Minute
)

// Controller serves the quotas of all namespaces.
type Controller struct {
	client  kubernetes.Interface
	quotas  corelisters.ResourceQuotaLister
	counter *counter
	watches *watches
	clock   clock.Clock
	loop    *loop.Loop

	mu    sync.Mutex
	bases map[string]base
	took  map[string]time.Duration // the last count of each quota
}

// base is what a quota was charged at a time: the objects of all that have been stored settle later.
type base struct {
	used corev1.ResourceList
	at   time.Time
}

// New makes the controller.
func New(e env.Env, d discovery.DiscoveryInterface, m metadata.Interface) *Controller {
	core := e.Informers.Core().V1()
	c := &Controller{
		client: e.Client, quotas: core.ResourceQuotas().Lister(), clock: e.Clock, bases: map[string]base{}, took: map[string]time.Duration{},
		counter: &counter{client: e.Client, metadata: m, discovery: d, clock: e.Clock, found: map[schema.GroupResource]schema.GroupVersionResource{}, missed: map[schema.GroupResource]time.Time{}},
	}
	c.watches = newWatches(m, c.wake, e.Log)
	c.loop = e.Loop(loop.Config{Name: "resourcequota", Sync: c.sync})
	loop.On(c.loop, core.ResourceQuotas().Informer(), c.quotaChanged)
	loop.On(c.loop, core.Pods().Informer(), func(old, cur *corev1.Pod) {
		if old != nil && (cur == nil || cur.Generation != old.Generation || c.alive(old) && !c.alive(cur)) {
			c.wake(quota.Pods, old.Namespace)
		}
	})
	loop.On(c.loop, core.Services().Informer(), func(old, cur *corev1.Service) {
		if old != nil && (cur == nil || !apiequality.Semantic.DeepEqual(old.Spec, cur.Spec)) {
			c.wake(quota.Services, old.Namespace)
		}
	})
	return c
}

func (c *Controller) alive(pod *corev1.Pod) bool { return quota.Alive(pod, c.clock.Now()) }

// quotaChanged passes over the server's charges, which are changes of status.used.
func (c *Controller) quotaChanged(old, cur *corev1.ResourceQuota) {
	switch {
	case cur == nil:
		c.loop.AddObject(old) // its watches may not be needed any more
	case old == nil, !apiequality.Semantic.DeepEqual(old.Spec, cur.Spec), !quota.Equal(cur.Spec.Hard, cur.Status.Hard):
		c.loop.AddObject(cur)
	}
}

// wake counts the quotas of a namespace that a resource matters to; an empty namespace is all.
func (c *Controller) wake(gr schema.GroupResource, namespace string) {
	all, err := c.quotas.ResourceQuotas(namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, q := range all {
		if len(quota.Measured(gr, q.Spec.Hard)) > 0 {
			key := q.Namespace + "/" + q.Name
			c.loop.AddSpaced(key, c.pace(key))
		}
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer c.watches.wait()
	defer cancel()
	c.watches.start(ctx)
	return c.loop.Run(ctx)
}

func (c *Controller) sync(ctx context.Context, key string) error {
	c.watchCounted(ctx)
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	q, err := c.client.CoreV1().ResourceQuotas(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && q.DeletionTimestamp != nil {
		c.setBase(key, nil)
		c.setCost(key, 0)
		return nil
	}
	if err != nil {
		return err
	}
	begun := c.clock.Now()
	count, unknown, err := c.counter.count(ctx, q)
	if err != nil {
		return err
	}
	c.setCost(key, c.clock.Now().Sub(begun))
	c.loop.AddAfter(key, resync)
	if unknown {
		c.loop.AddAfter(key, unknownWait)
	}
	return c.settle(ctx, key, q, count)
}

// settle brings the status to the count, as soon as the count is one to rely on.
func (c *Controller) settle(ctx context.Context, key string, q *corev1.ResourceQuota, count corev1.ResourceList) error {
	now := c.clock.Now()
	if !quota.Equal(q.Status.Hard, q.Spec.Hard) {
		// From now on servers charge by the new limits. What was charged before counts until it has settled.
		used := atLeast(count, q.Status.Used)
		c.setBase(key, &base{used, now})
		c.loop.AddAfter(key, settle)
		return c.write(ctx, q, used)
	}
	if quota.Equal(count, q.Status.Used) {
		c.setBase(key, nil)
		return nil
	}
	b, ok := c.base(key)
	if !ok || now.Sub(b.at) < settle {
		if !ok {
			c.setBase(key, &base{q.Status.Used, now})
		}
		c.loop.AddAfter(key, settle)
		return nil
	}
	used := withRecent(count, quota.Increase(q.Status.Used, b.used))
	c.setBase(key, nil)
	c.loop.AddAfter(key, verify)
	if quota.Equal(used, q.Status.Used) {
		return nil
	}
	return c.write(ctx, q, used)
}

// atLeast is count, but nothing of it below what floor has.
func atLeast(count, floor corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, n := range count {
		if have, ok := floor[name]; ok && have.Cmp(n) > 0 {
			n = have
		}
		out[name] = n.DeepCopy()
	}
	return out
}

// withRecent adds what was charged lately and may not have been there to be counted.
func withRecent(count, recent corev1.ResourceList) corev1.ResourceList {
	return quota.Add(count, quota.Mask(recent, count))
}

// write needs the quota to be as it was read.
func (c *Controller) write(ctx context.Context, q *corev1.ResourceQuota, used corev1.ResourceList) error {
	fresh := q.DeepCopy()
	fresh.Status = corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: used}
	_, err := c.client.CoreV1().ResourceQuotas(q.Namespace).UpdateStatus(ctx, fresh, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *Controller) base(key string) (base, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.bases[key]
	return b, ok
}

func (c *Controller) pace(key string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(pace, costs*c.took[key])
}

// setCost remembers how long a count took; zero forgets the quota.
func (c *Controller) setCost(key string, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if took == 0 {
		delete(c.took, key)
		return
	}
	c.took[key] = took
}

// setBase replaces what is remembered of a quota; nil forgets it.
func (c *Controller) setBase(key string, b *base) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b == nil {
		delete(c.bases, key)
		return
	}
	c.bases[key] = *b
}

// watchCounted watches what the quotas there are count, for what no shared informer shows.
func (c *Controller) watchCounted(ctx context.Context) {
	all, err := c.quotas.List(labels.Everything())
	if err != nil {
		return
	}
	wanted := map[schema.GroupVersionResource]bool{}
	for _, q := range all {
		for _, gr := range quota.Counts(q.Spec.Hard) {
			if gr == quota.Pods || gr == quota.Services {
				continue
			}
			if gvr, ok := c.counter.resolve(ctx, gr); ok {
				wanted[gvr] = true
			}
		}
	}
	c.watches.set(wanted)
}
