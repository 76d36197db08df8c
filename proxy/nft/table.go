// Package nft keeps a ruleset.State in the kernel: one nftables table of ours, changed by netlink.
//
// The table holds no rule per service. A verdict map leads from address, protocol and port to a chain that
// knows only how many endpoints there are ("lb-3"); that chain draws a number and looks the endpoint up in one map of all endpoints. So a
// packet costs the same whatever the number of services, and a change is a handful of map elements.
package nft

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/proxy/ruleset"
)

// TableName is the table's name; it has one writer, the proxy.
const TableName = "coracle-services"

var table = &nftables.Table{Name: TableName, Family: nftables.TableFamilyIPv4}

// affinitySize is how many clients' endpoints are remembered at most, of all services together; more are led anywhere.
const affinitySize = 1 << 18

// sets are the table's maps and sets; made anew for each transaction, since the library numbers them.
type sets struct {
	// services and nodePorts lead to a chain.
	services, nodePorts *nftables.Set
	// endpoints holds the endpoints of all services, by number: from 0 on, or where clients stay on theirs, by one that an endpoint has whatever others
	// there are. picks leads from the former to the latter, affinity remembers the latter of clients.
	endpoints, picks, affinity *nftables.Set
	// hairpin holds the pods of this node that may reach themselves through a service.
	hairpin *nftables.Set
	// refused and refusedNodePorts say what becomes of connections that were led nowhere.
	refused, refusedNodePorts *nftables.Set
	// guarded are the addresses that only sources may reach.
	guarded, sources *nftables.Set
}

func newSets() sets {
	concat := nftables.MustConcatSetType
	addr, proto, port, index := nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark
	service := concat(addr, proto, port)
	return sets{
		services:         verdictMap("services", service),
		nodePorts:        verdictMap("node-ports", concat(proto, port)),
		refused:          verdictMap("refused", service),
		refusedNodePorts: verdictMap("refused-node-ports", concat(proto, port)),
		endpoints: &nftables.Set{Table: table, Name: "endpoints", IsMap: true, Concatenation: true,
			KeyType: concat(addr, proto, port, index), DataType: concat(addr, port)},
		affinity: &nftables.Set{Table: table, Name: "affinity", IsMap: true, Concatenation: true, Dynamic: true, HasTimeout: true,
			KeyType: concat(addr, addr, proto, port), DataType: index, Size: affinitySize},
		picks: &nftables.Set{Table: table, Name: "picks", IsMap: true, Concatenation: true,
			KeyType: concat(addr, proto, port, index), DataType: index},
		hairpin: &nftables.Set{Table: table, Name: "hairpin", Concatenation: true, KeyType: concat(addr, addr)},
		guarded: &nftables.Set{Table: table, Name: "guarded", Concatenation: true, KeyType: service},
		sources: &nftables.Set{Table: table, Name: "sources", Concatenation: true, Interval: true, KeyType: concat(addr, proto, port, addr)},
	}
}

func verdictMap(name string, key nftables.SetDatatype) *nftables.Set {
	return &nftables.Set{Table: table, Name: name, IsMap: true, Concatenation: true, KeyType: key, DataType: nftables.TypeVerdict}
}

// all lists the sets; those before the last one hold what the rules say, the last one what packets left there.
func (s sets) all() []*nftables.Set {
	return append(s.written(), s.affinity)
}

func (s sets) written() []*nftables.Set {
	return []*nftables.Set{s.services, s.nodePorts, s.endpoints, s.picks, s.hairpin, s.refused, s.refusedNodePorts, s.guarded, s.sources}
}

// insideIndex is the number of the first of the endpoints for clients of this node; the others begin at 0.
const insideIndex = 1 << 16

