// Package network gives pods their address: one veth pair and one route a pod, an address out of the node's
// range, and masquerading for what leaves the cluster. Its invariant: the kernel's links are the only record.
// Each pod's host-side veth carries the pod's UID and address as its alias, so that an agent that
// starts anew finds every address taken, and an address is free exactly when its veth is gone.
//
// There is no switch between pods: each holds a /32, reaches everything through the gateway's address, and is
// reached by a route to its own veth. So traffic between pods of a node passes the host's IP layer too, where services and
// policies see both directions of it, whether or not the br_netfilter module is loaded.
package network

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/internal/iface"
	"github.com/coracle-dev/coracle/internal/nftable"
	"github.com/coracle-dev/coracle/internal/sysctl"
)

// gatewayLink holds the address that pods send everything to: a bridge without ports, as every kernel has it.
const gatewayLink = "coracle0"

// linkPrefix begins the name of every link of a cluster.
const linkPrefix = "cor"

// podInterface is the interface's name inside a pod.
const podInterface = "eth0"

// aliasPrefix starts the alias of every veth of ours.
const aliasPrefix = "coracle-pod "

// ErrNotReady: the node has no range of pod addresses yet.
var ErrNotReady = errors.New("the node has no pod CIDR yet")

// ErrExhausted: every address of the node's range is taken.
var ErrExhausted = errors.New("network: no free pod address")

// Config is what New needs.
type Config struct {
	// ClusterCIDR holds all pods; traffic to it keeps its source address.
	ClusterCIDR netip.Prefix
	Sysctls     *sysctl.Keeper
	// NetNS gives the path of a pod's network namespace by the pod's UID.
	NetNS func(uid string) string
	// NodeName and NodeIP are this node's own; other nodes reach its pods by that address.
	NodeName string
	NodeIP   netip.Addr
	// Overlay is how the pods of other nodes are reached; empty is None.
	Overlay Overlay
}

// Network is the node's pod network.
type Network struct {
	cfg Config

	mu    sync.Mutex
	cidr  netip.Prefix // the node's range; zero before Configure
	mtu   int
	taken map[netip.Addr]string // address -> pod UID
	next  netip.Addr            // where the search for a free address goes on, so that addresses are not reused at once

	peers      []Peer
	peersKnown bool
	ports      map[string]podPorts // by UID, of pods that were set up since the start
	status     Status
	vteps      []Peer       // what the set of that name has; nil is unknown
	tunnel     atomic.Int64 // index of vxlanLink
	wake       chan struct{}
	changes    chan struct{}
}

// Pod is what Setup needs of a pod.
type Pod struct {
	runtime.PodRef
	// NetNS is the path of its network namespace.
	NetNS     string
	Ports     []HostPort
	Bandwidth Bandwidth
}

// Status is how the ways to the pods of other nodes are.
type Status struct {
	// Known: the network looks after them, and has looked. Else others may tell of them.
	Known bool
	// Unavailable says why no pod of another node can be reached.
	Unavailable string
	// Troubles are what single nodes lack.
	Troubles []string
}

// New makes a Network; Configure must follow before pods can be set up, and Run keeps the ways to other nodes.
func New(cfg Config) *Network {
	if cfg.Overlay == "" {
		cfg.Overlay = None
	}
	return &Network{cfg: cfg, ports: map[string]podPorts{}, wake: make(chan struct{}, 1), changes: make(chan struct{}, 1)}
}

// Changes has an element after Status has changed.
func (n *Network) Changes() <-chan struct{} { return n.changes }

// Status tells of the ways to the pods of other nodes.
func (n *Network) Status() Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status
}

// Configure makes the gateway, the routes and the masquerading for the node's range, and learns which addresses are taken.
// It can be called again at any time, and repairs what is missing. Pods whose addresses are not of the range, which is another then, are cut off:
// Pods no longer lists them, and Setup gives them addresses of it.
func (n *Network) Configure(_ context.Context, cidr netip.Prefix) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !cidr.IsValid() {
		return ErrNotReady
	}
	if !cidr.Addr().Is4() || cidr.Bits() > 30 {
		return fmt.Errorf("network: pod CIDR %s: want an IPv4 range of at least four addresses", cidr)
	}
	cidr = cidr.Masked()
	if err := ensureGateway(cidr); err != nil {
		return fmt.Errorf("network: link %s: %w", gatewayLink, err)
	}
	if err := n.setSysctls(); err != nil {
		return err
	}
	if err := applyRules(n.rules(cidr)); err != nil {
		return fmt.Errorf("network: nftables: %w", err)
	}
	mtu := uplinkMTU(n.cfg.NodeIP) - n.cfg.Overlay.overhead()
	taken, err := n.adoptLinks(cidr, mtu)
	if err != nil {
		return fmt.Errorf("network: links of pods: %w", err)
	}
	n.cidr, n.taken, n.mtu, n.vteps = cidr, taken, mtu, nil
	if !n.next.IsValid() || !cidr.Contains(n.next) {
		n.next = gateway(cidr).Next()
	}
	n.poke()
	return nil
}

