package loadbalancer

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func ip(text string) netip.Addr { return netip.MustParseAddr(text) }

func pools(t *testing.T, text string) Pools {
	t.Helper()
	p, err := ParseConfig(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tcp(numbers ...int32) []port {
	var out []port
	for _, n := range numbers {
		out = append(out, port{corev1.ProtocolTCP, n})
	}
	return out
}

func ask(name string, change ...func(*request)) request {
	r := request{key: "default/" + name, namespace: "default", ports: tcp(80)}
	for _, c := range change {
		c(&r)
	}
	return r
}

func TestRanges(t *testing.T) {
	for text, want := range map[string]string{
		"192.168.1.240-192.168.1.250":     "192.168.1.240-192.168.1.250",
		" 192.168.1.240 - 192.168.1.250 ": "192.168.1.240-192.168.1.250",
		"10.0.0.0/28":                     "10.0.0.0-10.0.0.15",
		"10.0.0.9/28":                     "10.0.0.0-10.0.0.15",
		"10.0.0.7":                        "10.0.0.7-10.0.0.7",
		"10.0.0.7/32":                     "10.0.0.7-10.0.0.7",
		"10.0.0.7-10.0.0.6":               "the last address is before the first",
		"fd00::/120":                      "only IPv4 addresses can be announced",
		"fd00::1-fd00::5":                 "only IPv4 addresses can be announced",
		"10.0.0.1-fd00::5":                "only IPv4 addresses can be announced",
		"127.0.0.1":                       "addresses of 127.0.0.0/8",
		"223.0.0.0-224.0.0.1":             "addresses of 224.0.0.0/3",
		"0.0.0.0/0":                       "addresses of 0.0.0.0/8",
		"office":                          "want FIRST-LAST, a CIDR or an address",
		"":                                "want FIRST-LAST, a CIDR or an address",
		"10.0.0.1-":                       "want FIRST-LAST, a CIDR or an address",
	} {
		p, err := ParseRanges([]string{text})
		got := fmt.Sprint(err)
		if err == nil {
			got = p[0].Ranges[0].String()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	if p, err := ParseRanges(nil); err != nil || p != nil {
		t.Errorf("no ranges: %v %v", p, err)
	}
}

func TestPoolsBesideTheCluster(t *testing.T) {
	cluster := []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.96.0.0/16")}
	if err := pools(t, three).CheckAgainst(cluster); err != nil {
		t.Error(err)
	}
	err := pools(t, "- {name: a, addresses: [10.95.255.250-10.96.0.3]}").CheckAgainst(cluster)
	if want := `pool "a": 10.95.255.250-10.96.0.3 overlaps the cluster's own 10.96.0.0/16`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add("- {name: a, addresses: [10.0.0.0/30]}")
	f.Add("- name: b\n  addresses: [10.0.0.1-10.0.0.9]\n  autoAssign: false\n  avoidBuggyIPs: true\n  namespaces: [x]")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParseConfig(text)
		if err != nil {
			return
		}
		for i := range p {
			for _, r := range p[i].Ranges {
				if of := p.of(r.First); r.Last.Less(r.First) || of != nil && of.Name != p[i].Name {
					t.Fatalf("%q: %v of %v", text, r, of)
				}
			}
		}
	})
}

func TestPoolsThatAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"- {name: a, addresses: [10.0.0.0/30]}\n- {name: a, addresses: [10.0.1.0/30]}":       `pool "a": there are two of the name`,
		"- {name: a, addresses: [10.0.0.0/30]}\n- {name: b, addresses: [10.0.0.3-10.0.0.9]}": `pool "b": 10.0.0.3-10.0.0.9 overlaps 10.0.0.0-10.0.0.3 of pool "a"`,
		"- {name: nodes, addresses: [10.0.0.0/30]}":                                          "stands for the nodes' own addresses",
		"- {name: A, addresses: [10.0.0.0/30]}":                                              "lower case",
		"- {name: a}":                                                                        "has no addresses",
		"- {name: a, addresses: [x]}":                                                        `pool "a": "x": want FIRST-LAST`,
		"- {name: a, adresses: [10.0.0.1]}":                                                  `unknown field`,
		"name: a":                                                                            "cannot unmarshal object",
	} {
		if _, err := ParseConfig(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v, want %s", text, err, want)
		}
	}
}

