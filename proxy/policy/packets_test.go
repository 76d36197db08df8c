package policy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/internal/netpolicy"
	"github.com/coracle-dev/coracle/internal/testenv"
	"github.com/coracle-dev/coracle/internal/thread"
	"github.com/coracle-dev/coracle/proxy/policy/rules"
)

// pod is a network namespace with the address 10.244.N.2, routed by the test's.
type pod struct{ path, addr string }

func newPod(t *testing.T, n int) pod {
	t.Helper()
	p := pod{testenv.PodNetNS(t), fmt.Sprintf("10.244.%d.2", n)}
	ns, err := netns.GetFromPath(p.path)
	must(t, err)
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprint("cor", n)
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}))
	outside, err := netlink.LinkByName(attrs.Name)
	must(t, err)
	address := func(last byte) *netlink.Addr {
		return &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 244, byte(n), last), Mask: net.CIDRMask(24, 32)}}
	}
	must(t, netlink.AddrAdd(outside, address(1)))
	must(t, netlink.LinkSetUp(outside))
	h, err := netlink.NewHandleAt(ns)
	must(t, err)
	defer h.Close()
	inside, err := h.LinkByName("eth0")
	must(t, err)
	must(t, h.AddrAdd(inside, address(2)))
	must(t, h.LinkSetUp(inside))
	must(t, h.RouteAdd(&netlink.Route{LinkIndex: inside.Attrs().Index, Gw: net.IPv4(10, 244, byte(n), 1)}))
	return p
}

// raw opens a socket for whole packets of a protocol in the pod.
func (p pod) raw(t *testing.T, protocol string) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	must(t, thread.Do(func() error {
		ns, err := netns.GetFromPath(p.path)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return err
		}
		conn, err = net.ListenPacket("ip4:"+protocol, p.addr)
		return err
	}))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// arrives tells whether what one sends to the other gets there.
