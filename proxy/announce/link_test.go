package announce

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/internal/testenv"
	"github.com/coracle-dev/coracle/internal/thread"
)

const helper = "ANNOUNCE_TEST_NODE"

func TestMain(m *testing.M) {
	if name := os.Getenv(helper); name != "" {
		if err := serve(name); err != nil {
			fmt.Fprintln(os.Stderr, name, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

var (
	balanced  = []netip.Addr{netip.MustParseAddr("192.168.77.100"), netip.MustParseAddr("192.168.77.101"), netip.MustParseAddr("192.168.77.102"), netip.MustParseAddr("192.168.77.103")}
	elsewhere = netip.MustParseAddr("10.99.0.1") // in no subnet: announced where the node's address is
)

// serve is a node of the test: it announces the addresses, and answers on them with its name. SIGUSR1 cordons it.
func serve(name string) error {
	cordon, changed := make(chan os.Signal, 1), make(chan struct{}, 1)
	signal.Notify(cordon, unix.SIGUSR1)
	claims := map[netip.Addr]Claim{elsewhere: {Nodes: map[string]bool{"node-2": true}}}
	for _, addr := range balanced {
		claims[addr] = Claim{}
		l, err := net.Listen("tcp", netip.AddrPortFrom(addr, 80).String())
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintln(conn, name)
				conn.Close()
			}
		}()
	}
	fitness := make(chan fitness, 1)
	fitness <- fit
	s := &speaker{
		node: idOf(name), nodeIP: netip.MustParseAddr(os.Getenv("ANNOUNCE_TEST_IP")), log: slog.Default().With("node", name), changed: changed,
		took: func(netip.Addr) {},
		state: func() state {
			f := <-fitness
			fitness <- f
			return state{claims: claims, fitness: f, contact: time.Now()}
		},
	}
	go func() {
		<-cordon
		<-fitness
		fitness <- reserve
		changed <- struct{}{}
	}()
	return s.run(context.Background())
}

// machine is a node's namespace on the bridge.
type machine struct {
	t    *testing.T
	name string
	path string
	ip   netip.Addr
	cmd  *exec.Cmd
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func address(t *testing.T, link netlink.Link, prefix string) {
	t.Helper()
	addr, err := netlink.ParseAddr(prefix)
	must(t, err)
	must(t, netlink.AddrAdd(link, addr))
	must(t, netlink.LinkSetUp(link))
}

func bridge(t *testing.T, name, prefix string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	link := &netlink.Bridge{LinkAttrs: attrs}
	must(t, netlink.LinkAdd(link))
	address(t, link, prefix)
}

// newMachine makes a namespace on the bridge of the test's.
func newMachine(t *testing.T, n int) *machine {
	t.Helper()
	m := &machine{t: t, name: fmt.Sprint("node-", n), path: testenv.PodNetNS(t), ip: netip.MustParseAddr(fmt.Sprint("192.168.77.", 10+n))}
	ns, err := netns.GetFromPath(m.path)
	must(t, err)
	defer ns.Close()
	br, err := netlink.LinkByName("lan")
	must(t, err)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = m.port(), br.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}
	must(t, netlink.LinkAdd(veth))
	must(t, netlink.LinkSetUp(veth))
	must(t, m.inside(func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		// The addresses are the namespace's, on another link, so that there is something that answers on them. Its kernel does not answer ARP for them.
		address(t, eth, m.ip.String()+"/24")
		bridge(t, "behind", "192.0.2.1/32")
		behind, err := netlink.LinkByName("behind")
		for _, addr := range balanced {
			address(t, behind, addr.String()+"/32")
		}
		return errors.Join(err, os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1"), 0))
	}))
	return m
}

func (m *machine) port() string { return "p-" + m.name }

func (m *machine) inside(fn func() error) error {
	return thread.Do(func() error {
		ns, err := netns.GetFromPath(m.path)
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

func (m *machine) start() {
	m.t.Helper()
	m.cmd = exec.Command(os.Args[0])
	m.cmd.Env = append(os.Environ(), helper+"="+m.name, "ANNOUNCE_TEST_IP="+m.ip.String())
	m.cmd.Stderr = os.Stderr
	must(m.t, m.inside(m.cmd.Start))
	m.t.Cleanup(m.kill)
}

func (m *machine) kill() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
}

// plug moves the bridge's end of the machine's cable up or down.
func (m *machine) plug(up bool) {
	m.t.Helper()
	link, err := netlink.LinkByName(m.port())
	must(m.t, err)
	if up {
		must(m.t, netlink.LinkSetUp(link))
	} else {
		must(m.t, netlink.LinkSetDown(link))
	}
}

// ask connects to an address and gives the name of who answers.
func ask(addr netip.Addr) (string, error) {
	var answer string
	conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(addr, 80).String(), 200*time.Millisecond)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		return "", err
	}
	answer, err = bufio.NewReader(conn).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return strings.TrimSpace(answer), err
}

// answered waits until each address is answered by one of the names, and gives who has which.
func answered(t *testing.T, what string, names ...string) map[netip.Addr]string {
	t.Helper()
	who := map[netip.Addr]string{}
	deadline := time.Now().Add(60 * time.Second)
	for _, addr := range balanced {
		for {
			name, err := ask(addr)
			if err == nil && slices.Contains(names, name) {
				who[addr] = name
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %s is answered by %q, %v", what, addr, name, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return who
}

// TestOnALink has three nodes on a bridge and a client beside them, which finds the addresses by ARP alone.
func TestOnALink(t *testing.T) {
	testenv.NetNS(t)
	bridge(t, "lan", "192.168.77.1/24")
	var all []*machine
	for n := range 3 {
		all = append(all, newMachine(t, n))
	}
	for _, m := range all {
		m.start()
	}
	names := []string{"node-0", "node-1", "node-2"}
	who := answered(t, "at first", names...)
	t.Log(who)
	one := balanced[0]
	owner := all[slices.Index(names, who[one])]

	// A power cut.
	begin := time.Now()
	owner.plug(false)
	owner.kill()
	others := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == owner.name })
	for {
		if name, err := ask(one); err == nil && slices.Contains(others, name) {
			break
		}
		if time.Since(begin) > time.Minute {
			t.Fatal("nobody takes over")
		}
	}
	t.Logf("takeover after %v", time.Since(begin).Round(10*time.Millisecond))
	if took := time.Since(begin); took > 5*time.Second { // 3 s on a machine with nothing else to do
		t.Errorf("takeover after %v", took)
	}
	moved := answered(t, "with one node dead", others...)
	for addr, name := range who {
		if name != owner.name && moved[addr] != name {
			t.Errorf("%s moved from %s to %s although its node lives", addr, name, moved[addr])
		}
	}

	// It is back, and has what it had.
	owner.plug(true)
	owner.start()
	await(t, "the node that is back", func() bool { name, err := ask(one); return err == nil && name == owner.name })

	// Handed over at once: only the connection that is on its way when the address moves may fail.
	must(t, owner.cmd.Process.Signal(unix.SIGUSR1))
	failed := 0
	for begin := time.Now(); ; {
		name, err := ask(one)
		if err != nil {
			if failed++; failed > 1 {
				t.Fatalf("while %s was handed over: %v", one, err)
			}
			continue
		}
		if name != owner.name {
			t.Logf("handed over after %v", time.Since(begin).Round(time.Millisecond))
			break
		}
		if time.Since(begin) > time.Minute {
			t.Fatal("a cordoned node keeps its address")
		}
	}

	// Addresses of other subnets are announced beside the node's own.
	link, err := netlink.LinkByName("lan")
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: elsewhere.AsSlice(), Mask: net.CIDRMask(32, 32)}}))
	await(t, "ARP of "+elsewhere.String(), func() bool { return neighbour(t, link, elsewhere) == all[2].mac() })
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// neighbour resolves an address by ARP and gives the Ethernet address.
func neighbour(t *testing.T, link netlink.Link, addr netip.Addr) string {
	t.Helper()
	if conn, err := net.Dial("udp", netip.AddrPortFrom(addr, 9).String()); err == nil {
		_, _ = conn.Write([]byte("x"))
		conn.Close()
	}
	list, err := netlink.NeighList(link.Attrs().Index, unix.AF_INET)
	must(t, err)
	for _, n := range list {
		if n.IP.Equal(addr.AsSlice()) && n.State&(netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY|netlink.NUD_PROBE) != 0 {
			return n.HardwareAddr.String()
		}
	}
	return ""
}

