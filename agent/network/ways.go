package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/internal/iface"
)

// routeProtocol marks our routes, so that those that are no longer wanted are known after a restart too.
const routeProtocol netlink.RouteProtocol = 67

const (
	// settle is how long changes are collected before they are applied together.
	settle = 20 * time.Millisecond
	// again is after what time something that failed is tried again.
	again = 5 * time.Second
	// checkEvery is how often the rules are looked for, in case someone flushed them.
	checkEvery = 30 * time.Second
)

// SetPeers says which other nodes there are. Run makes the ways to them.
func (n *Network) SetPeers(peers []Peer) {
	n.mu.Lock()
	n.peers, n.peersKnown = slices.Clone(peers), true
	n.mu.Unlock()
	n.poke()
}

// poke has Run look at everything again.
func (n *Network) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Run keeps the ways to the other nodes' pods, and this node's own routes, until ctx ends: they follow SetPeers and Configure, and come back
// if somebody removes them. What there is stays behind. It must run in one network namespace.
func (n *Network) Run(ctx context.Context) error {
	if err := n.watchKernel(ctx); err != nil {
		return fmt.Errorf("network: watch the kernel's routes: %w", err)
	}
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	for {
		var retry <-chan time.Time
		if err := n.sync(); err != nil {
			slog.Error("the ways to other nodes' pods are not as they should be; trying again", "component", "network", "error", err)
			retry = time.After(again)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.wake:
		case <-retry:
		case <-check.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settle):
		}
		select {
		case <-n.wake:
		default:
		}
	}
}

// sync makes the kernel's state what it should be, by the least number of changes.
func (n *Network) sync() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.repairRules(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	if !n.cidr.IsValid() || !n.peersKnown {
		return nil
	}
	if n.cfg.Overlay == None {
		return errors.Join(iface.Delete(vxlanLink), n.syncRoutes(nil))
	}
	ways, troubles := usable(n.cfg, n.cidr, n.peers)
	routes, indirect, err := n.routesTo(ways)
	if err == nil {
		err = n.syncRoutes(routes)
	}
	status := Status{Known: true, Troubles: append(troubles, indirect...)}
	switch {
	case err != nil:
		status.Unavailable = err.Error()
	case len(ways) > 0 && len(routes) == 0:
		status.Unavailable = strings.Join(indirect, "; ")
	}
	n.setStatus(status)
	return err
}

// routesTo prepares the ways, and gives the routes that lead there, and why there are none to some.
func (n *Network) routesTo(ways []Peer) (routes []netlink.Route, indirect []string, err error) {
	if n.cfg.Overlay == VXLAN && len(ways) > 0 {
		routes, err = n.syncVXLAN(ways)
		return routes, nil, err
	}
	routes, indirect = n.directRoutes(ways)
	return routes, indirect, iface.Delete(vxlanLink)
}

// setStatus tells of a status that is another than before.
func (n *Network) setStatus(status Status) {
	for _, t := range status.Troubles {
		if !slices.Contains(n.status.Troubles, t) {
			slog.Warn("no way to the pods of another node: "+t, "component", "network")
		}
	}
	if !reflect.DeepEqual(n.status, status) {
		n.status = status
		select {
		case n.changes <- struct{}{}:
		default:
		}
	}
}

// syncVXLAN keeps the tunnel's end and who is at its other ends; it gives the routes into it.
func (n *Network) syncVXLAN(ways []Peer) ([]netlink.Route, error) {
	if n.vteps == nil || !slices.Equal(n.vteps, ways) {
		if err := setVTEPs(ways); err != nil {
			return nil, fmt.Errorf("nftables: %w", err)
		}
		n.vteps = ways
	}
	link, err := n.ensureVXLAN()
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", vxlanLink, err)
	}
	index := link.Attrs().Index
	n.tunnel.Store(int64(index))
	var arp, fdb []netlink.Neigh
	var routes []netlink.Route
	for _, p := range ways {
		mac := vtepMAC(p.Addr)
		arp = append(arp, netlink.Neigh{LinkIndex: index, Family: unix.AF_INET, State: unix.NUD_PERMANENT, IP: p.Addr.AsSlice(), HardwareAddr: mac})
		fdb = append(fdb, netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: unix.NUD_PERMANENT, Flags: unix.NTF_SELF, IP: p.Addr.AsSlice(), HardwareAddr: mac})
		routes = append(routes, netlink.Route{LinkIndex: index, Dst: ipNet(p.Range.Addr(), p.Range.Bits()), Gw: p.Addr.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Src: gateway(n.cidr).AsSlice()})
	}
	return routes, errors.Join(syncNeighbours(index, unix.AF_INET, arp), syncNeighbours(index, unix.AF_BRIDGE, fdb))
}

// ensureVXLAN makes the link, anew where it is not as it should be.
func (n *Network) ensureVXLAN() (netlink.Link, error) {
	mac := vtepMAC(n.cfg.NodeIP)
	link, err := netlink.LinkByName(vxlanLink)
	if err != nil && !iface.NotFound(err) {
		return nil, err
	}
	if err == nil {
		have, ok := link.(*netlink.Vxlan)
		if !ok || have.VxlanId != VNI || have.Port != VXLANPort || have.Learning || !have.SrcAddr.Equal(n.cfg.NodeIP.AsSlice()) || !bytes.Equal(have.HardwareAddr, mac) {
			if err := iface.Delete(vxlanLink); err != nil {
				return nil, err
			}
			link = nil
		}
	} else {
		link = nil
	}
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr, attrs.MTU = vxlanLink, mac, n.mtu
		err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: VNI, Port: VXLANPort, SrcAddr: n.cfg.NodeIP.AsSlice()})
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("this kernel has no VXLAN: load the vxlan module, or choose --overlay=routes where nodes share a link: %w", err)
		}
		if err != nil {
			return nil, err
		}
		if link, err = netlink.LinkByName(vxlanLink); err != nil {
			return nil, err
		}
	}
	return link, n.setUpVXLAN(link)
}

