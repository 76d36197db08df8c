package endpoints

//lint:file-ignore SA1019 Endpoints are deprecated, and served for as long as the API has them.

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/controllers/backends"
	"github.com/coracle-dev/coracle/controllers/pods"
)

// capacity is how many addresses an Endpoints object holds at most.
const capacity = 1000

const (
	labelManagedBy = "endpoints.kubernetes.io/managed-by"
	managedBy      = "endpoint-controller"
)

// snapshot is what one decision rests on.
type snapshot struct {
	service *corev1.Service
	// pods are those that the service selects.
	pods []*corev1.Pod
	// have is the object as it is; nil when there is none.
	have *corev1.Endpoints
	// trigger is when the change happened that the object is brought up to; zero when unknown.
	trigger time.Time
}

// decide gives the object to write; nil when it is as it should be. It is pure.
func decide(s snapshot) *corev1.Endpoints {
	want := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: s.service.Name, Namespace: s.service.Namespace, Annotations: map[string]string{}}}
	if s.have != nil {
		want.ObjectMeta = *s.have.ObjectMeta.DeepCopy()
		if want.Annotations == nil {
			want.Annotations = map[string]string{}
		}
	}
	want.Labels = labelsFor(s.service)
	all := subsets(s.service, s.pods)
	if truncate(all) {
		all = slices.DeleteFunc(all, func(s corev1.EndpointSubset) bool { return len(s.Addresses)+len(s.NotReadyAddresses) == 0 })
		want.Annotations[corev1.EndpointsOverCapacity] = "truncated"
	} else {
		delete(want.Annotations, corev1.EndpointsOverCapacity)
	}
	want.Subsets = all
	if s.have != nil && same(s.have, want) {
		return nil
	}
	if s.trigger.IsZero() {
		delete(want.Annotations, corev1.EndpointsLastChangeTriggerTime)
	} else {
		want.Annotations[corev1.EndpointsLastChangeTriggerTime] = s.trigger.UTC().Format(time.RFC3339Nano)
	}
	return want
}

func same(have, want *corev1.Endpoints) bool {
	return apiequality.Semantic.DeepEqual(have.Subsets, want.Subsets) && maps.Equal(have.Labels, want.Labels) &&
		have.Annotations[corev1.EndpointsOverCapacity] == want.Annotations[corev1.EndpointsOverCapacity]
}

func labelsFor(service *corev1.Service) map[string]string {
	labels := make(map[string]string, len(service.Labels)+2)
	maps.Copy(labels, service.Labels)
	delete(labels, corev1.IsHeadlessService)
	if backends.Headless(service) {
		labels[corev1.IsHeadlessService] = ""
	}
	labels[labelManagedBy] = managedBy
	return labels
}

// subsets groups the pods by the ports they have for the service. Groups, addresses and ports are sorted, so that equal
// sets give equal objects.
func subsets(service *corev1.Service, list []*corev1.Pod) []corev1.EndpointSubset {
	groups := map[string]*corev1.EndpointSubset{}
	for _, pod := range list {
		address, ok := addressOf(service, pod)
		if !ok {
			continue
		}
		ports := portsOf(service, pod)
		if len(ports) == 0 && !(backends.Headless(service) && len(service.Spec.Ports) == 0) {
			continue
		}
		key := portsKey(ports)
		if groups[key] == nil {
			groups[key] = &corev1.EndpointSubset{Ports: ports}
		}
		if g := groups[key]; service.Spec.PublishNotReadyAddresses || pods.Ready(pod) {
			g.Addresses = append(g.Addresses, address)
		} else {
			g.NotReadyAddresses = append(g.NotReadyAddresses, address)
		}
	}
	var sorted []corev1.EndpointSubset
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		g := groups[key]
		slices.SortFunc(g.Addresses, byAddress)
		slices.SortFunc(g.NotReadyAddresses, byAddress)
		sorted = append(sorted, *g)
	}
	return sorted
}

func byAddress(a, b corev1.EndpointAddress) int {
	return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
}

// addressOf is the pod's address in the service's first family. A terminating pod has none, unless the service wants all.
func addressOf(service *corev1.Service, pod *corev1.Pod) (corev1.EndpointAddress, bool) {
	if !backends.Eligible(pod) || pod.DeletionTimestamp != nil && !service.Spec.PublishNotReadyAddresses {
		return corev1.EndpointAddress{}, false
	}
	v6 := strings.Contains(service.Spec.ClusterIP, ":")
	if len(service.Spec.IPFamilies) > 0 {
		v6 = service.Spec.IPFamilies[0] == corev1.IPv6Protocol
	}
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err != nil || a.Is6() != v6 {
			continue
		}
		address := corev1.EndpointAddress{
			IP: ip.IP, Hostname: backends.Hostname(service, pod),
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		}
		if pod.Spec.NodeName != "" {
			address.NodeName = &pod.Spec.NodeName
		}
		return address, true
	}
	return corev1.EndpointAddress{}, false
}

func portsOf(service *corev1.Service, pod *corev1.Pod) []corev1.EndpointPort {
	var ports []corev1.EndpointPort
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		if number, ok := backends.TargetPort(p, pod); ok {
			ports = append(ports, corev1.EndpointPort{Name: p.Name, Port: number, Protocol: p.Protocol, AppProtocol: p.AppProtocol})
		}
	}
	slices.SortFunc(ports, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return ports
}

// truncate cuts the addresses down to the capacity, not ready ones first, and tells whether it had to.
func truncate(all []corev1.EndpointSubset) bool {
	count := 0
	for _, s := range all {
		count += len(s.Addresses) + len(s.NotReadyAddresses)
	}
	if count <= capacity {
		return false
	}
	room := capacity
	for i := range all {
		all[i].Addresses = all[i].Addresses[:min(room, len(all[i].Addresses))]
		room -= len(all[i].Addresses)
	}
	for i := range all {
		all[i].NotReadyAddresses = all[i].NotReadyAddresses[:min(room, len(all[i].NotReadyAddresses))]
		room -= len(all[i].NotReadyAddresses)
	}
	return true
}

func portsKey(ports []corev1.EndpointPort) string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, "%s|%d|%s|", p.Name, p.Port, p.Protocol)
		if p.AppProtocol != nil {
			b.WriteString(*p.AppProtocol)
		}
		b.WriteByte(',')
	}
	return b.String()
}
