package rules

import (
	"maps"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/coracle-dev/coracle/internal/netpolicy"
)

// Pod is what of a pod of this node matters.
type Pod struct {
	Namespace string
	Labels    map[string]string
	// Ports are the numbers of those that have a name.
	Ports map[netpolicy.Port]uint16
}

// Model knows the cluster's policies, the pods of one node, and the peers as they are published. What it has made of them it keeps: a change
// costs what it changes. It is not safe for concurrent use.
type Model struct {
	policies map[string]map[string]*policy // by namespace and name
	pods     map[IP]*pod
	peers    map[string]*group
}

// pod is a pod and the names of the policies that select it, sorted.
type pod struct {
	Pod
	policies []string
}

// group is a group of peers by the slices it is published in. Merged is made when it is asked for.
type group struct {
	parts  map[string][]Element
	merged []Element
}

// NewModel makes an empty Model.
func NewModel() *Model {
	return &Model{policies: map[string]map[string]*policy{}, pods: map[IP]*pod{}, peers: map[string]*group{}}
}

// SetPolicy adds or replaces a policy; where p is nil, there is none of that name any more.
func (m *Model) SetPolicy(namespace, name string, p *networkingv1.NetworkPolicy) {
	inNamespace := m.policies[namespace]
	if p == nil {
		delete(inNamespace, name)
		if len(inNamespace) == 0 {
			delete(m.policies, namespace)
		}
	} else {
		if inNamespace == nil {
			inNamespace = map[string]*policy{}
			m.policies[namespace] = inNamespace
		}
		inNamespace[name] = compile(p)
	}
	for _, pod := range m.pods {
		if pod.Namespace == namespace {
			pod.selected(name, p != nil && inNamespace[name].pods.Matches(labels.Set(pod.Labels)))
		}
	}
}

// selected notes whether a policy selects the pod.
func (p *pod) selected(policy string, is bool) {
	i, was := slices.BinarySearch(p.policies, policy)
	switch {
	case is && !was:
		p.policies = slices.Insert(p.policies, i, policy)
	case !is && was:
		p.policies = slices.Delete(p.policies, i, i+1)
	}
}

// SetPod says which pod of this node has the address; where p is nil, none.
func (m *Model) SetPod(addr IP, p *Pod) {
	if p == nil {
		delete(m.pods, addr)
		return
	}
	fresh := &pod{Pod: *p}
	for name, policy := range m.policies[p.Namespace] {
		if policy.pods.Matches(labels.Set(p.Labels)) {
			fresh.policies = append(fresh.policies, name)
		}
	}
	slices.Sort(fresh.policies)
	m.pods[addr] = fresh
}

// SetPeers says what one slice publishes of the group of that key; no elements are none.
func (m *Model) SetPeers(key, slice string, elements []Element) {
	g := m.peers[key]
	if g == nil {
		g = &group{parts: map[string][]Element{}}
		m.peers[key] = g
	}
	if g.merged = nil; len(elements) > 0 {
		g.parts[slice] = elements
		return
	}
	if delete(g.parts, slice); len(g.parts) == 0 {
		delete(m.peers, key)
	}
}

// elements of the group, sorted; the same slice until something changes. What is not of the set's type is left out.
func (g *group) elements(t Type) []Element {
	if g == nil {
		return nil
	}
	if g.merged == nil {
		for _, part := range g.parts {
			g.merged = append(g.merged, part...)
		}
		g.merged = slices.DeleteFunc(g.merged, func(e Element) bool { return (e.Protocol != 0) != (t == Endpoints) })
		slices.SortFunc(g.merged, compareElements)
		g.merged = slices.Compact(g.merged)
	}
	return g.merged
}

// Isolated tells whether any policy selects the pod with this address.
func (m *Model) Isolated(addr IP) bool {
	p := m.pods[addr]
	return p != nil && len(p.policies) > 0
}

// Ruleset is what the node's table must hold now. Only what concerns pods of this node is in it.
func (m *Model) Ruleset() *Ruleset {
	r := &Ruleset{Ingress: map[IP]string{}, Egress: map[IP]string{}, Chains: map[string][]Rule{}, Sets: map[string]Set{}}
	for addr, pod := range m.pods {
		if len(pod.policies) == 0 {
			continue
		}
		all := m.policies[pod.Namespace]
		if chain := m.combine(r, pod, "pods-ingress-", func(name string) *direction { return all[name].ingress }); chain != "" {
			r.Ingress[addr] = chain
		}
		if chain := m.combine(r, pod, "pods-egress-", func(name string) *direction { return all[name].egress }); chain != "" {
			r.Egress[addr] = chain
		}
	}
	return r
}

// combine adds the chain of the policies that isolate the pod in one direction, and what it needs; empty where none does.
func (m *Model) combine(r *Ruleset, p *pod, prefix string, of func(name string) *direction) string {
	var names []string
	for _, name := range p.policies {
		if of(name) != nil {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	chain := named(prefix, p.Namespace+"/"+names[0])
	if len(names) > 1 {
		chain = prefix + "of-" + hash(p.Namespace+"/"+strings.Join(names, "/")) // "of-" and no slash: no namespace's name and policy's
	}
	if _, done := r.Chains[chain]; done {
		return chain
	}
	rules := make([]Rule, 0, len(names)+1)
	for _, name := range names {
		d := of(name)
		if len(d.rules) == 0 {
			continue // allows nothing
		}
		m.add(r, p.Namespace, d)
		rules = append(rules, Rule{Action: Jump, Chain: d.chain})
	}
	r.Chains[chain] = append(rules, Rule{Action: Drop})
	return chain
}

// add adds a policy's chain and its sets.
func (m *Model) add(r *Ruleset, namespace string, d *direction) {
	if _, done := r.Chains[d.chain]; done {
		return
	}
	r.Chains[d.chain] = d.rules
	maps.Copy(r.Sets, d.sets)
	for name, peers := range d.peers {
		t := groupType(peers)
		r.Sets[name] = Set{Type: t, Comment: peers.String(), Elements: m.peers[peers.Key()].elements(t)}
	}
	for name, port := range d.ports {
		if _, done := r.Sets[name]; !done {
			r.Sets[name] = Set{Type: Endpoints, Elements: m.portsOf(namespace, port)}
		}
	}
}

// portsOf is where the node's pods of a namespace have the port of that name.
func (m *Model) portsOf(namespace string, port netpolicy.Port) []Element {
	var elements []Element
	for addr, pod := range m.pods {
		if number, ok := pod.Ports[port]; ok && pod.Namespace == namespace {
			elements = append(elements, Element{Addr: addr, Protocol: protocolNumber(port.Protocol), First: number})
		}
	}
	slices.SortFunc(elements, compareElements)
	return elements
}

// Equal tells whether the two are the same to every policy.
func (p *Pod) Equal(q *Pod) bool {
	return p.Namespace == q.Namespace && maps.Equal(p.Labels, q.Labels) && maps.Equal(p.Ports, q.Ports)
}