const three = `
- {name: first, addresses: [10.0.0.254-10.0.1.1], avoidBuggyIPs: true}
- {name: manual, addresses: [10.1.0.0/30], autoAssign: false}
- {name: team, addresses: [10.2.0.0/31], namespaces: [team]}
`

func TestAssign(t *testing.T) {
	p, tab := pools(t, three), newTable()
	avoid := map[netip.Addr]bool{ip("10.1.0.2"): true}
	tests := []struct {
		r    request
		want string
	}{
		{ask("a"), "10.0.0.254 of first"},
		{ask("b"), "10.0.1.1 of first"}, // not .255 or .0
		{ask("c"), "no available IPs"},
		{ask("a"), "10.0.0.254 of first"}, // kept
		{ask("d", func(r *request) { r.pool = "manual" }), "10.1.0.0 of manual"},
		{ask("e", func(r *request) { r.addr = ip("10.1.0.3") }), "10.1.0.3 of manual"},
		{ask("f", func(r *request) { r.addr = ip("10.1.0.3") }), `10.1.0.3 is in use by service "default/e"`},
		{ask("f", func(r *request) { r.addr = ip("10.1.0.2") }), "10.1.0.2 is a node's own address"},
		{ask("f", func(r *request) { r.addr, r.pool = ip("10.1.0.1"), "first" }), `10.1.0.1 is not in pool "first"`},
		{ask("f", func(r *request) { r.addr = ip("10.0.1.0") }), "10.0.1.0 is not in any pool"},
		{ask("f", func(r *request) { r.addr = ip("10.2.0.1") }), `10.2.0.1 is of pool "team", which is not for namespace "default"`},
		{ask("f", func(r *request) { r.pool = "team" }), `pool "team" is not for namespace "default"`},
		{ask("f", func(r *request) { r.pool = "none" }), `unknown pool "none"`},
		{ask("g", func(r *request) { r.namespace = "team" }), "10.2.0.0 of team"},
		{ask("h", func(r *request) { r.pool, r.current = "manual", ip("10.1.0.1") }), "10.1.0.1 of manual"},
		{ask("i", func(r *request) { r.pool = "manual" }), "no available IPs"},
		{ask("e", func(r *request) { r.pool = "team" }), `pool "team" is not for namespace`}, // and loses 10.1.0.3
		{ask("i", func(r *request) { r.pool = "manual" }), "10.1.0.3 of manual"},
	}
	for i, test := range tests {
		addr, pool, err := tab.assign(p, test.r, avoid)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprintf("%s of %s", addr, pool.Name)
		}
		if !strings.HasPrefix(got, test.want) {
			t.Errorf("%d %s: %s, want %s", i, test.r.key, got, test.want)
		}
	}
	manual := pools(t, "- {name: manual, addresses: [10.1.0.0/30], autoAssign: false}")
	if _, _, err := newTable().assign(manual, ask("a"), nil); err != errNoPool {
		t.Errorf("%v", err)
	}
}

func TestSharing(t *testing.T) {
	p, tab := pools(t, "- {name: one, addresses: [10.0.0.1-10.0.0.2]}"), newTable()
	word := func(word string, ports ...int32) func(*request) {
		return func(r *request) { r.sharing, r.ports = word, tcp(ports...) }
	}
	for i, test := range []struct {
		r    request
		want string
	}{
		{ask("plain"), "10.0.0.1"},
		{ask("web", word("x", 80)), "10.0.0.2"},
		{ask("tls", word("x", 443)), "10.0.0.2"},
		{ask("udp", func(r *request) { r.sharing, r.ports = "x", []port{{corev1.ProtocolUDP, 80}} }), "10.0.0.2"},
		{ask("again", word("x", 8080, 443)), "invalid IP"},
		{ask("other", word("y", 8080)), "invalid IP"},
		{ask("local", word("x", 8080), func(r *request) { r.local = true }), "invalid IP"},
		{ask("tls", word("x", 80)), "invalid IP"}, // changes its port to one that is taken
		{ask("again", word("x", 8080, 443)), "10.0.0.2"},
	} {
		if addr, _, _ := tab.assign(p, test.r, nil); addr.String() != test.want {
			t.Errorf("%d %s: %s, want %s", i, test.r.key, addr, test.want)
		}
	}
}

