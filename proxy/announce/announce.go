// Package announce makes one node answer for each load balancer address that is of a pool: by ARP, on the link of its subnet.
//
// Invariants: all nodes on a link that hear each other, or of each other, agree on who announces an address, within three seconds after any of them appears, dies
// or changes; where nobody else can, a cordoned node or one without the API server does; without such addresses nothing is opened and nothing is sent.
//
// Nodes know of each other by heartbeats on the very link that an address belongs to: broadcast frames of their own EtherType, two and a half a second. That was
// preferred to Leases renewed by the second. It is the link that counts: who cannot be heard on it cannot answer for an address there, and who has no link in
// the subnet is not heard. It needs no API server, so addresses move also when the server's machine is the one that dies; it costs the store
// nothing; and nodes need no right to anything. A heartbeat tells what its sender has heard of others and how long ago, so that nodes that do not hear each other
// agree by way of a third.
//
// A node also tells how long it has not reached the API server, measured by its own clock: one that is further behind than the others may lead clients to endpoints that are
// gone, and loses its addresses; where all are, nothing changes. A node that neither reaches the server nor hears half of the nodes it knows of takes itself for cut
// off and stops. Of two nodes neither can know that, and each goes on.
//
// Heartbeats bear no signature, as those of VRRP (RFC 5798, section 9): frames of this kind do not leave the link, and on it anyone can answer ARP. They bear the cluster's UID,
// so that several clusters can live on one link. Both kinds of frames pass beside the host's packet filter. The kernel is not given the address, so that no port of the
// node is reached by it but the service's; and an agent that dies answers no more, by the same stroke by which it is no longer heard.
package announce

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/internal/client"
)

// What the loadbalancer controller writes of a service with an address of a pool.
const (
	condition  = "coracle.dev/LoadBalancer"
	reasonPool = "AddressPool"
)

// contactEvery is how often it is seen whether the API server can be reached, while there is something to announce.
const contactEvery = 3 * time.Second

// Config is what New needs.
type Config struct {
	Client kubernetes.Interface
	// Factory is where Services and EndpointSlices come from.
	Factory informers.SharedInformerFactory
	// Slices lists a service's EndpointSlices by its namespace/name.
	Slices   func(key string) []*discoveryv1.EndpointSlice
	NodeName string
	// NodeIP is on the link of those addresses that are in no link's subnet.
	NodeIP netip.Addr
	// Ready is closed when this node leads connections to where they belong; before, nothing is announced.
	Ready <-chan struct{}
}

// Announcer announces addresses.
type Announcer struct {
	cfg      Config
	log      *slog.Logger
	services cache.SharedIndexInformer
	synced   []cache.InformerSynced
	changed  chan struct{}

	mu      sync.Mutex
	offers  map[string]offer // by the service's namespace/name
	cluster [16]byte
	node    *corev1.Node
	contact time.Time
	current state
}

// offer is what a service has announced.
type offer struct {
	service *corev1.Service
	addrs   []netip.Addr
	claim   Claim
}

// New makes an Announcer; the factory must be started after that.
func New(cfg Config) (*Announcer, error) {
	a := &Announcer{
		cfg: cfg, log: slog.With("component", "announce"), services: cfg.Factory.Core().V1().Services().Informer(), changed: make(chan struct{}, 1), offers: map[string]offer{},
	}
	services, err := a.services.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: a.serviceChanged, UpdateFunc: func(_, obj any) { a.serviceChanged(obj) }, DeleteFunc: a.serviceGone,
	})
	if err != nil {
		return nil, err
	}
	slices, err := cfg.Factory.Discovery().V1().EndpointSlices().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: a.sliceChanged, UpdateFunc: func(_, obj any) { a.sliceChanged(obj) }, DeleteFunc: a.sliceChanged,
	})
	a.synced = []cache.InformerSynced{services.HasSynced, slices.HasSynced}
	return a, err
}

// Run announces until ctx ends.
func (a *Announcer) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), a.synced...) {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-a.cfg.Ready:
	}
	for ctx.Err() == nil {
		if a.idle() {
			select {
			case <-ctx.Done():
			case <-a.changed:
			}
			continue
		}
		if err := a.announce(ctx); err != nil {
			a.log.Error("cannot announce addresses; trying again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	return nil
}

func (a *Announcer) idle() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.offers) == 0
}

// announce works for as long as there is something to announce.
func (a *Announcer) announce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := record.NewBroadcaster(record.WithContext(ctx))
	defer events.Shutdown()
	events.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: a.cfg.Client.CoreV1().Events("")})
	recorder := events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "coracle-proxy", Host: a.cfg.NodeName})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	a.touch()
	wg.Go(func() { a.keepInTouch(ctx) })
	a.watchNode(ctx, &wg)
	changed := make(chan struct{}, 1)
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-a.changed:
			}
			if a.idle() {
				cancel()
				return
			}
			a.compute()
			select {
			case changed <- struct{}{}:
			default: // the speaker will look in any case
			}
		}
	})
	a.compute()
	s := &speaker{
		node: idOf(a.cfg.NodeName), nodeIP: a.cfg.NodeIP, log: a.log, state: a.state, changed: changed,
		took: func(addr netip.Addr) { a.tell(recorder, addr) },
	}
	return s.run(ctx)
}

// wake has the state computed anew.
func (a *Announcer) wake() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

