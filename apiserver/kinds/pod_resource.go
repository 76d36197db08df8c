package kinds

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// isHugePages reports whether the resource is memory in huge pages of some size.
func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// isNativeResource reports whether the name belongs to Kubernetes: without a domain, or of its own.
func isNativeResource(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// overcommittable reports whether limits of the resource may add up to more than there is.
func overcommittable(name corev1.ResourceName) bool {
	return isNativeResource(name) && !isHugePages(name)
}

// setResource sets one resource of a list that may be nil.
func setResource(list *corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	if *list == nil {
		*list = corev1.ResourceList{}
	}
	(*list)[name] = q.DeepCopy()
}

// QOSClass is the quality of service that a pod's resources ask for. Guaranteed: every container (or the pod as a whole) is limited in
// CPU and memory and requests just that. BestEffort: nothing is requested or limited. Burstable: all between.
func QOSClass(s *corev1.PodSpec) corev1.PodQOSClass {
	if s.Resources != nil && len(s.Resources.Requests)+len(s.Resources.Limits) > 0 {
		return qosOf([]*corev1.ResourceRequirements{s.Resources})
	}
	all := make([]*corev1.ResourceRequirements, 0, len(s.InitContainers)+len(s.Containers))
	for i := range s.Containers {
		all = append(all, &s.Containers[i].Resources)
	}
	for i := range s.InitContainers {
		all = append(all, &s.InitContainers[i].Resources)
	}
	return qosOf(all)
}

func qosOf(parts []*corev1.ResourceRequirements) corev1.PodQOSClass {
	requests, limits := map[corev1.ResourceName]resource.Quantity{}, map[corev1.ResourceName]resource.Quantity{}
	allLimited := true
	for _, r := range parts {
		sumComputeResources(requests, r.Requests)
		if sumComputeResources(limits, r.Limits) < 2 {
			allLimited = false
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return corev1.PodQOSBestEffort
	}
	if !allLimited || len(requests) != len(limits) {
		return corev1.PodQOSBurstable
	}
	for name, request := range requests {
		if limit, set := limits[name]; !set || limit.Cmp(request) != 0 {
			return corev1.PodQOSBurstable
		}
	}
	return corev1.PodQOSGuaranteed
}

// sumComputeResources adds the list's CPU and memory to sums and returns how many of the two it has.
func sumComputeResources(sums map[corev1.ResourceName]resource.Quantity, list corev1.ResourceList) int {
	found := 0
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		q, set := list[name]
		if !set || q.Sign() <= 0 {
			continue
		}
		found++
		sum := sums[name].DeepCopy()
		sum.Add(q)
		sums[name] = sum
	}
	return found
}