func TestNodePortsAreExclusive(t *testing.T) {
	tab := newTable()
	reserved := map[port]string{{corev1.ProtocolTCP, 6443}: "the API server"}
	for i, test := range []struct {
		r    request
		want string
	}{
		{ask("a"), "<nil>"},
		{ask("a"), "<nil>"},
		{ask("b"), `port 80/TCP of the nodes is in use by service "default/a"`},
		{ask("api", func(r *request) { r.ports = tcp(443, 6443) }), "port 6443/TCP of the nodes is in use by the API server"},
		{ask("c", func(r *request) { r.ports = tcp(443) }), "<nil>"}, // api has kept nothing
		{ask("a", func(r *request) { r.ports = tcp(8080) }), "<nil>"},
		{ask("b"), "<nil>"},
	} {
		if got := fmt.Sprint(tab.takePorts(test.r, reserved)); got != test.want {
			t.Errorf("%d %s: %s, want %s", i, test.r.key, got, test.want)
		}
	}
	tab.release("default/b")
	if !tab.takeFreed() || tab.takeFreed() || len(tab.ports) != 2 {
		t.Errorf("%v", tab.ports)
	}
}

// TestNeverTwice goes through random histories of services and pools: an address has several services only where all of them share it by different
// ports; it is of a pool that its service may have; and nobody goes without while there is one.
func TestNeverTwice(t *testing.T) {
	kinds := []Pools{
		pools(t, "- {name: a, addresses: [10.0.0.0/29]}"), pools(t, "- {name: b, addresses: [10.0.0.4-10.0.0.9]}\n- {name: a, addresses: [10.0.0.1]}"), pools(t, three),
	}
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 7))
		tab, p, has := newTable(), kinds[0], map[string]request{}
		for step := range 200 {
			if rng.IntN(20) == 0 {
				p = kinds[rng.IntN(len(kinds))]
				for key, r := range has { // every service is looked at again
					assign(t, tab, p, r, has)
					_ = key
				}
			}
			r := ask(fmt.Sprint(rng.IntN(12)))
			if rng.IntN(4) == 0 {
				tab.release(r.key)
				delete(has, r.key)
			} else {
				r.ports = tcp(int32(80 + rng.IntN(3)))
				r.sharing = []string{"", "", "x", "y"}[rng.IntN(4)]
				r.local = rng.IntN(5) == 0
				if rng.IntN(8) == 0 {
					r.addr = ip(fmt.Sprintf("10.0.0.%d", rng.IntN(12)))
				}
				assign(t, tab, p, r, has)
			}
			checkTable(t, tab, fmt.Sprintf("seed %d, step %d", seed, step))
		}
	}
}

func assign(t *testing.T, tab *table, p Pools, r request, has map[string]request) {
	t.Helper()
	addr, pool, err := tab.assign(p, r, nil)
	has[r.key] = r
	switch {
	case err == nil && (pool == nil || !pool.contains(addr) || !pool.serves(r.namespace) || tab.held[r.key] != addr):
		t.Fatalf("%s has %s of %v", r.key, addr, pool)
	case err == nil && r.addr.IsValid() && addr != r.addr:
		t.Fatalf("%s asked for %s and has %s", r.key, r.addr, addr)
	case err == errNoAddress:
		for _, pool := range p {
			for _, within := range pool.Ranges {
				for a := within.First; within.contains(a); a = a.Next() {
					if pool.contains(a) && !pool.Manual && pool.serves(r.namespace) && len(tab.holders[a]) == 0 {
						t.Fatalf("%s goes without although nobody has %s", r.key, a)
					}
				}
			}
		}
	}
}

func checkTable(t *testing.T, tab *table, when string) {
	t.Helper()
	for addr, holders := range tab.holders {
		var all []request
		for key, r := range holders {
			if tab.held[key] != addr {
				t.Fatalf("%s: %s is with %s, which has %s", when, addr, key, tab.held[key])
			}
			all = append(all, r)
		}
		for i, a := range all {
			if slices.ContainsFunc(all[:i], func(b request) bool { return !a.shares(b) }) {
				t.Fatalf("%s: %s is given twice: %+v", when, addr, all)
			}
		}
	}
}
