package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/internal/iface"
)

// ServiceLink is a bridge without ports. The route to the service addresses leads to it, so that this machine's own connections to
// them get as far as the rules even without a default route; it holds the DNS address; and what arrives at it
// belongs to no endpoint and is refused.
const ServiceLink = "coracle-svc"

// ensureLink makes or repairs the link, its address and the routes to the service addresses.
func ensureLink(cfg Config, services []netip.Prefix) error {
	link, err := iface.Bridge(ServiceLink, nil)
	if err != nil {
		return err
	}
	if cfg.DNS.IsValid() {
		if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(cfg.DNS, 32))}); err != nil {
			return fmt.Errorf("address %s: %w", cfg.DNS, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	return ensureRoutes(link, cfg.NodeIP, services)
}

func ensureRoutes(link netlink.Link, source netip.Addr, services []netip.Prefix) error {
	for _, cidr := range services {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(cidr), Scope: netlink.SCOPE_LINK}
		if source.IsValid() {
			route.Src = source.AsSlice()
		}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route to %s: %w", cidr, err)
		}
	}
	routes, err := iface.Routes(netlink.Route{LinkIndex: link.Attrs().Index}, netlink.RT_FILTER_OIF)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if slices.ContainsFunc(services, func(cidr netip.Prefix) bool { return r.Dst != nil && r.Dst.String() == cidr.String() }) {
			continue
		}
		if err := iface.DeleteRoute(r); err != nil {
			return fmt.Errorf("delete the route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

// linkWatch hears when the link, an address of it or its route is removed or taken down.
type linkWatch struct {
	cfg     Config
	touched func()
	stop    chan struct{}
	links   chan netlink.LinkUpdate
	routes  chan netlink.RouteUpdate
	addrs   chan netlink.AddrUpdate
}

// newLinkWatch listens at once.
func newLinkWatch(cfg Config, touched func()) (*linkWatch, error) {
	w := &linkWatch{cfg: cfg, touched: touched}
	return w, w.listen()
}

func (w *linkWatch) listen() error {
	w.stop = make(chan struct{})
	w.links, w.routes, w.addrs = make(chan netlink.LinkUpdate, 16), make(chan netlink.RouteUpdate, 16), make(chan netlink.AddrUpdate, 16)
	err := errors.Join(netlink.LinkSubscribe(w.links, w.stop), netlink.RouteSubscribe(w.routes, w.stop), netlink.AddrSubscribe(w.addrs, w.stop))
	if err != nil {
		close(w.stop)
		return fmt.Errorf("proxy: watch links: %w", err)
	}
	return nil
}

// run calls touched until ctx ends. When the kernel had more to tell than there was room for, it listens anew.
func (w *linkWatch) run(ctx context.Context) error {
	for {
		w.hear(ctx)
		close(w.stop)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(again):
		}
		if err := w.listen(); err != nil {
			return err
		}
		w.touched()
	}
}

// hear returns once the kernel tells no more.
func (w *linkWatch) hear(ctx context.Context) {
	for {
		ours, told := false, true
		select {
		case <-ctx.Done():
			return
		case u, ok := <-w.links:
			ours, told = ok && u.Attrs().Name == ServiceLink && (u.Header.Type == unix.RTM_DELLINK || u.Attrs().Flags&net.FlagUp == 0), ok
		case u, ok := <-w.routes:
			ours, told = ok && u.Type == unix.RTM_DELROUTE && ofServiceLink(u.LinkIndex), ok
		case u, ok := <-w.addrs:
			ours, told = ok && !u.NewAddr && w.cfg.DNS.IsValid() && u.LinkAddress.IP.Equal(w.cfg.DNS.AsSlice()), ok
		}
		if ours {
			w.touched()
		}
		if !told {
			return
		}
	}
}

func ofServiceLink(index int) bool {
	link, err := netlink.LinkByName(ServiceLink)
	return err == nil && link.Attrs().Index == index
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
