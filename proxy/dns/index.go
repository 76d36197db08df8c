package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// service is what names say of one Service.
type service struct {
	name      []byte       // in wire form, whole, in lower case
	addrs     []netip.Addr // cluster IPs, or those of a headless one's endpoints
	ports     []port
	headless  bool
	alias     string     // the target of an ExternalName: a full name in lower case
	endpoints []endpoint // sorted by host; of a Service with an address only those with a hostname
}

// endpoint is what names say of the endpoints that share a name below their service.
type endpoint struct {
	host  string // in lower case
	own   bool   // the name is a hostname, and not made of the address
	addrs []netip.Addr
	ports []port
}

// port is a port as SRV records have it; one without a name has none but at the service itself.
type port struct {
	name, protocol string // as "http" and "tcp"
	number         uint16
}

// index holds what there is to answer, kept up to date by the informers' events.
//
// Invariant: what a service is found by (namespaces, addresses) changes together with it, under mu.
type index struct {
	zone string // "cluster.local."

	mu         sync.RWMutex
	services   map[string]*service // by namespace/name
	namespaces map[string]int      // how many services each has
	byAddr     map[netip.Addr][]target
	changed    uint32 // when something changed last, in seconds: the zone's serial
}

// target is a name that an address has: a service's, or an endpoint's below it.
type target struct {
	service string // namespace/name
	name    []byte // in wire form
}

func newIndex(zone string) *index {
	return &index{zone: zone, services: map[string]*service{}, namespaces: map[string]int{}, byAddr: map[netip.Addr][]target{}}
}

// update makes a service what its objects say; a nil object removes it. It tells whether anything changed.
func (x *index) update(key string, read func() (*corev1.Service, []*discoveryv1.EndpointSlice), now time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	// Read under the lock: of two events at once, the one that comes second sees what is newest.
	object, found := read()
	old, had := x.services[key]
	var next *service
	if object != nil {
		next = compile(object, found, x.zone)
	}
	if !had && next == nil || had && next != nil && old.equal(next) {
		return false
	}
	namespace, _, _ := strings.Cut(key, "/")
	if had {
		for addr := range old.reverse() {
			x.forget(addr, key)
		}
		delete(x.services, key)
		if x.namespaces[namespace]--; x.namespaces[namespace] == 0 {
			delete(x.namespaces, namespace)
		}
	}
	if next != nil {
		for addr, name := range next.reverse() {
			x.byAddr[addr] = append(x.byAddr[addr], target{service: key, name: name})
		}
		x.services[key] = next
		x.namespaces[namespace]++
	}
	x.changed = uint32(now.Unix())
	return true
}

func (x *index) forget(addr netip.Addr, key string) {
	left := slices.DeleteFunc(slices.Clone(x.byAddr[addr]), func(t target) bool { return t.service == key })
	if len(left) == 0 {
		delete(x.byAddr, addr)
	} else {
		x.byAddr[addr] = left
	}
}

// reverse yields the addresses by which PTR records lead to the service's names.
func (s *service) reverse() func(func(netip.Addr, []byte) bool) {
	return func(yield func(netip.Addr, []byte) bool) {
		for _, addr := range s.addrs {
			if !s.headless && !yield(addr, s.name) {
				return
			}
		}
		for _, e := range s.endpoints {
			for _, addr := range e.addrs {
				if e.own && !yield(addr, slices.Concat([]byte{byte(len(e.host))}, []byte(e.host), s.name)) {
					return
				}
			}
		}
	}
}

func (s *service) equal(other *service) bool {
	return s.headless == other.headless && s.alias == other.alias && slices.Equal(s.addrs, other.addrs) && slices.Equal(s.ports, other.ports) &&
		slices.EqualFunc(s.endpoints, other.endpoints, func(a, b endpoint) bool {
			return a.host == b.host && a.own == b.own && slices.Equal(a.addrs, b.addrs) && slices.Equal(a.ports, b.ports)
		})
}

