package model

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// The requests that scoring assumes of a container that states none, so that many such pods spread out.
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

// Resources is an amount of everything a node can run out of. Memory and storage are in bytes.
type Resources struct {
	MilliCPU         int64
	Memory           int64
	EphemeralStorage int64
	Pods             int64
	// Scalar holds extended and huge page resources; nil where there are none.
	Scalar map[corev1.ResourceName]int64
}

// Add adds sign times other; sign is 1 or -1.
func (r *Resources) Add(other Resources, sign int64) {
	r.MilliCPU += sign * other.MilliCPU
	r.Memory += sign * other.Memory
	r.EphemeralStorage += sign * other.EphemeralStorage
	r.Pods += sign * other.Pods
	for name, amount := range other.Scalar {
		if r.Scalar == nil {
			r.Scalar = map[corev1.ResourceName]int64{}
		}
		r.Scalar[name] += sign * amount
	}
}

// Get is the amount of one resource: CPU in thousandths, others in their unit.
func (r *Resources) Get(name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return r.MilliCPU
	case corev1.ResourceMemory:
		return r.Memory
	case corev1.ResourceEphemeralStorage:
		return r.EphemeralStorage
	case corev1.ResourcePods:
		return r.Pods
	}
	return r.Scalar[name]
}

func (r *Resources) write(b *strings.Builder) {
	for _, n := range [...]int64{r.MilliCPU, r.Memory, r.EphemeralStorage} {
		b.WriteString(strconv.FormatInt(n, 10))
		b.WriteByte(',')
	}
	if len(r.Scalar) > 0 {
		names := make([]string, 0, len(r.Scalar))
		for name := range r.Scalar {
			names = append(names, string(name))
		}
		slices.Sort(names)
		for _, name := range names {
			fmt.Fprintf(b, "%s=%d,", name, r.Scalar[corev1.ResourceName(name)])
		}
	}
	b.WriteByte('|')
}

// ResourcesOf converts a list; with limits such as a node's allocatable, Pods is the pods it may run.
func ResourcesOf(list corev1.ResourceList) Resources {
	var r Resources
	for name, quantity := range list {
		switch name {
		case corev1.ResourceCPU:
			r.MilliCPU = quantity.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = quantity.Value()
		case corev1.ResourceEphemeralStorage:
			r.EphemeralStorage = quantity.Value()
		case corev1.ResourcePods:
			r.Pods = quantity.Value()
		default:
			if r.Scalar == nil {
				r.Scalar = map[corev1.ResourceName]int64{}
			}
			r.Scalar[name] = quantity.Value()
		}
	}
	return r
}

// requestsOf gives what a pod asks for, and the same with the assumed minimum for containers that state nothing. A pod that is
// being resized counts with the larger of what it has and what it wants.
func requestsOf(pod *corev1.Pod) (requests, assumed Resources) {
	requests = ResourcesOf(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}))
	requests.Pods = 1
	if statesAll(pod) {
		return requests, requests
	}
	nonMissing := corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(defaultMilliCPU, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(defaultMemory, resource.BinarySI),
	}
	assumed = ResourcesOf(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{
		UseStatusResources: true,
		InPlacePodLevelResourcesVerticalScalingEnabled: true,
		NonMissingContainerRequests:                    nonMissing,
	}))
	assumed.Pods = 1
	return requests, assumed
}

// statesAll tells whether every container states CPU and memory, so that nothing is assumed.
func statesAll(pod *corev1.Pod) bool {
	for _, list := range [...][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			requests := list[i].Resources.Requests
			if _, ok := requests[corev1.ResourceCPU]; !ok {
				return false
			}
			if _, ok := requests[corev1.ResourceMemory]; !ok {
				return false
			}
		}
	}
	return true
}

func writeMap(b *strings.Builder, m map[string]string) {
	b.WriteByte('|')
	if len(m) == 0 {
		return
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		b.WriteString(strconv.Quote(k))
		b.WriteString(strconv.Quote(m[k]))
	}
}
