package announce

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"golang.org/x/net/bpf"
)

// ARP for IPv4 over Ethernet, RFC 826.
const (
	arpSize    = 28
	arpRequest = 1
	arpReply   = 2
)

var (
	arpHeader    = [6]byte{0, 1, 8, 0, 6, 4}
	broadcastMAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	errARP       = errors.New("announce: not ARP of IPv4 over Ethernet")
)

// arpPacket is a request or a reply.
type arpPacket struct {
	op           uint16
	fromMAC      net.HardwareAddr
	from, target netip.Addr
	targetMAC    net.HardwareAddr
}

func (p arpPacket) encode() []byte {
	out := append(make([]byte, 0, arpSize), arpHeader[:]...)
	out = binary.BigEndian.AppendUint16(out, p.op)
	out = append(append(out, p.fromMAC...), p.from.AsSlice()...)
	return append(append(out, p.targetMAC...), p.target.AsSlice()...)
}

func decodeARP(b []byte) (arpPacket, error) {
	if len(b) < arpSize || [6]byte(b) != arpHeader {
		return arpPacket{}, errARP
	}
	return arpPacket{
		op: binary.BigEndian.Uint16(b[6:]), fromMAC: net.HardwareAddr(b[8:14]), from: netip.AddrFrom4([4]byte(b[14:])),
		targetMAC: net.HardwareAddr(b[18:24]), target: netip.AddrFrom4([4]byte(b[24:])),
	}, nil
}

// gratuitous is what tells everybody that mac has the address: a request for itself and, for those who listen only to replies, one of these
// (RFC 5227, section 3).
func gratuitous(addr netip.Addr, mac net.HardwareAddr) [][]byte {
	return [][]byte{
		arpPacket{op: arpRequest, fromMAC: mac, from: addr, target: addr, targetMAC: make(net.HardwareAddr, 6)}.encode(),
		arpPacket{op: arpReply, fromMAC: mac, from: addr, target: addr, targetMAC: broadcastMAC}.encode(),
	}
}

// mostFiltered addresses are told apart in the kernel; of more, all requests of the link come up here.
const mostFiltered = 200

// requestsFor is a filter that lets ARP requests for the addresses pass.
func requestsFor(addrs []netip.Addr) []bpf.Instruction {
	const keep, drop = 1 << 16, 0
	out := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arpRequest, SkipTrue: 1},
		bpf.RetConstant{Val: drop},
	}
	if len(addrs) > mostFiltered {
		return append(out, bpf.RetConstant{Val: keep})
	}
	out = append(out, bpf.LoadAbsolute{Off: 24, Size: 4})
	for i, addr := range addrs {
		out = append(out, bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(addr.AsSlice()), SkipTrue: uint8(len(addrs) - i)})
	}
	return append(out, bpf.RetConstant{Val: drop}, bpf.RetConstant{Val: keep})
}
