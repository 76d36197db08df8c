package networkpolicy

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/slicing"
	"github.com/coracle-dev/coracle/internal/netpolicy"
)

// desired is what the group's slices say. It is pure. Nothing but addresses, and ports where the group is one of a port: all nodes hold this.
func desired(key string, group netpolicy.Peers, pods []*corev1.Pod) slicing.Desired {
	want := slicing.Desired{
		Namespace: netpolicy.Namespace, Name: "policy-peers-" + key,
		Labels:      map[string]string{netpolicy.Label: key, discoveryv1.LabelManagedBy: netpolicy.ManagedBy},
		Annotations: map[string]string{netpolicy.Description: group.String()},
		Families:    []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4},
	}
	for _, pod := range pods {
		address := netpolicy.Address(pod)
		if address == "" {
			continue
		}
		var ports []discoveryv1.EndpointPort
		if group.Port != (netpolicy.Port{}) {
			number, ok := netpolicy.PortOf(&pod.Spec, group.Port)
			if !ok {
				continue
			}
			ports = []discoveryv1.EndpointPort{{Name: ptr.To(group.Port.Name), Protocol: ptr.To(group.Port.Protocol), Port: ptr.To(number)}}
		}
		want.Endpoints = append(want.Endpoints, slicing.Endpoint{
			Family: discoveryv1.AddressTypeIPv4, Ports: ports, Endpoint: discoveryv1.Endpoint{Addresses: []string{address}},
		})
	}
	return want
}

// groups knows which groups policies name.
type groups struct {
	of map[string]map[string]netpolicy.Peers // by policy and key
	// uses counts policies by key. wide are the groups of several namespaces, narrow the others by theirs.
	uses   map[string]int
	wide   map[string]netpolicy.Peers
	narrow map[string]map[string]netpolicy.Peers
	home   map[string]string // the namespace of a narrow group
}

func newGroups() *groups {
	return &groups{of: map[string]map[string]netpolicy.Peers{}, uses: map[string]int{}, wide: map[string]netpolicy.Peers{},
		narrow: map[string]map[string]netpolicy.Peers{}, home: map[string]string{}}
}

// set notes the groups that a policy names now, and gives the keys of those that have become used or are used no more.
func (g *groups) set(policy string, named map[string]netpolicy.Peers) (changed []string) {
	before := g.of[policy]
	for key, group := range named {
		if _, had := before[key]; had {
			continue
		}
		if g.uses[key]++; g.uses[key] == 1 {
			g.add(key, group)
			changed = append(changed, key)
		}
	}
	for key := range before {
		if _, has := named[key]; has {
			continue
		}
		if g.uses[key]--; g.uses[key] == 0 {
			g.remove(key)
			changed = append(changed, key)
		}
	}
	if len(named) == 0 {
		delete(g.of, policy)
	} else {
		g.of[policy] = named
	}
	slices.Sort(changed)
	return changed
}

func (g *groups) add(key string, group netpolicy.Peers) {
	if group.In == "" {
		g.wide[key] = group
		return
	}
	if g.narrow[group.In] == nil {
		g.narrow[group.In] = map[string]netpolicy.Peers{}
	}
	g.narrow[group.In][key] = group
	g.home[key] = group.In
}

func (g *groups) remove(key string) {
	delete(g.uses, key)
	delete(g.wide, key)
	if namespace, ok := g.home[key]; ok {
		delete(g.home, key)
		if delete(g.narrow[namespace], key); len(g.narrow[namespace]) == 0 {
			delete(g.narrow, namespace)
		}
	}
}

// get finds a group that is used.
func (g *groups) get(key string) (netpolicy.Peers, bool) {
	if group, ok := g.wide[key]; ok {
		return group, true
	}
	group, ok := g.narrow[g.home[key]][key]
	return group, ok
}

// matching lists the keys of the groups that a pod with these labels, in a namespace with those, belongs to.
func (g *groups) matching(namespace string, ofNamespace, ofPod map[string]string) []string {
	var keys []string
	for _, candidates := range []map[string]netpolicy.Peers{g.narrow[namespace], g.wide} {
		for key, group := range candidates {
			if group.Match(namespace, ofNamespace, ofPod) {
				keys = append(keys, key)
			}
		}
	}
	slices.Sort(keys)
	return keys
}
