package podspec

import (
	"path"

	v1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/resource"

	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/runtime"
)

const (
	quotaPeriod = 100_000 // microseconds
	minQuota    = 1_000
	minShares   = 2
	maxShares   = 262_144
	// SystemCriticalPriority is where pods begin that the node protects from the OOM killer.
	SystemCriticalPriority = 2_000_000_000
)

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

// Resources are the cgroup settings of one container; capacity is the node's memory in bytes.
func Resources(pod *v1.Pod, c *v1.Container, capacity int64) runtime.Resources {
	req, lim := c.Resources.Requests, c.Resources.Limits
	shares := req.Cpu().MilliValue()
	if _, ok := req[v1.ResourceCPU]; !ok {
		shares = lim.Cpu().MilliValue()
	}
	r := runtime.Resources{CPUShares: Shares(shares), CPUQuota: Quota(lim.Cpu().MilliValue()), MemoryLimit: lim.Memory().Value(),
		OOMScoreAdj: OOMScore(pod, c, capacity)}
	if r.CPUQuota != 0 {
		r.CPUPeriod = quotaPeriod
	}
	return r
}

// OOMScore follows the kubelet: guaranteed pods go last, best effort ones first, those between by what they asked for.
func OOMScore(pod *v1.Pod, c *v1.Container, capacity int64) int {
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= SystemCriticalPriority {
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
	score := 1000 - 1000*c.Resources.Requests.Memory().Value()/capacity
	return int(min(max(score, 3), 999))
}

// Cgroup is a pod's own: its path below the cgroup root, and what its containers share.
type Cgroup struct {
	Path   string // absolute within a hierarchy, as /kubepods/burstable/podUID
	Shares uint64
	// Quota in microseconds a period of Period, and Memory in bytes; zero is unlimited.
	Quota, Period, Memory int64
}

// PodCgroup places a pod by its quality of service and limits it where all of its containers are limited.
func PodCgroup(root string, pod *v1.Pod) Cgroup {
	qos := lifecycle.QOSClass(&pod.Spec)
	g := Cgroup{Path: path.Join("/", root), Period: quotaPeriod}
	switch qos {
	case v1.PodQOSBurstable:
		g.Path = path.Join(g.Path, "burstable")
	case v1.PodQOSBestEffort:
		g.Path = path.Join(g.Path, "besteffort")
	}
	g.Path = path.Join(g.Path, "pod"+string(pod.UID))
	req := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	lim := helpers.PodLimits(pod, helpers.PodResourcesOptions{})
	cpuLimited, memoryLimited := allLimited(pod, v1.ResourceCPU), allLimited(pod, v1.ResourceMemory)
	if r := pod.Spec.Resources; r != nil {
		cpuLimited = cpuLimited || !r.Limits.Cpu().IsZero()
		memoryLimited = memoryLimited || !r.Limits.Memory().IsZero()
	}
	g.Shares = Shares(req.Cpu().MilliValue())
	if qos == v1.PodQOSBestEffort {
		g.Shares = minShares
	}
	if cpuLimited {
		g.Quota = Quota(lim.Cpu().MilliValue())
	}
	if memoryLimited {
		g.Memory = lim.Memory().Value()
	}
	return g
}

// allLimited: every container has a limit of the resource.
func allLimited(pod *v1.Pod, name v1.ResourceName) bool {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if q := list[i].Resources.Limits[name]; q.IsZero() {
				return false
			}
		}
	}
	return true
}
