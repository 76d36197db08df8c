package ruleset

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Node is what the rules depend on of the node that they are for.
type Node struct {
	// Name is the node's, Zone that of its label topology.kubernetes.io/zone.
	Name, Zone string
	// IP is the node's own address.
	IP netip.Addr
}

// LabelProxyName marks services and slices that some other proxy serves.
const LabelProxyName = "service.kubernetes.io/service-proxy-name"

func notOurs(labels map[string]string) bool {
	_, other := labels[LabelProxyName]
	_, headless := labels[corev1.IsHeadlessService]
	return other || headless
}

// Compile gives the rules of one service on one node. slices are those of the service; other services' are not
// looked at. Services of type ExternalName, headless ones, and those that another proxy serves give none.
func Compile(service *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, node Node) Rules {
	rules := Rules{Service: service.Namespace + "/" + service.Name, Created: service.CreationTimestamp.Unix()}
	if service.Spec.Type == corev1.ServiceTypeExternalName || notOurs(service.Labels) {
		return rules
	}
	addr, err := netip.ParseAddr(service.Spec.ClusterIP)
	if err != nil || !addr.Is4() {
		return rules // headless, not allocated yet, or of a family that is not served
	}
	c := compiler{service: service, addr: addr, node: node, affinity: affinityOf(service), external: addresses(service.Spec.ExternalIPs)}
	c.balancer = balancerAddresses(service)
	c.guarded, c.sources = sourcesOf(service, c.balancer, node.IP)
	ready := map[netip.Addr]bool{}
	for i := range service.Spec.Ports {
		all := portEndpoints(&service.Spec.Ports[i], endpointSlices, node.Name)
		c.port(&service.Spec.Ports[i], all)
		for _, e := range all {
			if e.local && e.ready {
				ready[e.target.Addr()] = true
			}
		}
	}
	slices.SortStableFunc(c.entries, func(a, b Entry) int { return compareKeys(a.Key, b.Key) })
	rules.Entries = slices.Clip(slices.CompactFunc(c.entries, func(a, b Entry) bool { return a.Key == b.Key }))
	if service.Spec.Type == corev1.ServiceTypeLoadBalancer && localPolicy(service) && service.Spec.HealthCheckNodePort > 0 {
		rules.Health = Health{Port: uint16(service.Spec.HealthCheckNodePort), Local: len(ready)}
	}
	return rules
}

func localPolicy(service *corev1.Service) bool {
	return service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// compiler holds what all ports of a service share.
type compiler struct {
	service            *corev1.Service
	addr               netip.Addr
	node               Node
	affinity           time.Duration
	external, balancer []netip.Addr
	guarded            bool
	sources            []netip.Prefix
	entries            []Entry
}

func (c *compiler) port(port *corev1.ServicePort, all []endpoint) {
	chosen := choose(all, c.node)
	c.add(port, c.addr, port.Port, c.internal(chosen))
	external := c.externalBackend(chosen)
	for _, ip := range c.external {
		c.add(port, ip, port.Port, external)
	}
	if port.NodePort > 0 {
		c.add(port, nodeAddr, port.NodePort, external)
	}
	external.Guarded, external.Sources = c.guarded, c.sources
	for _, ip := range c.balancer {
		c.add(port, ip, port.Port, external)
	}
}

func (c *compiler) add(port *corev1.ServicePort, addr netip.Addr, number int32, b Backend) {
	key := Key{Addr: addr, Protocol: protocolOf(port), Port: uint16(number)}
	if key.Protocol == corev1.ProtocolTCP || slices.Equal(b.Serving, b.Endpoints) {
		b.Serving = nil // of TCP, every end of a connection is seen
	}
	c.entries = append(c.entries, Entry{Key: key, Backend: b})
}

func (c *compiler) internal(chosen choice) Backend {
	b := Backend{Endpoints: chosen.cluster, Affinity: c.affinity, Own: chosen.own, Serving: chosen.serving, Source: Outside}
	if p := c.service.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		b.Endpoints = chosen.local
	}
	return b.refusing(chosen)
}

func (c *compiler) externalBackend(chosen choice) Backend {
	b := Backend{Endpoints: chosen.cluster, Affinity: c.affinity, Own: chosen.own, Serving: chosen.serving, Source: Hide}
	if localPolicy(c.service) {
		b.Endpoints, b.Inside, b.Local, b.Source = chosen.local, chosen.cluster, true, Keep
	}
	return b.refusing(chosen)
}

func (b Backend) refusing(chosen choice) Backend {
	switch {
	case len(b.Endpoints) > 0:
	case chosen.any:
		b.Refuse = Drop
	default:
		b.Refuse = Reject
	}
	return b
}

func addresses(texts []string) []netip.Addr {
	var addrs []netip.Addr
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil && a.Is4() && !a.IsUnspecified() {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// balancerAddresses are those of a load balancer whose packets come here with its address; with the mode Proxy they come with the node's.
func balancerAddresses(service *corev1.Service) []netip.Addr {
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var texts []string
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP {
			texts = append(texts, ingress.IP)
		}
	}
	return addresses(texts)
}

// sourcesOf reads loadBalancerSourceRanges. Where the node is of them, the balancer's addresses are too: they may be the node's own, and then its
// connections to them come from them.
func sourcesOf(service *corev1.Service, balancer []netip.Addr, node netip.Addr) (guarded bool, sources []netip.Prefix) {
	if len(balancer) == 0 {
		return false, nil
	}
	fromNode := false
	for _, text := range service.Spec.LoadBalancerSourceRanges {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() {
			sources = append(sources, p.Masked())
			fromNode = fromNode || node.IsValid() && p.Contains(node)
		}
	}
	if len(sources) == 0 {
		return false, nil
	}
	if fromNode {
		for _, ip := range balancer {
			sources = append(sources, netip.PrefixFrom(ip, ip.BitLen()))
		}
	}
	return true, distinct(sources)
}

// distinct sorts prefixes and leaves out what others contain.
func distinct(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		if order := a.Addr().Compare(b.Addr()); order != 0 {
			return order
		}
		return a.Bits() - b.Bits()
	})
	var kept []netip.Prefix
	for _, p := range prefixes {
		if n := len(kept); n == 0 || !kept[n-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	return kept
}

func affinityOf(service *corev1.Service) time.Duration {
	if service.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := int32(corev1.DefaultClientIPServiceAffinitySeconds)
	if c := service.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}
