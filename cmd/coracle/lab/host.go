package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/coracle-dev/coracle/internal/iface"
)

// ensureBridge makes the lab's bridge with the host's address on it.
func (p Plan) ensureBridge() error {
	// Without an address of its own it would take that of one of its ports, and change it as they come and go.
	link, err := iface.Bridge(p.Bridge(), hardware(p.Host()))
	if err != nil {
		return fmt.Errorf("make the bridge %s: %w; this kernel may lack the module bridge", p.Bridge(), err)
	}
	// The machine below takes no routes from what runs in a lab.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+p.Bridge()+"/accept_ra", []byte("0"), 0) // a kernel may have no IPv6
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(p.Host(), p.Subnet.Bits())}); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func ipNet(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, 32)}
}

// connect lays a cable from the bridge to a machine, given by its first process. An end that was left over is removed.
func (p Plan) connect(node string, pid int) error {
	if err := p.disconnect(node); err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(p.Bridge())
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = p.Port(node), bridge.Attrs().Index
	// The other end has a fixed hardware address, so that a machine that boots anew is the one that others remember.
	cable := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(pid), PeerHardwareAddr: hardware(p.Address(node))}
	if err := netlink.LinkAdd(cable); err != nil {
		return fmt.Errorf("make the link %s: %w", p.Port(node), err)
	}
	link, err := netlink.LinkByName(p.Port(node))
	if err != nil {
		return err
	}
	if err := netlink.LinkSetAlias(link, p.Table()+" "+node); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// hardware is a locally administered address that follows from a machine's own.
func hardware(addr netip.Addr) net.HardwareAddr {
	a := addr.As4()
	return net.HardwareAddr{0x02, 0xc0, a[0], a[1], a[2], a[3]}
}

func (p Plan) disconnect(node string) error { return iface.Delete(p.Port(node)) }

// removeLinks removes the bridge and the cables' ends that are on it.
func (p Plan) removeLinks() error {
	bridge, err := netlink.LinkByName(p.Bridge())
	if iface.NotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	links, err := iface.Links()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		if l.Attrs().MasterIndex == bridge.Attrs().Index {
			errs = append(errs, iface.Delete(l.Attrs().Name))
		}
	}
	return errors.Join(append(errs, iface.Delete(p.Bridge()))...)
}

// wayOut tells whether this machine has a default route.
func wayOut() (bool, error) {
	routes, err := iface.Routes(netlink.Route{}, 0)
	if err != nil {
		return false, err
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() && isDefault(r.Dst) {
			return true, nil
		}
	}
	return false, nil
}

func isDefault(n *net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0
}

// usedNetworks are those that this machine has addresses in or routes to.
func usedNetworks() ([]netip.Prefix, error) {
	var used []netip.Prefix
	add := func(n *net.IPNet) {
		if n == nil || isDefault(n) {
			return
		}
		ones, _ := n.Mask.Size()
		if a, ok := netip.AddrFromSlice(n.IP.To4()); ok {
			used = append(used, netip.PrefixFrom(a, ones).Masked())
		}
	}
	routes, err := iface.Routes(netlink.Route{}, 0)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		add(r.Dst)
	}
	addrs, err := iface.Addresses(nil)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		add(a.IPNet)
	}
	return used, nil
}

// removeTables removes the lab's nftables tables.
func (p Plan) removeTables() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := conn.ListTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		if t.Name == p.Table() {
			conn.DelTable(t)
		}
	}
	return conn.Flush()
}
