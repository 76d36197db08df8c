package ruleset

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// here is the node that the rules of these tests are for.
var here = Node{Name: "here", Zone: "east", IP: netip.MustParseAddr("192.0.2.1")}

func service(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.1.1",
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}}},
	}
	change(s)
	return s
}

func local(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func nodePort(s *corev1.Service) {
	s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
}

func loadBalancer(s *corev1.Service) {
	nodePort(s)
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.8"}}
}

// parseSlice reads a slice of endpoints such as "10.244.0.4@here", which are ready, or else: notready, draining. zone=NAME and node=NAME are hints.
func parseSlice(port int32, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To("http"), Protocol: ptr.To(corev1.ProtocolTCP), Port: &port}}}
	for _, text := range endpoints {
		words := strings.Fields(text)
		addr, node, placed := strings.Cut(words[0], "@")
		e := discoveryv1.Endpoint{Addresses: []string{addr}, Hints: &discoveryv1.EndpointHints{},
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)}}
		if placed {
			e.NodeName = &node
		}
		for _, word := range words[1:] {
			kind, name, _ := strings.Cut(word, "=")
			switch kind {
			case "notready":
				e.Conditions.Ready, e.Conditions.Serving = ptr.To(false), ptr.To(false)
			case "draining":
				e.Conditions.Ready, e.Conditions.Terminating = ptr.To(false), ptr.To(true)
			case "zone":
				e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: name})
			case "node":
				e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: name})
			}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func TestCompile(t *testing.T) {
	three := parseSlice(8080, "10.244.0.4@here", "10.244.1.3@there", "10.244.0.2@here notready")
	away := parseSlice(8080, "10.244.1.3@there", "10.244.1.4@there")
	protocols := parseSlice(53, "10.244.0.4@here")
	protocols.Ports = append(protocols.Ports,
		discoveryv1.EndpointPort{Name: ptr.To("dns"), Protocol: ptr.To(corev1.ProtocolUDP), Port: ptr.To[int32](5353)},
		discoveryv1.EndpointPort{Name: ptr.To("assoc"), Protocol: ptr.To(corev1.ProtocolSCTP), Port: ptr.To[int32](9999)})
	ipv6 := parseSlice(8080, "fd00::1@here")
	ipv6.AddressType = discoveryv1.AddressTypeIPv6
	foreign := parseSlice(8080, "10.244.7.7@here")
	foreign.Labels = map[string]string{LabelProxyName: "other"}
	cases := []struct {
		name    string
		service *corev1.Service
		slices  []*discoveryv1.EndpointSlice
	}{
		{"cluster-ip", service(func(*corev1.Service) {}), []*discoveryv1.EndpointSlice{three}},
		{"no-endpoints", service(nodePort), nil},
		{"node-port", service(nodePort), []*discoveryv1.EndpointSlice{three}},
		{"node-port-local", service(func(s *corev1.Service) { nodePort(s); local(s) }), []*discoveryv1.EndpointSlice{three}},
		{"node-port-local-with-none", service(func(s *corev1.Service) { nodePort(s); local(s) }), []*discoveryv1.EndpointSlice{away}},
		{"local-drains-before-others-are-ready", service(func(s *corev1.Service) { nodePort(s); local(s) }), []*discoveryv1.EndpointSlice{
			parseSlice(8080, "10.244.0.4@here draining", "10.244.1.3@there")}},
		{"internal-local", service(func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
		}), []*discoveryv1.EndpointSlice{three}},
		{"internal-local-with-none", service(func(s *corev1.Service) {
			nodePort(s)
			s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
		}), []*discoveryv1.EndpointSlice{away}},
		{"affinity", service(func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }), []*discoveryv1.EndpointSlice{three}},
		{"affinity-with-several-ports-of-an-address", service(func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](90)}}
		}), []*discoveryv1.EndpointSlice{three, parseSlice(9090, "10.244.0.4@here")}},
		{"load-balancer", service(func(s *corev1.Service) {
			loadBalancer(s)
			s.Spec.ExternalIPs = []string{"192.0.2.7"}
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress,
				corev1.LoadBalancerIngress{IP: "192.0.2.9", IPMode: ptr.To(corev1.LoadBalancerIPModeProxy)}, corev1.LoadBalancerIngress{Hostname: "lb.example"})
		}), []*discoveryv1.EndpointSlice{three}},
		{"load-balancer-local", service(func(s *corev1.Service) {
			loadBalancer(s)
			local(s)
			s.Spec.HealthCheckNodePort = 32000
		}), []*discoveryv1.EndpointSlice{three, parseSlice(9090, "10.244.0.4@here", "10.244.0.5@here")}},
		{"source-ranges", service(func(s *corev1.Service) {
			loadBalancer(s)
			s.Spec.ExternalIPs = []string{"192.0.2.7"}
			s.Spec.LoadBalancerSourceRanges = []string{"203.0.113.0/24", "198.51.100.7/32", "203.0.113.64/26", "fd00::/8"}
		}), []*discoveryv1.EndpointSlice{three}},
		{"source-ranges-with-the-node", service(func(s *corev1.Service) {
			loadBalancer(s)
			s.Status.LoadBalancer.Ingress[0].IP = "198.51.100.8"
			s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"}
		}), []*discoveryv1.EndpointSlice{three}},
		{"source-ranges-of-the-other-family", service(func(s *corev1.Service) {
			loadBalancer(s)
			s.Spec.LoadBalancerSourceRanges = []string{"fd00::/8"}
		}), []*discoveryv1.EndpointSlice{three}},
		{"draining-when-none-is-ready", service(func(*corev1.Service) {}), []*discoveryv1.EndpointSlice{
			parseSlice(8080, "10.244.0.4@here draining", "10.244.0.5@here notready")}},
		{"headless", service(func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }), []*discoveryv1.EndpointSlice{three}},
		{"external-name", service(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }), []*discoveryv1.EndpointSlice{three}},
		{"another-proxy's", service(func(s *corev1.Service) { s.Labels = map[string]string{LabelProxyName: "other"} }), []*discoveryv1.EndpointSlice{three}},
		{"labelled-headless", service(func(s *corev1.Service) { s.Labels = map[string]string{corev1.IsHeadlessService: ""} }), []*discoveryv1.EndpointSlice{three}},
		{"two-slices-with-a-double", service(func(*corev1.Service) {}), []*discoveryv1.EndpointSlice{parseSlice(8080, "10.244.0.4@here notready"), three}},
		{"slices-of-other-kinds", service(func(*corev1.Service) {}), []*discoveryv1.EndpointSlice{ipv6, foreign, three}},
		{"without-nodes", service(func(*corev1.Service) {}), []*discoveryv1.EndpointSlice{parseSlice(8080, "10.1.2.3", "10.1.2.4")}},
		{"ports-that-differ-by-slice", service(func(*corev1.Service) {}), []*discoveryv1.EndpointSlice{
			parseSlice(8080, "10.244.0.4@here"), parseSlice(9090, "10.244.1.4@there")}},
		{"other-port-name", service(func(s *corev1.Service) { s.Spec.Ports[0].Name = "https" }), []*discoveryv1.EndpointSlice{three}},
		{"protocols-of-one-port", service(func(s *corev1.Service) {
			s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 53}, {Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}, {Name: "assoc", Protocol: corev1.ProtocolSCTP, Port: 53}}
		}), []*discoveryv1.EndpointSlice{protocols}},
		{"udp-goes-on-while-it-drains", service(func(s *corev1.Service) {
			s.Spec.Ports = []corev1.ServicePort{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}}
		}), []*discoveryv1.EndpointSlice{protocols, drainingUDP()}},
		{"hints-for-zones", service(func(*corev1.Service) {}), []*discoveryv1.EndpointSlice{parseSlice(80, "10.244.0.4@a zone=east", "10.244.1.4@b zone=west", "10.244.2.4@c zone=west zone=east")}},
		{"hints-for-another-zone-only", service(func(*corev1.Service) {}), []*discoveryv1.EndpointSlice{parseSlice(80, "10.244.0.4@a zone=north", "10.244.1.4@b zone=west")}},
		{"hints-not-for-all", service(func(*corev1.Service) {}), []*discoveryv1.EndpointSlice{parseSlice(80, "10.244.0.4@a zone=east", "10.244.1.4@b")}},
		{"hints-missing-where-not-ready", service(func(*corev1.Service) {}), []*discoveryv1.EndpointSlice{parseSlice(80, "10.244.0.4@a zone=east", "10.244.1.4@b notready", "10.244.1.5@b zone=west")}},
		{"hints-for-nodes", service(func(*corev1.Service) {}), []*discoveryv1.EndpointSlice{parseSlice(80, "10.244.0.4@here node=here zone=east", "10.244.1.4@b node=b zone=east")}},
		{"hints-for-other-nodes-fall-back-to-zones", service(func(*corev1.Service) {}), []*discoveryv1.EndpointSlice{parseSlice(80, "10.244.0.4@a node=a zone=east", "10.244.1.4@b node=b zone=west")}},
		{"hints-and-local", service(func(s *corev1.Service) { nodePort(s); local(s) }), []*discoveryv1.EndpointSlice{parseSlice(80, "10.244.0.4@here zone=west", "10.244.1.4@b zone=east")}},
	}
	got := ""
	for _, c := range cases {
		got += "# " + c.name + "\n" + Compile(c.service, c.slices, here).String()
	}
	const golden = "testdata/compile.txt"
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (go test -rewrite writes it anew):\n%s", golden, got)
	}
}