func (n *Network) setUpVXLAN(link netlink.Link) error {
	if link.Attrs().MTU != n.mtu {
		if err := netlink.LinkSetMTU(link, n.mtu); err != nil {
			return fmt.Errorf("MTU %d: %w", n.mtu, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp != 0 {
		if addrs, err := iface.Addresses(link); err == nil && len(addrs) == 1 && addrs[0].IP.Equal(gateway(n.cidr).AsSlice()) {
			return nil
		}
	}
	if err := setLinkSysctls(vxlanLink); err != nil {
		return err
	}
	// What is masqueraded into the tunnel, as a client of a node port, must be answered through it.
	if err := replaceAddress(link, gateway(n.cidr)); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// replaceAddress leaves a link with this one address.
func replaceAddress(link netlink.Link, addr netip.Addr) error {
	have, err := iface.Addresses(link)
	if err != nil {
		return err
	}
	for i := range have {
		if !have[i].IP.Equal(addr.AsSlice()) {
			if err := netlink.AddrDel(link, &have[i]); err != nil {
				return err
			}
		}
	}
	return netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(addr, 32)})
}

// syncNeighbours makes a link's permanent entries of a family these, and no others.
func syncNeighbours(link, family int, want []netlink.Neigh) error {
	have, err := iface.Whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(link, family) })
	if err != nil {
		return err
	}
	key := func(e netlink.Neigh) string { return e.HardwareAddr.String() + " " + e.IP.String() }
	there, wanted := map[string]bool{}, make(map[string]bool, len(want))
	for _, e := range want {
		wanted[key(e)] = true
	}
	for _, e := range have {
		if k := key(e); wanted[k] {
			there[k] = e.State&unix.NUD_PERMANENT != 0
		} else if e.IP != nil && e.State&(unix.NUD_PERMANENT|unix.NUD_NOARP) != 0 && !e.IP.IsMulticast() {
			e.Family = family
			if err := netlink.NeighDel(&e); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove the entry of %s: %w", e.IP, err)
			}
		}
	}
	for _, e := range want {
		if !there[key(e)] {
			if err := netlink.NeighSet(&e); err != nil {
				return fmt.Errorf("entry of %s: %w", e.IP, err)
			}
		}
	}
	return nil
}

// directRoutes are those to nodes on a link of this one, and why there are none to the others.
func (n *Network) directRoutes(ways []Peer) (routes []netlink.Route, refused []string) {
	for _, p := range ways {
		found, err := netlink.RouteGet(p.Addr.AsSlice())
		if err != nil || len(found) == 0 || found[0].Gw != nil || found[0].Type != unix.RTN_UNICAST {
			refused = append(refused, fmt.Sprintf("node %s has the address %s, which is on no link of this node: use --overlay=vxlan", p.Name, p.Addr))
			continue
		}
		routes = append(routes, netlink.Route{LinkIndex: found[0].LinkIndex, Dst: ipNet(p.Range.Addr(), p.Range.Bits()), Gw: p.Addr.AsSlice(), Src: gateway(n.cidr).AsSlice()})
	}
	return routes, refused
}

// syncRoutes makes our routes these, with those to this node's own pods, and no others.
func (n *Network) syncRoutes(want []netlink.Route) error {
	own, err := n.ownRoutes()
	if err != nil {
		return err
	}
	want = append(want, own...)
	have, err := iface.Routes(netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return err
	}
	there := make(map[string]netlink.Route, len(have))
	for _, r := range have {
		there[r.Dst.String()] = r
	}
	var errs []error
	for i := range want {
		r := &want[i]
		r.Protocol = routeProtocol
		if old, ok := there[r.Dst.String()]; !ok || !sameRoute(old, *r) {
			if err := netlink.RouteReplace(r); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETDOWN) { // a pod's link that is being removed
				errs = append(errs, fmt.Errorf("route %s: %w", r.Dst, err))
			}
		}
		delete(there, r.Dst.String())
	}
	for _, r := range there {
		if err := iface.DeleteRoute(r); err != nil {
			errs = append(errs, fmt.Errorf("remove route %s: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}

func sameRoute(a, b netlink.Route) bool {
	kind := func(r netlink.Route) int { return max(r.Type, unix.RTN_UNICAST) }
	return a.LinkIndex == b.LinkIndex && a.Gw.Equal(b.Gw) && a.Src.Equal(b.Src) && a.Scope == b.Scope && kind(a) == kind(b)
}

// ownRoutes are those to the node's pods, and the one that keeps packets for addresses that no pod has from leaving.
func (n *Network) ownRoutes() ([]netlink.Route, error) {
	out := []netlink.Route{nowhere(n.cidr)}
	if len(n.taken) == 0 {
		return out, nil
	}
	links, err := iface.Links()
	if err != nil {
		return nil, err
	}
	source := n.source()
	for _, link := range links {
		if _, addr, ours := parseAlias(link.Attrs().Alias); ours && link.Attrs().Flags&net.FlagUp != 0 {
			out = append(out, podRoute(link, addr, source))
		}
	}
	return out, nil
}
