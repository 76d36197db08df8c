package simulate

import (
	"encoding/binary"
	"net/netip"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// nodeBits is the length of a node's range.
const nodeBits = 24

// ranges is how many nodes an IPv4 range is enough for.
func ranges(p netip.Prefix) int {
	if !p.Addr().Is4() || p.Bits() > nodeBits {
		return 0
	}
	return 1 << (nodeBits - p.Bits())
}

func rangeOf(all netip.Prefix, index int) netip.Prefix {
	return netip.PrefixFrom(offset(all.Masked().Addr(), uint32(index)<<(32-nodeBits)), nodeBits)
}

func offset(a netip.Addr, by uint32) netip.Addr {
	b := a.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+by)
	return netip.AddrFrom4(b)
}

// observe takes over the range that the API server has for the node, and tells whether that is news.
func (n *node) observe(cur *v1.Node) bool {
	cidr, err := netip.ParsePrefix(cur.Spec.PodCIDR)
	if err != nil || cidr == n.cidrNow() {
		return false
	}
	n.setRange(cidr)
	return true
}

func (n *node) cidrNow() netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cidr
}

func (n *node) setRange(p netip.Prefix) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cidr, n.next = p.Masked(), p.Masked().Addr().Next() // the first is the node's own
}

// claim notes that a pod has an address already.
func (n *node) claim(ip string, uid types.UID) {
	addr, err := netip.ParseAddr(ip)
	if err != nil || addr == n.ip { // the host's network
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held[addr] = uid
}

// take gives a pod a free address, the one not used for longest; false while there is none.
func (n *node) take(uid types.UID) (netip.Addr, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.cidr.IsValid() {
		return netip.Addr{}, false
	}
	first := n.cidr.Addr().Next()
	for i, a := 0, n.next.Next(); i < 1<<16; i, a = i+1, a.Next() {
		if !n.cidr.Contains(a.Next()) { // the last is the broadcast address
			a = first
			continue
		}
		if _, taken := n.held[a]; !taken {
			n.held[a], n.next = uid, a
			return a, true
		}
	}
	return netip.Addr{}, false
}

// release gives back what a pod holds.
func (n *node) release(ip string, uid types.UID) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.held[addr] == uid {
		delete(n.held, addr)
	}
}
