package nft

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/internal/testenv"
	"github.com/coracle-dev/coracle/proxy/ruleset"
)

const testLink = "svc0"

var testConfig = Config{Link: testLink, Services: netip.MustParsePrefix("10.96.0.0/16")}

// world makes, in a fresh namespace, the link that services are routed to.
func world(t *testing.T) {
	t.Helper()
	testenv.NetNS(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = testLink
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	link, err := netlink.LinkByName(testLink)
	must(t, err)
	must(t, netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 96, 0, 10), Mask: net.CIDRMask(32, 32)}}))
	must(t, netlink.LinkSetUp(link))
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: net.IPv4(10, 96, 0, 0), Mask: net.CIDRMask(16, 32)}}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pod makes a namespace with an address of its own, and serves its address on port 8080 there.
func pod(t *testing.T, n int) netip.AddrPort {
	t.Helper()
	path := testenv.PodNetNS(t)
	ns, err := netns.GetFromPath(path)
	must(t, err)
	defer ns.Close()
	name := fmt.Sprint("v", n)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}))
	host, err := netlink.LinkByName(name)
	must(t, err)
	mask := func(d byte) *net.IPNet {
		return &net.IPNet{IP: net.IPv4(10, 244, byte(n), d), Mask: net.CIDRMask(24, 32)}
	}
	must(t, netlink.AddrAdd(host, &netlink.Addr{IPNet: mask(1)}))
	must(t, netlink.LinkSetUp(host))
	h, err := netlink.NewHandleAt(ns)
	must(t, err)
	defer h.Close()
	eth, err := h.LinkByName("eth0")
	must(t, err)
	must(t, h.AddrAdd(eth, &netlink.Addr{IPNet: mask(2)}))
	must(t, h.LinkSetUp(eth))
	must(t, h.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.IPv4(10, 244, byte(n), 1)}))
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), 2}), 8080)
	serve(t, path, addr)
	return addr
}

func serve(t *testing.T, path string, addr netip.AddrPort) {
	t.Helper()
	listeners := make(chan net.Listener, 1)
	failed := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromPath(path)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		var l net.Listener
		if err == nil {
			l, err = net.Listen("tcp4", addr.String())
		}
		if err != nil {
			failed <- err
			return
		}
		listeners <- l
	}()
	select {
	case err := <-failed:
		t.Fatal(err)
	case l := <-listeners:
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, addr.Addr().String())
				c.Close()
			}
		}()
	}
}