func (a *Announcer) serviceChanged(obj any) {
	service, ok := obj.(*corev1.Service)
	if !ok {
		return
	}
	key := service.Namespace + "/" + service.Name
	addrs := poolAddresses(service)
	a.mu.Lock()
	defer a.mu.Unlock()
	if key == "default/kubernetes" {
		a.cluster = clusterOf(service)
	}
	if _, had := a.offers[key]; !had && len(addrs) == 0 {
		return
	}
	if len(addrs) == 0 {
		delete(a.offers, key)
	} else {
		a.offers[key] = offer{service: service, addrs: addrs, claim: Claim{Nodes: servedOn(service, a.cfg.Slices(key))}}
	}
	a.wake()
}

func (a *Announcer) serviceGone(obj any) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, had := a.offers[key]; had {
		delete(a.offers, key)
		a.wake()
	}
}

func (a *Announcer) sliceChanged(obj any) {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	key := slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]
	a.mu.Lock()
	defer a.mu.Unlock()
	o, announced := a.offers[key]
	if !announced || o.claim.Nodes == nil {
		return
	}
	nodes := servedOn(o.service, a.cfg.Slices(key))
	if !maps.Equal(nodes, o.claim.Nodes) {
		o.claim = Claim{Nodes: nodes}
		a.offers[key] = o
		a.wake()
	}
}

// clusterOf tells clusters apart by the UID of a service that each has.
func clusterOf(service *corev1.Service) [16]byte {
	var out [16]byte
	copy(out[:], sum(string(service.UID)))
	return out
}

// poolAddresses are the addresses of the service that are of pools.
func poolAddresses(service *corev1.Service) []netip.Addr {
	said := meta.FindStatusCondition(service.Status.Conditions, condition)
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer || said == nil || said.Status != metav1.ConditionTrue || said.Reason != reasonPool {
		return nil
	}
	var out []netip.Addr
	for _, in := range service.Status.LoadBalancer.Ingress {
		if addr, err := netip.ParseAddr(in.IP); err == nil && addr.Is4() {
			out = append(out, addr)
		}
	}
	return out
}

// servedOn are the nodes that serve clients from outside; nil are all. As long as endpoints that end still serve they do where there are no
// others, as the proxy has it.
func servedOn(service *corev1.Service, list []*discoveryv1.EndpointSlice) map[string]bool {
	if service.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return nil
	}
	ready, draining := map[string]bool{}, map[string]bool{}
	for _, slice := range list {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			switch name := ptr.Deref(e.NodeName, ""); {
			case name == "":
			case ptr.Deref(e.Conditions.Ready, true):
				ready[name] = true
			case ptr.Deref(e.Conditions.Serving, false) && ptr.Deref(e.Conditions.Terminating, false):
				draining[name] = true
			}
		}
	}
	if len(ready) == 0 {
		return draining
	}
	return ready
}

// compute is what the speaker goes by until the next change.
func (a *Announcer) compute() {
	a.mu.Lock()
	defer a.mu.Unlock()
	claims := map[netip.Addr]Claim{}
	for _, key := range slices.Sorted(maps.Keys(a.offers)) {
		o := a.offers[key]
		for _, addr := range o.addrs {
			if have, shared := claims[addr]; !shared || have.Nodes == nil {
				claims[addr] = o.claim
			}
		}
	}
	a.current = state{claims: claims, cluster: a.cluster, fitness: fitnessOf(a.node)}
}

func (a *Announcer) state() state {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.current.contact = a.contact
	return a.current
}

// fitnessOf tells how fit a node is; one that is not known is.
func fitnessOf(node *corev1.Node) fitness {
	if node == nil {
		return fit
	}
	if _, excluded := node.Labels[corev1.LabelNodeExcludeBalancers]; excluded {
		return unfit
	}
	ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	if node.Spec.Unschedulable || !ready {
		return reserve
	}
	return fit
}

// watchNode follows this node's own Node, and waits a moment for the first sight of it.
func (a *Announcer) watchNode(ctx context.Context, wg *sync.WaitGroup) {
	factory := client.Informers(a.cfg.Client, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", a.cfg.NodeName).String()
	}))
	informer := factory.Core().V1().Nodes().Informer()
	see := func(obj any) {
		node, ok := obj.(*corev1.Node)
		if !ok {
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		before := a.node
		if a.node = node; before == nil || fitnessOf(before) != fitnessOf(node) {
			a.wake()
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(_, obj any) { see(obj) }}); err != nil {
		a.log.Error("cannot follow the node", "error", err)
		return
	}
	wg.Go(func() { informer.RunWithContext(ctx) })
	first, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	cache.WaitForCacheSync(first.Done(), informer.HasSynced)
}

// keepInTouch asks the API server for the node's own Lease, only to see that it answers.
func (a *Announcer) keepInTouch(ctx context.Context) {
	leases := a.cfg.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	for {
		attempt, cancel := context.WithTimeout(ctx, contactEvery)
		_, err := leases.Get(attempt, a.cfg.NodeName, metav1.GetOptions{})
		cancel()
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
			a.touch()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(contactEvery):
		}
	}
}

func (a *Announcer) touch() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.contact = time.Now()
}

// tell says in events which node announces a service.
func (a *Announcer) tell(events record.EventRecorder, addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range a.offers {
		if slices.Contains(o.addrs, addr) {
			events.Eventf(o.service, corev1.EventTypeNormal, "nodeAssigned", "announcing from node %q with protocol %q", a.cfg.NodeName, "layer2")
		}
	}
}