func arrives(t *testing.T, from, to net.PacketConn, packet []byte) bool {
	t.Helper()
	_, err := from.WriteTo(packet, to.LocalAddr())
	must(t, err)
	must(t, to.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
	buf := make([]byte, 2048)
	for {
		n, sender, err := to.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		must(t, err)
		if bytes.Equal(buf[:n], packet) && sender.String() == from.LocalAddr().String() {
			return true
		}
	}
}

// sctpInit is the first packet of an association.
func sctpInit(sourcePort, port uint16) []byte {
	p := binary.BigEndian.AppendUint16(nil, sourcePort)
	p = binary.BigEndian.AppendUint16(p, port)
	p = append(p, make([]byte, 8)...)                     // no tag yet; the checksum comes last
	p = append(p, 1, 0, 0, 20)                            // INIT, 20 bytes
	p = binary.BigEndian.AppendUint32(p, rand.Uint32()|1) // tag
	p = binary.BigEndian.AppendUint32(p, 65536)           // window
	p = append(p, 0, 1, 0, 1)                             // streams
	p = binary.BigEndian.AppendUint32(p, rand.Uint32())   // first number
	binary.LittleEndian.PutUint32(p[8:], crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
	return p
}

func udp(sourcePort, port uint16) []byte {
	p := binary.BigEndian.AppendUint16(nil, sourcePort)
	p = binary.BigEndian.AppendUint16(p, port)
	return append(p, 0, 12, 0, 0, 'p', 'i', 'n', 'g') // length; no checksum
}

func echoRequest(id uint16) []byte {
	p := append([]byte{8, 0, 0, 0}, byte(id>>8), byte(id), 0, 1)
	sum := uint32(0)
	for i := 0; i < len(p); i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	sum = ^(sum>>16 + sum&0xffff)
	p[2], p[3] = byte(sum>>8), byte(sum)
	return p
}

// enforce puts one policy into force for a pod of the namespace x.
func enforce(t *testing.T, table *Table, p pod, spec string) {
	t.Helper()
	policy := &networkingv1.NetworkPolicy{}
	must(t, yaml.UnmarshalStrict([]byte("spec: "+spec), policy))
	policy.Namespace, policy.Name = "x", "p"
	m := rules.NewModel()
	m.SetPod(ip(t, p.addr), &rules.Pod{Namespace: "x"})
	m.SetPolicy("x", "p", policy)
	must(t, table.Update(m.Ruleset()))
}

// TestProtocols: SCTP, UDP and ICMP pass where a policy says so, and a flow that is no longer allowed ends though it is known.
func TestProtocols(t *testing.T) {
	testenv.NetNS(t)
	a, b := newPod(t, 1), newPod(t, 2)
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
	table := &Table{}
	t.Cleanup(func() { must(t, Cleanup()) })
	source := uint16(30000)
	check := func(protocol string, port uint16, want bool) {
		t.Helper()
		source++
		packet := map[string][]byte{"sctp": sctpInit(source, port), "udp": udp(source, port), "icmp": echoRequest(source)}[protocol]
		if got := arrives(t, a.raw(t, protocol), b.raw(t, protocol), packet); got != want {
			t.Errorf("%s %d: %v, want %v", protocol, port, got, want)
		}
	}
	enforce(t, table, b, `{podSelector: {}, ingress: [{}]}`)
	for _, protocol := range []string{"sctp", "udp", "icmp"} {
		check(protocol, 80, true)
	}
	enforce(t, table, b, `{podSelector: {}, ingress: [{ports: [{protocol: SCTP, port: 80}, {protocol: UDP, port: 70, endPort: 75}]}]}`)
	check("sctp", 80, true)
	check("sctp", 81, false)
	check("udp", 80, false)
	check("udp", 69, false)
	check("udp", 70, true)
	check("udp", 75, true)
	check("udp", 76, false)
	check("icmp", 0, false)
	enforce(t, table, b, `{podSelector: {}, ingress: [{ports: [{protocol: SCTP}]}]}`)
	check("sctp", 1, true)
	check("sctp", 65535, true)
	check("udp", 70, false)
	enforce(t, table, a, `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{protocol: UDP}]}]}`)
	check("udp", 9, true)
	check("sctp", 80, false)
	endsFlows(t, table, a, b)
}

// endsFlows: replies pass whatever the replying pod may send; once the flow is no longer allowed, nothing more of it arrives.
func endsFlows(t *testing.T, table *Table, a, b pod) {
	t.Helper()
	client, server := a.raw(t, "udp"), b.raw(t, "udp")
	enforce(t, table, b, `{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}]}`)
	if arrives(t, server, client, udp(5000, 6000)) {
		t.Error("what may not be sent arrives")
	}
	if !arrives(t, client, server, udp(6001, 5001)) || !arrives(t, server, client, udp(5001, 6001)) || !arrives(t, client, server, udp(6001, 5001)) {
		t.Error("a flow that is allowed, or its replies, do not arrive")
	}
	enforce(t, table, b, `{podSelector: {}}`)
	if arrives(t, client, server, udp(6001, 5001)) {
		t.Error("a flow that is not allowed any more goes on")
	}
}

// TestUpdatesEqualAFreshTable: any sequence of updates leaves in the kernel what building the last ruleset anew does.
func TestUpdatesEqualAFreshTable(t *testing.T) {
	testenv.NetNS(t)
	needsNFT(t)
	t.Cleanup(func() { must(t, Cleanup()) })
	rng := rand.New(rand.NewPCG(3, 4))
	m, table := rules.NewModel(), &Table{}
	specs := []string{
		`{podSelector: {}}`,
		`{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}], ports: [{port: http}, {port: 80, endPort: 90}]}]}`,
		`{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {}}]}], egress: [{ports: [{port: http}]}]}`,
		`{podSelector: {matchLabels: {app: b}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]}]}`,
		`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 255.0.0.0/8}}, {ipBlock: {cidr: 10.0.0.0/9}}], ports: [{protocol: SCTP}, {port: 443}]}]}`,
	}
	http := netpolicy.Port{Name: "http", Protocol: "TCP"}
	for range 150 {
		addr := rules.IP{10, 244, 0, byte(rng.IntN(6))}
		switch rng.IntN(4) {
		case 0:
			m.SetPod(addr, nil)
		case 1:
			m.SetPod(addr, &rules.Pod{Namespace: "x", Labels: map[string]string{"app": string(rune('a' + rng.IntN(2)))}, Ports: map[netpolicy.Port]uint16{http: uint16(8080 + rng.IntN(2))}})
		case 2:
			name := fmt.Sprint("p", rng.IntN(4))
			policy := &networkingv1.NetworkPolicy{}
			must(t, yaml.UnmarshalStrict([]byte("spec: "+specs[rng.IntN(len(specs))]), policy))
			policy.Namespace, policy.Name = "x", name
			if rng.IntN(4) == 0 {
				policy = nil
			}
			m.SetPolicy("x", name, policy)
			if policy == nil {
				break
			}
			for key, group := range netpolicy.Of(policy) {
				m.SetPeers(key, "one", somePeers(rng, group))
			}
		case 3:
			if rng.IntN(10) == 0 {
				table.Forget()
			}
		}
		must(t, table.Update(m.Ruleset()))
	}
	updated := listTable(t)
	must(t, (&Table{}).Replace(m.Ruleset()))
	if fresh := listTable(t); updated != fresh {
		t.Errorf("after updates:\n%s\nbuilt anew:\n%s", updated, fresh)
	}
}

func somePeers(rng *rand.Rand, group netpolicy.Peers) []rules.Element {
	var elements []rules.Element
	for i := range rng.IntN(700) {
		e := rules.Element{Addr: rules.IP{10, 245, byte(i / 200), byte(i % 200)}}
		if group.Port.Name != "" {
			e.Protocol, e.First = unix.IPPROTO_TCP, 8080
		}
		elements = append(elements, e)
	}
	return elements
}
