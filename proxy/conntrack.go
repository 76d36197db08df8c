package proxy

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/internal/iface"
	"github.com/coracle-dev/coracle/proxy/ruleset"
)

// flows makes the kernel forget flows of UDP and SCTP, and connections of TCP that nobody has answered, that lead to endpoints which are gone, or that passed
// untranslated before a service had endpoints. Without an end of their own, such flows would go on failing
// for as long as the client sends.
type flows struct {
	handle  *netlink.Handle
	log     *slog.Logger
	metrics *Metrics
	wake    chan struct{}

	mu sync.Mutex
	// changed is where flows may lead now, of what changed since they were last looked at.
	changed map[ruleset.Key]ruleset.Backend
}

func newFlows(log *slog.Logger, metrics *Metrics) (*flows, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_NETFILTER, unix.NETLINK_ROUTE)
	return &flows{handle: handle, log: log, metrics: metrics, wake: make(chan struct{}, 1), changed: map[ruleset.Key]ruleset.Backend{}}, err
}

// pause is how long after flows were forgotten they are looked at again.
const pause = 100 * time.Millisecond

// note takes where a key leads from now on. What TCP connections do is seen, but for those that were never answered: they must not try an endpoint that is gone until
// they give up.
func (f *flows) note(c *ruleset.Change) {
	if c.Key.Protocol == corev1.ProtocolTCP && !loses(&c.Before, &c.After) {
		return
	}
	f.mu.Lock()
	f.changed[c.Key] = c.After
	f.mu.Unlock()
	signal(f.wake)
}

// loses tells whether an endpoint is gone.
func loses(before, after *ruleset.Backend) bool {
	gone := func(e netip.AddrPort) bool {
		return !slices.Contains(after.Endpoints, e) && !slices.Contains(after.Inside, e)
	}
	return slices.ContainsFunc(before.Endpoints, gone) || slices.ContainsFunc(before.Inside, gone)
}

// run forgets flows as changes are noted, until ctx ends; what waits then is done first.
func (f *flows) run(ctx context.Context) error {
	defer f.handle.Close()
	for {
		select {
		case <-ctx.Done():
			f.forget()
			return nil
		case <-f.wake:
			f.forget()
			select { // each time, the kernel shows all flows there are
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	}
}

func (f *flows) forget() {
	f.mu.Lock()
	stale := staleFlows{now: f.changed}
	f.changed = map[ruleset.Key]ruleset.Backend{}
	f.mu.Unlock()
	if len(stale.now) == 0 {
		return
	}
	started := time.Now()
	for k := range stale.now {
		if k.NodePort() && stale.local == nil {
			stale.local = f.localAddresses()
		}
	}
	n, err := f.handle.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(unix.AF_INET), stale)
	if err != nil {
		f.log.Warn("cannot remove stale connections", "error", err)
	}
	f.metrics.conntrack.Observe(time.Since(started).Seconds())
	f.metrics.forgotten.Add(float64(n))
}

func (f *flows) localAddresses() map[netip.Addr]bool {
	local := map[netip.Addr]bool{}
	addrs, err := iface.Whole(func() ([]netlink.Addr, error) { return f.handle.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		f.log.Warn("cannot list the node's addresses", "error", err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok {
			local[ip] = true
		}
	}
	return local
}

// synSent is TCP_CONNTRACK_SYN_SENT: nobody has answered.
const synSent = 1

// staleFlows matches the flows to be forgotten.
type staleFlows struct {
	now   map[ruleset.Key]ruleset.Backend
	local map[netip.Addr]bool // the node's own, where a node port changed
}

// MatchConntrackFlow tells whether the flow is to be deleted.
func (s staleFlows) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	protocol := corev1.ProtocolUDP
	switch c.Forward.Protocol {
	case unix.IPPROTO_UDP:
	case unix.IPPROTO_TCP:
		if info, ok := c.ProtoInfo.(*netlink.ProtoInfoTCP); !ok || info.State != synSent {
			return false
		}
		protocol = corev1.ProtocolTCP
	case unix.IPPROTO_SCTP:
		protocol = corev1.ProtocolSCTP
	default:
		return false
	}
	to, ok := netip.AddrFromSlice(c.Forward.DstIP.To4())
	from, ok2 := netip.AddrFromSlice(c.Reverse.SrcIP.To4())
	if !ok || !ok2 {
		return false
	}
	key := ruleset.Key{Addr: to, Protocol: protocol, Port: c.Forward.DstPort}
	b, changed := s.now[key]
	if !changed && s.local[to] {
		// A flow to a node port is known by its port: the address is any of the node's.
		key.Addr = netip.IPv4Unspecified()
		b, changed = s.now[key]
	}
	if !changed {
		return false
	}
	target := netip.AddrPortFrom(from, c.Reverse.SrcPort)
	if translated := target != netip.AddrPortFrom(to, c.Forward.DstPort); !translated {
		return b.Found()
	}
	return !slices.Contains(b.Endpoints, target) && !slices.Contains(b.Inside, target) && !slices.Contains(b.Serving, target)
}
