// Package loadbalancer gives Services of type LoadBalancer their addresses: of pools, where there are any, or the nodes' own.
//
// Invariants: two services have one address only where both say that they share it, and then never the same port of it; all addresses in use
// are known before the first is given out; an address is noted before it is written, and free again only when its service is seen
// to be gone or to have another. The status is the record: a controller that starts anew leaves every service what it has.
//
// An address of a pool is announced by the nodes (package proxy/announce), which know it by the condition that is written with it. Nothing is made outside
// the cluster, so services need no finalizer.
package loadbalancer

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/run"
)

const (
	// Class is the loadBalancerClass of services that are served here; those without a class are too.
	Class = "coracle.dev/loadbalancer"
	// PoolAnnotation names the pool that a service's address shall be of, or NodesPool.
	PoolAnnotation = "coracle.dev/address-pool"
	// SharingAnnotation lets services with the same value have one address, where their ports differ.
	SharingAnnotation = "coracle.dev/allow-shared-ip"
	// Condition is the type of the condition that says what became of a service, and ReasonPool its reason where the address is of a pool and to be
	// announced. Package proxy/announce reads both.
	Condition   = "coracle.dev/LoadBalancer"
	ReasonPool  = "AddressPool"
	reasonNodes = "NodeAddresses"

	// ConfigMap is the object of kube-system whose key PoolsKey lists pools.
	ConfigMap = "coracle-load-balancer"
	PoolsKey  = "pools"

	// finalizer is that of cloud providers. A service that comes from elsewhere with it is let go.
	finalizer = "service.kubernetes.io/load-balancer-cleanup"
	// poolsChanged is the loop's key for the ConfigMap.
	poolsChanged = ""
)

// Config is what a controller is given.
type Config struct {
	// Pools are there beside those of the ConfigMap.
	Pools Pools
	// Cluster are the ranges of pods and of cluster IPs, which no pool may have addresses of.
	Cluster []netip.Prefix
	// Off leaves LoadBalancer services to others.
	Off bool
}

// Controller serves LoadBalancer services.
type Controller struct {
	client   kubernetes.Interface
	services corelisters.ServiceLister
	nodes    corelisters.NodeLister
	slices   discoverylisters.EndpointSliceLister
	config   cache.Store
	watch    informers.SharedInformerFactory
	events   record.EventRecorder
	clock    clock.Clock
	lag      *loop.Lag
	loop     *loop.Loop
	flags    Pools
	cluster  []netip.Prefix

	// The following belong to the loop's only worker.
	loaded  bool
	pools   Pools
	version string // of the ConfigMap that pools are of
	table   *table

	mu sync.Mutex
	// pooled are services that have an address of a pool, waiting those that have none; both by namespace/name.
	pooled, waiting map[string]bool
}

// New makes the controller.
func New(e env.Env, cfg Config) *Controller {
	services, nodes := e.Informers.Core().V1().Services(), e.Informers.Core().V1().Nodes()
	endpoints := e.Informers.Discovery().V1().EndpointSlices()
	watch := client.Informers(e.Client, informers.WithNamespace(metav1.NamespaceSystem), informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", ConfigMap).String()
	}))
	config := watch.Core().V1().ConfigMaps().Informer()
	c := &Controller{
		client: e.Client, services: services.Lister(), nodes: nodes.Lister(), slices: endpoints.Lister(), config: config.GetStore(), watch: watch,
		events: e.Recorder("service-controller"), clock: e.Clock, lag: loop.NewLag(e.Clock), flags: cfg.Pools, cluster: cfg.Cluster, pools: cfg.Pools, table: newTable(),
		pooled: map[string]bool{}, waiting: map[string]bool{},
	}
	c.loop = e.Loop(loop.Config{Name: "service-lb-controller", Sync: c.sync, Workers: 1})
	loop.On(c.loop, services.Informer(), c.serviceChanged)
	loop.On(c.loop, nodes.Informer(), c.nodeChanged)
	loop.On(c.loop, endpoints.Informer(), c.sliceChanged)
	loop.On(c.loop, config, func(_, _ *corev1.ConfigMap) { c.loop.Add(poolsChanged) })
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	watch := func(ctx context.Context) error {
		c.watch.StartWithContext(ctx)
		<-ctx.Done()
		c.watch.Shutdown()
		return nil
	}
	return run.All(ctx, watch, c.loop.Run)
}

