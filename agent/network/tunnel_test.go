package network

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tunnelled is what a node's packet in the VXLAN looks like behind the UDP header; tag is put between the Ethernet header's addresses and type.
func tunnelled(vni uint32, from, to netip.Addr, tag, inner []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 0x08000000)
	b = binary.BigEndian.AppendUint32(b, vni<<8)
	b = append(append(b, vtepMAC(to)...), vtepMAC(from)...)
	return append(binary.BigEndian.AppendUint16(append(b, tag...), unix.ETH_P_IP), inner...)
}

func sendUDP(to netip.AddrPort, payload []byte) error {
	c, err := net.Dial("udp4", to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(payload)
	return err
}

// TestNobodyForgesPacketsOfTheTunnel sends to a pod of the second node, through the VXLAN, what does not come from who it says it does.
func TestNobodyForgesPacketsOfTheTunnel(t *testing.T) {
	m := machines(t, 3, 1500)
	for _, one := range m {
		one.start(VXLAN)
		one.know(m[:2]...) // nobody knows the third
	}
	podA, a := m[0].pod("a")
	pathB, b := m[1].pod("b")
	reaches(t, podA, b.String()+":8080", "b "+a.String())
	for _, one := range m[1:] { // the kernel's own check may be off
		shell(t, one.path, "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done")
	}
	got := heard(t, pathB, netip.AddrPortFrom(b, 7000).String())
	gatewayOf := func(i int) netip.Addr { return gateway(m[i].cidr) }
	to := netip.AddrPortFrom(m[1].addr, VXLANPort)
	packet := func(vni uint32, source netip.Addr, tag []byte, text string) []byte {
		return tunnelled(vni, m[0].addr, m[1].addr, tag, datagram(source, b, 7000, text))
	}
	honest := packet(VNI, a, nil, "honest")
	for _, c := range []struct {
		name   string
		from   string // a namespace
		packet []byte
	}{
		{"from a machine that is no node", m[2].path, packet(VNI, a, nil, "forged")},
		{"from a machine that is no node, with an address of its own", m[2].path, packet(VNI, netip.MustParseAddr("10.244.3.2"), nil, "forged")},
		{"from a node, with an address of another's pod", m[0].path, packet(VNI, netip.MustParseAddr("10.244.3.2"), nil, "forged")},
		{"from a node, with an address of the receiver's own pod", m[0].path, packet(VNI, netip.MustParseAddr("10.244.2.3"), nil, "forged")},
		{"from a node, with the receiver's gateway's address", m[0].path, packet(VNI, gatewayOf(1), nil, "forged")},
		{"from a node, with an address outside", m[0].path, packet(VNI, netip.MustParseAddr("198.51.100.7"), nil, "forged")},
		{"from a node, behind an empty VLAN tag", m[0].path, packet(VNI, netip.MustParseAddr("10.244.3.2"), []byte{0x81, 0, 0, 0}, "forged")},
		{"from a node, in another network", m[0].path, packet(VNI+1, a, nil, "forged")},
		{"from a pod of a node, as another pod of it", podA, packet(VNI, netip.MustParseAddr("10.244.1.3"), nil, "forged")},
		{"from a pod of the receiver", pathB, packet(VNI, a, nil, "forged")},
	} {
		inside(t, c.from, func() error { return sendUDP(to, c.packet) })
		inside(t, m[0].path, func() error { return sendUDP(to, honest) })
		for text := ""; text != "honest"; {
			select {
			case text = <-got:
				if text == "forged" {
					t.Errorf("%s: the packet arrives", c.name)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%s: an honest packet does not arrive", c.name)
			}
		}
	}
}
