// Package netpolicy is what the controller that resolves the peers of NetworkPolicies and the nodes that enforce
// these must agree on: what a group of peers is, and by which name it is published.
//
// A group of peers is all pods that one peer of a policy's rule selects. Nodes may not list the cluster's pods; so the controller publishes
// the addresses of each distinct group once, as EndpointSlices in Namespace with the label Label, and nodes watch these alone. EndpointSlices and
// no kind of our own, since all that is needed is there: incremental, limited in size, watchable by label, printed by kubectl. They carry no name of a
// service, hence proxies and DNS servers pass over them. They lie in kube-system, and not beside the policies, because whoever could write them
// could let anyone in: users often may write EndpointSlices of their own namespaces.
//
// Invariant: equal groups have equal keys, whatever the order of what the selectors say; different ones have different keys.
package netpolicy

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
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	// Namespace holds the published groups.
	Namespace = metav1.NamespaceSystem
	// Label marks the slices of a group; its value is the group's Key.
	Label = "coracle.dev/policy-peers"
	// ManagedBy is the controller's name for itself.
	ManagedBy = "networkpolicy.coracle.dev"
	// Description is the annotation that says for people what the group is.
	Description = "coracle.dev/policy-peers-description"
)

// Port is a port that containers give a name.
type Port struct {
	Name     string
	Protocol corev1.Protocol
}

// Peers is a group of peers.
type Peers struct {
	// In is the one namespace of the pods; where it is empty, Namespaces selects.
	In         string
	Namespaces labels.Selector
	Pods       labels.Selector
	// Port, unless zero, narrows the group to pods with such a port, and to that port of theirs.
	Port Port
}

// PeersOf gives the group that a peer of a policy in namespace stands for; not ok where it is a block of addresses, or says what the API
// refuses.
func PeersOf(namespace string, peer *networkingv1.NetworkPolicyPeer) (p Peers, ok bool) {
	if peer.IPBlock != nil || peer.PodSelector == nil && peer.NamespaceSelector == nil {
		return Peers{}, false
	}
	p = Peers{In: namespace, Pods: labels.Everything()}
	var err error
	if peer.NamespaceSelector != nil {
		p.In = ""
		if p.Namespaces, err = metav1.LabelSelectorAsSelector(peer.NamespaceSelector); err != nil {
			return Peers{}, false
		}
	}
	if peer.PodSelector != nil {
		if p.Pods, err = metav1.LabelSelectorAsSelector(peer.PodSelector); err != nil {
			return Peers{}, false
		}
	}
	return p, true
}

// Everyone is the group of all pods.
func Everyone() Peers { return Peers{Namespaces: labels.Everything(), Pods: labels.Everything()} }

// WithPort narrows the group to a named port.
func (p Peers) WithPort(port Port) Peers {
	p.Port = port
	return p
}

// Of lists the groups that a policy's rules name, each once, by key.
func Of(policy *networkingv1.NetworkPolicy) map[string]Peers {
	groups := map[string]Peers{}
	add := func(p Peers) { groups[p.Key()] = p }
	for i := range policy.Spec.Ingress {
		for j := range policy.Spec.Ingress[i].From {
			if p, ok := PeersOf(policy.Namespace, &policy.Spec.Ingress[i].From[j]); ok {
				add(p)
			}
		}
	}
	for i := range policy.Spec.Egress {
		for _, p := range EgressPeers(policy.Namespace, &policy.Spec.Egress[i]) {
			add(p)
		}
	}
	return groups
}

// EgressPeers are the groups that an egress rule names: those of its peers where it has ports by number or none at all, and those of its peers by
// each port that it names. A rule for every destination names a port of all pods.
func EgressPeers(namespace string, rule *networkingv1.NetworkPolicyEgressRule) []Peers {
	named, others := NamedPorts(rule.Ports)
	var groups []Peers
	for i := range rule.To {
		p, ok := PeersOf(namespace, &rule.To[i])
		if !ok {
			continue
		}
		if others {
			groups = append(groups, p)
		}
		for _, port := range named {
			groups = append(groups, p.WithPort(port))
		}
	}
	if len(rule.To) == 0 {
		for _, port := range named {
			groups = append(groups, Everyone().WithPort(port))
		}
	}
	return groups
}

