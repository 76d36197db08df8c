package ruleset

import (
	"flag"
	"net/netip"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

func service(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.1.1",
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}}},
	}
	change(s)
	return s
}

type ep struct {
	addr, node         string
	ready, terminating bool
}

func slice(port int32, eps ...ep) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To("http"), Protocol: ptr.To(corev1.ProtocolTCP), Port: &port}}}
	for _, e := range eps {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{e.addr}, NodeName: ptr.To(e.node),
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(e.ready), Serving: ptr.To(e.ready || e.terminating), Terminating: ptr.To(e.terminating)}})
	}
	return s
}

func TestCompile(t *testing.T) {
	three := slice(8080, ep{"10.244.0.4", "here", true, false}, ep{"10.244.1.3", "there", true, false}, ep{"10.244.0.2", "here", false, false})
	cases := []struct {
		name    string
		service *corev1.Service
		slices  []*discoveryv1.EndpointSlice
	}{
		{"cluster-ip", service(func(*corev1.Service) {}), []*discoveryv1.EndpointSlice{three}},
		{"no-endpoints", service(func(*corev1.Service) {}), nil},
		{"node-port", service(func(s *corev1.Service) {
			s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
		}), []*discoveryv1.EndpointSlice{three}},
		{"node-port-local", service(func(s *corev1.Service) {
			s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}), []*discoveryv1.EndpointSlice{three}},
		{"internal-local", service(func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
		}), []*discoveryv1.EndpointSlice{three}},
		{"affinity", service(func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		}), []*discoveryv1.EndpointSlice{three}},
		{"load-balancer", service(func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			s.Spec.ExternalIPs = []string{"192.0.2.7"}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.8"}}
		}), []*discoveryv1.EndpointSlice{three}},
		{"draining-when-none-is-ready", service(func(*corev1.Service) {}), []*discoveryv1.EndpointSlice{
			slice(8080, ep{"10.244.0.4", "here", false, true}, ep{"10.244.0.5", "here", false, false})}},
		{"headless", service(func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }), []*discoveryv1.EndpointSlice{three}},
		{"two-slices-with-a-double", service(func(*corev1.Service) {}), []*discoveryv1.EndpointSlice{three, slice(8080, ep{"10.244.0.4", "here", true, false})}},
		{"other-port-name", service(func(s *corev1.Service) { s.Spec.Ports[0].Name = "https" }), []*discoveryv1.EndpointSlice{three}},
	}
	got := ""
	for _, c := range cases {
		got += "# " + c.name + "\n" + Compile(c.service, c.slices, "here").String()
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

// TestDiffLeadsToTheNew: applying a difference to the old ruleset gives the new one.
func TestDiffLeadsToTheNew(t *testing.T) {
	draw := func(t *rapid.T, name string) Ruleset {
		r := Ruleset{}
		for range rapid.IntRange(0, 6).Draw(t, name) {
			k := Key{Addr: netip.AddrFrom4([4]byte{10, 96, 0, byte(rapid.IntRange(1, 4).Draw(t, "ip"))}), Protocol: corev1.ProtocolTCP, Port: 80}
			b := Backend{Masquerade: rapid.Bool().Draw(t, "masquerade")}
			for i := range rapid.IntRange(1, 3).Draw(t, "endpoints") {
				b.Endpoints = append(b.Endpoints, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 0, byte(i)}), uint16(rapid.IntRange(1, 2).Draw(t, "port"))))
			}
			r[k] = b
		}
		return r
	}
	rapid.Check(t, func(t *rapid.T) {
		old, updated := draw(t, "old"), draw(t, "new")
		change := Diff(old, updated)
		got := Ruleset{}
		got.Apply(nil, old)
		for _, k := range change.Delete {
			delete(got, k)
		}
		for _, k := range change.Set {
			got[k] = updated[k]
		}
		if got.String() != updated.String() {
			t.Fatalf("got\n%swant\n%s", got, updated)
		}
		if !Diff(updated, updated).Empty() {
			t.Fatal("a ruleset differs from itself")
		}
	})
}
