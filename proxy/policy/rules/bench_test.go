package rules

import (
	"fmt"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/internal/netpolicy"
)

// large is a node of so many pods, in namespaces of ten each, under so many policies, each with a group of a thousand peers.
func large(policies, pods int) *Model {
	m := NewModel()
	everyone := make([]Element, 1000)
	for i := range everyone {
		everyone[i] = Element{Addr: IP{10, 245, byte(i >> 8), byte(i)}}
	}
	for i := range policies {
		p := largePolicy(i, policies, pods)
		m.SetPolicy(p.Namespace, p.Name, p)
		for key := range netpolicy.Of(p) {
			m.SetPeers(key, "a", everyone)
		}
	}
	for i := range pods {
		m.SetPod(IP{10, 244, byte(i >> 8), byte(i)}, largePod(i, "web"))
	}
	return m
}

func largePod(i int, app string) *Pod {
	return &Pod{Namespace: fmt.Sprint("ns", i/10), Labels: map[string]string{"app": app, "pod": fmt.Sprint(i)}}
}

func largePolicy(i, policies, pods int) *networkingv1.NetworkPolicy {
	namespaces := max(1, pods/10)
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("ns", i%namespaces), Name: fmt.Sprint("p", i)}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		Ingress: []networkingv1.NetworkPolicyIngressRule{{
			From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"role": fmt.Sprint(i % 10)}}}, {IPBlock: &networkingv1.IPBlock{CIDR: "192.0.2.0/24", Except: []string{"192.0.2.7/32"}}}},
			Ports: []networkingv1.NetworkPolicyPort{{Port: ptr.To(intstr.FromInt32(80))}, {Port: ptr.To(intstr.FromInt32(8000)), EndPort: ptr.To[int32](8100)}},
		}},
	}}
}

// BenchmarkCompile builds the rules of a node that has a thousand pods under a thousand policies.
func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		if r := large(1000, 1000).Ruleset(); len(r.Ingress) != 1000 {
			b.Fatal(len(r.Ingress))
		}
	}
}

// BenchmarkOneChange changes a peer, a pod's labels or a policy there, and compares.
func BenchmarkOneChange(b *testing.B) {
	peer := func(m *Model, i int) {
		for key := range m.peers {
			m.SetPeers(key, "b", []Element{{Addr: IP{10, 246, byte(i >> 8), byte(i)}}})
			return
		}
	}
	label := func(m *Model, i int) { m.SetPod(IP{10, 244, 0, 5}, largePod(5, []string{"web", "db"}[i%2])) }
	policy := func(m *Model, i int) {
		p := largePolicy(7, 1000, 1000)
		p.Spec.Ingress[0].Ports[0].Port.IntVal = int32(81 + i%2)
		m.SetPolicy(p.Namespace, p.Name, p)
	}
	for name, change := range map[string]func(*Model, int){"peer": peer, "label": label, "policy": policy} {
		b.Run(name, func(b *testing.B) {
			m := large(1000, 1000)
			last := m.Ruleset()
			for i := 0; b.Loop(); i++ {
				change(m, i)
				r := m.Ruleset()
				if Diff(last, r).Empty() && name != "label" && i > 0 {
					b.Fatal("no change")
				}
				last = r
			}
		})
	}
}