func ask(addr string) (string, error) {
	c, err := net.DialTimeout("tcp4", addr, time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	return string(b), err
}

func tcp(addr string, port uint16) ruleset.Key {
	return ruleset.Key{Addr: netip.MustParseAddr(addr), Protocol: corev1.ProtocolTCP, Port: port}
}

func TestServicesInTheKernel(t *testing.T) {
	world(t)
	a, b := pod(t, 1), pod(t, 2)
	table := New(testConfig)
	must(t, table.Replace(ruleset.Ruleset{
		tcp("10.96.1.1", 80):  {Endpoints: []netip.AddrPort{a, b}},
		tcp("10.96.1.2", 80):  {Endpoints: []netip.AddrPort{a, b}, Affinity: time.Minute},
		tcp("0.0.0.0", 30080): {Endpoints: []netip.AddrPort{b}, Masquerade: true},
	}))
	seen := map[string]int{}
	for range 40 {
		got, err := ask("10.96.1.1:80")
		must(t, err)
		seen[got]++
	}
	if len(seen) != 2 {
		t.Errorf("40 connections went to %v, want both endpoints", seen)
	}
	sticky := map[string]int{}
	for range 20 {
		got, err := ask("10.96.1.2:80")
		must(t, err)
		sticky[got]++
	}
	if len(sticky) != 1 {
		t.Errorf("with affinity one client went to %v", sticky)
	}
	if got, err := ask("10.96.0.10:30080"); err != nil || got != b.Addr().String() {
		t.Errorf("node port: %q, %v", got, err)
	}
	started := time.Now()
	if _, err := ask("10.96.7.7:80"); err == nil || time.Since(started) > 500*time.Millisecond {
		t.Errorf("a service address without endpoints: %v after %v, want a refusal at once", err, time.Since(started))
	}

	// People read the table with nft.
	if out, err := exec.Command("nft", "list", "table", "ip", TableName).CombinedOutput(); err != nil {
		t.Errorf("nft list: %v\n%s", err, out)
	} else if !strings.Contains(string(out), "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints") {
		t.Errorf("nft list shows\n%s", out)
	}

	// The endpoint that a client sticks to goes: it gets the other one.
	gone, left := a, b
	if sticky[b.Addr().String()] > 0 {
		gone, left = b, a
	}
	must(t, table.Update(ruleset.Ruleset{
		tcp("10.96.1.1", 80): {Endpoints: []netip.AddrPort{left}},
		tcp("10.96.1.2", 80): {Endpoints: []netip.AddrPort{left}, Affinity: time.Minute},
	}))
	for range 10 {
		for _, service := range []string{"10.96.1.1:80", "10.96.1.2:80"} {
			if got, err := ask(service); err != nil || got == gone.Addr().String() {
				t.Errorf("%s after an endpoint went: %q, %v", service, got, err)
			}
		}
	}
	if _, err := ask("10.96.0.10:30080"); err == nil {
		t.Error("a deleted node port answers")
	}
	must(t, Delete())
	must(t, Delete())
	if present, err := table.Present(); err != nil || present {
		t.Errorf("after Delete: present %v, %v", present, err)
	}
}

// TestUpdatesEqualAFreshTable: any sequence of updates leaves in the kernel what building the last ruleset anew does.
func TestUpdatesEqualAFreshTable(t *testing.T) {
	world(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("skipped: needs nft to read the table back")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	table := New(testConfig)
	var rules ruleset.Ruleset
	for range 60 {
		rules = randomRules(rng)
		must(t, table.Update(rules))
	}
	updated := elements(t)
	must(t, New(testConfig).Replace(rules))
	if fresh := elements(t); updated != fresh {
		t.Errorf("after updates:\n%s\nbuilt anew:\n%s", updated, fresh)
	}
}

func randomRules(rng *rand.Rand) ruleset.Ruleset {
	r := ruleset.Ruleset{}
	for i := range 12 {
		if rng.IntN(3) == 0 {
			continue
		}
		k := tcp(fmt.Sprintf("10.96.2.%d", i/2), uint16(80+i%2))
		if i == 11 {
			k = tcp("0.0.0.0", 30001)
		}
		b := ruleset.Backend{Masquerade: rng.IntN(4) == 0, Affinity: time.Duration(rng.IntN(2)) * time.Hour}
		for e := range 1 + rng.IntN(4) {
			b.Endpoints = append(b.Endpoints, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 9, byte(e + rng.IntN(3)*10)}), 8080))
		}
		slices.SortFunc(b.Endpoints, netip.AddrPort.Compare)
		b.Endpoints = slices.Compact(b.Endpoints)
		r[k] = b
	}
	return r
}

// elements lists what the maps and sets hold, sorted.
func elements(t *testing.T) string {
	t.Helper()
	var all []string
	for _, set := range []string{"map services", "map node-ports", "map endpoints", "map picks", "set hairpin"} {
		words := strings.Fields(set)
		out, err := exec.Command("nft", "list", words[0], "ip", TableName, words[1]).CombinedOutput()
		if err != nil {
			t.Fatalf("nft list %s: %v\n%s", set, err, out)
		}
		_, rest, _ := strings.Cut(string(out), "elements = {")
		rest, _, _ = strings.Cut(rest, "}")
		for _, e := range strings.Split(rest, ",") {
			if e = strings.Join(strings.Fields(e), " "); e != "" {
				all = append(all, set+": "+e)
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func BenchmarkTenThousandServices(b *testing.B) {
	testenv.NetNS(b)
	rules := ruleset.Ruleset{}
	for i := range 10_000 {
		var eps []netip.AddrPort
		for e := range 10 {
			n := i*10 + e
			eps = append(eps, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 8080))
		}
		rules[ruleset.Key{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Protocol: corev1.ProtocolTCP, Port: 80}] = ruleset.Backend{Endpoints: eps}
	}
	table := New(testConfig)
	for range b.N {
		start := time.Now()
		if err := table.Replace(rules); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(start).Seconds(), "s/first-sync")
		changed := ruleset.Ruleset{}
		changed.Apply(nil, rules)
		k := rules.Keys()[77]
		changed[k] = ruleset.Backend{Endpoints: rules[k].Endpoints[1:]}
		start = time.Now()
		if err := table.Update(changed); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(start).Microseconds())/1000, "ms/change")
	}
	_ = Delete()
}
