package network

import (
	"errors"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is the agent's nftables table. The proxy has its own, so that each table has one writer.
const tableName = "coracle-pods"

// The maps of host ports: those of every address of the node, and those of one.
const (
	hostPortMap    = "host-ports"
	addressPortMap = "address-ports"
)

// vtepSet has which node sends from which range through the VXLAN.
const vtepSet = "vteps"

type ruleConfig struct {
	node, cluster netip.Prefix
	vxlan         bool
}

// HostPort leads a port of the node to a pod.
type HostPort struct {
	// Address is the one of the node's that counts; the zero value is all of them.
	Address  netip.Addr
	Protocol string // TCP, UDP or SCTP
	Port     uint16 // on the node
	PodPort  uint16 // where it leads to
}

var podTable = &nftables.Table{Name: tableName, Family: nftables.TableFamilyIPv4}

func hostPortSet() *nftables.Set {
	return &nftables.Set{
		Table: podTable, Name: hostPortMap, IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
		DataType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService),
	}
}

func addressPortSet() *nftables.Set {
	return &nftables.Set{
		Table: podTable, Name: addressPortMap, IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
		DataType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService),
	}
}

// hairpinSet has the pods that may reach themselves by a port of the node, each as source and destination.
func hairpinSet() *nftables.Set {
	return &nftables.Set{Table: podTable, Name: "hairpin", Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr)}
}

// applyRules writes the chains anew, in one transaction; the map of host ports keeps its elements.
func applyRules(c ruleConfig) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.AddTable(podTable)
	ports, addressPorts, hairpin := hostPortSet(), addressPortSet(), hairpinSet()
	for _, set := range []*nftables.Set{ports, addressPorts, hairpin} {
		if err := conn.AddSet(set, nil); err != nil {
			return err
		}
	}
	post := conn.AddChain(&nftables.Chain{Name: "postrouting", Table: podTable, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	pre := conn.AddChain(&nftables.Chain{Name: "prerouting", Table: podTable, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	out := conn.AddChain(&nftables.Chain{Name: "output", Table: podTable, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest})
	raw := conn.AddChain(&nftables.Chain{Name: "raw-prerouting", Table: podTable, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
	for _, chain := range []*nftables.Chain{post, pre, out, raw} {
		conn.FlushChain(chain)
	}
	conn.AddRule(&nftables.Rule{Table: podTable, Chain: post, Exprs: masquerade(c)})
	conn.AddRule(&nftables.Rule{Table: podTable, Chain: post, Exprs: masqueradeLoopback()})
	conn.AddRule(&nftables.Rule{Table: podTable, Chain: post, Exprs: masqueradeHairpin(hairpin)})
	conn.AddRule(&nftables.Rule{Table: podTable, Chain: raw, Exprs: refuseSpoofed()})
	conn.AddRule(&nftables.Rule{Table: podTable, Chain: raw, Exprs: refuseLoopback()})
	if c.vxlan {
		conn.AddRule(&nftables.Rule{Table: podTable, Chain: post, Exprs: masqueradeTunnel(c)})
		if err := addVXLANRules(conn, raw, c); err != nil {
			return err
		}
	}
	for _, chain := range []*nftables.Chain{pre, out} {
		conn.AddRule(&nftables.Rule{Table: podTable, Chain: chain, Exprs: toAddressPorts(addressPorts)})
		conn.AddRule(&nftables.Rule{Table: podTable, Chain: chain, Exprs: toHostPorts(ports)})
	}
	return conn.Flush()
}

// masquerade: ip saddr NODE-RANGE ip daddr != CLUSTER-RANGE oifname != "cor*" masquerade.
func masquerade(c ruleConfig) []expr.Any {
	exprs := matchPrefix(12, c.node, expr.CmpOpEq)
	exprs = append(exprs, matchPrefix(16, c.cluster, expr.CmpOpNeq)...)
	return append(exprs,
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte(linkPrefix)}, // shorter than a name: its beginning
		&expr.Masq{})
}

// masqueradeLoopback: ip saddr 127.0.0.0/8 oifname "cor*" masquerade; a pod could not answer the host's loopback, by which its host port
// may be asked.
func masqueradeLoopback() []expr.Any {
	exprs := matchPrefix(12, loopback(), expr.CmpOpEq)
	return append(exprs,
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(linkPrefix)},
		&expr.Masq{})
}

// masqueradeTunnel: ip saddr != NODE-RANGE oifname "coracle-vxlan" masquerade. The node's own connections to Services begin with its address on
// the uplink; other nodes take nothing from it through the tunnel but what comes from its range.
func masqueradeTunnel(c ruleConfig) []expr.Any {
	return append(matchPrefix(12, c.node, expr.CmpOpNeq),
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(vxlanLink)},
		&expr.Masq{FullyRandom: true}) // two connections that begin at once could be given the same port, and one of them be dropped
}

// masqueradeHairpin: ip saddr . ip daddr @hairpin masquerade; no kernel takes a packet from outside that has an address of its own.
func masqueradeHairpin(set *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Payload{DestRegister: secondWord, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
		&expr.Masq{},
	}
}

func loopback() netip.Prefix { return netip.MustParsePrefix("127.0.0.0/8") }

// matchPrefix compares the IPv4 header's address at offset with a prefix.
func matchPrefix(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	mask := ^uint32(0) << (32 - p.Bits())
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.BigEndian.PutUint32(mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

const (
	secondWord = 9  // NFT_REG32_01, the 32 bits behind the first of register 1
	thirdWord  = 10 // NFT_REG32_02
)

// toHostPorts: fib daddr type local dnat ip to meta l4proto . th dport map @host-ports.
func toHostPorts(ports *nftables.Set) []expr.Any {
	return append(toThisNode(),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Payload{DestRegister: secondWord, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: ports.Name, SetID: ports.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: secondWord, Specified: true},
	)
}

// toAddressPorts: fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @address-ports.
func toAddressPorts(ports *nftables.Set) []expr.Any {
	return append(toThisNode(),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: secondWord},
		&expr.Payload{DestRegister: thirdWord, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: ports.Name, SetID: ports.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: secondWord, Specified: true},
	)
}

func toThisNode() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// fromPods: iifname "cor*".
func fromPods() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(linkPrefix)},
	}
}

