package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/proxy/ruleset"
)

// serveUDP answers at an address of this machine with that address.
func serveUDP(t *testing.T, address string) {
	t.Helper()
	at := netip.MustParseAddrPort(address)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.AddrReplace(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(at.Addr(), 32))}))
	c, err := net.ListenPacket("udp4", address)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 64)
		for {
			_, client, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(address), client)
		}
	}()
}

// say sends by a socket and gives who answers; a flow is a socket's.
func say(c net.Conn) string {
	if _, err := c.Write([]byte("?")); err != nil {
		return err.Error()
	}
	_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil {
		return err.Error()
	}
	return string(b[:n])
}

func udpService(change func(*corev1.Service)) *corev1.Service {
	return newService("dns", "10.96.1.53", func(s *corev1.Service) {
		s.Spec.Ports[0].Protocol = corev1.ProtocolUDP
		change(s)
	})
}

func setUDP(t *testing.T, kube kubernetes.Interface, addresses ...string) {
	t.Helper()
	s := newSlice("dns", addresses...)
	s.Ports[0].Protocol = ptr.To(corev1.ProtocolUDP)
	_, err := kube.DiscoveryV1().EndpointSlices("ns").Update(t.Context(), s, metav1.UpdateOptions{})
	must(t, err)
}

// TestFlowsMoveOn: a client that goes on sending from one port is led to the endpoints that are, be it after its own is gone, after there was none, or after the proxy was
// away meanwhile.
func TestFlowsMoveOn(t *testing.T) {
	if !ownNamespace(t) {
		return
	}
	serveUDP(t, "10.244.0.4:8080")
	serveUDP(t, "10.244.0.5:8080")
	first := newSlice("dns", "10.244.0.4")
	first.Ports[0].Protocol = ptr.To(corev1.ProtocolUDP)
	kube := fake.NewClientset(udpService(func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30053 }), first)
	metrics := NewMetrics()
	stop := start(t, func(c *Config) { c.Client, c.Metrics = kube, metrics })
	shows(t, "10.96.1.53 . udp . 80 : goto lb-1")
	clients := map[string]net.Conn{}
	for _, to := range []string{"10.96.1.53:80", "192.0.2.1:30053", "127.0.0.1:30053"} {
		c, err := net.Dial("udp4", to)
		must(t, err)
		defer c.Close()
		clients[to] = c
	}
	all := func(when, want string) {
		t.Helper()
		for to, c := range clients {
			eventually(t, when+": "+to, func() string {
				if got := say(c); got != want {
					return got
				}
				return ""
			})
		}
	}
	all("at first", "10.244.0.4:8080")
	setUDP(t, kube, "10.244.0.5")
	all("after the endpoint went", "10.244.0.5:8080")
	setUDP(t, kube)
	shows(t, "10.96.1.53 . udp . 80 : goto refuse-now")
	for to, c := range clients {
		eventually(t, "without endpoints "+to, func() string {
			if got := say(c); !strings.Contains(got, "refused") {
				return got
			}
			return ""
		})
	}
	setUDP(t, kube, "10.244.0.4")
	all("after there was none", "10.244.0.4:8080")
	stop()
	setUDP(t, kube, "10.244.0.5")
	start(t, func(c *Config) { c.Client = kube })
	all("after the proxy was away", "10.244.0.5:8080")
}

