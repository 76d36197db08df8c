package dns

import (
	"bytes"
	"net/netip"

	"github.com/miekg/dns"
)

// schemaVersion is of the specification followed.
const schemaVersion = "1.1.0"

// Labels with a meaning below the zone.
var (
	labelSvc = []byte("svc")
	labelPod = []byte("pod")
	labelDNS = []byte("dns")
	labelNS  = []byte("ns")
)

// zone answers for the cluster's domain from an index. It is one worker's own.
type zone struct {
	index  *index
	suffix name       // in wire form
	server netip.Addr // the address of the zone's name server
	spots  []spot
}

// spot is where an SRV record's target lies in the answer, for the addresses in the additional section.
type spot struct {
	at    owner
	addrs []netip.Addr
}

// has tells how many labels stand before the zone in a name; none, where it is another's.
func (z *zone) has(n *name) (int, bool) {
	k := len(n.labels) - len(z.suffix.labels)
	return k, k >= 0 && bytes.Equal(n.from(k), z.suffix.wire)
}

// found is how a lookup ended.
type found struct {
	exists bool   // the name does, with or without records of the type that was asked for
	alias  string // it stands for this name
}

// lookup writes the records of a name in the zone that has k labels before it. o is where the name is written.
func (z *zone) lookup(r *reply, n *name, k int, o owner, qtype uint16) found {
	if k == 0 {
		return z.apex(r, o, qtype)
	}
	last := n.label(k - 1)
	switch {
	case bytes.Equal(last, labelSvc):
		return z.svc(r, n, k, o, qtype)
	case bytes.Equal(last, labelPod):
		return pod(r, n, k, o, qtype)
	case bytes.Equal(last, labelDNS) && k == 1:
		return found{exists: true} // ns is below it
	case bytes.Equal(last, labelDNS) && k == 2 && bytes.Equal(n.label(0), labelNS):
		return addresses(r, o, qtype, z.server)
	case k == 1 && string(last) == "dns-version":
		if qtype == dns.TypeTXT {
			r.text(o, schemaVersion)
		}
		return found{exists: true}
	}
	return found{}
}

// apex answers for the zone's own name.
func (z *zone) apex(r *reply, o owner, qtype uint16) found {
	switch qtype {
	case dns.TypeSOA:
		r.soa(answer, o, z.index.serial())
	case dns.TypeNS:
		if at, ok := r.named(o, dns.TypeNS, append([]byte("\x02ns\x03dns"), z.suffix.wire...)); ok {
			r.address(additional, at, z.server)
		}
	}
	return found{exists: true}
}

func (x *index) serial() uint32 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.changed
}

// pod reads an address out of a pod's name, as 10-244-0-7.default.pod.
func pod(r *reply, n *name, k int, o owner, qtype uint16) found {
	if k <= 2 {
		return found{exists: true}
	}
	if k > 3 {
		return found{}
	}
	addr, ok := dashed(n.label(0))
	if !ok {
		return found{}
	}
	return addresses(r, o, qtype, addr)
}

