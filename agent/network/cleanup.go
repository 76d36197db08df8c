package network

import (
	"errors"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/internal/iface"
	"github.com/coracle-dev/coracle/internal/nftable"
)

// Cleanup removes every link, route and rule of ours from this network namespace.
func Cleanup() error {
	links, err := iface.Links()
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range links {
		if _, _, ours := parseAlias(link.Attrs().Alias); ours {
			errs = append(errs, iface.Delete(link.Attrs().Name))
		}
	}
	return errors.Join(append(errs, iface.Delete(vxlanLink), deleteRoutes(), deleteGateway(), nftable.Remove(podTable))...)
}

// deleteRoutes removes those of ours that did not go with their link.
func deleteRoutes() error {
	routes, err := iface.Routes(netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if err := iface.DeleteRoute(r); err != nil {
			return err
		}
	}
	return nil
}

// deleteGateway removes the link, and the route for the range that its address is the first of.
func deleteGateway() error {
	link, err := netlink.LinkByName(gatewayLink)
	if iface.NotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	addrs, err := iface.Addresses(link)
	if err != nil {
		return err
	}
	routes, err := iface.Routes(netlink.Route{Type: unix.RTN_UNREACHABLE}, netlink.RT_FILTER_TYPE)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Dst == nil || !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return r.Dst.Contains(a.IP) }) {
			continue
		}
		if err := iface.DeleteRoute(r); err != nil {
			return err
		}
	}
	return iface.Delete(gatewayLink)
}
