package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPodsOfTwoNodesReachEachOther(t *testing.T) {
	for _, overlay := range []Overlay{VXLAN, Routes} {
		t.Run(string(overlay), func(t *testing.T) {
			m := machines(t, 2, 1500)
			for _, one := range m {
				one.start(overlay)
				one.n.SetPeers(nil)
			}
			podA, a := m[0].pod("a")
			podB, b := m[1].pod("b")
			if links := shell(t, m[0].path, "ip -br link"); strings.Contains(links, vxlanLink) {
				t.Errorf("a node alone has the links\n%s", links)
			}
			for _, one := range m {
				one.know(m...)
			}
			reaches(t, podA, b.String()+":8080", "b "+a.String())
			reaches(t, podB, a.String()+":8080", "a "+b.String())
			reaches(t, m[0].path, b.String()+":8080", "b 10.244.1.1")
			reaches(t, m[1].path, a.String()+":8080", "a 10.244.2.1")
			// The last other node goes.
			m[0].know()
			await(t, "node-2 is forgotten", func() error {
				if links, routes := shell(t, m[0].path, "ip -br link"), m[0].routes(); strings.Contains(links, vxlanLink) || strings.Contains(routes, "10.244.2.") {
					return fmt.Errorf("%s\n%s", links, routes)
				}
				return nil
			})
		})
	}
}

