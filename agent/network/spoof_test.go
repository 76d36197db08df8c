package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/internal/testenv"
)

// datagram is an IPv4 packet with a UDP datagram from port 9.
func datagram(from, to netip.Addr, port uint16, text string) []byte {
	size := 28 + len(text)
	b := make([]byte, size)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(size))
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
	binary.BigEndian.PutUint16(b[20:], 9)
	binary.BigEndian.PutUint16(b[22:], port)
	binary.BigEndian.PutUint16(b[24:], uint16(size-20))
	copy(b[28:], text)
	return b
}

// sendFrame sends from a pod's own interface whatever it likes.
func sendFrame(from, to net.HardwareAddr, kind uint16, payload []byte) error {
	link, err := net.InterfaceByName(podInterface)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	frame := append(append(append([]byte{}, to...), from...), byte(kind>>8), byte(kind))
	return unix.Sendto(fd, append(frame, payload...), 0, &unix.SockaddrLinklayer{Ifindex: link.Index})
}

// heard collects what comes to a UDP port in the namespace at path, in the calling thread's own if that is empty.
func heard(t *testing.T, path, addr string) <-chan string {
	t.Helper()
	out := make(chan string, 10)
	listen := func() error {
		c, err := net.ListenPacket("udp4", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 64<<10)
			for {
				n, _, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				out <- string(b[:n])
			}
		}()
		return nil
	}
	if path != "" {
		inside(t, path, listen)
	} else if err := listen(); err != nil {
		t.Fatal(err)
	}
	return out
}

func hardware(t *testing.T, path string) (addr net.HardwareAddr) {
	t.Helper()
	err := within(path, func(h *netlink.Handle) error {
		link, err := h.LinkByName(podInterface)
		if err == nil {
			addr = link.Attrs().HardwareAddr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func TestSpoofedPacketsAreDropped(t *testing.T) {
	testenv.NetNS(t)
	n := open(t, "10.244.3.0/24")
	names := []string{"a", "b", "c"}
	paths, addrs := map[string]string{}, map[string]netip.Addr{}
	for _, name := range names {
		paths[name] = testenv.PodNetNS(t)
		got, err := n.Setup(context.Background(), onNetwork(name, paths[name]))
		if err != nil {
			t.Fatal(err)
		}
		addrs[name] = got[0]
	}
	host, err := net.InterfaceByName(vethName("a"))
	if err != nil {
		t.Fatal(err)
	}
	// A machine may have the kernel's own check off for every new link.
	for _, link := range []string{"all", host.Name} {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+link+"/rp_filter", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
	}
	own, other := hardware(t, paths["a"]), hardware(t, paths["b"])
	gateway := gateway(n.cidr)
	targets := []struct {
		name string
		addr netip.Addr
		got  <-chan string
	}{
		{"a pod", addrs["c"], heard(t, paths["c"], netip.AddrPortFrom(addrs["c"], 7000).String())},
		{"the node", gateway, heard(t, "", netip.AddrPortFrom(gateway, 7000).String())},
	}
	for _, c := range []struct {
		name     string
		from     netip.Addr
		mac, via net.HardwareAddr
	}{
		{"another pod's address", addrs["b"], own, host.HardwareAddr},
		{"the node's address", gateway, own, host.HardwareAddr},
		{"the node's loopback", netip.MustParseAddr("127.0.0.1"), own, host.HardwareAddr},
		{"an address of nobody", netip.MustParseAddr("198.51.100.7"), own, host.HardwareAddr},
		{"another pod's addresses", addrs["b"], other, host.HardwareAddr},
		{"straight to another pod's interface", addrs["a"], own, other},
	} {
		for _, to := range targets {
			inside(t, paths["a"], func() error {
				if err := sendFrame(c.mac, c.via, unix.ETH_P_IP, datagram(c.from, to.addr, 7000, "forged")); err != nil {
					return err
				}
				return sendFrame(own, host.HardwareAddr, unix.ETH_P_IP, datagram(addrs["a"], to.addr, 7000, "honest"))
			})
			for text := ""; text != "honest"; {
				select {
				case text = <-to.got:
					if text == "forged" {
						t.Errorf("%s: %s gets the packet", c.name, to.name)
					}
				case <-time.After(20 * time.Second):
					t.Fatalf("%s: an honest packet does not arrive at %s", c.name, to.name)
				}
			}
		}
	}
}

func TestARPTakesNobodysAddress(t *testing.T) {
	testenv.NetNS(t)
	n := open(t, "10.244.3.0/24")
	a, b := testenv.PodNetNS(t), testenv.PodNetNS(t)
	addrs := map[string]netip.Addr{}
	for name, path := range map[string]string{"a": a, "b": b} {
		got, err := n.Setup(context.Background(), onNetwork(name, path))
		if err != nil {
			t.Fatal(err)
		}
		addrs[name] = got[0]
	}
	serve(t, b, netip.AddrPortFrom(addrs["b"], 8080).String(), "b")
	if got, err := ask(netip.AddrPortFrom(addrs["b"], 8080).String()); err != nil || got != "b 10.244.3.1" {
		t.Fatalf("before: %q %v", got, err)
	}
	own := hardware(t, a)
	everybody := bytes.Repeat([]byte{0xff}, 6)
	for _, operation := range []byte{1, 2} {
		for _, claimed := range []netip.Addr{addrs["b"], gateway(n.cidr)} {
			// Ethernet, IPv4, 6 and 4 bytes; sender's and target's addresses.
			arp := []byte{0, 1, 8, 0, 6, 4, 0, operation}
			arp = append(append(arp, own...), claimed.AsSlice()...)
			arp = append(append(arp, everybody...), claimed.AsSlice()...)
			inside(t, a, func() error {
				for range 3 {
					if err := sendFrame(own, everybody, unix.ETH_P_ARP, arp); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	if got, err := ask(netip.AddrPortFrom(addrs["b"], 8080).String()); err != nil || got != "b 10.244.3.1" {
		t.Errorf("after another pod claimed the address: %q %v", got, err)
	}
	link, err := netlink.LinkByName(vethName("a"))
	if err != nil {
		t.Fatal(err)
	}
	key := "ipv6/conf/" + link.Attrs().Name + "/disable_ipv6"
	if value, err := os.ReadFile("/proc/sys/net/" + key); err == nil && string(value) != "1\n" {
		t.Errorf("%s is %s: the pod can pose as the machine's IPv6 router", key, value)
	}
}
