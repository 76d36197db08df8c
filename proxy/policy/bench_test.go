package policy

import (
	"fmt"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/internal/netpolicy"
	"github.com/coracle-dev/coracle/internal/testenv"
	"github.com/coracle-dev/coracle/proxy/policy/rules"
)

// BenchmarkKernel applies the rules of a node with 110 pods, all of them isolated by some of a thousand policies, and then one change at a time;
// then the same with a thousand pods.
func BenchmarkKernel(b *testing.B) {
	for _, pods := range []int{110, 1000} {
		testenv.NetNS(b)
		m, keys := crowd(b, pods, 1000)
		table := &Table{}
		b.Cleanup(func() { _ = Cleanup() })
		apply := func(b *testing.B) {
			if err := table.Update(m.Ruleset()); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprintf("first/pods=%d", pods), func(b *testing.B) {
			for b.Loop() {
				table.Forget()
				apply(b)
			}
		})
		b.Run(fmt.Sprintf("peer/pods=%d", pods), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				m.SetPeers(keys[0], "b", []rules.Element{{Addr: rules.IP{10, 246, 0, byte(i)}}})
				apply(b)
			}
		})
		b.Run(fmt.Sprintf("label/pods=%d", pods), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				m.SetPod(rules.IP{10, 244, 0, 0}, &rules.Pod{Namespace: "ns0", Labels: map[string]string{"app": []string{"db", "web"}[i%2]}})
				apply(b)
			}
		})
	}
}

func crowd(b *testing.B, pods, policies int) (*rules.Model, []string) {
	b.Helper()
	m := rules.NewModel()
	var keys []string
	for i := range policies {
		p := &networkingv1.NetworkPolicy{}
		err := yaml.UnmarshalStrict(fmt.Appendf(nil, `spec: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {role: "%d"}}},
			{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.7/32]}}], ports: [{port: 80}, {port: 8000, endPort: 8100}]}]}`, i%10), p)
		if err != nil {
			b.Fatal(err)
		}
		p.Namespace, p.Name = fmt.Sprint("ns", i%(pods/10)), fmt.Sprint("p", i)
		m.SetPolicy(p.Namespace, p.Name, p)
		for key := range netpolicy.Of(p) {
			elements := make([]rules.Element, 100)
			for j := range elements {
				elements[j].Addr = rules.IP{10, 245, 0, byte(j)}
			}
			m.SetPeers(key, "a", elements)
			keys = append(keys, key)
		}
	}
	for i := range pods {
		m.SetPod(rules.IP{10, 244, byte(i >> 8), byte(i)}, &rules.Pod{Namespace: fmt.Sprint("ns", i/10), Labels: map[string]string{"app": "web"}})
	}
	return m, keys
}