// NamedPorts are the ports of a rule that are given by name, each once, and whether the rule allows others too: a rule without ports does.
func NamedPorts(ports []networkingv1.NetworkPolicyPort) (named []Port, others bool) {
	others = len(ports) == 0
	for i := range ports {
		p := &ports[i]
		if p.Port == nil || p.Port.Type == intstr.Int {
			others = true
			continue
		}
		port := Port{Name: p.Port.StrVal, Protocol: ProtocolOf(p.Protocol)}
		if !slices.Contains(named, port) {
			named = append(named, port)
		}
	}
	return named, others
}

// ProtocolOf is the protocol of a port, TCP where it names none.
func ProtocolOf(p *corev1.Protocol) corev1.Protocol {
	if p == nil || *p == "" {
		return corev1.ProtocolTCP
	}
	return *p
}

// canonical is the same for selectors that say the same in another order.
func canonical(s labels.Selector) string {
	requirements, selectable := s.Requirements()
	if !selectable {
		return "none"
	}
	parts := make([]string, 0, len(requirements))
	for _, r := range requirements {
		text := r.String()
		if values := r.Values().UnsortedList(); r.Operator() == selection.In && len(values) == 1 {
			text = r.Key() + "=" + values[0]
		}
		parts = append(parts, text)
	}
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), ",")
}

// Key is the group's name: a label's value, of 32 hexadecimal digits, so that nobody finds two groups with one.
func (p Peers) Key() string {
	sum := sha256.Sum256([]byte(p.text()))
	return hex.EncodeToString(sum[:16])
}

// text says the same of equal groups only. No part of it contains a line break.
func (p Peers) text() string {
	namespaces := "in " + p.In
	if p.In == "" {
		namespaces = "where " + canonical(p.Namespaces)
	}
	return fmt.Sprintf("%s\n%s\n%s\n%s", namespaces, canonical(p.Pods), p.Port.Protocol, p.Port.Name)
}

// String is for people.
func (p Peers) String() string {
	pods := "all pods"
	if text := canonical(p.Pods); text != "" {
		pods = "pods " + text
	}
	text := pods + " in " + p.In
	if p.In == "" {
		text = pods + " in all namespaces"
		if selector := canonical(p.Namespaces); selector != "" {
			text = pods + " in namespaces " + selector
		}
	}
	if p.Port != (Port{}) {
		text += fmt.Sprintf(" by port %s/%s", p.Port.Name, p.Port.Protocol)
	}
	return text
}

// Match tells whether a pod with these labels, in a namespace with those, is in the group. Whether it has the port is not looked at.
func (p Peers) Match(namespace string, ofNamespace, ofPod map[string]string) bool {
	if p.In != "" {
		if p.In != namespace {
			return false
		}
	} else if !p.Namespaces.Matches(labels.Set(ofNamespace)) {
		return false
	}
	return p.Pods.Matches(labels.Set(ofPod))
}

// PortOf is the number that the pod gives the port; not ok where it gives none. As with Services, the first container that names it counts, sidecars
// included.
func PortOf(spec *corev1.PodSpec, port Port) (number int32, ok bool) {
	find := func(c *corev1.Container) bool {
		for i := range c.Ports {
			if p := &c.Ports[i]; p.Name == port.Name && ProtocolOf(&p.Protocol) == port.Protocol {
				number = p.ContainerPort
				return true
			}
		}
		return false
	}
	for i := range spec.Containers {
		if find(&spec.Containers[i]) {
			return number, true
		}
	}
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways && find(c) {
			return number, true
		}
	}
	return 0, false
}

// HasNetwork tells whether the pod has a network of its own: those of the host's have not, nor have those that have ended.
func HasNetwork(pod *corev1.Pod) bool {
	return !pod.Spec.HostNetwork && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// Address is the IPv4 address of a pod that others reach it by, and that its packets come from; empty where it has none of its own, or not yet.
func Address(pod *corev1.Pod) string {
	if !HasNetwork(pod) {
		return ""
	}
	for _, ip := range pod.Status.PodIPs {
		if strings.Contains(ip.IP, ".") && !strings.Contains(ip.IP, ":") {
			return ip.IP
		}
	}
	return ""
}
