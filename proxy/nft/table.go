// Package nft keeps a ruleset.Ruleset in the kernel: one nftables table of ours, changed by netlink.
//
// The table holds no rule per service. A verdict map leads from address, protocol and port to a chain that
// knows only how many endpoints there are ("lb-3"); that chain draws a number and looks the endpoint up in one map of all endpoints. So a
// packet costs the same whatever the number of services, and a change is a handful of map elements.
package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/proxy/ruleset"
)

// TableName is the table's name; it has one writer, the proxy.
const TableName = "coracle-services"

// masqueradeBit marks packets whose source address is to be hidden on their way out.
const masqueradeBit = 0x4000

// Words of register 1 as the kernel numbers them: four of four bytes each.
const (
	word0 = 8 + iota
	word1
	word2
	word3
)

var table = &nftables.Table{Name: TableName, Family: nftables.TableFamilyIPv4}

// sets are the table's maps and sets; made anew for each transaction, since the library numbers them.
type sets struct {
	services, nodePorts, endpoints, picks, affinity, hairpin *nftables.Set
}

func newSets() sets {
	concat := nftables.MustConcatSetType
	addr, proto, port, index := nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark
	return sets{
		services: &nftables.Set{Table: table, Name: "services", IsMap: true, Concatenation: true,
			KeyType: concat(addr, proto, port), DataType: nftables.TypeVerdict},
		nodePorts: &nftables.Set{Table: table, Name: "node-ports", IsMap: true, Concatenation: true,
			KeyType: concat(proto, port), DataType: nftables.TypeVerdict},
		endpoints: &nftables.Set{Table: table, Name: "endpoints", IsMap: true, Concatenation: true,
			KeyType: concat(addr, proto, port, index), DataType: concat(addr, port)},
		// For services with affinity: from the number drawn to the endpoint's address, which is then the last part of
		// its key in endpoints, so that clients stay where they are when others come and go.
		picks: &nftables.Set{Table: table, Name: "picks", IsMap: true, Concatenation: true,
			KeyType: concat(addr, proto, port, index), DataType: index},
		affinity: &nftables.Set{Table: table, Name: "affinity", IsMap: true, Concatenation: true, Dynamic: true, HasTimeout: true,
			KeyType: concat(addr, addr, proto, port), DataType: index, Size: 65535},
		hairpin: &nftables.Set{Table: table, Name: "hairpin", Concatenation: true, KeyType: concat(addr, addr)},
	}
}

func (s sets) all() []*nftables.Set {
	return []*nftables.Set{s.services, s.nodePorts, s.endpoints, s.picks, s.affinity, s.hairpin}
}

// addBase adds the chains that every packet passes.
func addBase(conn *nftables.Conn, s sets, cfg Config) {
	dispatch := conn.AddChain(&nftables.Chain{Name: "dispatch", Table: table})
	conn.AddRule(&nftables.Rule{Table: table, Chain: dispatch, Exprs: dispatchServices(s)})
	conn.AddRule(&nftables.Rule{Table: table, Chain: dispatch, Exprs: dispatchNodePorts(s)})
	for name, hook := range map[string]*nftables.ChainHook{"prerouting": nftables.ChainHookPrerouting, "output": nftables.ChainHookOutput} {
		chain := conn.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: nftables.ChainPriorityNATDest})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: dispatch.Name}}})
	}
	post := conn.AddChain(&nftables.Chain{Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	conn.AddRule(&nftables.Rule{Table: table, Chain: post, Exprs: masqueradeMarked()})
	conn.AddRule(&nftables.Rule{Table: table, Chain: post, Exprs: masqueradeHairpin(s)})
	for name, hook := range map[string]*nftables.ChainHook{"refuse-forward": nftables.ChainHookForward, "refuse-output": nftables.ChainHookOutput} {
		chain := conn.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: refuse(cfg)})
	}
}

func load(word uint32, base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: word, Base: base, Offset: offset, Len: length}
}

func loadSource(word uint32) expr.Any { return load(word, expr.PayloadBaseNetworkHeader, 12, 4) }
func loadDest(word uint32) expr.Any   { return load(word, expr.PayloadBaseNetworkHeader, 16, 4) }
func loadPort(word uint32) expr.Any   { return load(word, expr.PayloadBaseTransportHeader, 2, 2) }
func loadProto(word uint32) expr.Any  { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: word} }

// dispatchServices: ip daddr . meta l4proto . th dport vmap @services.
func dispatchServices(s sets) []expr.Any {
	return []expr.Any{loadDest(word0), loadProto(word1), loadPort(word2),
		&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: s.services.Name, SetID: s.services.ID}}
}

// dispatchNodePorts: fib daddr type local meta l4proto . th dport vmap @node-ports.
func dispatchNodePorts(s sets) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
		loadProto(word0), loadPort(word1),
		&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: s.nodePorts.Name, SetID: s.nodePorts.ID},
	}
}