// podPorts are what leads to a pod.
type podPorts struct {
	addr  netip.Addr
	ports []HostPort
}

// repairRules makes the table anew where someone has removed it. The caller holds mu.
func (n *Network) repairRules() error {
	if !n.cidr.IsValid() {
		return nil
	}
	there, err := nftable.Exists(podTable)
	if err != nil || there {
		return err
	}
	slog.Warn("the table of pods was removed by someone else; making it anew", "component", "network")
	n.vteps = nil
	errs := []error{applyRules(n.rules(n.cidr))}
	for uid, p := range n.ports {
		errs = append(errs, setHostPorts(uid, p.addr, p.ports))
	}
	return errors.Join(errs...)
}

func (n *Network) rules(cidr netip.Prefix) ruleConfig {
	return ruleConfig{node: cidr, cluster: n.cfg.ClusterCIDR, vxlan: n.cfg.Overlay == VXLAN}
}

func (n *Network) setSysctls() error {
	for key, value := range map[string]string{
		"net/ipv4/ip_forward": "1",
		// A pod that reaches itself through a service comes and goes by one link; it must not be told of a shorter way.
		"net/ipv4/conf/all/send_redirects": "0",
	} {
		if err := n.cfg.Sysctls.Set(key, value); err != nil {
			return fmt.Errorf("network: %w", err)
		}
	}
	return nil
}

// setLinkSysctls sets what goes with a pod's link, and with it.
func setLinkSysctls(link string) error {
	for key, value := range map[string]string{
		"ipv4/conf/" + link + "/rp_filter":      "1", // a pod sends from no address but its own
		"ipv4/conf/" + link + "/send_redirects": "0",
		"ipv4/conf/" + link + "/route_localnet": "1", // answers to connections that this machine made to its own node ports by loopback
		// Pods have no IPv6 address. Without this, one could announce itself to the machine as its router.
		"ipv6/conf/" + link + "/disable_ipv6": "1",
	} {
		err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o644)
		if err != nil && !(strings.HasPrefix(key, "ipv6/") && errors.Is(err, os.ErrNotExist)) { // a kernel may have none
			return err
		}
	}
	return nil
}

// gateway is the first address of the range.
func gateway(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr().Next() }

// ensureGateway makes the link with the gateway's address, and keeps packets for addresses that no pod has from leaving.
func ensureGateway(cidr netip.Prefix) error {
	link, err := iface.Bridge(gatewayLink, nil)
	if err != nil {
		return err
	}
	address := &netlink.Addr{IPNet: ipNet(gateway(cidr), 32)}
	if err := netlink.AddrReplace(link, address); err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	route := nowhere(cidr)
	if err := netlink.RouteReplace(&route); err != nil {
		return fmt.Errorf("route %s: %w", cidr, err)
	}
	return nil
}

// nowhere is the route of the node's addresses that no pod has: packets to them must not leave.
func nowhere(cidr netip.Prefix) netlink.Route {
	return netlink.Route{Dst: ipNet(cidr.Addr(), cidr.Bits()), Type: unix.RTN_UNREACHABLE, Protocol: routeProtocol}
}

// adoptLinks reads who holds which address from the links' aliases. Links with addresses of another range are removed, all others have the MTU then.
func (n *Network) adoptLinks(cidr netip.Prefix, mtu int) (map[netip.Addr]string, error) {
	links, err := iface.Links()
	if err != nil {
		return nil, err
	}
	taken := map[netip.Addr]string{}
	for _, link := range links {
		uid, addr, ours := parseAlias(link.Attrs().Alias)
		switch {
		case !ours:
		case !cidr.Contains(addr):
			if err := iface.Delete(link.Attrs().Name); err != nil {
				return nil, err
			}
		default:
			taken[addr] = uid
			if link.Attrs().MTU != mtu {
				if err := n.setMTU(link, uid, mtu); err != nil { // Path MTU discovery helps the pod along.
					slog.Warn("the MTU of a pod's link is not that of the others", "component", "network", "uid", uid, "want", mtu, "error", err)
				}
			}
		}
	}
	return taken, nil
}

// setMTU sets that of both ends of a pod's link.
func (n *Network) setMTU(link netlink.Link, uid string, mtu int) error {
	err := within(n.cfg.NetNS(uid), func(h *netlink.Handle) error {
		inner, err := h.LinkByName(podInterface)
		if err != nil {
			return err
		}
		return h.LinkSetMTU(inner, mtu)
	})
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(link, mtu)
}

