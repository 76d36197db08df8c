package nft

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/coracle-dev/coracle/internal/sysctl"
	"github.com/coracle-dev/coracle/internal/testenv"
	"github.com/coracle-dev/coracle/internal/thread"
)

const serviceLink = "svc0"

// nodeAddr is the node's own address.
const nodeAddr = "192.0.2.1"

// world makes, in a fresh namespace, a node with an address, and the link that services are routed to.
func world(t testing.TB) {
	t.Helper()
	testenv.NetNS(t)
	keep := sysctl.NewKeeper(t.TempDir() + "/sysctls")
	must(t, keep.Set("net.ipv4.ip_forward", "1"))
	must(t, keep.Set("net.ipv4.conf.all.route_localnet", "1"))
	link := bridge(t, serviceLink, "10.96.0.10/32")
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Src: net.ParseIP(nodeAddr).To4(),
		Dst: &net.IPNet{IP: net.IPv4(10, 96, 0, 0), Mask: net.CIDRMask(16, 32)}}))
	uplink := bridge(t, "node0", "198.51.100.1/32")
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Scope: netlink.SCOPE_LINK, Src: net.ParseIP(nodeAddr).To4()}))
}

func bridge(t testing.TB, name, address string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	link, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetUp(link))
	for _, text := range []string{address, nodeAddr + "/32"} {
		addr, err := netlink.ParseAddr(text)
		must(t, err)
		must(t, netlink.AddrReplace(link, addr))
	}
	return link
}

// host is a network namespace with an address of its own and a link to the node.
type host struct {
	path string
	addr netip.Addr
}

// newHost makes one that is reached directly: a pod of this node if its address is of the pods' range, otherwise a machine outside of the cluster.
func newHost(t testing.TB, name, address string) host {
	t.Helper()
	h := host{path: testenv.PodNetNS(t), addr: netip.MustParseAddr(address)}
	ns, err := netns.GetFromPath(h.path)
	must(t, err)
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}))
	link, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetUp(link))
	single := &net.IPNet{IP: h.addr.AsSlice(), Mask: net.CIDRMask(32, 32)}
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: single, Scope: netlink.SCOPE_LINK}))
	handle, err := netlink.NewHandleAt(ns)
	must(t, err)
	defer handle.Close()
	lo, err := handle.LinkByName("lo")
	must(t, err)
	must(t, handle.LinkSetUp(lo))
	eth, err := handle.LinkByName("eth0")
	must(t, err)
	must(t, handle.AddrAdd(eth, &netlink.Addr{IPNet: single}))
	must(t, handle.LinkSetUp(eth))
	gateway := net.ParseIP(nodeAddr).To4()
	must(t, handle.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: &net.IPNet{IP: gateway, Mask: net.CIDRMask(32, 32)}, Scope: netlink.SCOPE_LINK}))
	must(t, handle.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: gateway}))
	return h
}

// do runs fn in the host's namespace.
func (h host) do(fn func() error) error {
	return thread.Do(func() error {
		ns, err := netns.GetFromPath(h.path)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return err
		}
		return fn()
	})
}

// serve answers on a TCP and a UDP port with the host's own address and port, and the client's address.
func (h host) serve(t testing.TB, port uint16) netip.AddrPort {
	t.Helper()
	at := netip.AddrPortFrom(h.addr, port)
	var listener net.Listener
	var packets net.PacketConn
	must(t, h.do(func() (err error) {
		if listener, err = net.Listen("tcp4", at.String()); err == nil {
			packets, err = net.ListenPacket("udp4", at.String())
		}
		return err
	}))
	t.Cleanup(func() { listener.Close(); packets.Close() })
	say := func(client net.Addr) string {
		return fmt.Sprintf("%s %s", at, netip.MustParseAddrPort(client.String()).Addr())
	}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, say(c.RemoteAddr()))
			c.Close()
		}
	}()
	go func() {
		b := make([]byte, 64)
		for {
			_, client, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo([]byte(say(client)), client)
		}
	}()
	return at
}

// here is the node itself.
type here struct{}

func (here) do(fn func() error) error { return fn() }

type place interface{ do(fn func() error) error }

// patience is for what must answer; silence is how long nothing must come where packets are dropped.
const (
	patience = 10 * time.Second
	silence  = 300 * time.Millisecond
)

// ask connects from a place and gives who answered, and whose address it saw.
func ask(from place, network, to string, timeout time.Duration) (server, client string, err error) {
	var text string
	err = from.do(func() error {
		c, err := net.DialTimeout(network, to, timeout)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(timeout))
		if network == "udp4" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
			b := make([]byte, 64)
			n, err := c.Read(b)
			text = string(b[:n])
			return err
		}
		b, err := io.ReadAll(c)
		text = string(b)
		return err
	})
	server, client, _ = strings.Cut(text, " ")
	return server, client, err
}

// answers asks several times and counts who answered.
func answers(t testing.TB, from place, to string, times int) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for range times {
		server, _, err := ask(from, "tcp4", to, patience)
		if err != nil {
			t.Errorf("%s: %v", to, err)
			return seen
		}
		seen[server]++
	}
	return seen
}
