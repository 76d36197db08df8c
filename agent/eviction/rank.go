package eviction

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
)

// Disk is what files take.
type Disk struct{ Bytes, Inodes int64 }

func (d Disk) plus(e Disk) Disk { return Disk{d.Bytes + e.Bytes, d.Inodes + e.Inodes} }

// ContainerUsage is what one container uses; what it has written is measured only where it is asked for.
type ContainerUsage struct {
	Memory       int64 // working set, in bytes
	Rootfs, Logs Disk
}

// PodUsage is what a pod uses.
type PodUsage struct {
	Containers map[string]ContainerUsage // by name
	Volumes    map[string]Disk           // of the emptyDir volumes on disk, by name
	Processes  int64
}

func (u PodUsage) memory() (sum int64) {
	for _, c := range u.Containers {
		sum += c.Memory
	}
	return sum
}

// places say which file systems count: that of the node (logs and volumes), that of images (what containers write), or both.
type places struct{ node, image bool }

func (u PodUsage) disk(on places) (sum Disk) {
	for _, c := range u.Containers {
		if on.node {
			sum = sum.plus(c.Logs)
		}
		if on.image {
			sum = sum.plus(c.Rootfs)
		}
	}
	if on.node {
		for _, v := range u.Volumes {
			sum = sum.plus(v)
		}
	}
	return sum
}

// candidate is a pod that may be evicted.
type candidate struct {
	pod   *v1.Pod
	usage PodUsage
	known bool // the usage could be measured
}

// rank sorts the pods, those to be evicted first at the front.
func rank(list []candidate, signal Signal, on places) {
	slices.SortStableFunc(list, func(a, b candidate) int {
		if a.known != b.known {
			return boolean(!a.known, !b.known)
		}
		overA, overB := a.excess(signal, on), b.excess(signal, on)
		if signal == PIDAvailable {
			return cmp.Or(cmp.Compare(priority(a.pod), priority(b.pod)), cmp.Compare(overB, overA))
		}
		return cmp.Or(boolean(overA > 0, overB > 0), cmp.Compare(priority(a.pod), priority(b.pod)), cmp.Compare(overB, overA))
	})
}

// boolean puts true before false.
func boolean(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func priority(p *v1.Pod) int32 {
	if p.Spec.Priority != nil {
		return *p.Spec.Priority
	}
	return 0
}

// excess is by how much the pod uses more than it asked for; of process IDs and inodes it cannot ask for any.
func (c candidate) excess(signal Signal, on places) int64 {
	switch signals[signal].resource {
	case v1.ResourceMemory:
		return c.usage.memory() - request(c.pod, v1.ResourceMemory)
	case v1.ResourceEphemeralStorage:
		return c.usage.disk(on).Bytes - request(c.pod, v1.ResourceEphemeralStorage)
	case resourceInodes:
		return c.usage.disk(on).Inodes
	}
	return c.usage.Processes
}

func request(p *v1.Pod, name v1.ResourceName) int64 {
	q := helpers.PodRequests(p, helpers.PodResourcesOptions{})[name]
	return q.Value()
}

// systemCritical is the priority from which on pods belong to the system.
const systemCritical = 2_000_000_000

// Critical pods are never evicted, and are admitted under pressure: those of the system, and static ones, which nobody would
// make anew.
func Critical(p *v1.Pod) bool {
	source, fromFile := p.Annotations["kubernetes.io/config.source"]
	_, mirror := p.Annotations[v1.MirrorPodAnnotationKey]
	return mirror || fromFile && source != "api" || priority(p) >= systemCritical
}

// words is what the pod's status and event say, and the event's annotations.
func words(t Threshold, o Observations, c candidate) (string, map[string]string) {
	what := signals[t.Signal].resource
	var b strings.Builder
	fmt.Fprintf(&b, "The node was low on resource: %v. ", what)
	if seen, ok := o[t.Signal]; ok {
		format := resource.BinarySI
		if what == resourceInodes || what == resourcePIDs {
			format = resource.DecimalSI
		}
		fmt.Fprintf(&b, "Threshold quantity: %v, available: %v. ",
			resource.NewQuantity(t.Less.Of(seen.Capacity), format), resource.NewQuantity(seen.Available, format))
	}
	var names, usages []string
	for i := range c.pod.Spec.Containers {
		spec := &c.pod.Spec.Containers[i]
		used, ok := c.usage.Containers[spec.Name]
		amount := used.Memory
		if what == v1.ResourceEphemeralStorage {
			amount = used.Rootfs.Bytes + used.Logs.Bytes
		}
		asked := spec.Resources.Requests[what]
		if !ok || what != v1.ResourceMemory && what != v1.ResourceEphemeralStorage || amount <= asked.Value() {
			continue
		}
		usage := resource.NewQuantity(amount, resource.BinarySI).String()
		fmt.Fprintf(&b, "Container %s was using %s, request is %s, has larger consumption of %v. ", spec.Name, usage, asked.String(), what)
		names, usages = append(names, spec.Name), append(usages, usage)
	}
	return b.String(), map[string]string{
		"offending_containers": strings.Join(names, ","), "offending_containers_usage": strings.Join(usages, ","), "starved_resource": string(what),
	}
}