func TestStaleFlows(t *testing.T) {
	at := func(texts ...string) (all []netip.AddrPort) {
		for _, text := range texts {
			all = append(all, netip.MustParseAddrPort(text))
		}
		return all
	}
	key := func(addr string, protocol corev1.Protocol, port uint16) ruleset.Key {
		return ruleset.Key{Addr: netip.MustParseAddr(addr), Protocol: protocol, Port: port}
	}
	stale := staleFlows{local: map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true}, now: map[ruleset.Key]ruleset.Backend{
		key("10.96.0.1", corev1.ProtocolUDP, 53):  {Endpoints: at("10.0.0.1:53"), Inside: at("10.0.0.2:53"), Serving: at("10.0.0.3:53")},
		key("10.96.0.2", corev1.ProtocolUDP, 53):  {Refuse: ruleset.Reject},
		key("10.96.0.3", corev1.ProtocolSCTP, 99): {Endpoints: at("10.0.0.1:99")},
		key("0.0.0.0", corev1.ProtocolUDP, 30053): {Endpoints: at("10.0.0.1:53")},
	}}
	stale.now[key("10.96.0.4", corev1.ProtocolTCP, 80)] = ruleset.Backend{Endpoints: at("10.0.0.1:80")}
	asked := &netlink.ConntrackFlow{ProtoInfo: &netlink.ProtoInfoTCP{State: synSent}}
	asked.Forward.Protocol, asked.Forward.DstIP, asked.Forward.DstPort = unix.IPPROTO_TCP, net.IPv4(10, 96, 0, 4), 80
	asked.Reverse.SrcIP, asked.Reverse.SrcPort = net.IPv4(10, 0, 0, 2), 80
	if !stale.MatchConntrackFlow(asked) {
		t.Error("a connection that nobody answered stays")
	}
	if asked.ProtoInfo = (&netlink.ProtoInfoTCP{State: synSent + 2}); stale.MatchConntrackFlow(asked) {
		t.Error("an established connection is forgotten")
	}
	for _, c := range []struct {
		protocol uint8
		to, from string
		want     bool
	}{
		{unix.IPPROTO_UDP, "10.96.0.1:53", "10.0.0.1:53", false},
		{unix.IPPROTO_UDP, "10.96.0.1:53", "10.0.0.1:54", true},
		{unix.IPPROTO_UDP, "10.96.0.1:53", "10.0.0.2:53", false},
		{unix.IPPROTO_UDP, "10.96.0.1:53", "10.0.0.3:53", false},
		{unix.IPPROTO_UDP, "10.96.0.1:53", "10.0.0.9:53", true},
		{unix.IPPROTO_UDP, "10.96.0.1:53", "10.96.0.1:53", true},
		{unix.IPPROTO_UDP, "10.96.0.1:54", "10.0.0.9:53", false},
		{unix.IPPROTO_TCP, "10.96.0.1:53", "10.0.0.9:53", false},
		{unix.IPPROTO_UDP, "10.96.0.2:53", "10.96.0.2:53", false},
		{unix.IPPROTO_UDP, "10.96.0.2:53", "10.0.0.1:53", true},
		{unix.IPPROTO_SCTP, "10.96.0.3:99", "10.0.0.1:99", false},
		{unix.IPPROTO_SCTP, "10.96.0.3:99", "10.0.0.2:99", true},
		{unix.IPPROTO_UDP, "192.0.2.1:30053", "10.0.0.2:53", true},
		{unix.IPPROTO_UDP, "192.0.2.1:30053", "10.0.0.1:53", false},
		{unix.IPPROTO_UDP, "8.8.8.8:30053", "8.8.8.8:30053", false},
	} {
		to, from := netip.MustParseAddrPort(c.to), netip.MustParseAddrPort(c.from)
		flow := &netlink.ConntrackFlow{}
		flow.Forward.Protocol, flow.Forward.DstIP, flow.Forward.DstPort = c.protocol, to.Addr().AsSlice(), to.Port()
		flow.Reverse.SrcIP, flow.Reverse.SrcPort = from.Addr().AsSlice(), from.Port()
		if got := stale.MatchConntrackFlow(flow); got != c.want {
			t.Errorf("protocol %d, to %s, answered by %s: %v, want %v", c.protocol, c.to, c.from, got, c.want)
		}
	}
}

