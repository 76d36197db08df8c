package loadbalancer

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
)

// outcome is what a service's status is to say.
type outcome struct {
	ingress []corev1.LoadBalancerIngress
	// condition is nil for a service that is none of ours.
	condition *metav1.Condition
}

// forget is the outcome of a service that others serve.
func forget(service *corev1.Service) outcome {
	return outcome{ingress: service.Status.LoadBalancer.Ingress}
}

func (c *Controller) outcome(service *corev1.Service, reason, message string, addrs ...netip.Addr) outcome {
	status := metav1.ConditionFalse
	var ingress []corev1.LoadBalancerIngress
	for _, addr := range addrs {
		status = metav1.ConditionTrue
		ingress = append(ingress, corev1.LoadBalancerIngress{IP: addr.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)})
	}
	return outcome{ingress: ingress, condition: &metav1.Condition{
		Type: Condition, Status: status, Reason: reason, Message: message, ObservedGeneration: service.Generation,
		LastTransitionTime: metav1.NewTime(c.clock.Now().Truncate(1e9)),
	}}
}

// Reasons of a service without an address, which are those of events too.
const (
	reasonFailed  = "AllocationFailed"
	reasonNoNodes = "UnAvailableLoadBalancer"
)

// decide gives the service an address, if there is one for it.
func (c *Controller) decide(service *corev1.Service) (outcome, error) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return outcome{}, err
	}
	r := requestOf(service)
	var out outcome
	if c.fromNodes(service) {
		c.table.releaseAddr(r.key)
		out, err = c.fromAllNodes(service, r, nodes)
	} else {
		c.table.releasePorts(r.key, nil)
		out = c.fromPools(service, r, nodes)
	}
	if err != nil {
		return out, err
	}
	c.note(r.key, out)
	return out, nil
}

// note keeps who waits, and wakes those where something was freed.
func (c *Controller) note(key string, out outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	set := func(m map[string]bool, is bool) {
		if is {
			m[key] = true
		} else {
			delete(m, key)
		}
	}
	c.wakeWaiting()
	set(c.pooled, out.condition.Reason == ReasonPool)
	set(c.waiting, len(out.ingress) == 0)
}

func (c *Controller) fromPools(service *corev1.Service, r request, nodes []*corev1.Node) outcome {
	if len(service.Spec.IPFamilies) > 0 && !slices.Contains(service.Spec.IPFamilies, corev1.IPv4Protocol) {
		c.table.releaseAddr(r.key)
		return c.outcome(service, reasonFailed, failed(r.key, fmt.Errorf("pools have IPv4 addresses only")))
	}
	avoid := map[netip.Addr]bool{}
	for _, node := range nodes {
		for _, addr := range node.Status.Addresses {
			if a, err := netip.ParseAddr(addr.Address); err == nil {
				avoid[a] = true
			}
		}
	}
	addr, pool, err := c.table.assign(c.pools, r, avoid)
	if err != nil {
		return c.outcome(service, reasonFailed, failed(r.key, err))
	}
	return c.outcome(service, ReasonPool, fmt.Sprintf("The address is of pool %q", pool.Name), addr)
}

func failed(key string, err error) string {
	return fmt.Sprintf("Failed to allocate IP for %q: %v", key, err)
}

// fromAllNodes gives the service the addresses of the nodes that serve it.
func (c *Controller) fromAllNodes(service *corev1.Service, r request, nodes []*corev1.Node) (outcome, error) {
	local, err := c.servedOn(service)
	if err != nil {
		return outcome{}, err
	}
	addrs := addressesOf(nodes, func(node *corev1.Node) bool { return balances(node) && (local == nil || local[node.Name]) })
	if r.addr.IsValid() {
		if !slices.Contains(addrs, r.addr) {
			c.table.releasePorts(r.key, nil)
			return c.outcome(service, reasonFailed, failed(r.key, fmt.Errorf("%s is not the address of a node that serves it", r.addr))), nil
		}
		addrs = []netip.Addr{r.addr}
	}
	reserved, err := c.reserved()
	if err != nil {
		return outcome{}, err
	}
	if err := c.table.takePorts(r, reserved); err != nil {
		return c.outcome(service, reasonFailed, failed(r.key, err)), nil
	}
	if len(addrs) == 0 {
		return c.outcome(service, reasonNoNodes, "There are no available nodes for LoadBalancer"), nil
	}
	return c.outcome(service, reasonNodes, "The addresses are those of nodes", addrs...), nil
}

