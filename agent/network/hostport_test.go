package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// echoUDP answers each datagram with a name and who sent it.
func echoUDP(t *testing.T, path, addr, name string) {
	t.Helper()
	inside(t, path, func() error {
		c, err := net.ListenPacket("udp4", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 100)
			for {
				_, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				host, _, _ := net.SplitHostPort(from.String())
				_, _ = c.WriteTo([]byte(name+" "+host), from)
			}
		}()
		return nil
	})
}

func askUDP(addr string) (string, error) {
	c, err := net.Dial("udp4", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	return string(b[:n]), err
}

// sctpInit is the first packet of an SCTP association (RFC 9260).
func sctpInit(from, to uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = append(b, make([]byte, 8)...)      // verification tag and checksum
	b = append(b, 1, 0, 0, 20, 0, 0, 0, 7) // INIT, its length and tag
	b = append(b, 0, 0, 0x80, 0)           // window
	b = append(b, 0, 1, 0, 1, 0, 0, 0, 1)  // streams and first number
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// TestHostPorts asks for ports of a node from everywhere.
func TestHostPorts(t *testing.T) {
	for _, overlay := range []Overlay{VXLAN, Routes} {
		t.Run(string(overlay), func(t *testing.T) {
			m := machines(t, 2, 1500)
			for _, one := range m {
				one.start(overlay)
				one.know(m...)
			}
			ports := []HostPort{{Protocol: "TCP", Port: 80, PodPort: 8080}, {Protocol: "UDP", Port: 80, PodPort: 9090}, {Address: m[0].addr, Protocol: "TCP", Port: 81, PodPort: 8080}}
			server, addr := m[0].pod("server", ports...)
			echoUDP(t, server, netip.AddrPortFrom(addr, 9090).String(), "server")
			neighbour, a := m[0].pod("neighbour")
			far, _ := m[1].pod("far")
			node := m[0].addr.String()
			for _, c := range []struct{ name, path, addr, source string }{
				{"the node by its address", m[0].path, node, node},
				{"the node by loopback", m[0].path, "127.0.0.1", node},
				{"the other node", m[1].path, node, m[1].addr.String()},
				{"a pod of the node", neighbour, node, a.String()},
				{"a pod of the other node", far, node, m[1].addr.String()},
				{"the pod itself", server, node, node},
			} {
				for _, port := range []string{":80", ":81"} {
					if c.addr != "127.0.0.1" || port != ":81" {
						reaches(t, c.path, c.addr+port, "server "+c.source)
					}
				}
				await(t, "UDP from "+c.name, func() (err error) {
					inside(t, c.path, func() error {
						var got string
						if got, err = askUDP(c.addr + ":80"); err == nil && got != "server "+c.source {
							err = fmt.Errorf("got %q", got)
						}
						return nil
					})
					return err
				})
			}
			// The ports go with the pod that takes them, and stay with it when the agent starts anew.
			m[0].stop()
			m[0].start(overlay)
			reaches(t, m[1].path, node+":80", "server "+m[1].addr.String())
			m[0].pod("heir", HostPort{Protocol: "TCP", Port: 80, PodPort: 8080})
			reaches(t, m[1].path, node+":80", "heir "+m[1].addr.String())
			reaches(t, m[1].path, node+":81", "server "+m[1].addr.String())
			shell(t, m[0].path, "nft flush ruleset")
			m[0].n.poke() // as is done every half minute
			reaches(t, m[1].path, node+":80", "heir "+m[1].addr.String())
		})
	}
}

func TestHostPortOfSCTP(t *testing.T) {
	m := machines(t, 2, 1500)
	for _, one := range m {
		one.start(VXLAN)
		one.know(m...)
	}
	server, addr := m[0].pod("server", HostPort{Protocol: "SCTP", Port: 80, PodPort: 9090})
	far, _ := m[1].pod("far")
	got := make(chan []byte, 1)
	inside(t, server, func() error {
		c, err := net.ListenPacket("ip4:132", addr.String())
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 100)
			for {
				n, _, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				select {
				case got <- slices.Clone(b[:n]):
				default:
				}
			}
		}()
		return nil
	})
	await(t, "the packet", func() error {
		inside(t, far, func() error {
			c, err := net.Dial("ip4:132", m[0].addr.String())
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(sctpInit(5000, 80))
			return err
		})
		select {
		case b := <-got:
			if to := binary.BigEndian.Uint16(b[2:]); to != 9090 {
				t.Errorf("it comes to port %d", to)
			}
			return nil
		case <-time.After(time.Second):
			return errors.New("it does not come")
		}
	})
}

// TestServersOfTheNodeAnswerPods asks a server of the node that listens on all addresses: the answer comes from the one that was asked.
func TestServersOfTheNodeAnswerPods(t *testing.T) {
	m := machines(t, 1, 1500)
	m[0].start(VXLAN)
	m[0].n.SetPeers(nil)
	path, addr := m[0].pod("client")
	echoUDP(t, m[0].path, "0.0.0.0:7000", "node")
	await(t, "UDP", func() (err error) {
		inside(t, path, func() error { _, err = askUDP(m[0].addr.String() + ":7000"); return nil })
		return err
	})
	reaches(t, m[0].path, addr.String()+":8080", "client "+m[0].addr.String())
	// It survives that the node's address goes for a while.
	shell(t, m[0].path, "ip address del 10.99.0.1/24 dev eth0")
	reaches(t, m[0].path, addr.String()+":8080", "client 10.244.1.1")
	shell(t, m[0].path, "ip address add 10.99.0.1/24 dev eth0")
	reaches(t, m[0].path, addr.String()+":8080", "client "+m[0].addr.String())
}