func drainingUDP() *discoveryv1.EndpointSlice {
	s := parseSlice(5353, "10.244.0.9@here draining")
	s.Ports = []discoveryv1.EndpointPort{{Name: ptr.To("dns"), Protocol: ptr.To(corev1.ProtocolUDP), Port: ptr.To[int32](5353)}}
	return s
}

// TestUpdatesLeadToAFreshState: the changes that updates give lead from nothing to what a state has which learns of the last rules only, in any order.
func TestUpdatesLeadToAFreshState(t *testing.T) {
	draw := func(t *rapid.T, name string, created int64) Rules {
		r := Rules{Service: name, Created: created}
		for i := range rapid.IntRange(0, 4).Draw(t, "keys") {
			b := Backend{Source: Source(rapid.IntRange(0, 2).Draw(t, "source")), Affinity: time.Duration(rapid.IntRange(0, 1).Draw(t, "affinity")) * time.Hour}
			for e := range rapid.IntRange(1, 3).Draw(t, "endpoints") {
				b.Endpoints = append(b.Endpoints, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 0, byte(e)}), uint16(rapid.IntRange(1, 2).Draw(t, "port"))))
			}
			k := Key{Addr: netip.AddrFrom4([4]byte{10, 96, 0, byte(i + rapid.IntRange(0, 1).Draw(t, "claimed by others too")*10)}), Protocol: corev1.ProtocolTCP, Port: 80}
			r.Entries = append(r.Entries, Entry{Key: k, Backend: b})
		}
		slices.SortFunc(r.Entries, func(a, b Entry) int { return compareKeys(a.Key, b.Key) })
		return r
	}
	rapid.Check(t, func(t *rapid.T) {
		state, kernel, last := NewState(), map[Key]Backend{}, map[string]Rules{}
		for range rapid.IntRange(1, 12).Draw(t, "updates") {
			var changed []Rules
			for i := range 4 {
				if name := fmt.Sprint("ns/", i); rapid.Bool().Draw(t, "changes") {
					last[name] = draw(t, name, int64(rapid.IntRange(0, 2).Draw(t, "created")))
					changed = append(changed, last[name])
				}
			}
			for _, c := range state.Update(changed...) {
				if was := kernel[c.Key]; !was.equal(&c.Before) {
					t.Fatalf("%s: was %s, the change says %s", c.Key, was.String(), c.Before.String())
				}
				if kernel[c.Key] = c.After; !c.After.Found() {
					delete(kernel, c.Key)
				}
			}
		}
		fresh := NewState()
		for _, name := range rapid.Permutation(slices.Sorted(maps.Keys(last))).Draw(t, "order") {
			fresh.Update(last[name])
		}
		want := map[Key]string{}
		for k, b := range fresh.All() {
			want[k] = b.String()
		}
		got := map[Key]string{}
		for k, b := range kernel {
			got[k] = b.String()
		}
		if !maps.Equal(got, want) || state.Len() != fresh.Len() {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

// TestTheOlderServiceHasAKey: a newcomer cannot take over the address of another, and gets it when that is gone.
func TestTheOlderServiceHasAKey(t *testing.T) {
	k := Key{Addr: netip.MustParseAddr("192.0.2.7"), Protocol: corev1.ProtocolTCP, Port: 80}
	rules := func(name string, created int64, endpoint string) Rules {
		return Rules{Service: name, Created: created, Entries: []Entry{{Key: k, Backend: Backend{Endpoints: []netip.AddrPort{netip.MustParseAddrPort(endpoint)}}}}}
	}
	state := NewState()
	state.Update(rules("b/old", 1, "10.0.0.1:1"))
	if c := state.Update(rules("a/new", 2, "10.0.0.2:2")); len(c) != 0 {
		t.Errorf("the newcomer changes %v", c)
	}
	if c := state.Update(Rules{Service: "b/old"}); len(c) != 1 || c[0].After.Endpoints[0].Port() != 2 {
		t.Errorf("when the older one goes: %v", c)
	}
	if c := state.Update(Rules{Service: "a/new"}); len(c) != 1 || c[0].After.Found() || state.Len() != 0 {
		t.Errorf("when both are gone: %v", c)
	}
}

func TestNoLocal(t *testing.T) {
	s := service(func(s *corev1.Service) {
		loadBalancer(s)
		local(s)
		s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	})
	internal, external := Compile(s, []*discoveryv1.EndpointSlice{parseSlice(80, "10.244.1.4@there")}, here).NoLocal()
	if internal != 1 || external != 1 {
		t.Errorf("endpoints elsewhere: %d, %d", internal, external)
	}
	internal, external = Compile(s, nil, here).NoLocal()
	if internal != 0 || external != 0 {
		t.Errorf("no endpoints at all: %d, %d", internal, external)
	}
}
