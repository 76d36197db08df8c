package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/coracle-dev/coracle/internal/netpolicy"
)

// longestName of a chain or set that is still a policy's own; the kernel takes 255 characters.
const longestName = 120

// policy is a NetworkPolicy compiled. It never changes.
type policy struct {
	namespace string
	pods      labels.Selector
	// ingress and egress are nil where the policy does not isolate in that direction.
	ingress, egress *direction
}

// direction is what a policy says of what comes in or goes out.
type direction struct {
	chain string
	rules []Rule
	// sets have the same elements everywhere; peers and ports are those whose elements depend on the cluster's pods, and on this node's.
	sets  map[string]Set
	peers map[string]netpolicy.Peers
	ports map[string]netpolicy.Port
}

// compile never fails: what the API would refuse allows nothing.
func compile(p *networkingv1.NetworkPolicy) *policy {
	c := &policy{namespace: p.Namespace}
	var err error
	if c.pods, err = metav1.LabelSelectorAsSelector(&p.Spec.PodSelector); err != nil {
		c.pods = labels.Nothing()
	}
	name := p.Namespace + "/" + p.Name
	if isolates(p, networkingv1.PolicyTypeIngress) {
		c.ingress = newDirection(named("policy-ingress-", name))
		for i := range p.Spec.Ingress {
			c.ingress.ingressRule(p.Namespace, &p.Spec.Ingress[i])
		}
	}
	if isolates(p, networkingv1.PolicyTypeEgress) {
		c.egress = newDirection(named("policy-egress-", name))
		for i := range p.Spec.Egress {
			c.egress.egressRule(p.Namespace, &p.Spec.Egress[i])
		}
	}
	return c
}

// isolates: a policy that names no types isolates ingress, and egress where it has rules for that.
func isolates(p *networkingv1.NetworkPolicy, t networkingv1.PolicyType) bool {
	if len(p.Spec.PolicyTypes) == 0 {
		return t == networkingv1.PolicyTypeIngress || len(p.Spec.Egress) > 0
	}
	return slices.Contains(p.Spec.PolicyTypes, t)
}

func newDirection(chain string) *direction {
	return &direction{chain: chain, sets: map[string]Set{}, peers: map[string]netpolicy.Peers{}, ports: map[string]netpolicy.Port{}}
}

func (d *direction) allow(matches ...Match) {
	d.rules = append(d.rules, Rule{Matches: matches, Action: Accept})
}

func (d *direction) ingressRule(namespace string, rule *networkingv1.NetworkPolicyIngressRule) {
	ports := d.portMatches(rule.Ports)
	for _, port := range namedPorts(rule.Ports) { // the receiving pod says what the name means
		set := named("ports-of-", namespace+"/"+protocolName(protocolNumber(port.Protocol))+"-"+port.Name)
		d.ports[set] = port
		ports = append(ports, []Match{{Endpoint, set}})
	}
	for _, peer := range d.peerMatches(namespace, Source, rule.From) {
		for _, port := range ports {
			d.allow(slices.Concat(peer, port)...)
		}
	}
}

func (d *direction) egressRule(namespace string, rule *networkingv1.NetworkPolicyEgressRule) {
	ports := d.portMatches(rule.Ports)
	if len(ports) > 0 {
		for _, peer := range d.peerMatches(namespace, Destination, rule.To) {
			for _, port := range ports {
				d.allow(slices.Concat(peer, port)...)
			}
		}
	}
	for _, group := range netpolicy.EgressPeers(namespace, rule) { // each peer says what the name means
		if group.Port != (netpolicy.Port{}) && protocolNumber(group.Port.Protocol) != 0 {
			d.allow(Match{Endpoint, d.group(group)})
		}
	}
}

// peerMatches lists the conditions one of which a peer must meet. No peers are everybody, which takes no condition.
func (d *direction) peerMatches(namespace string, field Field, peers []networkingv1.NetworkPolicyPeer) [][]Match {
	if len(peers) == 0 {
		return [][]Match{nil}
	}
	var matches [][]Match
	var list []*networkingv1.IPBlock
	for i := range peers {
		if peers[i].IPBlock != nil {
			list = append(list, peers[i].IPBlock)
		} else if group, ok := netpolicy.PeersOf(namespace, &peers[i]); ok {
			if m := []Match{{field, d.group(group)}}; !slices.ContainsFunc(matches, func(have []Match) bool { return slices.Equal(have, m) }) {
				matches = append(matches, m)
			}
		}
	}
	if elements := blocks(list); len(elements) > 0 {
		set := Set{Type: Blocks, Elements: elements}
		name := "blocks-" + hash(set.text())
		d.sets[name] = set
		matches = append(matches, []Match{{field, name}})
	}
	return matches
}

// portMatches lists the conditions one of which a port must meet that is given by number. No ports are all traffic, which takes no condition.
func (d *direction) portMatches(ports []networkingv1.NetworkPolicyPort) [][]Match {
	if len(ports) == 0 {
		return [][]Match{nil}
	}
	elements := numbered(ports)
	if len(elements) == 0 {
		return nil
	}
	set := Set{Type: Ports, Elements: elements}
	name := portsName(elements)
	d.sets[name] = set
	return [][]Match{{{Port, name}}}
}

func namedPorts(ports []networkingv1.NetworkPolicyPort) []netpolicy.Port {
	list, _ := netpolicy.NamedPorts(ports)
	return slices.DeleteFunc(list, func(p netpolicy.Port) bool { return protocolNumber(p.Protocol) == 0 })
}

func (d *direction) group(p netpolicy.Peers) string {
	name := groupName(p)
	d.peers[name] = p
	return name
}

func groupName(p netpolicy.Peers) string {
	if p.Port != (netpolicy.Port{}) {
		return "peers-port-" + p.Key()
	}
	return "peers-" + p.Key()
}

func groupType(p netpolicy.Peers) Type {
	if p.Port != (netpolicy.Port{}) {
		return Endpoints
	}
	return Addresses
}

func protocolOf(p *networkingv1.NetworkPolicyPort) corev1.Protocol {
	return netpolicy.ProtocolOf(p.Protocol)
}

// portsName tells people what the set holds, unless that is long.
func portsName(elements []Element) string {
	parts := make([]string, len(elements))
	for i, e := range elements {
		parts[i] = protocolName(e.Protocol)
		switch {
		case e.First == e.Last:
			parts[i] += fmt.Sprintf("-%d", e.First)
		case e.First > 0 || e.Last < 65535:
			parts[i] += fmt.Sprintf("-%d-%d", e.First, e.Last)
		}
	}
	return named("ports-", strings.Join(parts, "."))
}

// named makes a name that nft can read out of one that is unique; long ones are cut, and stay unique by a hash.
func named(prefix, name string) string {
	if len(prefix)+len(name) <= longestName {
		return prefix + name
	}
	return prefix + name[:longestName-len(prefix)-33] + "_" + hash(name) // names in the API have no underscore
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}
