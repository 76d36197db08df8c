package proxy

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/internal/client"
)

// pending is what changed and is not applied yet.
type pending struct {
	mu       sync.Mutex
	services map[string]bool // namespace/name
	// everything: what all rules depend on changed.
	everything bool
	// triggers are when what the changes follow from happened.
	triggers []time.Time
	// endpoints and others count changes.
	endpoints, others int
}

func newPending() *pending { return &pending{services: map[string]bool{}} }

// take gives what there is and leaves nothing.
func (p *pending) take() *pending {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := &pending{services: p.services, everything: p.everything, triggers: p.triggers, endpoints: p.endpoints, others: p.others}
	p.services, p.everything, p.triggers, p.endpoints, p.others = map[string]bool{}, false, nil, 0, 0
	return taken
}

// note adds a change and wakes the loop.
func (p *proxy) note(change func(*pending)) {
	p.pending.mu.Lock()
	change(p.pending)
	p.cfg.Metrics.endpointsPending.Set(float64(p.pending.endpoints))
	p.cfg.Metrics.servicesPending.Set(float64(p.pending.others))
	p.pending.mu.Unlock()
	p.cfg.Metrics.queued.SetToCurrentTime()
	p.health.Queued()
	signal(p.wake)
}

// signal wakes who waits, once.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// touch notes that someone else changed the table or the link.
func (p *proxy) touch() { signal(p.touched) }

// serviceIndex finds EndpointSlices by the namespace/name of their service.
const serviceIndex = "service"

func serviceOf(slice *discoveryv1.EndpointSlice) string {
	if name := slice.Labels[discoveryv1.LabelServiceName]; name != "" {
		return slice.Namespace + "/" + name
	}
	return ""
}

// slicesOfServices makes a factory's informer of EndpointSlices one of those that belong to services.
func slicesOfServices(factory informers.SharedInformerFactory) cache.SharedIndexInformer {
	return factory.InformerFor(&discoveryv1.EndpointSlice{}, func(kube kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
		indexers := cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}
		return discoveryinformers.NewFilteredEndpointSliceInformer(kube, metav1.NamespaceAll, resync, indexers, func(o *metav1.ListOptions) {
			client.Newest(o)
			o.LabelSelector = discoveryv1.LabelServiceName
		})
	})
}

// watch notes changes of services and slices.
func (p *proxy) watch(factory informers.SharedInformerFactory) ([]cache.InformerSynced, error) {
	services := factory.Core().V1().Services().Informer()
	slices := slicesOfServices(factory)
	err := slices.AddIndexers(cache.Indexers{serviceIndex: func(obj any) ([]string, error) {
		if slice, ok := obj.(*discoveryv1.EndpointSlice); ok && serviceOf(slice) != "" {
			return []string{serviceOf(slice)}, nil
		}
		return nil, nil
	}})
	if err != nil {
		return nil, err
	}
	p.services, p.byName = factory.Core().V1().Services().Lister(), slices.GetIndexer()
	_, err = services.AddEventHandler(handler(func(obj any) {
		if service, ok := obj.(*corev1.Service); ok {
			p.note(func(n *pending) {
				n.services[service.Namespace+"/"+service.Name] = true
				n.others++
			})
		}
	}))
	if err != nil {
		return nil, err
	}
	_, err = slices.AddEventHandler(handler(p.noteSlice))
	return []cache.InformerSynced{services.HasSynced, slices.HasSynced}, err
}

func (p *proxy) noteSlice(obj any) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || serviceOf(slice) == "" {
		return
	}
	p.note(func(n *pending) {
		n.services[serviceOf(slice)] = true
		n.endpoints++
		if t, err := time.Parse(time.RFC3339Nano, slice.Annotations[corev1.EndpointsLastChangeTriggerTime]); err == nil && t.After(p.started) {
			n.triggers = append(n.triggers, t)
		}
	})
}

// handler calls fn with the object of any event, and with both where one replaces the other and is of another service.
func handler(fn func(any)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: fn,
		UpdateFunc: func(old, obj any) {
			was, ok := old.(*discoveryv1.EndpointSlice)
			if is, ok2 := obj.(*discoveryv1.EndpointSlice); ok && ok2 && serviceOf(was) != serviceOf(is) {
				fn(old)
			}
			fn(obj)
		},
		DeleteFunc: func(obj any) {
			if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = tombstone.Obj
			}
			fn(obj)
		},
	}
}

