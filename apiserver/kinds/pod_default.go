package kinds

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
)

// defaultPod fills in a pod: what templates get too, and what is derived from the rest of the spec.
func defaultPod(pod *corev1.Pod) {
	s := &pod.Spec
	requestLimits(s.Containers)
	requestLimits(s.InitContainers)
	defaultPodResources(pod)
	setDefaultPtr(&s.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	if s.HostNetwork {
		defaultHostPorts(s.Containers)
		defaultHostPorts(s.InitContainers)
	}
	defaultPodSpec(s)
	syncPodIPs(&pod.Status)
}

// syncPodIPs keeps podIP the first of podIPs. A writer may know only the former, so where they differ it counts.
func syncPodIPs(s *corev1.PodStatus) {
	switch {
	case s.PodIP == "" && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	case s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP):
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	}
}

// requestLimits makes a container request what it is limited to, for each resource that it requests nothing of.
func requestLimits(containers []corev1.Container) {
	for i := range containers {
		r := &containers[i].Resources
		if r.Limits == nil {
			continue
		}
		if r.Requests == nil {
			r.Requests = make(corev1.ResourceList, len(r.Limits))
		}
		for name, limit := range r.Limits {
			if _, set := r.Requests[name]; !set {
				r.Requests[name] = limit.DeepCopy()
			}
		}
	}
}

// defaultHostPorts: on the host's network a container's port is the host's.
func defaultHostPorts(containers []corev1.Container) {
	for i := range containers {
		for j := range containers[i].Ports {
			p := &containers[i].Ports[j]
			setDefault(&p.HostPort, p.ContainerPort)
		}
	}
}

// defaultPodResources completes the resources of the pod as a whole where the manifest gives them in part.
func defaultPodResources(pod *corev1.Pod) {
	r := pod.Spec.Resources
	if r == nil || len(r.Limits)+len(r.Requests) == 0 {
		return
	}
	defaultPodHugePages(pod)
	defaultPodRequests(pod)
}

// defaultPodHugePages limits the pod to the huge pages that its containers are limited to.
func defaultPodHugePages(pod *corev1.Pod) {
	r := pod.Spec.Resources
	for name, sum := range resource.AggregateContainerLimits(pod, resource.PodResourcesOptions{}) {
		_, requested := r.Requests[name]
		_, limited := r.Limits[name]
		if requested || limited || !isHugePages(name) || !resource.IsSupportedPodLevelResource(name) {
			continue
		}
		setResource(&r.Limits, name, sum)
	}
}

// defaultPodRequests makes a limited pod request what its containers do together or, where they request nothing of a
// resource, what the pod is limited to.
func defaultPodRequests(pod *corev1.Pod) {
	r := pod.Spec.Resources
	if len(r.Limits) == 0 {
		return
	}
	for name, sum := range resource.AggregateContainerRequests(pod, resource.PodResourcesOptions{}) {
		if _, set := r.Requests[name]; !set && resource.IsSupportedPodLevelResource(name) && overcommittable(name) {
			setResource(&r.Requests, name, sum)
		}
	}
	for name, limit := range r.Limits {
		if _, set := r.Requests[name]; !set && resource.IsSupportedPodLevelResource(name) {
			setResource(&r.Requests, name, limit)
		}
	}
}
