//lint:file-ignore SA1019 Endpoints are deprecated, and served.

package kinds

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// packSubsets rewrites subsets into their one canonical form: each port with all of its addresses, ports with the same
// addresses in one subset, all sorted. An address that is both ready and not is not ready.
func packSubsets(subsets []corev1.EndpointSubset) []corev1.EndpointSubset {
	byPort, order := addressesByPort(subsets)
	byAddresses := map[string]*corev1.EndpointSubset{}
	var packed []*corev1.EndpointSubset
	for _, port := range order {
		addresses := byPort[port]
		key := addresses.key()
		subset := byAddresses[key]
		if subset == nil {
			subset = addresses.subset()
			byAddresses[key] = subset
			packed = append(packed, subset)
		}
		if port != (endpointPortKey{}) {
			subset.Ports = append(subset.Ports, port.port())
		}
	}
	result := make([]corev1.EndpointSubset, len(packed))
	for i, s := range packed {
		slices.SortFunc(s.Ports, compareEndpointPorts)
		result[i] = *s
	}
	slices.SortFunc(result, compareSubsets)
	return result
}

// endpointPortKey is an EndpointPort that compares by value. The zero key stands for the lack of ports.
type endpointPortKey struct {
	name, appProtocol string
	hasAppProtocol    bool
	protocol          corev1.Protocol
	number            int32
}

func endpointPortKeyOf(p *corev1.EndpointPort) endpointPortKey {
	k := endpointPortKey{name: p.Name, protocol: p.Protocol, number: p.Port}
	if p.AppProtocol != nil {
		k.appProtocol, k.hasAppProtocol = *p.AppProtocol, true
	}
	return k
}

func (k endpointPortKey) port() corev1.EndpointPort {
	p := corev1.EndpointPort{Name: k.name, Protocol: k.protocol, Port: k.number}
	if k.hasAppProtocol {
		p.AppProtocol = &k.appProtocol
	}
	return p
}

// endpointAddresses is a set of addresses, each with whether it is ready. One IP may belong to several targets.
type endpointAddresses map[string]endpointState

type endpointState struct {
	address corev1.EndpointAddress
	ready   bool
}

func (a endpointAddresses) add(address corev1.EndpointAddress, ready bool) {
	key := address.IP
	if address.TargetRef != nil {
		key += "|" + string(address.TargetRef.UID)
	}
	if _, known := a[key]; !known || !ready {
		a[key] = endpointState{address, ready}
	}
}

// key names the set: two with the same key have the same addresses, ready alike.
func (a endpointAddresses) key() string {
	parts := make([]string, 0, len(a))
	for key, s := range a {
		if s.ready {
			key += "|ready"
		}
		parts = append(parts, key)
	}
	slices.Sort(parts)
	return strings.Join(parts, "\n")
}

func (a endpointAddresses) subset() *corev1.EndpointSubset {
	s := &corev1.EndpointSubset{}
	for _, e := range a {
		if e.ready {
			s.Addresses = append(s.Addresses, e.address)
		} else {
			s.NotReadyAddresses = append(s.NotReadyAddresses, e.address)
		}
	}
	slices.SortFunc(s.Addresses, compareEndpointAddresses)
	slices.SortFunc(s.NotReadyAddresses, compareEndpointAddresses)
	return s
}

// addressesByPort collects each port's addresses over all subsets, and the ports in the order they first occur.
func addressesByPort(subsets []corev1.EndpointSubset) (map[endpointPortKey]endpointAddresses, []endpointPortKey) {
	byPort := map[endpointPortKey]endpointAddresses{}
	var order []endpointPortKey
	for i := range subsets {
		keys := []endpointPortKey{}
		for j := range subsets[i].Ports {
			keys = append(keys, endpointPortKeyOf(&subsets[i].Ports[j]))
		}
		if len(keys) == 0 {
			keys = append(keys, endpointPortKey{})
		}
		for _, k := range keys {
			if byPort[k] == nil {
				byPort[k] = endpointAddresses{}
				order = append(order, k)
			}
			for _, a := range subsets[i].Addresses {
				byPort[k].add(a, true)
			}
			for _, a := range subsets[i].NotReadyAddresses {
				byPort[k].add(a, false)
			}
		}
	}
	return byPort, order
}

func compareEndpointAddresses(a, b corev1.EndpointAddress) int {
	uid := func(e *corev1.EndpointAddress) string {
		if e.TargetRef == nil {
			return ""
		}
		return string(e.TargetRef.UID)
	}
	return cmp.Or(strings.Compare(a.IP, b.IP), strings.Compare(uid(&a), uid(&b)))
}

func compareEndpointPorts(a, b corev1.EndpointPort) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), strings.Compare(string(a.Protocol), string(b.Protocol)))
}

func compareSubsets(a, b corev1.EndpointSubset) int {
	return cmp.Or(
		slices.CompareFunc(a.Addresses, b.Addresses, compareEndpointAddresses),
		slices.CompareFunc(a.NotReadyAddresses, b.NotReadyAddresses, compareEndpointAddresses),
		slices.CompareFunc(a.Ports, b.Ports, compareEndpointPorts),
	)
}