func alias(uid string, addr netip.Addr) string { return aliasPrefix + uid + " " + addr.String() }

func parseAlias(alias string) (uid string, addr netip.Addr, ok bool) {
	rest, found := strings.CutPrefix(alias, aliasPrefix)
	if !found {
		return "", addr, false
	}
	uid, text, found := strings.Cut(rest, " ")
	if !found {
		return "", addr, false
	}
	addr, err := netip.ParseAddr(text)
	return uid, addr, err == nil
}

// vethName is the host-side link of a pod.
func vethName(uid string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(uid))
	return fmt.Sprintf("cor%012x", h.Sum64()&0xffffffffffff)
}

// Setup gives the pod its interface and address, and the node's ports that lead to it; a pod that has them keeps them.
func (n *Network) Setup(_ context.Context, pod Pod) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.cidr.IsValid() {
		return nil, ErrNotReady
	}
	addr, complete := n.existing(pod.UID, pod.NetNS)
	if !complete {
		var err error
		if addr, err = n.join(pod); err != nil {
			return nil, err
		}
	}
	if err := n.repairRules(); err != nil {
		return nil, fmt.Errorf("network: nftables: %w", err)
	}
	n.ports[pod.UID] = podPorts{addr, pod.Ports}
	if err := setHostPorts(pod.UID, addr, pod.Ports); err != nil {
		return nil, fmt.Errorf("network: host ports of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return []netip.Addr{addr}, nil
}

// join gives the pod a free address and its link.
func (n *Network) join(pod Pod) (netip.Addr, error) {
	// A half-made pair of an earlier attempt, or one whose pod's namespace was made anew.
	if err := n.remove(pod.UID); err != nil {
		return netip.Addr{}, err
	}
	addr, err := n.allocate(pod.UID)
	if err != nil {
		return addr, err
	}
	if err := n.connect(pod, addr); err != nil {
		return addr, errors.Join(fmt.Errorf("network: pod %s/%s: %w", pod.Namespace, pod.Name, err), n.remove(pod.UID))
	}
	return addr, nil
}

// existing gives the pod's address, and whether its pair is complete: the peer is up in that namespace.
func (n *Network) existing(uid, path string) (netip.Addr, bool) {
	link, err := netlink.LinkByName(vethName(uid))
	if err != nil {
		return netip.Addr{}, false
	}
	owner, addr, ok := parseAlias(link.Attrs().Alias)
	if !ok || owner != uid || !n.cidr.Contains(addr) || n.route(link, addr) != nil {
		return addr, false
	}
	inside := false
	err = within(path, func(h *netlink.Handle) error {
		peer, err := h.LinkByName(podInterface)
		if err == nil {
			inside = peer.Attrs().Flags&net.FlagUp != 0
		}
		return err
	})
	return addr, err == nil && inside
}

// allocate takes the next free address.
func (n *Network) allocate(uid string) (netip.Addr, error) {
	last := broadcast(n.cidr)
	addr := n.next
	for range 1 << (32 - n.cidr.Bits()) {
		if !n.cidr.Contains(addr) || addr == last {
			addr = gateway(n.cidr).Next()
		}
		if _, used := n.taken[addr]; !used {
			n.taken[addr] = uid
			n.next = addr.Next()
			return addr, nil
		}
		addr = addr.Next()
	}
	return netip.Addr{}, fmt.Errorf("%w in %s", ErrExhausted, n.cidr)
}

func broadcast(cidr netip.Prefix) netip.Addr {
	b := cidr.Masked().Addr().As4()
	host := uint32(1)<<(32-cidr.Bits()) - 1
	for i := range 4 {
		b[i] |= byte(host >> (24 - 8*i))
	}
	return netip.AddrFrom4(b)
}

// connect makes the veth pair with its inner end in the pod's namespace, and sets both ends up.
func (n *Network) connect(pod Pod, addr netip.Addr) error {
	uid := pod.UID
	ns, err := netns.GetFromPath(pod.NetNS)
	if err != nil {
		return fmt.Errorf("namespace %s: %w", pod.NetNS, err)
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = vethName(uid), n.mtu
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: podInterface, PeerNamespace: netlink.NsFd(ns)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	host, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return netlink.LinkSetAlias(host, alias(uid, addr)) },
		func() error { return setLinkSysctls(attrs.Name) },
		func() error { return netlink.LinkSetUp(host) },
		func() error { return n.route(host, addr) },
		func() error { return shape(netlink.QdiscReplace, host, pod.Bandwidth.Ingress) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("link %s: %w", attrs.Name, err)
		}
	}
	return within(pod.NetNS, func(h *netlink.Handle) error { return configureInside(h, addr, gateway(n.cidr), pod.Bandwidth) })
}