func (m *machine) mac() string {
	var mac string
	must(m.t, m.inside(func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil {
			mac = link.Attrs().HardwareAddr.String()
		}
		return err
	}))
	return mac
}

func TestARP(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for _, frame := range gratuitous(balanced[0], mac) {
		p, err := decodeARP(append(frame, make([]byte, 18)...))
		if err != nil || p.from != balanced[0] || p.target != balanced[0] || p.fromMAC.String() != mac.String() {
			t.Errorf("%v %+v", err, p)
		}
	}
	for _, bad := range [][]byte{nil, make([]byte, arpSize), gratuitous(balanced[0], mac)[0][:arpSize-1]} {
		if _, err := decodeARP(bad); err == nil {
			t.Errorf("%x is taken for ARP", bad)
		}
	}
}

func TestLinkOf(t *testing.T) {
	prefix := netip.MustParsePrefix
	l := links{
		2: {index: 2, ranges: []netip.Prefix{prefix("10.0.0.5/16")}},
		3: {index: 3, ranges: []netip.Prefix{prefix("10.0.1.5/24"), prefix("192.168.1.1/24")}},
		4: {index: 4, ranges: []netip.Prefix{prefix("172.16.0.1/32")}},
	}
	for addr, want := range map[string]int{"10.0.0.9": 2, "10.0.1.9": 3, "192.168.1.200": 3, "172.16.0.1": 2, "198.51.100.1": 2} {
		if got, ok := l.of(netip.MustParseAddr(addr), netip.MustParseAddr("10.0.0.5")); !ok || got.index != want {
			t.Errorf("%s is on link %d, want %d", addr, got.index, want)
		}
	}
	if got, ok := l.of(netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("10.0.0.6")); ok {
		t.Errorf("an address of no subnet is on link %d", got.index)
	}
}
