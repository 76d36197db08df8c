// Package backends finds the pods behind a service and reads from them what endpoints need. It is pure but for the
// informers it watches.
package backends

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/coracle-dev/coracle/controllers/pods"
)

// Selects tells whether the service has a selector and it matches the labels.
func Selects(service *corev1.Service, podLabels map[string]string) bool {
	if len(service.Spec.Selector) == 0 {
		return false
	}
	for key, value := range service.Spec.Selector {
		if have, ok := podLabels[key]; !ok || have != value {
			return false
		}
	}
	return true
}

// Eligible tells whether the pod belongs in the service's endpoints, ready or not.
func Eligible(pod *corev1.Pod) bool { return !pods.Terminal(pod) && len(pod.Status.PodIPs) > 0 }

// TargetPort is the pod's port number for a port of a service; not ok when the pod has no port of that name.
func TargetPort(port *corev1.ServicePort, pod *corev1.Pod) (int32, bool) {
	if port.TargetPort.Type == intstr.Int {
		if port.TargetPort.IntVal == 0 {
			return port.Port, true
		}
		return port.TargetPort.IntVal, true
	}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, sidecars(pod)} {
		for i := range containers {
			for _, p := range containers[i].Ports {
				if p.Name == port.TargetPort.StrVal && protocol(p.Protocol) == protocol(port.Protocol) {
					return p.ContainerPort, true
				}
			}
		}
	}
	return 0, false
}

func protocol(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

func sidecars(pod *corev1.Pod) []corev1.Container {
	var list []corev1.Container
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			list = append(list, c)
		}
	}
	return list
}

// Hostname is the name by which a headless service's DNS knows the pod; empty when it has none.
func Hostname(service *corev1.Service, pod *corev1.Pod) string {
	if pod.Spec.Hostname != "" && pod.Spec.Subdomain == service.Name && pod.Namespace == service.Namespace {
		return pod.Spec.Hostname
	}
	return ""
}

// Headless tells whether the service has no cluster address by wish.
func Headless(service *corev1.Service) bool { return service.Spec.ClusterIP == corev1.ClusterIPNone }

// Changed tells whether a pod's change can matter to endpoints.
func Changed(old, cur *corev1.Pod) bool {
	if old == nil || cur == nil {
		return true
	}
	return (old.DeletionTimestamp == nil) != (cur.DeletionTimestamp == nil) ||
		pods.Ready(old) != pods.Ready(cur) ||
		pods.Terminal(old) != pods.Terminal(cur) ||
		old.Spec.NodeName != cur.Spec.NodeName ||
		old.Spec.Hostname != cur.Spec.Hostname || old.Spec.Subdomain != cur.Spec.Subdomain ||
		!slices.Equal(old.Status.PodIPs, cur.Status.PodIPs) ||
		!maps.Equal(old.Labels, cur.Labels)
}

// Affected lists the services whose endpoints a pod's change concerns. Old or cur is nil on creation and deletion.
func Affected(services corelisters.ServiceLister, old, cur *corev1.Pod) []*corev1.Service {
	if !Changed(old, cur) {
		return nil
	}
	namespace := ""
	for _, pod := range []*corev1.Pod{old, cur} {
		if pod != nil {
			namespace = pod.Namespace
		}
	}
	all, err := services.Services(namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	var hit []*corev1.Service
	for _, s := range all {
		if old != nil && Selects(s, old.Labels) || cur != nil && Selects(s, cur.Labels) {
			hit = append(hit, s)
		}
	}
	return hit
}
