package proxy

import (
	"log/slog"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/proxy/ruleset"
)

// forgetConnections removes the kernel's entries of UDP flows that lead to endpoints which are gone, or that passed
// untranslated before a service had endpoints. Without an end of their own, such flows would go on failing
// for as long as the client sends.
func forgetConnections(old, updated ruleset.Ruleset, log *slog.Logger) {
	f := staleFlows{gone: map[flow]bool{}, fresh: map[ruleset.Key]bool{}}
	for k, endpoints := range ruleset.Gone(old, updated) {
		if k.Protocol == corev1.ProtocolUDP {
			for _, e := range endpoints {
				f.gone[flow{k, e}] = true
			}
		}
	}
	for k := range updated {
		if _, had := old[k]; !had && k.Protocol == corev1.ProtocolUDP {
			f.fresh[k] = true
		}
	}
	if len(f.gone) == 0 && len(f.fresh) == 0 {
		return
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(unix.AF_INET), f); err != nil {
		log.Warn("cannot remove stale UDP connections", "error", err)
	}
}

type flow struct {
	key    ruleset.Key
	target netip.AddrPort
}

// staleFlows matches the flows to be forgotten.
type staleFlows struct {
	gone  map[flow]bool
	fresh map[ruleset.Key]bool
}

// MatchConntrackFlow tells whether the flow is to be deleted.
func (s staleFlows) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	if c.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok := netip.AddrFromSlice(c.Forward.DstIP.To4())
	from, ok2 := netip.AddrFromSlice(c.Reverse.SrcIP.To4())
	if !ok || !ok2 {
		return false
	}
	// A flow to a node port is known by its port alone: the address is any of the node's.
	for _, addr := range []netip.Addr{to, netip.AddrFrom4([4]byte{})} {
		key := ruleset.Key{Addr: addr, Protocol: corev1.ProtocolUDP, Port: c.Forward.DstPort}
		if s.gone[flow{key, netip.AddrPortFrom(from, c.Reverse.SrcPort)}] {
			return true
		}
		if s.fresh[key] && from == to {
			return true
		}
	}
	return false
}
