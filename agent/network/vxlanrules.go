package network

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Offsets in bytes from the outer UDP header of a packet of the VXLAN (RFC 7348): 8 of UDP, 8 of VXLAN, 14 of Ethernet, then IPv4.
const (
	udpPortOffset     = 2
	vniOffset         = 8 + 4
	innerTypeOffset   = 8 + 8 + 12
	innerSourceOffset = 8 + 8 + 14 + 12
)

func vteps() *nftables.Set {
	return &nftables.Set{Table: podTable, Name: vtepSet, Concatenation: true, Interval: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr)}
}

// addVXLANRules has packets of the VXLAN come from nodes only, each from its own range, and keeps pods from making such packets themselves.
func addVXLANRules(conn *nftables.Conn, raw *nftables.Chain, c ruleConfig) error {
	set := vteps()
	if err := conn.AddSet(set, nil); err != nil {
		return err
	}
	forward := conn.AddChain(&nftables.Chain{Name: "forward", Table: podTable, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	conn.FlushChain(forward)
	conn.AddRule(&nftables.Rule{Table: podTable, Chain: raw, Exprs: refuseOtherInner()})
	conn.AddRule(&nftables.Rule{Table: podTable, Chain: raw, Exprs: refuseForeignInner(set)})
	conn.AddRule(&nftables.Rule{Table: podTable, Chain: forward, Exprs: refuseForgedTunnel(c)})
	return nil
}

// ofVXLAN: udp dport PORT @th,96,24 VNI.
func ofVXLAN() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: udpPortOffset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(VXLANPort)},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: vniOffset, Len: 3},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint32(VNI)[1:]},
	}
}

// refuseOtherInner: fib daddr type local OF-VXLAN @th,224,16 != 0x0800 drop; nothing but IPv4 travels between pods, and so the next rule
// knows where its header is.
func refuseOtherInner() []expr.Any {
	return append(append(ofVXLAN(), toThisNode()...),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: innerTypeOffset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.BigEndian.PutUint16(unix.ETH_P_IP)},
		&expr.Verdict{Kind: expr.VerdictDrop})
}

// refuseForeignInner: fib daddr type local OF-VXLAN ip saddr . @th,336,32 != @vteps drop; a node sends from no range but its own.
func refuseForeignInner(set *nftables.Set) []expr.Any {
	return append(append(ofVXLAN(), toThisNode()...),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Payload{DestRegister: secondWord, Base: expr.PayloadBaseTransportHeader, Offset: innerSourceOffset, Len: 4},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID, Invert: true},
		&expr.Verdict{Kind: expr.VerdictDrop})
}

// refuseForgedTunnel: iifname "cor*" ip daddr != CLUSTER-RANGE OF-VXLAN drop; masqueraded, such a packet of a pod would look like the node's.
func refuseForgedTunnel(c ruleConfig) []expr.Any {
	exprs := append(fromPods(), matchPrefix(16, c.cluster, expr.CmpOpNeq)...)
	return append(append(exprs, ofVXLAN()...), &expr.Verdict{Kind: expr.VerdictDrop})
}

// elementsPerMessage keeps a message's list of elements below the 64 KiB that an attribute can hold.
const elementsPerMessage = 500

// setVTEPs makes the set's elements these.
func setVTEPs(ways []Peer) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	set := vteps()
	conn.FlushSet(set)
	elements := make([]nftables.SetElement, 0, len(ways))
	for _, p := range ways {
		elements = append(elements, nftables.SetElement{Key: pair(p.Addr, p.Range.Addr()), KeyEnd: pair(p.Addr, broadcast(p.Range))})
	}
	for chunk := range slices.Chunk(elements, elementsPerMessage) {
		if err := conn.SetAddElements(set, chunk); err != nil {
			return err
		}
	}
	return conn.Flush()
}

func pair(a, b netip.Addr) []byte { return append(a.AsSlice(), b.AsSlice()...) }
