// Package iface makes and removes the kernel's network interfaces by their names. Both can be repeated.
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
	if !isNone(err) {
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
	if isNone(err) {
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

func isNone(err error) bool {
	var none netlink.LinkNotFoundError
	return errors.As(err, &none)
}
