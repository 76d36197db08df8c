package ingress

import (
	"cmp"
	"net"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/coracle-dev/coracle/internal/ingress"
)

// This file is pure: it finds the endpoints of a backend.

// target is what a backend leads to.
type target struct {
	protocol ingress.Protocol
	// addresses are those of endpoints with their ports, sorted.
	addresses []string
}

// resolve finds what a backend leads to: the ready endpoints, or, where there are none, those that still serve while they end. service is nil
// where there is none; one of type ExternalName leads nowhere.
func resolve(b ingress.Backend, service *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) target {
	if service == nil || service.Spec.Type == corev1.ServiceTypeExternalName {
		return target{}
	}
	at := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool {
		return p.Protocol != corev1.ProtocolUDP && p.Protocol != corev1.ProtocolSCTP && (b.Port != "" && p.Name == b.Port || b.Port == "" && p.Port == b.Number)
	})
	if at < 0 {
		return target{}
	}
	port := &service.Spec.Ports[at]
	ready, serving := collect(port.Name, family(service, endpointSlices), endpointSlices)
	if len(ready) == 0 {
		ready = serving
	}
	slices.Sort(ready)
	return target{protocol: ingress.ProtocolOf(port.AppProtocol), addresses: slices.Compact(ready)}
}

// family is the kind of addresses to use: the Service's first one, or else any that there is.
func family(service *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) discoveryv1.AddressType {
	want := discoveryv1.AddressTypeIPv4
	if f := service.Spec.IPFamilies; len(f) > 0 && f[0] == corev1.IPv6Protocol {
		want = discoveryv1.AddressTypeIPv6
	}
	var other discoveryv1.AddressType
	for _, s := range endpointSlices {
		switch {
		case len(s.Endpoints) == 0 || s.AddressType == discoveryv1.AddressTypeFQDN:
		case s.AddressType == want:
			return want
		default:
			other = s.AddressType
		}
	}
	return cmp.Or(other, want)
}

func collect(port string, family discoveryv1.AddressType, endpointSlices []*discoveryv1.EndpointSlice) (ready, serving []string) {
	for _, s := range endpointSlices {
		if s.AddressType != family {
			continue
		}
		for i := range s.Ports {
			p := &s.Ports[i]
			if p.Port == nil || value(p.Name) != port || value(p.Protocol) != "" && *p.Protocol != corev1.ProtocolTCP {
				continue
			}
			number := strconv.Itoa(int(*p.Port))
			for j := range s.Endpoints {
				e := &s.Endpoints[j]
				if len(e.Addresses) == 0 {
					continue
				}
				address := net.JoinHostPort(e.Addresses[0], number) // the others are the same endpoint's
				switch c := e.Conditions; {
				case c.Ready == nil || *c.Ready:
					ready = append(ready, address)
				case value(c.Serving) && value(c.Terminating):
					serving = append(serving, address)
				}
			}
		}
	}
	return ready, serving
}

// value is what p points at, or the zero value.
func value[T any](p *T) T {
	if p == nil {
		var none T
		return none
	}
	return *p
}
