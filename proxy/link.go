package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ServiceLink is a bridge without ports. The route to the service addresses leads to it, so that this machine's own connections to
// them get as far as the rules even without a default route; it holds the DNS address; and what arrives at it
// belongs to no endpoint and is refused.
const ServiceLink = "coracle-svc"

// ensureLink makes or repairs the link, its address and its route.
func ensureLink(cfg Config) error {
	link, err := netlink.LinkByName(ServiceLink)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = ServiceLink
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		link, err = netlink.LinkByName(ServiceLink)
	}
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
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(cfg.ServiceCIDR), Scope: netlink.SCOPE_LINK}
	if cfg.NodeIP.IsValid() {
		route.Src = cfg.NodeIP.AsSlice()
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("route to %s: %w", cfg.ServiceCIDR, err)
	}
	return nil
}

func deleteLink() error {
	link, err := netlink.LinkByName(ServiceLink)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
