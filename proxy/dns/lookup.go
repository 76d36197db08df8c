package dns

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// result is what a name stands for.
type result struct {
	addrs []netip.Addr
	srv   []srv
	alias string // the target of an ExternalName, as a full name
}

type srv struct {
	target string
	port   uint16
	addr   netip.Addr
}

// lookup finds a lower-case name of the zone. A name can exist without records (an empty non-terminal).
func (s *Server) lookup(name string) (result, bool) {
	rest := strings.TrimSuffix(strings.TrimSuffix(name, s.zone), ".")
	labels := strings.Split(rest, ".")
	n := len(labels)
	switch {
	case rest == "":
		return result{}, true
	case rest == "dns-version", rest == "svc", rest == "pod":
		return result{}, true
	case labels[n-1] == "svc":
		return s.service(labels[:n-1])
	case labels[n-1] == "pod" && n == 3:
		return podName(labels[0])
	case labels[n-1] == "pod" && n == 2:
		return result{}, true
	}
	return result{}, false
}

// podName reads a pod's address out of its name: 10-244-0-7.default.pod.
func podName(label string) (result, bool) {
	addr, err := netip.ParseAddr(strings.ReplaceAll(label, "-", "."))
	if err != nil || !addr.Is4() {
		return result{}, false
	}
	return result{addrs: []netip.Addr{addr}}, true
}

// service finds what stands before ".svc": namespace, service, and a host name or a port and protocol.
func (s *Server) service(labels []string) (result, bool) {
	n := len(labels)
	if n == 1 {
		return result{}, s.namespaceHasService(labels[0])
	}
	if n < 2 || n > 4 {
		return result{}, false
	}
	namespace, name := labels[n-1], labels[n-2]
	obj, exists, err := s.services.GetByKey(namespace + "/" + name)
	if err != nil || !exists {
		return result{}, false
	}
	service, ok := obj.(*corev1.Service)
	if !ok {
		return result{}, false
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return result{alias: dns.Fqdn(service.Spec.ExternalName)}, n == 2
	}
	base := fmt.Sprintf("%s.%s.svc.%s", name, namespace, s.zone)
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		return s.headless(service, labels[:n-2], base)
	}
	return clusterIP(service, labels[:n-2], base)
}

func (s *Server) namespaceHasService(namespace string) bool {
	for _, obj := range s.services.List() {
		if service, ok := obj.(*corev1.Service); ok && service.Namespace == namespace {
			return true
		}
	}
	return false
}

// clusterIP: the service's own name gives its address, _port._protocol its SRV record.
func clusterIP(service *corev1.Service, prefix []string, base string) (result, bool) {
	addr, err := netip.ParseAddr(service.Spec.ClusterIP)
	if err != nil || !addr.Is4() {
		return result{}, len(prefix) == 0
	}
	var r result
	for _, p := range service.Spec.Ports {
		if portMatches(prefix, p.Name, p.Protocol) {
			r.srv = append(r.srv, srv{target: base, port: uint16(p.Port), addr: addr})
		}
	}
	switch len(prefix) {
	case 0:
		r.addrs = []netip.Addr{addr}
		return r, true
	case 1:
		return result{}, protocolExists(service, prefix[0])
	}
	return r, len(r.srv) > 0
}

// portMatches: without a prefix every port does, otherwise the one that "_name._protocol" names.
func portMatches(prefix []string, name string, protocol corev1.Protocol) bool {
	switch len(prefix) {
	case 0:
		return true
	case 2:
		return name != "" && prefix[0] == "_"+strings.ToLower(name) && prefix[1] == "_"+strings.ToLower(string(protocol))
	}
	return false
}

func protocolExists(service *corev1.Service, label string) bool {
	for _, p := range service.Spec.Ports {
		if label == "_"+strings.ToLower(string(p.Protocol)) {
			return true
		}
	}
	return false
}

// headless: the name gives every ready endpoint's address, host.name one endpoint's, _port._protocol their SRV records.
func (s *Server) headless(service *corev1.Service, prefix []string, base string) (result, bool) {
	objs, err := s.slices.ByIndex(byService, service.Namespace+"/"+service.Name)
	if err != nil {
		return result{}, false
	}
	var r result
	seen := map[netip.Addr]bool{}
	for _, obj := range objs {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok || slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for i := range slice.Endpoints {
			r.addEndpoint(service, slice, &slice.Endpoints[i], prefix, base, seen)
		}
	}
	switch len(prefix) {
	case 0:
		return r, true
	case 1:
		return r, len(r.addrs) > 0 || protocolExists(service, prefix[0])
	}
	return r, len(r.srv) > 0
}

func (r *result) addEndpoint(service *corev1.Service, slice *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint, prefix []string, base string, seen map[netip.Addr]bool) {
	ready := e.Conditions.Ready == nil || *e.Conditions.Ready
	if len(e.Addresses) == 0 || (!ready && !service.Spec.PublishNotReadyAddresses) {
		return
	}
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil {
		return
	}
	host := endpointHost(e, addr)
	if len(prefix) == 0 || (len(prefix) == 1 && prefix[0] == host) {
		if !seen[addr] {
			seen[addr] = true
			r.addrs = append(r.addrs, addr)
		}
	}
	for _, p := range slice.Ports {
		if p.Port != nil && p.Name != nil && p.Protocol != nil && portMatches(prefix, *p.Name, *p.Protocol) {
			r.srv = append(r.srv, srv{target: host + "." + base, port: uint16(*p.Port), addr: addr})
		}
	}
}

// endpointHost is the name of one endpoint below its service: its hostname, or its address with dashes.
func endpointHost(e *discoveryv1.Endpoint, addr netip.Addr) string {
	if e.Hostname != nil && *e.Hostname != "" {
		return strings.ToLower(*e.Hostname)
	}
	return strings.ReplaceAll(addr.String(), ".", "-")
}

// reverse answers PTR questions for service addresses and for endpoints of headless services.
func (s *Server) reverse(original, name string) []dns.RR {
	addr, ok := reverseAddr(name)
	if !ok {
		return nil
	}
	var names []string
	if objs, err := s.services.ByIndex(byClusterIP, addr.String()); err == nil {
		for _, obj := range objs {
			if service, ok := obj.(*corev1.Service); ok {
				names = append(names, fmt.Sprintf("%s.%s.svc.%s", service.Name, service.Namespace, s.zone))
			}
		}
	}
	names = append(names, s.reverseEndpoints(addr)...)
	records := make([]dns.RR, 0, len(names))
	for _, target := range names {
		records = append(records, &dns.PTR{Hdr: header(original, dns.TypePTR), Ptr: target})
	}
	return records
}

func (s *Server) reverseEndpoints(addr netip.Addr) []string {
	objs, err := s.slices.ByIndex(byEndpoint, addr.String())
	if err != nil {
		return nil
	}
	var names []string
	for _, obj := range objs {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if len(e.Addresses) > 0 && e.Addresses[0] == addr.String() && e.Hostname != nil {
				names = append(names, fmt.Sprintf("%s.%s.%s.svc.%s", *e.Hostname, slice.Labels[discoveryv1.LabelServiceName], slice.Namespace, s.zone))
			}
		}
	}
	return names
}

func reverseAddr(name string) (netip.Addr, bool) {
	labels := strings.Split(strings.TrimSuffix(name, ".in-addr.arpa."), ".")
	if len(labels) != 4 {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
	return addr, err == nil
}