// refuseSpoofed: iifname "cor*" fib saddr . iif oif missing drop; a pod sends from no address but its own. The links' rp_filter says so too,
// but the machine's own settings for new links may undo that.
func refuseSpoofed() []expr.Any {
	return append(fromPods(),
		&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Verdict{Kind: expr.VerdictDrop})
}

// refuseLoopback: iifname "cor*" ip daddr 127.0.0.0/8 drop; route_localnet would let pods reach what listens on the
// host's loopback only.
func refuseLoopback() []expr.Any {
	exprs := append(fromPods(), matchPrefix(16, loopback(), expr.CmpOpEq)...)
	return append(exprs, &expr.Verdict{Kind: expr.VerdictDrop})
}

// setHostPorts leads exactly these ports of the node to the pod, and to no other.
func setHostPorts(uid string, pod netip.Addr, ports []HostPort) error {
	if err := removeHostPorts(uid, ports); err != nil || len(ports) == 0 {
		return err
	}
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	var everywhere, atOne []nftables.SetElement
	for _, p := range ports {
		e := nftables.SetElement{Key: p.key(), Val: target(netip.AddrPortFrom(pod, p.PodPort)), Comment: uid}
		if p.Address.IsValid() {
			atOne = append(atOne, e)
		} else {
			everywhere = append(everywhere, e)
		}
	}
	if err := errors.Join(conn.SetAddElements(hostPortSet(), everywhere), conn.SetAddElements(addressPortSet(), atOne),
		conn.SetAddElements(hairpinSet(), []nftables.SetElement{{Key: pair(pod, pod), Comment: uid}})); err != nil {
		return err
	}
	return conn.Flush()
}

// removeHostPorts removes what leads to the pod, and also whatever holds one of the given ports.
func removeHostPorts(uid string, also []HostPort) error {
	taken := map[string]bool{}
	for _, p := range also {
		taken[string(p.key())] = true
	}
	for _, set := range []*nftables.Set{hostPortSet(), addressPortSet(), hairpinSet()} {
		if err := removeElements(set, uid, taken); err != nil {
			return err
		}
	}
	return nil
}

func removeElements(set *nftables.Set, uid string, taken map[string]bool) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	elements, err := conn.GetSetElements(set)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	var gone []nftables.SetElement
	for _, e := range elements {
		if e.Comment == uid || taken[string(e.Key)] {
			gone = append(gone, nftables.SetElement{Key: e.Key, Val: e.Val})
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if err := conn.SetDeleteElements(set, gone); err != nil {
		return err
	}
	return conn.Flush()
}

// key is the port's in its map: address if it is of one, protocol and port, each padded to a word.
func (p HostPort) key() []byte {
	numbers := map[string]byte{"TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP, "SCTP": unix.IPPROTO_SCTP}
	var key []byte
	if p.Address.IsValid() {
		key = p.Address.AsSlice()
	}
	return append(key, numbers[p.Protocol], 0, 0, 0, byte(p.Port>>8), byte(p.Port), 0, 0)
}

func target(t netip.AddrPort) []byte {
	b := t.Addr().As4()
	return append(b[:], byte(t.Port()>>8), byte(t.Port()), 0, 0)
}