// masqueradeMarked: meta mark and BIT != 0 masquerade.
func masqueradeMarked() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(masqueradeBit), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		&expr.Masq{},
	}
}

// masqueradeHairpin: ip saddr . ip daddr @hairpin masquerade; a pod that reached itself through a service.
func masqueradeHairpin(s sets) []expr.Any {
	return []expr.Any{loadSource(word0), loadDest(word1),
		&expr.Lookup{SourceRegister: 1, SetName: s.hairpin.Name, SetID: s.hairpin.ID}, &expr.Masq{}}
}

// refuse: oifname LINK ip daddr RANGE reject. The address matters too: in the output hook a packet that was translated
// there still shows the link it was first routed to.
func refuse(cfg Config) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, cfg.Link)
	mask := ^uint32(0) << (32 - cfg.Services.Bits())
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		loadDest(word0),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.BigEndian.PutUint32(mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addrBytes(cfg.Services.Masked().Addr())},
		&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable},
	}
}

const icmpPortUnreachable = 3

// shape is what a load-balancing chain depends on. Chains are few, since services differ little in shape.
type shape struct {
	endpoints  int
	nodePort   bool
	masquerade bool
	affinity   time.Duration
}

func shapeOf(k ruleset.Key, b ruleset.Backend) shape {
	return shape{endpoints: len(b.Endpoints), nodePort: k.NodePort(), masquerade: b.Masquerade, affinity: b.Affinity}
}

func (s shape) chain() string {
	name := fmt.Sprintf("lb-%d", s.endpoints)
	if s.nodePort {
		name += "-node"
	}
	if s.masquerade {
		name += "-masq"
	}
	if s.affinity > 0 {
		name += fmt.Sprintf("-sticky-%ds", int(s.affinity.Seconds()))
	}
	return name
}

// addChain adds the chain of a shape.
func addChain(conn *nftables.Conn, sh shape, s sets) {
	chain := conn.AddChain(&nftables.Chain{Name: sh.chain(), Table: table})
	if sh.masquerade {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
				Mask: binaryutil.NativeEndian.PutUint32(^uint32(masqueradeBit)), Xor: binaryutil.NativeEndian.PutUint32(masqueradeBit)},
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
		}})
	}
	rule := func(exprs ...expr.Any) {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	draw := &expr.Numgen{Register: word3, Modulus: uint32(sh.endpoints), Type: unix.NFT_NG_RANDOM}
	if sh.affinity == 0 {
		rule(append(sh.serviceKey(), draw, find(s.endpoints), translate())...)
		return
	}
	// The choice passes through the connection's mark: one drawn, or the one remembered of this client.
	rule(append(sh.serviceKey(), draw, find(s.picks), setMark())...)
	rule(append(sh.clientKey(), find(s.affinity), setMark())...)
	rule(append(sh.clientKey(), &expr.Ct{Key: expr.CtKeyMARK, Register: 2}, sh.remember(s))...)
	rule(append(sh.serviceKey(), &expr.Ct{Key: expr.CtKeyMARK, Register: word3}, find(s.endpoints), translate())...)
}

// find looks register 1 up; the value found replaces it. Without one, the rule ends.
func find(set *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: set.Name, SetID: set.ID}
}

func setMark() expr.Any { return &expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true} }

// loadService loads the service's address, or the zero that stands for the node.
func (s shape) loadService(word uint32) expr.Any {
	if s.nodePort {
		return &expr.Immediate{Register: word, Data: make([]byte, 4)}
	}
	return loadDest(word)
}

func (s shape) serviceKey() []expr.Any {
	return []expr.Any{s.loadService(word0), loadProto(word1), loadPort(word2)}
}

func (s shape) clientKey() []expr.Any {
	return []expr.Any{loadSource(word0), s.loadService(word1), loadProto(word2), loadPort(word3)}
}

// remember: update @affinity { CLIENT . SERVICE timeout T : ct mark }.
func (s shape) remember(sets sets) expr.Any {
	return &expr.Dynset{SrcRegKey: 1, SrcRegData: 2, SetName: sets.affinity.Name, SetID: sets.affinity.ID,
		Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: s.affinity}
}

// translate: dnat ip to REGISTER 1, an address and a port.
func translate() expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: word0, RegProtoMin: word1, Specified: true}
}

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

func serviceKey(k ruleset.Key) []byte { return append(addrBytes(k.Addr), protoPort(k)...) }

// endpointKey is how a chain finds an endpoint: by its number, or with affinity by its address.
func endpointKey(k ruleset.Key, b ruleset.Backend, index int) []byte {
	if b.Affinity > 0 {
		return append(serviceKey(k), addrBytes(b.Endpoints[index].Addr())...)
	}
	return pickKey(k, index)
}

func pickKey(k ruleset.Key, index int) []byte {
	return binary.NativeEndian.AppendUint32(serviceKey(k), uint32(index))
}

func endpointData(e netip.AddrPort) []byte {
	return append(addrBytes(e.Addr()), byte(e.Port()>>8), byte(e.Port()), 0, 0)
}
