package rules

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/coracle-dev/coracle/internal/netpolicy"
)

const here = "here"

func pick[T any](t *rapid.T, of ...T) T { return rapid.SampledFrom(of).Draw(t, "pick") }

func chance(t *rapid.T, percent int) bool { return rapid.IntRange(0, 99).Draw(t, "chance") < percent }

func drawLabels(t *rapid.T) map[string]string {
	l := map[string]string{}
	for _, key := range []string{"a", "b"} {
		if value := pick(t, "", "1", "2"); value != "" {
			l[key] = value
		}
	}
	return l
}

func drawSelector(t *rapid.T) *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	if chance(t, 40) {
		s.MatchLabels = map[string]string{pick(t, "a", "b"): pick(t, "1", "2")}
	}
	if chance(t, 30) {
		r := metav1.LabelSelectorRequirement{Key: pick(t, "a", "b"), Operator: pick(t, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)}
		if r.Operator == metav1.LabelSelectorOpIn || r.Operator == metav1.LabelSelectorOpNotIn {
			r.Values = pick(t, []string{"1"}, []string{"2", "1"})
		}
		s.MatchExpressions = append(s.MatchExpressions, r)
	}
	return s
}

func drawPeers(t *rapid.T) []networkingv1.NetworkPolicyPeer {
	var peers []networkingv1.NetworkPolicyPeer
	for range rapid.IntRange(0, 3).Draw(t, "peers") {
		var p networkingv1.NetworkPolicyPeer
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			p.PodSelector = drawSelector(t)
		case 1:
			p.NamespaceSelector = drawSelector(t)
		case 2:
			p.PodSelector, p.NamespaceSelector = drawSelector(t), drawSelector(t)
		case 3:
			p.IPBlock = &networkingv1.IPBlock{CIDR: pick(t, "0.0.0.0/0", "10.244.0.0/16", "10.244.0.0/30", "192.0.2.0/24", "10.244.0.5/32")}
			if chance(t, 50) {
				for _, except := range []string{"10.244.0.2/31", "10.244.0.6/32", "192.0.2.128/25"} {
					if within(except, p.IPBlock.CIDR) {
						p.IPBlock.Except = append(p.IPBlock.Except, except)
					}
				}
			}
		}
		peers = append(peers, p)
	}
	return peers
}

func within(inner, outer string) bool {
	i, o := netip.MustParsePrefix(inner), netip.MustParsePrefix(outer)
	return o.Contains(i.Addr()) && i.Bits() > o.Bits()
}

var protocols = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}

func drawPorts(t *rapid.T) []networkingv1.NetworkPolicyPort {
	var ports []networkingv1.NetworkPolicyPort
	for range rapid.IntRange(0, 3).Draw(t, "ports") {
		p := networkingv1.NetworkPolicyPort{}
		if chance(t, 60) {
			p.Protocol = ptr.To(pick(t, protocols...))
		}
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 1:
			p.Port = ptr.To(intstr.FromInt32(rapid.Int32Range(80, 84).Draw(t, "port")))
		case 2:
			p.Port = ptr.To(intstr.FromInt32(rapid.Int32Range(80, 84).Draw(t, "port")))
			p.EndPort = ptr.To(p.Port.IntVal + rapid.Int32Range(0, 3).Draw(t, "more"))
		case 3:
			p.Port = ptr.To(intstr.FromString(pick(t, "http", "dns")))
		}
		ports = append(ports, p)
	}
	return ports
}

func drawPolicy(t *rapid.T, namespace, name string) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: *drawSelector(t),
		PolicyTypes: pick(t, nil, []networkingv1.PolicyType{"Ingress"}, []networkingv1.PolicyType{"Egress"}, []networkingv1.PolicyType{"Ingress", "Egress"}),
	}}
	for range rapid.IntRange(0, 2).Draw(t, "ingress") {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: drawPeers(t), Ports: drawPorts(t)})
	}
	for range rapid.IntRange(0, 2).Draw(t, "egress") {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: drawPeers(t), Ports: drawPorts(t)})
	}
	return p
}

func drawPod(t *rapid.T, addr string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pick(t, "x", "y"), Labels: drawLabels(t)},
		Spec: corev1.PodSpec{NodeName: pick(t, here, "there"), Containers: make([]corev1.Container, 2)}, Status: corev1.PodStatus{PodIP: addr, PodIPs: []corev1.PodIP{{IP: addr}}}}
	for i := range p.Spec.Containers {
		for _, name := range []string{"http", "dns"} {
			if chance(t, 40) {
				p.Spec.Containers[i].Ports = append(p.Spec.Containers[i].Ports, corev1.ContainerPort{Name: name, Protocol: pick(t, protocols...), ContainerPort: rapid.Int32Range(80, 84).Draw(t, "port")})
			}
		}
	}
	return p
}