// ours tells whether the service's load balancer is made here.
func ours(service *corev1.Service) bool {
	class := service.Spec.LoadBalancerClass
	return service.Spec.Type == corev1.ServiceTypeLoadBalancer && (class == nil || *class == Class)
}

func localOnly(service *corev1.Service) bool {
	return service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func (c *Controller) serviceChanged(old, cur *corev1.Service) {
	if cur != nil {
		c.lag.Saw(cur.ResourceVersion)
	}
	if cur != nil && ours(cur) || old != nil && (ours(old) || told(old)) {
		c.loop.AddObject(loop.Either(cur, old))
	}
}

// told tells whether the service shows what this controller made of it.
func told(service *corev1.Service) bool {
	return meta.FindStatusCondition(service.Status.Conditions, Condition) != nil
}

// nodeChanged wakes the services that have the nodes' addresses, or may come to have them.
func (c *Controller) nodeChanged(old, cur *corev1.Node) {
	if old != nil && cur != nil && balances(old) == balances(cur) && slices.Equal(old.Status.Addresses, cur.Status.Addresses) {
		return
	}
	services, err := c.services.List(labels.Everything())
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, service := range services {
		if key := keyOf(service); ours(service) && !c.pooled[key] {
			c.loop.Add(key)
		}
	}
}

// sliceChanged wakes a service whose endpoints decide which nodes' addresses it has.
func (c *Controller) sliceChanged(old, cur *discoveryv1.EndpointSlice) {
	slice := loop.Either(cur, old)
	service, err := c.services.Services(slice.Namespace).Get(slice.Labels[discoveryv1.LabelServiceName])
	if err != nil || !ours(service) || !localOnly(service) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.pooled[keyOf(service)] {
		c.loop.Add(keyOf(service))
	}
}

func keyOf(service *corev1.Service) string { return service.Namespace + "/" + service.Name }

func (c *Controller) sync(ctx context.Context, key string) error {
	if key == poolsChanged || !c.loaded {
		if err := c.load(); err != nil {
			return err
		}
	}
	if key == poolsChanged {
		return nil
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.drop(key)
		c.lag.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	if wait := c.lag.Behind(key); wait > 0 {
		c.loop.AddAfter(key, wait) // the change brings it here earlier
		return nil
	}
	switch {
	case !ours(service):
		c.drop(key)
		return c.write(ctx, service, forget(service))
	case service.DeletionTimestamp != nil:
		return c.letGo(ctx, service)
	}
	wanted, err := c.decide(service)
	if err != nil {
		return err
	}
	return c.write(ctx, service, wanted)
}

// drop takes what a service had; those that wait for an address look again.
func (c *Controller) drop(key string) {
	c.table.release(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pooled, key)
	delete(c.waiting, key)
	c.wakeWaiting()
}

// wakeWaiting wakes those that wait where something was freed; it needs the lock.
func (c *Controller) wakeWaiting() {
	if !c.table.takeFreed() {
		return
	}
	for key := range c.waiting {
		c.loop.Add(key)
	}
}

// letGo ends the hold of another implementation's finalizer: there is nothing outside the cluster that has to be removed.
func (c *Controller) letGo(ctx context.Context, service *corev1.Service) error {
	if !slices.Contains(service.Finalizers, finalizer) {
		return nil // the address stays taken until the service is gone
	}
	fresh := service.DeepCopy()
	fresh.Finalizers = slices.DeleteFunc(fresh.Finalizers, func(f string) bool { return f == finalizer })
	c.events.Event(service, corev1.EventTypeNormal, "DeletingLoadBalancer", "Deleting load balancer")
	_, err := c.client.CoreV1().Services(service.Namespace).Update(ctx, fresh, metav1.UpdateOptions{})
	if err == nil {
		c.events.Event(service, corev1.EventTypeNormal, "DeletedLoadBalancer", "Deleted load balancer")
	}
	return gone(err)
}

func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// load reads the pools, and at first what all services have. Services are looked at again where the pools are other ones.
func (c *Controller) load() error {
	services, err := c.services.List(labels.Everything())
	if err != nil {
		return err
	}
	changed := c.readPools()
	if !c.loaded {
		c.loaded = true
		c.adopt(services)
		return nil // the informer's first list wakes every service
	}
	if changed {
		for _, service := range services {
			if ours(service) {
				c.loop.Add(keyOf(service))
			}
		}
	}
	return nil
}

// readPools takes the pools from the ConfigMap; what cannot be read changes nothing.
func (c *Controller) readPools() (changed bool) {
	obj, found, err := c.config.GetByKey(metav1.NamespaceSystem + "/" + ConfigMap)
	config, ok := obj.(*corev1.ConfigMap)
	if err != nil || found && (!ok || config.ResourceVersion == c.version) {
		return false
	}
	if !found {
		changed = c.version != ""
		c.version, c.pools = "", c.flags
		return changed
	}
	c.version = config.ResourceVersion
	pools, err := ParseConfig(config.Data[PoolsKey])
	if err == nil {
		pools = slices.Concat(c.flags, pools)
		err = errors.Join(pools.check(), pools.CheckAgainst(c.cluster))
	}
	if err != nil {
		c.events.Eventf(config, corev1.EventTypeWarning, "InvalidPools", "The pools stay as they were: %v", err)
		return false
	}
	c.pools = pools
	return true
}

// adopt notes what services have, so that nobody else gets it; where two have the same, the older one keeps it.
func (c *Controller) adopt(services []*corev1.Service) {
	services = slices.Clone(services)
	slices.SortFunc(services, func(a, b *corev1.Service) int {
		if o := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); o != 0 {
			return o
		}
		return cmpKeys(a, b)
	})
	for _, service := range services {
		if !ours(service) || len(service.Status.LoadBalancer.Ingress) == 0 {
			continue
		}
		r := requestOf(service)
		if c.fromNodes(service) {
			_ = c.table.takePorts(r, nil)
		} else if r.current.IsValid() && c.table.conflict(r.current, r) == "" {
			c.table.give(r.current, r)
		}
	}
}

func cmpKeys(a, b *corev1.Service) int {
	switch x, y := keyOf(a), keyOf(b); {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// fromNodes tells whether the service is to have the nodes' addresses.
func (c *Controller) fromNodes(service *corev1.Service) bool {
	named := service.Annotations[PoolAnnotation]
	return named == NodesPool || named == "" && len(c.pools) == 0
}

func requestOf(service *corev1.Service) request {
	r := request{
		key: keyOf(service), namespace: service.Namespace, pool: service.Annotations[PoolAnnotation],
		sharing: service.Annotations[SharingAnnotation], local: localOnly(service),
	}
	r.addr, _ = netip.ParseAddr(service.Spec.LoadBalancerIP) // the API takes only addresses
	for _, in := range service.Status.LoadBalancer.Ingress {
		r.current, _ = netip.ParseAddr(in.IP)
	}
	for _, p := range service.Spec.Ports {
		r.ports = append(r.ports, port{protocol: p.Protocol, number: p.Port})
	}
	return r
}

// write stores what was decided, and tells what has changed.
func (c *Controller) write(ctx context.Context, service *corev1.Service, wanted outcome) error {
	fresh := service.DeepCopy()
	if wanted.condition == nil {
		meta.RemoveStatusCondition(&fresh.Status.Conditions, Condition)
	} else {
		meta.SetStatusCondition(&fresh.Status.Conditions, *wanted.condition)
	}
	if ours(service) {
		fresh.Status.LoadBalancer.Ingress = wanted.ingress
	}
	if apiequality.Semantic.DeepEqual(fresh.Status, service.Status) {
		return nil
	}
	wanted.announce(c.events, service, false)
	updated, err := c.client.CoreV1().Services(service.Namespace).UpdateStatus(ctx, fresh, metav1.UpdateOptions{})
	if err != nil {
		return gone(err)
	}
	c.lag.Wrote(keyOf(service), updated.ResourceVersion)
	wanted.announce(c.events, service, true)
	return nil
}