// reserved are the ports of the API servers: a service that took them would cut the cluster off.
func (c *Controller) reserved() (map[port]string, error) {
	list, err := c.slicesOf(metav1.NamespaceDefault, "kubernetes")
	out := map[port]string{}
	for _, slice := range list {
		for _, p := range slice.Ports {
			out[port{protocol: ptr.Deref(p.Protocol, corev1.ProtocolTCP), number: ptr.Deref(p.Port, 0)}] = "the API server"
		}
	}
	return out, err
}

func (c *Controller) slicesOf(namespace, service string) ([]*discoveryv1.EndpointSlice, error) {
	return c.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service}))
}

// servedOn are the nodes with a ready endpoint of a service that is served by those alone; nil are all.
func (c *Controller) servedOn(service *corev1.Service) (map[string]bool, error) {
	if !localOnly(service) {
		return nil, nil
	}
	list, err := c.slicesOf(service.Namespace, service.Name)
	nodes := map[string]bool{}
	for _, slice := range list {
		for i := range slice.Endpoints {
			if e := &slice.Endpoints[i]; e.NodeName != nil && ptr.Deref(e.Conditions.Ready, true) {
				nodes[*e.NodeName] = true
			}
		}
	}
	return nodes, err
}

// balances tells whether clients may be sent to the node.
func balances(node *corev1.Node) bool {
	if _, excluded := node.Labels[corev1.LabelNodeExcludeBalancers]; excluded || node.DeletionTimestamp != nil {
		return false
	}
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// addressesOf are the external addresses of the nodes, or where no node has one their internal ones, in order.
func addressesOf(nodes []*corev1.Node, serves func(*corev1.Node) bool) []netip.Addr {
	var external, internal []netip.Addr
	for _, node := range nodes {
		if !serves(node) {
			continue
		}
		for _, address := range node.Status.Addresses {
			addr, err := netip.ParseAddr(address.Address)
			switch {
			case err != nil || !addr.Is4():
			case address.Type == corev1.NodeExternalIP:
				external = append(external, addr)
			case address.Type == corev1.NodeInternalIP:
				internal = append(internal, addr)
			}
		}
	}
	if len(external) == 0 {
		external = internal
	}
	slices.SortFunc(external, netip.Addr.Compare)
	return slices.Compact(external)
}

// announce tells the service's events, before and after the status is written.
func (o outcome) announce(events record.EventRecorder, service *corev1.Service, written bool) {
	if o.condition == nil {
		return
	}
	old := meta.FindStatusCondition(service.Status.Conditions, Condition)
	had := service.Status.LoadBalancer.Ingress
	switch {
	case len(o.ingress) == 0:
		if written && (old == nil || old.Message != o.condition.Message) {
			events.Event(service, corev1.EventTypeWarning, o.condition.Reason, o.condition.Message)
		}
	case sameAddresses(had, o.ingress):
	case o.condition.Reason == reasonNodes && len(had) > 0:
		if written {
			events.Event(service, corev1.EventTypeNormal, "UpdatedLoadBalancer", "Updated load balancer with new hosts")
		}
	case !written:
		events.Event(service, corev1.EventTypeNormal, "EnsuringLoadBalancer", "Ensuring load balancer")
	default:
		if o.condition.Reason == ReasonPool {
			events.Eventf(service, corev1.EventTypeNormal, "IPAllocated", "Assigned IP [%q]", o.ingress[0].IP)
		}
		events.Event(service, corev1.EventTypeNormal, "EnsuredLoadBalancer", "Ensured load balancer")
	}
}

func sameAddresses(a, b []corev1.LoadBalancerIngress) bool {
	return slices.EqualFunc(a, b, func(x, y corev1.LoadBalancerIngress) bool { return x.IP == y.IP })
}
