package network

import (
	"fmt"
	"net"
	"net/netip"
)

// Overlay is how packets travel between the pods of different nodes.
type Overlay string

// The overlays.
const (
	// VXLAN wraps them into UDP between the nodes' addresses (RFC 7348); nodes need nothing but to reach each other.
	VXLAN Overlay = "vxlan"
	// Routes sends them as they are, to the other node's address; nodes must share a link.
	Routes Overlay = "routes"
	// None leaves the ways to others: pods of other nodes are reached by whatever routes the machine has.
	None Overlay = "none"
)

// ParseOverlay reads the flag's value.
func ParseOverlay(text string) (Overlay, error) {
	switch o := Overlay(text); o {
	case VXLAN, Routes, None:
		return o, nil
	}
	return "", fmt.Errorf("%q: want vxlan, routes or none", text)
}

// What a VXLAN of a cluster is made of. All nodes agree on it, so nothing of it has to be told.
const (
	// vxlanLink is the tunnel's end on each node.
	vxlanLink = "coracle-vxlan"
	// VNI sets our packets apart from those of others on the same port.
	VNI = 10244
	// VXLANPort is the UDP port that most others use for this; nodes must reach each other by it.
	VXLANPort = 8472
	// vxlanOverhead is an Ethernet header inside, and VXLAN, UDP and IPv4 headers outside, in bytes.
	vxlanOverhead = 14 + 8 + 8 + 20
)

// vtepMAC is the hardware address of a node's end of the VXLAN: a locally administered one that follows from the node's address.
func vtepMAC(node netip.Addr) net.HardwareAddr {
	return append(net.HardwareAddr{0x02, 0xc0}, node.AsSlice()...)
}

// overhead is what an overlay takes of the uplink's MTU.
func (o Overlay) overhead() int {
	if o == VXLAN {
		return vxlanOverhead
	}
	return 0
}

// usable splits peers into those that ways are made to, and the reasons why there are none to the others. Who comes first wins: FollowNodes gives
// the oldest first.
func usable(self Config, own netip.Prefix, peers []Peer) (ways []Peer, refused []string) {
	claimed := newClaims(self.ClusterCIDR.Bits())
	claimed.add(Peer{Name: self.NodeName, Range: own})
	for _, p := range peers {
		switch other, overlaps := claimed.by(p.Range); {
		case p.Addr == self.NodeIP:
			refused = append(refused, fmt.Sprintf("node %s has this node's address %s", p.Name, p.Addr))
		case p.Range.Bits() < self.ClusterCIDR.Bits() || !self.ClusterCIDR.Contains(p.Range.Addr()):
			refused = append(refused, fmt.Sprintf("node %s has the range %s, which is not of the cluster's %s", p.Name, p.Range, self.ClusterCIDR))
		case overlaps:
			refused = append(refused, fmt.Sprintf("node %s has the range %s, which overlaps that of node %s", p.Name, p.Range, other))
		default:
			claimed.add(p)
			ways = append(ways, p)
		}
	}
	return ways, refused
}

// claims finds overlapping ranges. Prefixes overlap exactly if one contains the other.
type claims struct {
	bits   int                     // of the prefix that holds all
	exact  map[netip.Prefix]string // range -> node
	inside map[netip.Prefix]string // each prefix that contains a range -> a node of such a range
}

func newClaims(bits int) claims {
	return claims{bits: bits, exact: map[netip.Prefix]string{}, inside: map[netip.Prefix]string{}}
}

func (c claims) add(p Peer) {
	c.exact[p.Range] = p.Name
	for bits := c.bits; bits < p.Range.Bits(); bits++ {
		c.inside[netip.PrefixFrom(p.Range.Addr(), bits).Masked()] = p.Name
	}
}

func (c claims) by(r netip.Prefix) (node string, overlaps bool) {
	if node, overlaps = c.inside[r]; overlaps {
		return node, true
	}
	for bits := c.bits; bits <= r.Bits() && !overlaps; bits++ {
		node, overlaps = c.exact[netip.PrefixFrom(r.Addr(), bits).Masked()]
	}
	return node, overlaps
}
