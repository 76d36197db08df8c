// Package ruleset turns Services and EndpointSlices into what the node's packet filter must do: pure and
// sorted, so that equal input gives an equal Ruleset, and two of them can be compared.
package ruleset

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Key is what a packet is addressed to. The zero address stands for every address of the node: a NodePort.
type Key struct {
	Addr     netip.Addr
	Protocol corev1.Protocol
	Port     uint16
}

// NodePort tells whether the key is a port of the node itself.
func (k Key) NodePort() bool { return k.Addr == nodeAddr }

var nodeAddr = netip.AddrFrom4([4]byte{})

func (k Key) String() string {
	return fmt.Sprintf("%s %s:%d", strings.ToLower(string(k.Protocol)), k.Addr, k.Port)
}

func compareKeys(a, b Key) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}

// Backend is where packets for a key go.
type Backend struct {
	// Endpoints are sorted and distinct; a new connection takes each with the same probability. Never empty.
	Endpoints []netip.AddrPort
	// Affinity keeps a client on its endpoint for this long after its last connection; zero is none.
	Affinity time.Duration
	// Masquerade hides the client's address, so that replies come back through this node.
	Masquerade bool
	// Service is namespace/name, for people.
	Service string
}

func (b Backend) equal(other Backend) bool {
	return b.Affinity == other.Affinity && b.Masquerade == other.Masquerade && slices.Equal(b.Endpoints, other.Endpoints)
}

// Ruleset is the node's whole service table. Keys without endpoints are not in it.
type Ruleset map[Key]Backend

// Keys lists the keys in order.
func (r Ruleset) Keys() []Key {
	keys := make([]Key, 0, len(r))
	for k := range r {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compareKeys)
	return keys
}

// String is the form of golden files.
func (r Ruleset) String() string {
	var b strings.Builder
	for _, k := range r.Keys() {
		backend := r[k]
		fmt.Fprintf(&b, "%s (%s) ->", k, backend.Service)
		for _, e := range backend.Endpoints {
			fmt.Fprintf(&b, " %s", e)
		}
		if backend.Affinity > 0 {
			fmt.Fprintf(&b, " affinity %s", backend.Affinity)
		}
		if backend.Masquerade {
			b.WriteString(" masquerade")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Compile gives the rules of one service on one node. slices are those of the service; other services' are not
// looked at. Services of type ExternalName, headless ones, and those that another proxy serves give none.
func Compile(service *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, node string) Ruleset {
	rules := Ruleset{}
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Labels[labelProxyName] != "" {
		return rules
	}
	addr, err := netip.ParseAddr(service.Spec.ClusterIP)
	if err != nil || !addr.Is4() {
		return rules // headless, not allocated yet, or of a family that is not served
	}
	for i := range service.Spec.Ports {
		compilePort(rules, service, &service.Spec.Ports[i], addr, endpointSlices, node)
	}
	return rules
}

// labelProxyName marks services that some other proxy serves.
const labelProxyName = "service.kubernetes.io/service-proxy-name"

func compilePort(rules Ruleset, service *corev1.Service, port *corev1.ServicePort, addr netip.Addr, endpointSlices []*discoveryv1.EndpointSlice, node string) {
	found := portEndpoints(port, endpointSlices)
	internal := found.choose(service.Spec.InternalTrafficPolicy != nil && *service.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal, node)
	localOnly := service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	external := found.choose(localOnly, node)
	name := service.Namespace + "/" + service.Name
	affinity := affinityOf(service)
	add := func(a netip.Addr, number int32, endpoints []netip.AddrPort, masquerade bool) {
		if affinity > 0 {
			endpoints = oneAPort(endpoints)
		}
		if len(endpoints) > 0 && number > 0 {
			rules[Key{Addr: a, Protocol: port.Protocol, Port: uint16(number)}] =
				Backend{Endpoints: endpoints, Affinity: affinity, Masquerade: masquerade, Service: name}
		}
	}
	add(addr, port.Port, internal, false)
	for _, ip := range externalAddresses(service) {
		add(ip, port.Port, external, !localOnly)
	}
	add(nodeAddr, port.NodePort, external, !localOnly)
}

// oneAPort keeps one port of each address: affinity remembers a client's endpoint by its address.
func oneAPort(endpoints []netip.AddrPort) []netip.AddrPort {
	return slices.CompactFunc(slices.Clone(endpoints), func(a, b netip.AddrPort) bool { return a.Addr() == b.Addr() })
}

// externalAddresses are those besides the cluster IP that lead to the service.
func externalAddresses(service *corev1.Service) []netip.Addr {
	texts := slices.Clone(service.Spec.ExternalIPs)
	if service.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for _, ingress := range service.Status.LoadBalancer.Ingress {
			if ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP {
				texts = append(texts, ingress.IP)
			}
		}
	}
	var addrs []netip.Addr
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil && a.Is4() {
			addrs = append(addrs, a)
		}
	}
	return addrs
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

// endpoints of one port: those that are ready, and those that terminate but still serve.
type endpoints struct{ ready, draining []endpoint }

type endpoint struct {
	target netip.AddrPort
	node   string
}

func portEndpoints(port *corev1.ServicePort, endpointSlices []*discoveryv1.EndpointSlice) endpoints {
	var found endpoints
	for _, slice := range endpointSlices {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		number := slicePort(slice, port)
		if number == 0 {
			continue
		}
		for i := range slice.Endpoints {
			found.add(&slice.Endpoints[i], number)
		}
	}
	return found
}

func slicePort(slice *discoveryv1.EndpointSlice, port *corev1.ServicePort) uint16 {
	for _, p := range slice.Ports {
		name, protocol := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		if name == port.Name && protocol == port.Protocol && p.Port != nil && *p.Port > 0 && *p.Port <= math.MaxUint16 {
			return uint16(*p.Port)
		}
	}
	return 0
}

func (e *endpoints) add(from *discoveryv1.Endpoint, port uint16) {
	if len(from.Addresses) == 0 {
		return
	}
	addr, err := netip.ParseAddr(from.Addresses[0])
	if err != nil {
		return
	}
	one := endpoint{target: netip.AddrPortFrom(addr, port)}
	if from.NodeName != nil {
		one.node = *from.NodeName
	}
	is := func(condition *bool, unknown bool) bool {
		if condition == nil {
			return unknown
		}
		return *condition
	}
	switch c := from.Conditions; {
	case is(c.Ready, true):
		e.ready = append(e.ready, one)
	case is(c.Serving, false) && is(c.Terminating, false):
		e.draining = append(e.draining, one)
	}
}

// choose gives the endpoints to use, sorted: the ready ones, or where there are none, those that drain.
func (e *endpoints) choose(localOnly bool, node string) []netip.AddrPort {
	for _, candidates := range [][]endpoint{e.ready, e.draining} {
		var chosen []netip.AddrPort
		for _, c := range candidates {
			if !localOnly || c.node == node {
				chosen = append(chosen, c.target)
			}
		}
		if len(chosen) > 0 {
			slices.SortFunc(chosen, netip.AddrPort.Compare)
			return slices.Compact(chosen)
		}
	}
	return nil
}
