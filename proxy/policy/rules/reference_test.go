package rules

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// packet begins a connection.
type packet struct {
	from, to netip.Addr
	protocol corev1.Protocol
	port     int32
}

// reference is the obvious reading of the API, slow and without sets: who may talk to whom in a cluster.
type reference struct {
	namespaces map[string]map[string]string
	pods       []*corev1.Pod
	policies   []*networkingv1.NetworkPolicy
	node       string // the one whose rules are asked
}

func (r *reference) pod(addr netip.Addr) *corev1.Pod {
	for _, p := range r.pods {
		if p.Status.PodIP == addr.String() {
			return p
		}
	}
	return nil
}

func (r *reference) allows(p packet) bool {
	if p.from == p.to {
		return true
	}
	from, to := r.pod(p.from), r.pod(p.to)
	if from != nil && from.Spec.NodeName == r.node && !r.one(from, networkingv1.PolicyTypeEgress, func(policy *networkingv1.NetworkPolicy) bool {
		return slices.ContainsFunc(policy.Spec.Egress, func(rule networkingv1.NetworkPolicyEgressRule) bool { return r.egress(policy, rule, p, to) })
	}) {
		return false
	}
	return to == nil || to.Spec.NodeName != r.node || r.one(to, networkingv1.PolicyTypeIngress, func(policy *networkingv1.NetworkPolicy) bool {
		return slices.ContainsFunc(policy.Spec.Ingress, func(rule networkingv1.NetworkPolicyIngressRule) bool {
			return portAllowed(rule.Ports, p, to) && (len(rule.From) == 0 || slices.ContainsFunc(rule.From, func(peer networkingv1.NetworkPolicyPeer) bool {
				return r.is(policy.Namespace, peer, p.from, from)
			}))
		})
	})
}

// egress: names of ports mean nothing where the peer is a block of addresses.
func (r *reference) egress(policy *networkingv1.NetworkPolicy, rule networkingv1.NetworkPolicyEgressRule, p packet, to *corev1.Pod) bool {
	if len(rule.To) == 0 {
		return portAllowed(rule.Ports, p, to)
	}
	return slices.ContainsFunc(rule.To, func(peer networkingv1.NetworkPolicyPeer) bool {
		named := to
		if peer.IPBlock != nil {
			named = nil
		}
		return portAllowed(rule.Ports, p, named) && r.is(policy.Namespace, peer, p.to, to)
	})
}

// one: a pod that no policy isolates may do anything, any other what one of its policies allows.
func (r *reference) one(pod *corev1.Pod, t networkingv1.PolicyType, allows func(*networkingv1.NetworkPolicy) bool) bool {
	isolated := false
	for _, policy := range r.policies {
		if policy.Namespace != pod.Namespace || !matches(&policy.Spec.PodSelector, pod.Labels) || !hasType(policy, t) {
			continue
		}
		if isolated = true; allows(policy) {
			return true
		}
	}
	return !isolated
}

func hasType(policy *networkingv1.NetworkPolicy, t networkingv1.PolicyType) bool {
	types := policy.Spec.PolicyTypes
	if len(types) == 0 {
		types = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(policy.Spec.Egress) > 0 {
			types = append(types, networkingv1.PolicyTypeEgress)
		}
	}
	return slices.Contains(types, t)
}

func matches(s *metav1.LabelSelector, set map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(set))
}

func (r *reference) is(namespace string, peer networkingv1.NetworkPolicyPeer, addr netip.Addr, pod *corev1.Pod) bool {
	if peer.IPBlock != nil {
		within := func(cidr string) bool { return netip.MustParsePrefix(cidr).Contains(addr) }
		return within(peer.IPBlock.CIDR) && !slices.ContainsFunc(peer.IPBlock.Except, within)
	}
	switch {
	case pod == nil || peer.PodSelector != nil && !matches(peer.PodSelector, pod.Labels):
		return false
	case peer.NamespaceSelector != nil:
		return matches(peer.NamespaceSelector, r.namespaces[pod.Namespace])
	}
	return pod.Namespace == namespace
}

func portAllowed(ports []networkingv1.NetworkPolicyPort, p packet, to *corev1.Pod) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(allowed networkingv1.NetworkPolicyPort) bool {
		protocol := corev1.ProtocolTCP
		if allowed.Protocol != nil {
			protocol = *allowed.Protocol
		}
		switch {
		case protocol != p.protocol:
			return false
		case allowed.Port == nil:
			return true
		case allowed.Port.Type == intstr.Int && allowed.EndPort != nil:
			return allowed.Port.IntVal <= p.port && p.port <= *allowed.EndPort
		case allowed.Port.Type == intstr.Int:
			return allowed.Port.IntVal == p.port
		case to == nil:
			return false
		}
		for _, c := range to.Spec.Containers {
			for _, port := range c.Ports {
				if port.Name == allowed.Port.StrVal && port.Protocol == protocol {
					return port.ContainerPort == p.port // the first counts
				}
			}
		}
		return false
	})
}

// verdict walks the ruleset as the kernel does.
func (r *Ruleset) verdict(p packet) bool {
	if r.Self()[p.from.As4()] && p.from == p.to {
		return true
	}
	for _, pods := range []struct {
		chains map[IP]string
		addr   netip.Addr
	}{{r.Egress, p.from}, {r.Ingress, p.to}} {
		if chain, ok := pods.chains[pods.addr.As4()]; ok {
			if action, decided := r.walk(chain, p); decided && action == Drop {
				return false
			}
		}
	}
	return true
}

func (r *Ruleset) walk(chain string, p packet) (action Action, decided bool) {
	rules, known := r.Chains[chain]
	if !known {
		panic("no chain " + chain)
	}
	for _, rule := range rules {
		if slices.ContainsFunc(rule.Matches, func(m Match) bool { return !r.meets(m, p) }) {
			continue
		}
		if rule.Action != Jump {
			return rule.Action, true
		}
		if action, decided = r.walk(rule.Chain, p); decided {
			return action, true
		}
	}
	return Accept, false
}

func (r *Ruleset) meets(m Match, p packet) bool {
	set, known := r.Sets[m.Set]
	if !known {
		panic("no set " + m.Set)
	}
	return slices.ContainsFunc(set.Elements, func(e Element) bool {
		within := func(addr netip.Addr) bool {
			to := e.To
			if set.Type == Addresses {
				to = e.Addr
			}
			return compareIPs(e.Addr, addr.As4()) <= 0 && compareIPs(addr.As4(), to) <= 0
		}
		switch m.Field {
		case Source:
			return within(p.from)
		case Destination:
			return within(p.to)
		case Port:
			return e.Protocol == protocolNumber(p.protocol) && e.First <= uint16(p.port) && uint16(p.port) <= e.Last
		}
		return e.Addr == p.to.As4() && e.Protocol == protocolNumber(p.protocol) && e.First == uint16(p.port)
	})
}
