package network

import (
	"context"
	"encoding/binary"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watchKernel pokes when something of ours may have changed in the kernel by another's hand, until ctx ends: a route went, an entry of the tunnel
// changed, or a link or an address came, went or changed.
func (n *Network) watchKernel(ctx context.Context) error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{
		Groups: unix.RTMGRP_LINK | unix.RTMGRP_NEIGH | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	go func() {
		defer stop()
		for {
			messages, err := conn.Receive()
			if ctx.Err() != nil {
				return
			}
			if err != nil { // the kernel had more to tell than the socket could hold
				n.poke()
				continue
			}
			for _, m := range messages {
				if n.concernsUs(m) {
					n.poke()
				}
			}
		}
	}()
	return nil
}

// concernsUs reads the fixed part of a message (rtnetlink(7)), and a link's name.
func (n *Network) concernsUs(m netlink.Message) bool {
	switch m.Header.Type {
	case unix.RTM_DELROUTE:
		const protocol = 5 // offset in struct rtmsg
		return len(m.Data) > protocol && m.Data[protocol] == byte(routeProtocol)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		const index = 4 // offset in struct ndmsg
		return len(m.Data) >= index+4 && int64(binary.NativeEndian.Uint32(m.Data[index:])) == n.tunnel.Load()
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		name := linkName(m.Data)
		return name == vxlanLink || name == gatewayLink || !strings.HasPrefix(name, linkPrefix)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return true
	}
	return false
}

func linkName(message []byte) string {
	if len(message) < unix.SizeofIfInfomsg {
		return ""
	}
	attributes, err := netlink.NewAttributeDecoder(message[unix.SizeofIfInfomsg:])
	if err != nil {
		return ""
	}
	for attributes.Next() {
		if attributes.Type() == unix.IFLA_IFNAME {
			return attributes.String()
		}
	}
	return ""
}