// What others put beside our table: the forms in which they come. The first is what a kube-proxy left that went, whose rules lead service and node ports to endpoints that
// are no more; Docker lets nothing through that it does not know; firewalld refuses what it was not told of.
var neighbours = map[string]string{
	"kube-proxy": `table ip kube-proxy {
		map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; elements = { 10.96.1.53 . udp . 80 : goto gone } }
		map service-nodeports { type inet_proto . inet_service : verdict; elements = { udp . 30053 : goto gone } }
		chain gone { meta l4proto udp dnat to 10.244.9.9:9; }
		chain services { ip daddr . meta l4proto . th dport vmap @service-ips; fib daddr type local meta l4proto . th dport vmap @service-nodeports; }
		chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
		chain nat-output { type nat hook output priority -100; jump services; }
		chain nat-postrouting { type nat hook postrouting priority srcnat; meta mark & 0x4000 == 0x4000 masquerade; }
	}`,
	"kube-proxy in iptables mode": `table ip nat {
		chain KUBE-SERVICES { ip daddr 10.96.1.53 udp dport 80 dnat to 10.244.9.9:9; fib daddr type local udp dport 30053 dnat to 10.244.9.9:9; }
		chain PREROUTING { type nat hook prerouting priority dstnat; jump KUBE-SERVICES; }
		chain OUTPUT { type nat hook output priority -100; jump KUBE-SERVICES; }
	}`,
	"Docker": `table ip nat {
		chain DOCKER { iifname "docker0" return; udp dport 30053 iifname != "docker0" dnat to 172.17.0.2:9; }
		chain PREROUTING { type nat hook prerouting priority dstnat; fib daddr type local jump DOCKER; }
		chain OUTPUT { type nat hook output priority -100; ip daddr != 127.0.0.0/8 fib daddr type local jump DOCKER; }
		chain POSTROUTING { type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade; }
	}
	table ip filter { chain FORWARD { type filter hook forward priority filter; policy drop; }; }`,
	"firewalld": `table inet firewalld {
		chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; }
		chain filter_INPUT { type filter hook input priority filter + 10; ct state { established, related } accept; ct status dnat accept; iifname "lo" accept; reject with icmpx admin-prohibited; }
		chain filter_FORWARD { type filter hook forward priority filter + 10; ct state { established, related } accept; ct status dnat accept; reject with icmpx admin-prohibited; }
		chain filter_OUTPUT { type filter hook output priority filter + 10; ct state { established, related } accept; }
	}`,
}

// TestNeighbours: services work beside what others keep, and that stays as it is through a life of the proxy, repairs and clean-up included.
func TestNeighbours(t *testing.T) {
	if !ownNamespace(t) {
		return
	}
	serveUDP(t, "10.244.0.4:8080")
	for name, tables := range neighbours {
		nft := exec.Command("nft", "-f", "-")
		nft.Stdin = strings.NewReader(tables)
		if out, err := nft.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		before, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
		must(t, err)
		first := newSlice("dns", "10.244.0.4")
		first.Ports[0].Protocol = ptr.To(corev1.ProtocolUDP)
		kube := fake.NewClientset(udpService(func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30053 }), first)
		stop := start(t, func(c *Config) { c.Client = kube })
		shows(t, "10.96.1.53 . udp . 80 : goto lb-1")
		if out, err := exec.Command("nft", "flush", "table", "ip", "coracle-services").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		shows(t, "jump dispatch")
		for _, to := range []string{"10.96.1.53:80", "192.0.2.1:30053"} {
			c, err := net.Dial("udp4", to)
			must(t, err)
			if got := say(c); got != "10.244.0.4:8080" {
				t.Errorf("beside %s: %s answers %s", name, to, got)
			}
			c.Close()
		}
		stop()
		must(t, Cleanup())
		after, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
		must(t, err)
		if string(after) != string(before) {
			t.Errorf("what %s had became\n%s", name, after)
		}
		if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
			t.Fatal(errors.Join(err, fmt.Errorf("%s", out)))
		}
	}
}
