package proxy

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/proxy/ruleset"
)

// trimmer is an informers' transform: it leaves of Services, EndpointSlices and the Node what the rules and the names are made of, and of others all but managedFields. What it is
// given it does not change.
type trimmer struct {
	mu sync.Mutex
	// nodes holds each node's name once: every endpoint has one.
	nodes map[string]*string
}

// yes and no stand for all conditions.
var yes, no = true, false

func (t *trimmer) trim(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Service:
		return trimService(o), nil
	case *discoveryv1.EndpointSlice:
		return t.trimSlice(o), nil
	case *corev1.Node:
		return trimNode(o), nil
	}
	return client.DropManagedFields(obj)
}

func trimMeta(m *metav1.ObjectMeta, labels, annotations []string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, CreationTimestamp: m.CreationTimestamp,
		DeletionTimestamp: m.DeletionTimestamp, Labels: only(m.Labels, labels), Annotations: only(m.Annotations, annotations),
	}
}

// only gives the named ones of a map.
func only(all map[string]string, names []string) map[string]string {
	var kept map[string]string
	for _, name := range names {
		if v, ok := all[name]; ok {
			if kept == nil {
				kept = make(map[string]string, 1)
			}
			kept[name] = v
		}
	}
	return kept
}

func trimService(s *corev1.Service) *corev1.Service {
	kept := &corev1.Service{ObjectMeta: trimMeta(&s.ObjectMeta, []string{ruleset.LabelProxyName, corev1.IsHeadlessService}, nil), Spec: s.Spec}
	kept.Spec.Selector = nil
	kept.Status = s.Status // its conditions tell package announce which addresses are of pools
	return kept
}

func (t *trimmer) trimSlice(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := &discoveryv1.EndpointSlice{
		ObjectMeta: trimMeta(&s.ObjectMeta, []string{discoveryv1.LabelServiceName, ruleset.LabelProxyName, corev1.IsHeadlessService},
			[]string{corev1.EndpointsLastChangeTriggerTime}),
		AddressType: s.AddressType, Ports: s.Ports, Endpoints: make([]discoveryv1.Endpoint, len(s.Endpoints)),
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		kept.Endpoints[i] = discoveryv1.Endpoint{
			Addresses: e.Addresses, Hostname: e.Hostname, Hints: e.Hints, NodeName: t.node(e.NodeName),
			Conditions: discoveryv1.EndpointConditions{Ready: condition(e.Conditions.Ready), Serving: condition(e.Conditions.Serving), Terminating: condition(e.Conditions.Terminating)},
		}
	}
	return kept
}

func condition(c *bool) *bool {
	switch {
	case c == nil:
		return nil
	case *c:
		return &yes
	}
	return &no
}

func (t *trimmer) node(name *string) *string {
	if name == nil {
		return nil
	}
	if t.nodes == nil {
		t.nodes = map[string]*string{}
	}
	if one := t.nodes[*name]; one != nil {
		return one
	}
	t.nodes[*name] = name
	return name
}

func trimNode(n *corev1.Node) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: trimMeta(&n.ObjectMeta, []string{corev1.LabelTopologyZone}, nil),
		Spec:       corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs, Taints: n.Spec.Taints},
	}
}
