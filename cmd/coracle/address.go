package main

import (
	"errors"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/cmd/coracle/lab"
	"github.com/coracle-dev/coracle/internal/iface"
)

// lonelyLink is made where this machine has no address but loopback's, so that pods still have an
// address of the node to talk to; its address is of the range kept for documentation, which no network uses.
const lonelyLink = "coracle-node"

var lonelyAddr = netip.MustParseAddr("192.0.2.1")

// advertiseAddress is where pods and nodes reach the API server.
func (o *options) advertiseAddress() (netip.Addr, error) {
	return o.machineAddress("--advertise-address", o.advertise)
}

// nodeAddresses are the node's own: an IPv4 one, and perhaps an IPv6 one.
func (o *options) nodeAddresses() ([]netip.Addr, error) {
	given, second, two := strings.Cut(o.nodeIP, ",")
	first, err := o.machineAddress("--node-ip", given)
	if err != nil || !two {
		return []netip.Addr{first}, err
	}
	other, err := netip.ParseAddr(second)
	if err != nil || !other.Is6() || other.Is4In6() || other.Zone() != "" || other.IsLoopback() || other.IsUnspecified() || other.IsMulticast() {
		return nil, usage("--node-ip %q: want an IPv4 address of this machine, and with a comma behind it at most an IPv6 one", o.nodeIP)
	}
	return []netip.Addr{first, other}, nil
}

// machineAddress is the one given by the flag, or else this machine's.
func (o *options) machineAddress(flag, given string) (netip.Addr, error) {
	if given != "" {
		return parseMachineAddress(flag, given)
	}
	if addr, ok := defaultRouteAddress(); ok {
		return addr, nil
	}
	if addr, ok := anyAddress(); ok {
		return addr, nil
	}
	return lonelyAddr, ensureLonelyLink()
}

func parseMachineAddress(flag, given string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(given)
	if err != nil || !addr.Is4() || addr.IsLoopback() || addr.IsUnspecified() {
		return addr, usage("%s %q: want an IPv4 address of this machine other than loopback's", flag, given)
	}
	return addr, nil
}

// defaultRouteAddress is the source address of the default route.
func defaultRouteAddress() (netip.Addr, bool) {
	routes, err := iface.Routes(netlink.Route{}, 0)
	if err != nil {
		return netip.Addr{}, false
	}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if addr, ok := netip.AddrFromSlice(r.Src.To4()); ok {
			return addr, true
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			if addr, ok := linkAddress(link); ok {
				return addr, true
			}
		}
	}
	return netip.Addr{}, false
}

// anyAddress is the first address of a link that is not ours.
func anyAddress() (netip.Addr, bool) {
	links, err := iface.Links()
	if err != nil {
		return netip.Addr{}, false
	}
	for _, link := range links {
		if ourLink(link.Attrs().Name) {
			continue
		}
		if addr, ok := linkAddress(link); ok {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// ourLink tells the links that a cluster or a lab makes.
func ourLink(name string) bool {
	return strings.HasPrefix(name, "coracle") || strings.HasPrefix(name, lab.LinkPrefix)
}

func linkAddress(link netlink.Link) (netip.Addr, bool) {
	addrs, err := iface.Addresses(link)
	if err != nil {
		return netip.Addr{}, false
	}
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP.To4()); ok && addr.IsGlobalUnicast() {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

func ensureLonelyLink() error {
	link, err := iface.Bridge(lonelyLink, nil)
	if errors.Is(err, unix.EPERM) {
		return neverAgain("this machine has no address but loopback's; give one with --advertise-address, or run as root")
	}
	if err != nil {
		return err
	}
	address, err := netlink.ParseAddr(lonelyAddr.String() + "/32")
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, address); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}
