package podspec

import (
	"fmt"
	"path"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"

	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/runtime"
)

const (
	quotaPeriod = 100_000 // microseconds
	minQuota    = 1_000
	minShares   = 2
	maxShares   = 262_144
	// SystemCriticalPriority is where pods begin that the cluster cannot do without.
	SystemCriticalPriority = 2_000_000_000
	systemNodeCritical     = "system-node-critical"
)

// Machine is what of the node decides about cgroups.
type Machine struct {
	// Memory in bytes.
	Memory int64
	// PageSizes are the sizes in bytes of the huge pages that the machine has, and whose use it can limit.
	PageSizes []int64
	// PodPids is how many processes a pod may have; zero is any number.
	PodPids int64
}

// Shares converts CPU in thousandths into cgroup v1 shares.
func Shares(milli int64) uint64 {
	if milli == 0 {
		return minShares
	}
	return uint64(min(max(milli*1024/1000, minShares), maxShares))
}

// Quota converts CPU in thousandths into microseconds a period; zero is unlimited.
func Quota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*quotaPeriod/1000, minQuota)
}

// Resources are the cgroup settings of one container. What it is not limited in by itself it is by the pod's own limit.
func Resources(pod *v1.Pod, c *v1.Container, m Machine) runtime.Resources {
	limits := Limits(pod, c)
	shares, ok := c.Resources.Requests[v1.ResourceCPU]
	if !ok {
		shares = c.Resources.Limits[v1.ResourceCPU]
	}
	r := runtime.Resources{CPUShares: Shares(shares.MilliValue()), CPUQuota: Quota(limits.Cpu().MilliValue()), MemoryLimit: limits.Memory().Value(),
		HugePages: hugePages(limits, m), OOMScoreAdj: OOMScore(pod, c, m.Memory)}
	if r.CPUQuota != 0 {
		r.CPUPeriod = quotaPeriod
	}
	return r
}

// Limits are the container's own limits, with those of the pod as a whole where it has none.
func Limits(pod *v1.Pod, c *v1.Container) v1.ResourceList {
	own, whole := c.Resources.Limits, pod.Spec.Resources
	if whole == nil || len(whole.Limits) == 0 {
		return own
	}
	out := whole.Limits.DeepCopy()
	for name, q := range own {
		out[name] = q
	}
	return out
}

// hugePages limits each size of huge pages, to none of those that are not asked for.
func hugePages(limits v1.ResourceList, m Machine) map[string]int64 {
	if len(m.PageSizes) == 0 {
		return nil
	}
	out := map[string]int64{}
	for _, size := range m.PageSizes {
		q := limits[HugePageResource(size)]
		out[kernelSize(size)] = q.Value()
	}
	return out
}

// HugePageResource is the name of huge pages of a size in bytes, as hugepages-2Mi.
func HugePageResource(size int64) v1.ResourceName {
	return v1.ResourceName(v1.ResourceHugePagesPrefix + resource.NewQuantity(size, resource.BinarySI).String())
}

// kernelSize is a page size as the hugetlb controller's files are named, as 2MB.
func kernelSize(size int64) string {
	switch {
	case size >= 1<<30:
		return fmt.Sprintf("%dGB", size>>30)
	case size >= 1<<20:
		return fmt.Sprintf("%dMB", size>>20)
	}
	return fmt.Sprintf("%dKB", size>>10)
}

// OOMScore follows the kubelet: guaranteed pods go last, best effort ones first, those between by what they asked for; a sidecar not
// before any of the containers it serves.
func OOMScore(pod *v1.Pod, c *v1.Container, capacity int64) int {
	if p := pod.Spec.Priority; p != nil && *p >= SystemCriticalPriority && pod.Spec.PriorityClassName == systemNodeCritical {
		return -997
	}
	switch lifecycle.QOSClass(&pod.Spec) {
	case v1.PodQOSGuaranteed:
		return -997
	case v1.PodQOSBestEffort:
		return 1000
	}
	if capacity <= 0 {
		return 999
	}
	score := 1000 - 1000*memoryShare(pod, c)/capacity
	if lifecycle.IsSidecar(c) {
		for i := range pod.Spec.Containers {
			score = min(score, 1000-1000*memoryShare(pod, &pod.Spec.Containers[i])/capacity)
		}
	}
	return int(min(max(score, 3), 999))
}

// memoryShare is the memory that the container requests, with its part of what the pod as a whole requests beyond its containers.
func memoryShare(pod *v1.Pod, c *v1.Container) int64 {
	own := c.Resources.Requests.Memory().Value()
	if !helpers.IsPodLevelRequestsSet(pod) {
		return own
	}
	whole := pod.Spec.Resources.Requests.Memory().Value()
	sum := helpers.AggregateContainerRequests(pod, helpers.PodResourcesOptions{})
	containers := int64(len(pod.Spec.Containers))
	for i := range pod.Spec.InitContainers {
		if lifecycle.IsSidecar(&pod.Spec.InitContainers[i]) {
			containers++
		}
	}
	return own + max(whole-sum.Memory().Value(), 0)/max(containers, 1)
}

// Cgroup is a pod's own: its path within a hierarchy, as /kubepods/burstable/podUID, and what its containers share.
type Cgroup struct {
	Path      string
	Resources runtime.Resources
}

// PodCgroup places a pod by its quality of service. It is limited where all of its containers are, or where it is as a whole.
func PodCgroup(root string, pod *v1.Pod, m Machine) Cgroup {
	qos := lifecycle.QOSClass(&pod.Spec)
	g := Cgroup{Path: path.Join("/", root)}
	switch qos {
	case v1.PodQOSBurstable:
		g.Path = path.Join(g.Path, "burstable")
	case v1.PodQOSBestEffort:
		g.Path = path.Join(g.Path, "besteffort")
	}
	g.Path = path.Join(g.Path, "pod"+string(pod.UID))
	req := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	lim := helpers.PodLimits(pod, helpers.PodResourcesOptions{})
	r := &g.Resources
	r.CPUShares, r.PidsLimit, r.HugePages = Shares(req.Cpu().MilliValue()), m.PodPids, hugePages(lim, m)
	if qos == v1.PodQOSBestEffort {
		r.CPUShares = minShares
		return g
	}
	if limited(pod, v1.ResourceCPU) {
		r.CPUQuota, r.CPUPeriod = Quota(lim.Cpu().MilliValue()), quotaPeriod
	}
	if limited(pod, v1.ResourceMemory) {
		r.MemoryLimit = lim.Memory().Value()
	}
	return g
}

// limited: the pod as a whole, or else every container of it, has a limit of the resource.
func limited(pod *v1.Pod, name v1.ResourceName) bool {
	if r := pod.Spec.Resources; r != nil {
		if q := r.Limits[name]; !q.IsZero() {
			return true
		}
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if q := list[i].Resources.Limits[name]; q.IsZero() {
				return false
			}
		}
	}
	return true
}
