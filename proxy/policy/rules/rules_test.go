package rules

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/internal/netpolicy"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// golden is one case: the policies are read from testdata/NAME.yaml, the table is in testdata/NAME.nft.
var golden = []string{"default-deny", "default-allow", "selectors", "ports", "named-ports", "blocks", "stacked", "egress"}

func ip(text string) IP {
	a, ok := ParseIP(text)
	if !ok {
		panic(text)
	}
	return a
}

// node is a node with three pods: a web server and a database in shop, and a client in other.
func node(policies ...*networkingv1.NetworkPolicy) *Model {
	m := NewModel()
	http := netpolicy.Port{Name: "http", Protocol: "TCP"}
	m.SetPod(ip("10.244.0.2"), &Pod{Namespace: "shop", Labels: map[string]string{"app": "web"}, Ports: map[netpolicy.Port]uint16{http: 8080}})
	m.SetPod(ip("10.244.0.3"), &Pod{Namespace: "shop", Labels: map[string]string{"app": "db"}, Ports: map[netpolicy.Port]uint16{http: 9090}})
	m.SetPod(ip("10.244.0.4"), &Pod{Namespace: "other", Labels: map[string]string{"app": "client"}})
	for _, p := range policies {
		m.SetPolicy(p.Namespace, p.Name, p)
		for key, group := range netpolicy.Of(p) {
			e := Element{Addr: ip("10.244.0.2")}
			if group.Port != (netpolicy.Port{}) {
				e.Protocol, e.First = protocolNumber(group.Port.Protocol), 8080
			}
			m.SetPeers(key, "a", []Element{e})
		}
	}
	return m
}

func readPolicies(t *testing.T, name string) []*networkingv1.NetworkPolicy {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var policies []*networkingv1.NetworkPolicy
	for part := range strings.SplitSeq(string(data), "\n---\n") {
		p := &networkingv1.NetworkPolicy{}
		if err := yaml.UnmarshalStrict([]byte(part), p); err != nil {
			t.Fatal(err)
		}
		policies = append(policies, p)
	}
	return policies
}

func TestGolden(t *testing.T) {
	for _, name := range golden {
		t.Run(name, func(t *testing.T) {
			got := node(readPolicies(t, name)...).Ruleset().String()
			path := filepath.Join("testdata", name+".nft")
			if *rewrite {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("differs from %s (go test -rewrite writes it anew):\n%s", path, got)
			}
		})
	}
}

// TestNamesStayReadableAndApart: nft's grammar allows letters, digits and a few signs, and the kernel 255 characters.
func TestNamesStayReadableAndApart(t *testing.T) {
	long := strings.Repeat("a", 200)
	names := map[string]bool{}
	for i := range 10 {
		name := named("policy-ingress-", fmt.Sprintf("default/%s%d", long, i))
		if len(name) > longestName {
			t.Errorf("%d characters: %s", len(name), name)
		}
		names[name] = true
	}
	if len(names) != 10 {
		t.Errorf("ten policies have %d names", len(names))
	}
}

func TestRanges(t *testing.T) {
	tests := []struct {
		blocks []*networkingv1.IPBlock
		want   string
	}{
		{[]*networkingv1.IPBlock{{CIDR: "10.0.0.0/8"}}, "10.0.0.0-10.255.255.255"},
		{[]*networkingv1.IPBlock{{CIDR: "10.0.0.1/32"}}, "10.0.0.1"},
		{[]*networkingv1.IPBlock{{CIDR: "10.0.0.0/24", Except: []string{"10.0.0.0/25"}}}, "10.0.0.128-10.0.0.255"},
		{[]*networkingv1.IPBlock{{CIDR: "10.0.0.0/24", Except: []string{"10.0.0.64/26", "10.0.0.255/32"}}}, "10.0.0.0-10.0.0.63 10.0.0.128-10.0.0.254"},
		{[]*networkingv1.IPBlock{{CIDR: "10.0.0.0/24", Except: []string{"10.0.0.0/24"}}}, ""},
		{[]*networkingv1.IPBlock{{CIDR: "10.0.0.0/24", Except: []string{"10.0.0.0/25"}}, {CIDR: "10.0.0.0/25"}}, "10.0.0.0-10.0.0.255"},
		{[]*networkingv1.IPBlock{{CIDR: "0.0.0.0/0"}}, "0.0.0.0-255.255.255.255"},
		{[]*networkingv1.IPBlock{{CIDR: "0.0.0.0/0", Except: []string{"255.255.255.255/32", "0.0.0.0/8"}}}, "1.0.0.0-255.255.255.254"},
		{[]*networkingv1.IPBlock{{CIDR: "2001:db8::/32"}}, ""},
	}
	for _, tt := range tests {
		if got := strings.Join(Set{Type: Blocks, Elements: blocks(tt.blocks)}.elementTexts(), " "); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.blocks, got, tt.want)
		}
	}
}
