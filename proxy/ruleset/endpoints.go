package ruleset

import (
	"math"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// endpoint is one of a service's port.
type endpoint struct {
	target netip.AddrPort
	// ready ones take new connections; draining ones terminate but still serve, and take them where none is ready.
	ready, draining bool
	// local ones are on this node; own ones may be.
	local, own bool
	hints      *discoveryv1.EndpointHints
}

// portEndpoints lists the endpoints of a service's port, sorted; each is there once.
func portEndpoints(port *corev1.ServicePort, endpointSlices []*discoveryv1.EndpointSlice, node string) []endpoint {
	var found []endpoint
	for _, slice := range endpointSlices {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 || notOurs(slice.Labels) {
			continue
		}
		number := slicePort(slice, port)
		if number == 0 {
			continue
		}
		for i := range slice.Endpoints {
			if e, ok := newEndpoint(&slice.Endpoints[i], number, node); ok {
				found = append(found, e)
			}
		}
	}
	// An endpoint that moves from one slice to another can be in both for a moment: the better one counts.
	slices.SortStableFunc(found, func(a, b endpoint) int {
		if order := a.target.Compare(b.target); order != 0 {
			return order
		}
		return b.rank() - a.rank()
	})
	return slices.CompactFunc(found, func(a, b endpoint) bool { return a.target == b.target })
}

func (e *endpoint) rank() int {
	switch {
	case e.ready:
		return 2
	case e.draining:
		return 1
	}
	return 0
}

// slicePort gives the number that a service's port has in a slice: it may differ from slice to slice.
func slicePort(slice *discoveryv1.EndpointSlice, port *corev1.ServicePort) uint16 {
	for _, p := range slice.Ports {
		name, protocol := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		if name == port.Name && protocol == protocolOf(port) && p.Port != nil && *p.Port > 0 && *p.Port <= math.MaxUint16 {
			return uint16(*p.Port)
		}
	}
	return 0
}

func protocolOf(port *corev1.ServicePort) corev1.Protocol {
	if port.Protocol == "" {
		return corev1.ProtocolTCP
	}
	return port.Protocol
}

func newEndpoint(from *discoveryv1.Endpoint, port uint16, node string) (endpoint, bool) {
	if len(from.Addresses) == 0 {
		return endpoint{}, false
	}
	addr, err := netip.ParseAddr(from.Addresses[0]) // the others are of no meaning
	if err != nil || !addr.Is4() {
		return endpoint{}, false
	}
	c := from.Conditions
	ready := c.Ready == nil || *c.Ready
	return endpoint{
		target:   netip.AddrPortFrom(addr, port),
		ready:    ready,
		draining: !ready && c.Serving != nil && *c.Serving && c.Terminating != nil && *c.Terminating,
		local:    from.NodeName != nil && *from.NodeName == node,
		own:      from.NodeName == nil || *from.NodeName == node,
		hints:    from.Hints,
	}, true
}

// choice is which endpoints connections are led to, after kube-proxy's rules.
type choice struct {
	// cluster are those of the traffic policy Cluster, local those of Local.
	cluster, local []netip.AddrPort
	// any: there is an endpoint somewhere, whatever the policy.
	any bool
	own []netip.Addr
	// serving are all that serve.
	serving []netip.AddrPort
}

func choose(all []endpoint, node Node) choice {
	ready := func(e *endpoint) bool { return e.ready }
	draining := func(e *endpoint) bool { return e.draining }
	near := topology(all, node)
	c := choice{
		cluster: firstOf(all, func(e *endpoint) bool { return e.ready && near(e) }, draining),
		local:   firstOf(all, both(ready, onThisNode), both(draining, onThisNode)),
		serving: targets(all, func(e *endpoint) bool { return e.ready || e.draining }),
	}
	c.any = len(c.cluster) > 0
	for i := range all {
		if all[i].own && (all[i].ready || all[i].draining) {
			c.own = append(c.own, all[i].target.Addr())
		}
	}
	c.own = slices.Compact(c.own)
	return c
}

func onThisNode(e *endpoint) bool { return e.local }

func both(a, b func(*endpoint) bool) func(*endpoint) bool {
	return func(e *endpoint) bool { return a(e) && b(e) }
}

// firstOf gives the endpoints that the first of the conditions holds for which any is found for.
func firstOf(all []endpoint, conditions ...func(*endpoint) bool) []netip.AddrPort {
	for _, holds := range conditions {
		if found := targets(all, holds); len(found) > 0 {
			return found
		}
	}
	return nil
}

func targets(all []endpoint, holds func(*endpoint) bool) []netip.AddrPort {
	n := 0
	for i := range all {
		if holds(&all[i]) {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	found := make([]netip.AddrPort, 0, n)
	for i := range all {
		if holds(&all[i]) {
			found = append(found, all[i].target)
		}
	}
	return found
}

// topology gives the condition that the slices' hints set for endpoints of the policy Cluster: those hinted for this node, or else for its zone.
// Hints count only where every ready endpoint has one, and any is for us; otherwise all do.
func topology(all []endpoint, node Node) func(*endpoint) bool {
	forNode := func(e *endpoint) []string {
		if e.hints == nil {
			return nil
		}
		return namesOf(e.hints.ForNodes, func(h discoveryv1.ForNode) string { return h.Name })
	}
	forZone := func(e *endpoint) []string {
		if e.hints == nil {
			return nil
		}
		return namesOf(e.hints.ForZones, func(h discoveryv1.ForZone) string { return h.Name })
	}
	for _, kind := range []struct {
		hints func(*endpoint) []string
		here  string
	}{{forNode, node.Name}, {forZone, node.Zone}} {
		hinted, forUs := true, false
		for i := range all {
			if !all[i].ready {
				continue
			}
			names := kind.hints(&all[i])
			hinted = hinted && len(names) > 0
			forUs = forUs || slices.Contains(names, kind.here)
		}
		if hinted && forUs {
			return func(e *endpoint) bool { return slices.Contains(kind.hints(e), kind.here) }
		}
	}
	return func(*endpoint) bool { return true }
}

func namesOf[T any](hints []T, name func(T) string) []string {
	names := make([]string, len(hints))
	for i, h := range hints {
		names[i] = name(h)
	}
	return names
}