// route leads a pod's address to its link.
func (n *Network) route(link netlink.Link, addr netip.Addr) error {
	route := podRoute(link, addr, n.source())
	return netlink.RouteReplace(&route)
}

func podRoute(link netlink.Link, addr, source netip.Addr) netlink.Route {
	return netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: ipNet(addr, 32), Src: source.AsSlice(), Protocol: routeProtocol}
}

// source is by which address the machine speaks to the node's pods: the node's, so that they get answers from the one they asked, or the gateway's while
// the machine does not have that.
func (n *Network) source() netip.Addr {
	addrs, err := iface.Addresses(nil)
	if err == nil && slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return n.cfg.NodeIP.IsValid() && a.IP.Equal(n.cfg.NodeIP.AsSlice()) }) {
		return n.cfg.NodeIP
	}
	return gateway(n.cidr)
}

// configureInside sets up the pod's own end: loopback, the address, and the way out.
func configureInside(h *netlink.Handle, addr, gw netip.Addr, limits Bandwidth) error {
	if lo, err := h.LinkByName("lo"); err != nil {
		return err
	} else if err := h.LinkSetUp(lo); err != nil {
		return err
	}
	link, err := h.LinkByName(podInterface)
	if err != nil {
		return err
	}
	if err := h.AddrReplace(link, &netlink.Addr{IPNet: ipNet(addr, 32)}); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	index := link.Attrs().Index
	onLink := &netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: ipNet(gw, 32), Src: addr.AsSlice()}
	if err := h.RouteReplace(onLink); err != nil {
		return fmt.Errorf("route to the gateway: %w", err)
	}
	if err := h.RouteReplace(&netlink.Route{LinkIndex: index, Gw: gw.AsSlice(), Src: addr.AsSlice()}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return shape(h.QdiscReplace, link, limits.Egress)
}

// within runs fn with a netlink handle of the namespace at path.
func within(path string, fn func(*netlink.Handle) error) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("namespace %s: %w", path, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("namespace %s: %w", path, err)
	}
	defer h.Close()
	return fn(h)
}

// Teardown takes a pod off the network and frees its address. It may be called for a pod that has none.
func (n *Network) Teardown(_ context.Context, pod runtime.PodRef) error {
	n.mu.Lock()
	delete(n.ports, pod.UID)
	err := n.repairRules()
	if err == nil {
		err = removeHostPorts(pod.UID, nil)
	}
	n.mu.Unlock()
	if err != nil {
		return fmt.Errorf("network: host ports of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	// The kernel lets tens of milliseconds pass before a link is gone: pods that end together wait side by side.
	if err := removeLink(pod.UID); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.free(pod.UID)
	return nil
}

// remove takes back what Setup began. The caller holds mu.
func (n *Network) remove(uid string) error {
	if err := removeLink(uid); err != nil {
		return err
	}
	n.free(uid)
	return nil
}

func removeLink(uid string) error {
	if err := iface.Delete(vethName(uid)); err != nil {
		return fmt.Errorf("network: remove the link of pod %s: %w", uid, err)
	}
	return nil
}

// free gives back the addresses of a pod whose link is gone. The caller holds mu.
func (n *Network) free(uid string) {
	maps.DeleteFunc(n.taken, func(_ netip.Addr, owner string) bool { return owner == uid })
}

// Pods lists the pods that hold an address, by UID, so that those of pods that are gone can be torn down.
func (n *Network) Pods() map[string]netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	pods := make(map[string]netip.Addr, len(n.taken))
	for addr, uid := range n.taken {
		pods[uid] = addr
	}
	return pods
}

// uplinkMTU is the MTU of the link that holds the node's address, else of the one that the default route leaves by; 1500 without either.
func uplinkMTU(node netip.Addr) int {
	const usual = 1500
	index := 0
	if addrs, err := iface.Addresses(nil); err == nil {
		for _, a := range addrs {
			if node.IsValid() && a.IP.Equal(node.AsSlice()) {
				index = a.LinkIndex
			}
		}
	}
	if routes, err := iface.Routes(netlink.Route{}, 0); index == 0 && err == nil {
		for _, r := range routes {
			if r.Dst == nil || r.Dst.IP.IsUnspecified() {
				index = r.LinkIndex
				break
			}
		}
	}
	if link, err := netlink.LinkByIndex(index); index != 0 && err == nil && link.Attrs().MTU > 0 {
		return link.Attrs().MTU
	}
	return usual
}

func ipNet(addr netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, 32)}
}