// world is a cluster that changes, and the Model of one node that is told so.
type world struct {
	reference
	model *Model
	peers map[string]netpolicy.Peers // that were published
}

func newWorld() *world {
	return &world{reference: reference{namespaces: map[string]map[string]string{}, node: here}, model: NewModel(), peers: map[string]netpolicy.Peers{}}
}

func podModel(pod *corev1.Pod) *Pod {
	p := &Pod{Namespace: pod.Namespace, Labels: pod.Labels, Ports: map[netpolicy.Port]uint16{}}
	for _, name := range []string{"http", "dns"} {
		for _, protocol := range protocols {
			port := netpolicy.Port{Name: name, Protocol: protocol}
			if number, ok := netpolicy.PortOf(&pod.Spec, port); ok {
				p.Ports[port] = uint16(number)
			}
		}
	}
	return p
}

// tell brings a model up to the world's pods and peers. Policies are told one by one.
func (w *world) tell(m *Model, addr string) {
	pod := w.pod(netip.MustParseAddr(addr))
	if pod == nil || pod.Spec.NodeName != here {
		m.SetPod(ip(addr), nil)
		return
	}
	m.SetPod(ip(addr), podModel(pod))
}

// publish does what the controller does; the slices of a group are cut where split says.
func (w *world) publish(m *Model, split int) {
	groups := map[string]netpolicy.Peers{}
	for _, p := range w.policies {
		maps.Copy(groups, netpolicy.Of(p))
	}
	for key := range w.peers {
		m.SetPeers(key, "one", nil)
		m.SetPeers(key, "two", nil)
	}
	for key, group := range groups {
		var elements []Element
		for _, pod := range w.pods {
			if !group.Match(pod.Namespace, w.namespaces[pod.Namespace], pod.Labels) {
				continue
			}
			if group.Port == (netpolicy.Port{}) {
				elements = append(elements, Element{Addr: ip(pod.Status.PodIP)})
			} else if number, ok := netpolicy.PortOf(&pod.Spec, group.Port); ok {
				elements = append(elements, NewEndpoint(ip(pod.Status.PodIP), group.Port.Protocol, uint16(number)))
			}
		}
		n := min(split, len(elements))
		m.SetPeers(key, "one", elements[:n])
		m.SetPeers(key, "two", elements[n:])
	}
	w.peers = groups
}

var addresses = []string{"10.244.0.1", "10.244.0.2", "10.244.0.3", "10.244.0.4", "10.244.0.5", "10.244.0.6"}

// change does one thing to the world.
func (w *world) change(t *rapid.T) {
	switch rapid.IntRange(0, 4).Draw(t, "change") {
	case 0, 1:
		ns, name := pick(t, "x", "y"), pick(t, "p", "q", "r")
		w.policies = slices.DeleteFunc(w.policies, func(p *networkingv1.NetworkPolicy) bool { return p.Namespace == ns && p.Name == name })
		var p *networkingv1.NetworkPolicy
		if chance(t, 80) {
			p = drawPolicy(t, ns, name)
			w.policies = append(w.policies, p)
		}
		w.model.SetPolicy(ns, name, p)
	case 2, 3:
		addr := pick(t, addresses...)
		w.pods = slices.DeleteFunc(w.pods, func(p *corev1.Pod) bool { return p.Status.PodIP == addr })
		if chance(t, 80) {
			w.pods = append(w.pods, drawPod(t, addr))
		}
		w.tell(w.model, addr)
	case 4:
		w.namespaces[pick(t, "x", "y")] = drawLabels(t)
	}
	w.publish(w.model, rapid.IntRange(0, 4).Draw(t, "split"))
}

func (w *world) fresh() *Ruleset {
	m := NewModel()
	for _, p := range w.policies {
		m.SetPolicy(p.Namespace, p.Name, p)
	}
	for _, addr := range addresses {
		w.tell(m, addr)
	}
	w.publish(m, 100)
	return m.Ruleset()
}

