package endpointslice

import (
	"maps"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/backends"
	"github.com/coracle-dev/coracle/controllers/owner"
	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/controllers/slicing"
)

// ManagedBy marks the slices that this controller alone writes.
const ManagedBy = "endpointslice-controller.k8s.io"

var serviceKind = corev1.SchemeGroupVersion.WithKind("Service")

// snapshot is what one decision rests on.
type snapshot struct {
	service *corev1.Service
	// pods are those that the service selects.
	pods []*corev1.Pod
	// slices are the service's that this controller manages.
	slices []*discoveryv1.EndpointSlice
	// node finds a node by name; nil when there is none.
	node func(name string) *corev1.Node
	// trigger is when the change happened that the slices are brought up to; zero when unknown.
	trigger time.Time
}

// decide says which slices to write. It is pure.
func decide(s snapshot) slicing.Plan {
	want := slicing.Desired{
		Namespace: s.service.Namespace, Name: s.service.Name, Labels: labelsFor(s.service), Owner: *owner.Reference(s.service, serviceKind),
		Families: families(s.service), Placeholder: true, Trigger: s.trigger,
	}
	for _, pod := range s.pods {
		ports := portsOf(s.service, pod)
		for _, family := range want.Families {
			if e, ok := endpoint(s, pod, family); ok {
				want.Endpoints = append(want.Endpoints, slicing.Endpoint{Family: family, Ports: ports, Endpoint: e})
			}
		}
	}
	return slicing.Decide(want, s.slices)
}

// families are the address types for which the service has slices, one each.
func families(service *corev1.Service) []discoveryv1.AddressType {
	var list []discoveryv1.AddressType
	for _, f := range service.Spec.IPFamilies {
		list = append(list, discoveryv1.AddressType(f)) // the two share their values
	}
	if len(list) == 0 {
		if ip, err := netip.ParseAddr(service.Spec.ClusterIP); err == nil && ip.Is6() {
			return []discoveryv1.AddressType{discoveryv1.AddressTypeIPv6}
		}
		return []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4}
	}
	return list
}

// address is the pod's first address of a family.
func address(pod *corev1.Pod, family discoveryv1.AddressType) string {
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil && a.Is6() == (family == discoveryv1.AddressTypeIPv6) {
			return ip.IP
		}
	}
	return ""
}

// endpoint is what a slice says of a pod; not ok when it says nothing.
func endpoint(s snapshot, pod *corev1.Pod, family discoveryv1.AddressType) (discoveryv1.Endpoint, bool) {
	ip := address(pod, family)
	if ip == "" || !backends.Eligible(pod) {
		return discoveryv1.Endpoint{}, false
	}
	serving, terminating := pods.Ready(pod), pod.DeletionTimestamp != nil
	ready := s.service.Spec.PublishNotReadyAddresses || serving && !terminating
	e := discoveryv1.Endpoint{
		Addresses:  []string{ip},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if name := pod.Spec.NodeName; name != "" {
		e.NodeName = &name
		node := s.node(name)
		if node == nil && !s.service.Spec.PublishNotReadyAddresses {
			return discoveryv1.Endpoint{}, false // its node is gone, and it will follow
		}
		if node != nil && node.Labels[corev1.LabelTopologyZone] != "" {
			e.Zone = ptr.To(node.Labels[corev1.LabelTopologyZone])
		}
	}
	if hostname := backends.Hostname(s.service, pod); hostname != "" {
		e.Hostname = &hostname
	}
	e.Hints = hints(s.service, &e)
	return e, true
}

// hints say which clients a ready endpoint is meant for, as the service's trafficDistribution asks.
func hints(service *corev1.Service, e *discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	distribution := ptr.Deref(service.Spec.TrafficDistribution, "")
	if distribution == "" || !*e.Conditions.Ready {
		return nil
	}
	var h discoveryv1.EndpointHints
	if e.Zone != nil {
		h.ForZones = []discoveryv1.ForZone{{Name: *e.Zone}}
	}
	if distribution == corev1.ServiceTrafficDistributionPreferSameNode && e.NodeName != nil {
		h.ForNodes = []discoveryv1.ForNode{{Name: *e.NodeName}}
	}
	if h.ForZones == nil && h.ForNodes == nil {
		return nil
	}
	return &h
}

// portsOf resolves the service's ports against a pod; names the pod does not have are left out.
func portsOf(service *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	ports := make([]discoveryv1.EndpointPort, 0, len(service.Spec.Ports))
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		number, ok := backends.TargetPort(p, pod)
		if !ok {
			continue
		}
		ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &number, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	return ports
}

// reserved are the labels that belong to slices and are not taken over from a service.
var reserved = []string{discoveryv1.LabelServiceName, discoveryv1.LabelManagedBy, corev1.IsHeadlessService}

func labelsFor(service *corev1.Service) map[string]string {
	labels := make(map[string]string, len(service.Labels)+len(reserved))
	maps.Copy(labels, service.Labels)
	for _, key := range reserved {
		delete(labels, key)
	}
	labels[discoveryv1.LabelServiceName] = service.Name
	labels[discoveryv1.LabelManagedBy] = ManagedBy
	if backends.Headless(service) {
		labels[corev1.IsHeadlessService] = ""
	}
	return labels
}