// dashed reads an address in which dashes stand for the dots or colons.
func dashed(label []byte) (netip.Addr, bool) {
	var text [63]byte
	for _, separator := range []byte{'.', ':'} {
		copied := text[:copy(text[:], label)]
		for i, c := range copied {
			if c == '-' {
				copied[i] = separator
			}
		}
		if addr, err := netip.ParseAddr(string(copied)); err == nil && addr.Zone() == "" && !addr.Is4In6() {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// addresses writes those of the family that was asked for, from another one on in every answer: clients take the first.
func addresses(r *reply, o owner, qtype uint16, addrs ...netip.Addr) found {
	for i := range addrs {
		addr := addrs[(uint(i)+r.shift)%uint(len(addrs))]
		if qtype == dns.TypeA && addr.Is4() || qtype == dns.TypeAAAA && addr.Is6() {
			r.address(answer, o, addr)
		}
	}
	return found{exists: true}
}

// svc answers for names below svc: a namespace, a service, and before that an endpoint's name or a port and its protocol.
func (z *zone) svc(r *reply, n *name, k int, o owner, qtype uint16) found {
	x := z.index
	x.mu.RLock()
	defer x.mu.RUnlock()
	switch k {
	case 1:
		return found{exists: true}
	case 2:
		return found{exists: x.namespaces[string(n.label(0))] > 0}
	}
	var key [2*63 + 1]byte
	k -= 3 // the service's label
	s := x.services[string(append(append(append(key[:0], n.label(k+1)...), '/'), n.label(k)...))]
	if s == nil {
		return found{}
	}
	z.spots = z.spots[:0]
	result := z.service(r, s, n, k, o, qtype)
	for _, spot := range z.spots {
		for _, addr := range spot.addrs {
			r.address(additional, spot.at, addr)
		}
	}
	return result
}

// service writes the records of a name that has prefix labels before the service's.
func (z *zone) service(r *reply, s *service, n *name, prefix int, o owner, qtype uint16) found {
	switch {
	case s.alias != "":
		return found{exists: prefix == 0, alias: aliasAt(s, prefix)}
	case s.headless && len(s.endpoints) == 0:
		return found{} // as the specification has it
	case prefix == 0:
		z.srvs(r, s, o, qtype, nil, nil)
		return addresses(r, o, qtype, s.addrs...)
	case prefix == 1:
		return z.below(r, s, n, o, qtype)
	case prefix == 2:
		name, protocol := n.label(0), n.label(1)
		if name[0] != '_' || protocol[0] != '_' || !s.hasPort(name[1:], protocol[1:]) {
			return found{}
		}
		z.srvs(r, s, o, qtype, name[1:], protocol[1:])
		return found{exists: true}
	}
	return found{}
}

func aliasAt(s *service, prefix int) string {
	if prefix > 0 {
		return ""
	}
	return s.alias
}

// below answers for one label before a service: an endpoint's name, or a protocol with ports below it.
func (z *zone) below(r *reply, s *service, n *name, o owner, qtype uint16) found {
	label := n.label(0)
	if e := s.endpoint(label); e != nil {
		if qtype == dns.TypeSRV {
			for _, p := range e.ports {
				z.srv(r, o, e.host, s.name, p.number, e.addrs)
			}
		}
		return addresses(r, o, qtype, e.addrs...)
	}
	return found{exists: label[0] == '_' && s.hasPort(nil, label[1:])}
}

// hasPort tells whether there are SRV records of a port, or of any port of the protocol where name is nil.
func (s *service) hasPort(name, protocol []byte) bool {
	matches := func(ports []port) bool {
		for _, p := range ports {
			if p.protocol == string(protocol) && p.name != "" && (name == nil || p.name == string(name)) {
				return true
			}
		}
		return false
	}
	if !s.headless {
		return matches(s.ports)
	}
	for i := range s.endpoints {
		if matches(s.endpoints[i].ports) {
			return true
		}
	}
	return false
}

// srvs writes the SRV records of a named port, or of all where the protocol is nil.
func (z *zone) srvs(r *reply, s *service, o owner, qtype uint16, name, protocol []byte) {
	if qtype != dns.TypeSRV {
		return
	}
	each := func(ports []port, host string, addrs []netip.Addr) {
		for _, p := range ports {
			if protocol == nil || p.name == string(name) && p.protocol == string(protocol) {
				z.srv(r, o, host, s.name, p.number, addrs)
			}
		}
	}
	if !s.headless {
		each(s.ports, "", s.addrs)
		return
	}
	for i := range s.endpoints {
		e := &s.endpoints[i]
		each(e.ports, e.host, e.addrs)
	}
}

// srv writes one SRV record, and remembers where its target is, once for targets that follow each other.
func (z *zone) srv(r *reply, o owner, host string, base []byte, number uint16, addrs []netip.Addr) {
	at, ok := r.srv(o, host, base, number)
	last := len(z.spots) - 1
	if ok && len(addrs) > 0 && (last < 0 || &z.spots[last].addrs[0] != &addrs[0]) {
		z.spots = append(z.spots, spot{at, addrs})
	}
}

// reverse answers for a name below in-addr.arpa or ip6.arpa; not found, it is for others to answer.
func (z *zone) reverse(r *reply, n *name, o owner, qtype uint16) bool {
	addr, ok := reverseAddr(n)
	if !ok {
		return false
	}
	z.index.mu.RLock()
	defer z.index.mu.RUnlock()
	targets := z.index.byAddr[addr]
	if qtype == dns.TypePTR {
		for _, t := range targets {
			r.named(o, dns.TypePTR, t.name)
		}
	}
	return len(targets) > 0
}

var (
	arpa4 = wireName("in-addr.arpa.")
	arpa6 = wireName("ip6.arpa.")
)

// reverseAddr reads the address of a reverse name.
func reverseAddr(n *name) (netip.Addr, bool) {
	switch k := len(n.labels) - 2; {
	case k == 4 && bytes.Equal(n.from(k), arpa4):
		var a [4]byte
		for i := range a {
			label, v := n.label(3-i), 0
			for _, c := range label {
				if v = 10*v + int(c-'0'); c < '0' || c > '9' || v > 255 {
					return netip.Addr{}, false
				}
			}
			if len(label) > 1 && label[0] == '0' {
				return netip.Addr{}, false
			}
			a[i] = byte(v)
		}
		return netip.AddrFrom4(a), true
	case k == 32 && bytes.Equal(n.from(k), arpa6):
		var a [16]byte
		for i := range 32 {
			label := n.label(31 - i)
			v := bytes.IndexByte([]byte("0123456789abcdef"), label[0])
			if len(label) != 1 || v < 0 {
				return netip.Addr{}, false
			}
			a[i/2] = a[i/2]<<4 | byte(v)
		}
		return netip.AddrFrom16(a), true
	}
	return netip.Addr{}, false
}