// TestRulesetSaysWhatTheAPISays: for random clusters and packets, the ruleset's verdict is the one that the API's words give.
func TestRulesetSaysWhatTheAPISays(t *testing.T) {
	hosts := append(slices.Clone(addresses), "192.0.2.1", "192.0.2.200", "255.255.255.255", "0.0.0.1")
	allowed, denied := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		for range rapid.IntRange(3, 25).Draw(t, "changes") {
			w.change(t)
		}
		r := w.model.Ruleset()
		for _, from := range hosts {
			for _, to := range hosts {
				if w.pod(netip.MustParseAddr(from)) == nil && w.pod(netip.MustParseAddr(to)) == nil {
					continue
				}
				for _, protocol := range protocols {
					p := packet{netip.MustParseAddr(from), netip.MustParseAddr(to), protocol, rapid.Int32Range(79, 88).Draw(t, "port")}
					want := w.allows(p)
					if got := r.verdict(p); got != want {
						t.Fatalf("%+v: %v, want %v\n%s", p, got, want, r)
					}
					if want {
						allowed++
					} else {
						denied++
					}
				}
			}
		}
	})
	if allowed < 1000 || denied < 1000 {
		t.Errorf("%d packets allowed and %d denied: that shows little", allowed, denied)
	}
}

// TestChangesLeadToAFreshBuild: after any changes the Model gives what one gives that was told the end alone, and the differences from each ruleset to
// the next lead there.
func TestChangesLeadToAFreshBuild(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		table, last := emptyTable(), &Ruleset{}
		for range rapid.IntRange(1, 12).Draw(t, "changes") {
			w.change(t)
			r := w.model.Ruleset()
			table.apply(t, Diff(last, r), r)
			last = r
			if got, want := r.String(), w.fresh().String(); got != want {
				t.Fatalf("changed:\n%s\nfresh:\n%s", got, want)
			}
			if c := Diff(r, w.model.Ruleset()); !c.Empty() {
				t.Fatalf("a ruleset differs from itself: %+v", c)
			}
		}
		fresh := emptyTable()
		fresh.apply(t, Diff(&Ruleset{}, last), last)
		if !reflect.DeepEqual(table, fresh) {
			t.Fatalf("changed:\n%+v\nfresh:\n%+v", table, fresh)
		}
	})
}

// table is what a kernel holds that does what it is told, and refuses what it does not have.
type table struct {
	sets   map[string]map[Element]bool
	chains map[string][]Rule
	pods   map[string]map[IP]string
	self   map[IP]bool
}

func emptyTable() *table {
	return &table{sets: map[string]map[Element]bool{}, chains: map[string][]Rule{}, pods: map[string]map[IP]string{IngressMap: {}, EgressMap: {}}, self: map[IP]bool{}}
}

func (k *table) apply(t *rapid.T, c *Change, r *Ruleset) {
	need := func(ok bool, what string, name any) {
		if !ok {
			t.Fatalf("%s: %v", what, name)
		}
	}
	for _, name := range c.AddSets {
		need(k.sets[name] == nil, "set is there", name)
		k.sets[name] = map[Element]bool{}
	}
	for _, name := range c.AddChains {
		_, there := k.chains[name]
		need(!there, "chain is there", name)
		k.chains[name] = nil
	}
	for name, list := range c.Del {
		for _, e := range list {
			need(k.sets[name][e], "no such element in "+name, e)
			delete(k.sets[name], e)
		}
	}
	for name, list := range c.Add {
		for _, e := range list {
			need(k.sets[name] != nil && !k.sets[name][e], "element is there in "+name, e)
			k.sets[name][e] = true
		}
	}
	for _, name := range c.Rewrite {
		k.chains[name] = r.Chains[name]
	}
	k.applyPods(c, r, need)
	for _, name := range c.DelChains {
		delete(k.chains, name)
	}
	for _, name := range c.DelSets {
		delete(k.sets, name)
	}
	k.check(need)
}

func (k *table) applyPods(c *Change, r *Ruleset, need func(bool, string, any)) {
	for name, chains := range map[string]map[IP]string{IngressMap: r.Ingress, EgressMap: r.Egress} {
		for _, a := range c.DelPods[name] {
			need(k.pods[name][a] != "", "no such pod", a)
			delete(k.pods[name], a)
		}
		for _, a := range c.AddPods[name] {
			need(k.pods[name][a] == "", "pod is there", a)
			k.pods[name][a] = chains[a]
		}
	}
	for _, a := range c.DelSelf {
		need(k.self[a], "not itself", a)
		delete(k.self, a)
	}
	for _, a := range c.AddSelf {
		need(!k.self[a], "itself already", a)
		k.self[a] = true
	}
}

// check: nothing refers to what is not there.
func (k *table) check(need func(bool, string, any)) {
	for _, pods := range k.pods {
		for a, chain := range pods {
			_, there := k.chains[chain]
			need(there, fmt.Sprint(a, " leads to a chain that is not there"), chain)
		}
	}
	for _, rules := range k.chains {
		for _, rule := range rules {
			_, there := k.chains[rule.Chain]
			need(rule.Action != Jump || there, "jump to a chain that is not there", rule.Chain)
			for _, m := range rule.Matches {
				need(k.sets[m.Set] != nil, "no such set", m.Set)
			}
		}
	}
}
