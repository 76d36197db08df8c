// Package iface makes, removes and lists the kernel's network interfaces and what belongs to them. What is made or removed already stays so.
package iface

import (
	"errors"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bridge gives the bridge of that name. Where there is none it is made, with that hardware address, or one of the kernel's where hardware is nil.
func Bridge(name string, hardware net.HardwareAddr) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if !NotFound(err) {
		return link, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, hardware
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return netlink.LinkByName(name)
}

// Delete removes the interface of that name, if it is there.
func Delete(name string) error {
	link, err := netlink.LinkByName(name)
	if NotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// NotFound tells whether a search for an interface ended with there being none.
func NotFound(err error) bool {
	var none netlink.LinkNotFoundError
	return errors.As(err, &none)
}

// DeleteRoute removes a route, if it is there.
func DeleteRoute(r netlink.Route) error {
	if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// Links are those of this network namespace.
func Links() ([]netlink.Link, error) { return Whole(netlink.LinkList) }

// Addresses are a link's of IPv4, or all links' where link is nil.
func Addresses(link netlink.Link) ([]netlink.Addr, error) {
	return Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
}

// Routes are the main table's of IPv4 that are like a route in what mask says (netlink.RT_FILTER_...); all where mask is 0.
func Routes(like netlink.Route, mask uint64) ([]netlink.Route, error) {
	return Whole(func() ([]netlink.Route, error) { return netlink.RouteListFiltered(netlink.FAMILY_V4, &like, mask) })
}

// attempts at a list on a machine where something changes all the time.
const attempts = 100

// Whole asks for a list until none of it changed while the kernel gave it: else a part may be missing. The error is of the last attempt.
func Whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range attempts {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return nil, err
}