// endpoint finds the one of a host name in lower case.
func (s *service) endpoint(host []byte) *endpoint {
	at, found := slices.BinarySearchFunc(s.endpoints, host, func(e endpoint, host []byte) int { return cmp.Compare(e.host, string(host)) })
	if !found {
		return nil
	}
	return &s.endpoints[at]
}

// compile reads a service's names from its objects.
func compile(object *corev1.Service, found []*discoveryv1.EndpointSlice, zone string) *service {
	s := &service{name: wireName(object.Name + "." + object.Namespace + ".svc." + zone)}
	if object.Spec.Type == corev1.ServiceTypeExternalName {
		s.alias = strings.ToLower(dns.Fqdn(object.Spec.ExternalName))
		return s
	}
	s.headless = object.Spec.ClusterIP == corev1.ClusterIPNone
	for i := range object.Spec.Ports {
		p := &object.Spec.Ports[i]
		s.ports = append(s.ports, portOf(p.Name, p.Protocol, p.Port))
	}
	if !s.headless {
		for _, text := range object.Spec.ClusterIPs {
			if addr, err := netip.ParseAddr(text); err == nil {
				s.addrs = append(s.addrs, addr)
			}
		}
	}
	s.addEndpoints(found, object.Spec.PublishNotReadyAddresses)
	return s
}

func portOf(name string, protocol corev1.Protocol, number int32) port {
	return port{strings.ToLower(name), strings.ToLower(string(cmp.Or(protocol, corev1.ProtocolTCP))), uint16(number)}
}

func (s *service) addEndpoints(found []*discoveryv1.EndpointSlice, notReady bool) {
	at := map[string]int{}
	for _, slice := range found {
		var ports []port
		for _, p := range slice.Ports {
			if p.Port != nil { // none stands for any port, of which a record cannot tell
				ports = append(ports, portOf(deref(p.Name), deref(p.Protocol), *p.Port))
			}
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			host, own := deref(e.Hostname), deref(e.Hostname) != ""
			ready := notReady || e.Conditions.Ready == nil || *e.Conditions.Ready
			if !ready || len(e.Addresses) == 0 || slice.AddressType == discoveryv1.AddressTypeFQDN || !own && !s.headless {
				continue
			}
			addr, err := netip.ParseAddr(e.Addresses[0])
			if err != nil {
				continue
			}
			if !own {
				host = hostOf(addr)
			}
			s.addEndpoint(at, strings.ToLower(host), own, addr, ports)
		}
	}
	slices.SortFunc(s.endpoints, func(a, b endpoint) int { return cmp.Compare(a.host, b.host) })
	if s.headless {
		for _, e := range s.endpoints {
			s.addrs = append(s.addrs, e.addrs...)
		}
		slices.SortFunc(s.addrs, netip.Addr.Compare)
		s.addrs = slices.Compact(s.addrs)
	}
}

func (s *service) addEndpoint(at map[string]int, host string, own bool, addr netip.Addr, ports []port) {
	if len(host) == 0 || len(host) > 63 {
		return
	}
	i, has := at[host]
	if !has {
		i = len(s.endpoints)
		at[host] = i
		s.endpoints = append(s.endpoints, endpoint{host: host})
	}
	e := &s.endpoints[i]
	e.own = e.own || own
	if !slices.Contains(e.addrs, addr) {
		e.addrs = append(e.addrs, addr)
		slices.SortFunc(e.addrs, netip.Addr.Compare)
	}
	for _, p := range ports {
		if !slices.Contains(e.ports, p) {
			e.ports = append(e.ports, p)
		}
	}
	slices.SortFunc(e.ports, func(a, b port) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.name, b.name))
	})
}

// hostOf is the name of an endpoint without one: its address with dashes.
func hostOf(addr netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(addr.String())
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// wireName is a full name in wire form; nil where it is none.
func wireName(text string) []byte {
	var buf [maxName + 1]byte
	n, err := dns.PackDomainName(dns.Fqdn(text), buf[:], 0, nil, false)
	if err != nil || n > maxName {
		return nil
	}
	return slices.Clone(buf[:n])
}