// slicesOf lists a service's EndpointSlices.
func (p *proxy) slicesOf(key string) []*discoveryv1.EndpointSlice {
	found, err := p.byName.ByIndex(serviceIndex, key)
	if err != nil {
		return nil
	}
	endpointSlices := make([]*discoveryv1.EndpointSlice, 0, len(found))
	for _, obj := range found {
		if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
			endpointSlices = append(endpointSlices, slice)
		}
	}
	return endpointSlices
}

// watchNode follows this node's own object, for its zone, its pods' addresses, and whether it is about to be removed.
func (p *proxy) watchNode(trim cache.TransformFunc) informers.SharedInformerFactory {
	factory := client.Informers(p.cfg.Client, informers.WithTransform(trim), informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		client.Newest(o)
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, p.cfg.NodeName).String()
	}))
	p.nodes = factory.Core().V1().Nodes().Lister()
	informer := factory.Core().V1().Nodes().Informer()
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{ // fails only once stopped
		AddFunc: func(any) { p.note(func(n *pending) { n.everything = true }) },
		UpdateFunc: func(old, obj any) {
			was, ok := old.(*corev1.Node)
			is, ok2 := obj.(*corev1.Node)
			if ok && ok2 && (zoneOf(was) != zoneOf(is) || !slices.Equal(was.Spec.PodCIDRs, is.Spec.PodCIDRs) || eligible(was) != eligible(is)) {
				p.note(func(n *pending) { n.everything = true })
			}
		},
	})
	p.optional = append(p.optional, informer.HasSynced)
	return factory
}

// watchCIDRs follows the ranges of service addresses, where the cluster has such objects.
func (p *proxy) watchCIDRs(factory informers.SharedInformerFactory) {
	served, err := p.cfg.Client.Discovery().ServerResourcesForGroupVersion(networkingv1.SchemeGroupVersion.String())
	if err != nil || !slices.ContainsFunc(served.APIResources, func(r metav1.APIResource) bool { return r.Name == "servicecidrs" }) {
		return
	}
	informer := factory.Networking().V1().ServiceCIDRs()
	changed := func(any) { p.note(func(n *pending) { n.everything = true }) }
	_, _ = informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{ // fails only once stopped
		AddFunc: changed, DeleteFunc: changed, // their ranges do not change
	})
	p.serviceCIDRs = informer.Lister()
	p.optional = append(p.optional, informer.Informer().HasSynced)
}

func (p *proxy) followCIDRs() {
	if p.serviceCIDRs == nil {
		return
	}
	all, err := p.serviceCIDRs.List(labels.Everything())
	if err != nil {
		return // of what is in memory
	}
	p.cidrs = nil
	for _, object := range all {
		for _, text := range object.Spec.CIDRs {
			if cidr, err := netip.ParsePrefix(text); err == nil && cidr.Addr().Is4() {
				p.cidrs = append(p.cidrs, cidr.Masked())
			}
		}
	}
	slices.SortFunc(p.cidrs, netip.Prefix.Compare)
	p.cidrs = slices.Compact(p.cidrs)
}

// patience is how long the first rules wait for the Node and the ServiceCIDRs: without them, they are right but for topology and what is of no service.
const patience = 5 * time.Second

func (p *proxy) soon() cache.InformerSynced {
	end := time.Now().Add(patience)
	return func() bool {
		return time.Now().After(end) || !slices.ContainsFunc(p.optional, func(synced cache.InformerSynced) bool { return !synced() })
	}
}

func zoneOf(n *corev1.Node) string { return n.Labels[corev1.LabelTopologyZone] }

// toBeDeleted is the taint that the cluster autoscaler gives to nodes which it is about to remove.
const toBeDeleted = "ToBeDeletedByClusterAutoscaler"

func eligible(n *corev1.Node) bool {
	return n.DeletionTimestamp == nil && !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == toBeDeleted })
}

func podCIDROf(n *corev1.Node) netip.Prefix {
	for _, text := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
		if cidr, err := netip.ParsePrefix(text); err == nil && cidr.Addr().Is4() {
			return cidr.Masked()
		}
	}
	return netip.Prefix{}
}