// datagramOf sends a UDP datagram of so many bytes, headers included, that must not be fragmented.
func datagramOf(size int, to netip.AddrPort) error {
	c, err := net.Dial("udp4", to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	var option error
	if err := raw.Control(func(fd uintptr) {
		option = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	}); err != nil || option != nil {
		return errors.Join(err, option)
	}
	_, err = c.Write([]byte(strings.Repeat("x", size-28)))
	return err
}

func TestMTU(t *testing.T) {
	for _, c := range []struct {
		overlay      Overlay
		uplink, want int
		later, then  int // after a restart of the agents
	}{
		{VXLAN, 1500, 1450, 1400, 1350},
		{VXLAN, 9000, 8950, 9000, 8950},
		{Routes, 1500, 1500, 1400, 1400},
	} {
		t.Run(fmt.Sprintf("%s %d", c.overlay, c.uplink), func(t *testing.T) {
			m := machines(t, 2, c.uplink)
			var paths []string
			for i, one := range m {
				one.start(c.overlay)
				one.know(m...)
				path, _ := one.pod(fmt.Sprint("pod", i))
				paths = append(paths, path)
			}
			b := netip.MustParseAddr("10.244.2.2")
			reaches(t, paths[0], b.String()+":8080", "pod1 10.244.1.2")
			got := heard(t, paths[1], b.String()+":7000")
			check := func(mtu int) {
				t.Helper()
				for _, path := range paths {
					if link := shell(t, path, "ip link show eth0"); !strings.Contains(link, fmt.Sprintf(" mtu %d ", mtu)) {
						t.Errorf("want an MTU of %d: %s", mtu, link)
					}
				}
				inside(t, paths[0], func() error { return datagramOf(mtu, netip.AddrPortFrom(b, 7000)) })
				if text := <-got; len(text) != mtu-28 {
					t.Errorf("%d bytes arrive of %d", len(text), mtu-28)
				}
				inside(t, paths[0], func() error {
					if err := datagramOf(mtu+1, netip.AddrPortFrom(b, 7000)); !errors.Is(err, unix.EMSGSIZE) {
						t.Errorf("a datagram of %d bytes: %v", mtu+1, err)
					}
					return nil
				})
			}
			check(c.want)
			for i, one := range m {
				one.stop()
				shell(t, one.path, "ip link set eth0 mtu %d", c.later)
				shell(t, "", "ip link set port%d mtu %d", i+1, c.later)
				one.start(c.overlay)
				one.know(m...)
			}
			await(t, "the tunnel's MTU", func() error {
				if link := shell(t, m[0].path, "ip link show %s 2>/dev/null || true", vxlanLink); c.overlay == VXLAN && !strings.Contains(link, fmt.Sprintf(" mtu %d ", c.then)) {
					return errors.New(link)
				}
				return nil
			})
			check(c.then)
		})
	}
}

func TestWaysFollowNodes(t *testing.T) {
	for _, overlay := range []Overlay{VXLAN, Routes} {
		t.Run(string(overlay), func(t *testing.T) {
			m := machines(t, 3, 1500)
			for _, one := range m {
				one.start(overlay)
				one.know(m...)
			}
			dev := map[Overlay]string{VXLAN: vxlanLink, Routes: "eth0"}[overlay]
			way := func(cidr, via string) string {
				onlink := map[Overlay]string{VXLAN: " onlink"}[overlay]
				return fmt.Sprintf("%s via %s dev %s src 10.244.1.1%s", cidr, via, dev, onlink)
			}
			own := "unreachable 10.244.1.0/24"
			settled := func(what string, want ...string) {
				t.Helper()
				await(t, what, func() error {
					if got, want := m[0].routes(), strings.Join(append(want, own), "\n"); got != want {
						return fmt.Errorf("routes\n%s\nwant\n%s", got, want)
					}
					if overlay != VXLAN {
						return nil
					}
					arp, fdb := shell(t, m[0].path, "ip neigh show dev %s nud permanent", vxlanLink), shell(t, m[0].path, "bridge fdb show dev %s", vxlanLink)
					if a, f := strings.Count(arp, "lladdr 02:c0:0a:63:"), strings.Count(fdb, "02:c0:0a:63:"); a != len(want) || f != len(want) {
						return fmt.Errorf("%s\n%s", arp, fdb)
					}
					return nil
				})
			}
			two, three := way("10.244.2.0/24", "10.99.0.2"), way("10.244.3.0/24", "10.99.0.3")
			settled("two others", two, three)

			for _, harm := range []string{"ip route flush proto 67", "ip route del 10.244.2.0/24", "ip link set eth0 down; ip link set eth0 up",
				"ip link del " + vxlanLink, "ip link set " + vxlanLink + " down", "ip neigh flush dev " + vxlanLink + " nud permanent", "ip addr flush dev " + vxlanLink,
				"bridge fdb del 02:c0:0a:63:00:02 dev " + vxlanLink + " dst 10.99.0.2"} {
				if overlay == VXLAN || !strings.Contains(harm, vxlanLink) {
					shell(t, m[0].path, "%s", harm)
					settled(harm, two, three)
				}
			}

			moved := []Peer{{Name: "node-2", Addr: netip.MustParseAddr("10.99.0.7"), Range: m[1].cidr}, {Name: "node-3", Addr: m[2].addr, Range: netip.MustParsePrefix("10.244.9.0/25")}}
			m[0].n.SetPeers(moved)
			settled("another address, and another range", way("10.244.2.0/24", "10.99.0.7"), way("10.244.9.0/25", "10.99.0.3"))
			m[0].know(m...)
			settled("back", two, three)

			m[0].stop()
			m[0].start(overlay)
			m[0].know(m[1])
			settled("a node that went while the agent was away", two)

			// The node itself gets another address.
			m[0].stop()
			shell(t, m[0].path, "ip address del 10.99.0.1/24 dev eth0; ip address add 10.99.0.11/24 dev eth0")
			m[0].addr = netip.MustParseAddr("10.99.0.11")
			m[0].start(overlay)
			m[0].know(m...)
			m[1].know(m...)
			shell(t, m[0].path, "nft flush ruleset") // the next change makes the table anew
			m[0].know(m[1])
			path, _ := m[0].pod("a")
			_, b := m[1].pod("b")
			reaches(t, path, b.String()+":8080", "b 10.244.1.2")

			inside(t, m[0].path, func() error { m[0].stop(); return Cleanup() })
			if left := shell(t, m[0].path, "ip -br link; ip route") + m[0].routes(); strings.Contains(left, "cor") || strings.Contains(left, "10.244.") {
				t.Errorf("left behind:\n%s", left)
			}
		})
	}
}

func TestUsablePeers(t *testing.T) {
	self := Config{NodeName: "me", NodeIP: netip.MustParseAddr("10.0.0.1"), ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16")}
	own := netip.MustParsePrefix("10.244.1.0/24")
	peer := func(name, addr, cidr string) Peer {
		return Peer{Name: name, Addr: netip.MustParseAddr(addr), Range: netip.MustParsePrefix(cidr)}
	}
	ways, refused := usable(self, own, []Peer{
		peer("a", "10.0.0.2", "10.244.2.0/24"),
		peer("former-me", "10.0.0.1", "10.244.7.0/24"),
		peer("thief", "10.0.0.3", "10.244.1.128/25"),
		peer("greedy", "10.0.0.4", "10.244.0.0/16"),
		peer("stranger", "10.0.0.5", "10.96.0.0/16"),
		peer("all", "10.0.0.6", "0.0.0.0/0"),
		peer("late", "10.0.0.7", "10.244.2.0/25"),
		peer("b", "10.0.0.8", "10.244.4.0/22"),
		peer("in-b", "10.0.0.9", "10.244.5.0/24"),
		peer("c", "10.0.0.9", "10.244.8.0/26"),
		peer("same-address", "10.0.0.2", "10.244.8.64/26"),
	})
	var got []string
	for _, w := range ways {
		got = append(got, w.Name)
	}
	if strings.Join(got, " ") != "a b c same-address" {
		t.Errorf("ways to %v", got)
	}
	want := []string{
		"node former-me has this node's address 10.0.0.1",
		"node thief has the range 10.244.1.128/25, which overlaps that of node me",
		"node greedy has the range 10.244.0.0/16, which overlaps that of node a",
		"node stranger has the range 10.96.0.0/16, which is not of the cluster's 10.244.0.0/16",
		"node all has the range 0.0.0.0/0, which is not of the cluster's 10.244.0.0/16",
		"node late has the range 10.244.2.0/25, which overlaps that of node a",
		"node in-b has the range 10.244.5.0/24, which overlaps that of node b",
	}
	if a, b := strings.Join(refused, "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("refused\n%s\nwant\n%s", a, b)
	}
}