// visit gives every element that a key needs, but for those that keys share.
func (s sets) visit(k ruleset.Key, b *ruleset.Backend, give func(*nftables.Set, nftables.SetElement)) {
	services, refused, key := s.services, s.refused, serviceKey(k)
	if k.NodePort() {
		services, refused, key = s.nodePorts, s.refusedNodePorts, protoPort(k)
	}
	if b.Found() {
		give(services, verdict(key, expr.VerdictGoto, shapeOf(k, b).chain()))
	}
	switch b.Refuse {
	case ruleset.Reject:
		give(refused, verdict(key, expr.VerdictGoto, rejectChain))
	case ruleset.Drop:
		give(refused, verdict(key, expr.VerdictDrop, ""))
	}
	lasting := lastingNumbers(b)
	for e, n := range lasting {
		give(s.endpoints, nftables.SetElement{Key: endpointKey(k, n), Val: endpointData(e)})
	}
	list := func(first uint32, endpoints []netip.AddrPort) {
		for i, e := range endpoints {
			key := endpointKey(k, first+uint32(i))
			if b.Affinity > 0 {
				give(s.picks, nftables.SetElement{Key: key, Val: binary.NativeEndian.AppendUint32(nil, lasting[e])})
			} else {
				give(s.endpoints, nftables.SetElement{Key: key, Val: endpointData(e)})
			}
		}
	}
	list(0, b.Endpoints)
	list(insideIndex, b.Inside)
	if b.Guarded {
		give(s.guarded, nftables.SetElement{Key: serviceKey(k)})
	}
	for _, p := range b.Sources {
		give(s.sources, nftables.SetElement{Key: append(serviceKey(k), addrBytes(p.Addr())...), KeyEnd: append(serviceKey(k), addrBytes(last(p))...)})
	}
}

// lastingNumbers gives the endpoints that clients stay on numbers which follow from their addresses and ports alone. Of two that would have the same, the later
// one has the next.
func lastingNumbers(b *ruleset.Backend) map[netip.AddrPort]uint32 {
	if b.Affinity == 0 {
		return nil
	}
	all := slices.Concat(b.Endpoints, b.Inside)
	slices.SortFunc(all, netip.AddrPort.Compare)
	numbers, taken := make(map[netip.AddrPort]uint32, len(all)), map[uint32]bool{}
	for _, e := range slices.Compact(all) {
		h := fnv.New32a()
		_, _ = h.Write(endpointData(e))
		n := h.Sum32()
		for taken[n] {
			n++
		}
		taken[n], numbers[e] = true, n
	}
	return numbers
}

func verdict(key []byte, kind expr.VerdictKind, chain string) nftables.SetElement {
	return nftables.SetElement{Key: key, VerdictData: &expr.Verdict{Kind: kind, Chain: chain}}
}

// last is the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|^prefixMask(p))
	return netip.AddrFrom4(b)
}

func prefixMask(p netip.Prefix) uint32 { return ^uint32(0) << (32 - p.Bits()) }

// protocolNumber is IANA's; zero for one that is not served.
func protocolNumber(p corev1.Protocol) byte {
	switch p {
	case corev1.ProtocolTCP:
		return unix.IPPROTO_TCP
	case corev1.ProtocolUDP:
		return unix.IPPROTO_UDP
	case corev1.ProtocolSCTP:
		return unix.IPPROTO_SCTP
	}
	return 0
}

func addrBytes(a netip.Addr) []byte {
	b := a.As4()
	return b[:]
}

// protoPort is two words: the protocol and the port, each in its word's first bytes.
func protoPort(k ruleset.Key) []byte {
	return []byte{protocolNumber(k.Protocol), 0, 0, 0, byte(k.Port >> 8), byte(k.Port), 0, 0}
}

func serviceKey(k ruleset.Key) []byte {
	key := make([]byte, 0, 20) // what may follow has room
	a := k.Addr.As4()
	return append(append(key, a[:]...), protoPort(k)...)
}

func endpointKey(k ruleset.Key, index uint32) []byte {
	return binary.NativeEndian.AppendUint32(serviceKey(k), index)
}

func endpointData(e netip.AddrPort) []byte {
	a := e.Addr().As4()
	return []byte{a[0], a[1], a[2], a[3], byte(e.Port() >> 8), byte(e.Port()), 0, 0}
}
