package agent

import (
	"errors"
	"path"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"

	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/node"
	"github.com/coracle-dev/coracle/agent/podspec"
	"github.com/coracle-dev/coracle/agent/runtime"
)

// qosGroups weighs the cgroups that stand between the root of pods and the pods: those of burstable pods count
// together as much as they asked for, those of best effort pods as little as can be.
type qosGroups struct {
	mu      sync.Mutex
	written map[string]runtime.Resources // by path, without huge pages
}

// qosLimits are what the cgroups above the pods' are to have: the root what the node has for pods, the others their weight.
func qosLimits(root string, all v1.ResourceList, pods []*v1.Pod) map[string]runtime.Resources {
	var burstable int64
	for _, p := range pods {
		if lifecycle.QOSClass(&p.Spec) == v1.PodQOSBurstable {
			req := helpers.PodRequests(p, helpers.PodResourcesOptions{})
			burstable += req.Cpu().MilliValue()
		}
	}
	pids := all[node.ResourcePids]
	return map[string]runtime.Resources{
		root:                          {CPUShares: podspec.Shares(all.Cpu().MilliValue()), MemoryLimit: all.Memory().Value(), PidsLimit: pids.Value()},
		path.Join(root, "burstable"):  {CPUShares: podspec.Shares(burstable)},
		path.Join(root, "besteffort"): {CPUShares: podspec.Shares(0)},
	}
}

// set writes what has changed since it was last written.
func (q *qosGroups) set(limits map[string]runtime.Resources, write func(string, runtime.Resources) error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	var errs []error
	for path, res := range limits {
		was := q.written[path]
		if sameLimits(was, res) && was.PidsLimit == res.PidsLimit {
			continue
		}
		if err := write(path, res); err != nil {
			errs = append(errs, err)
			continue
		}
		q.written[path] = res
	}
	return errors.Join(errs...)
}

// weighQOS brings the cgroups above the pods' up to date with the pods taken.
func (a *Agent) weighQOS() {
	limits := qosLimits(path.Join("/", a.cfg.CgroupRoot), a.forPods, a.taken())
	if err := a.qos.set(limits, a.cfg.Sandboxes.SetCgroup); err != nil {
		a.cfg.Log.Warn("cgroups above the pods' not set", "error", err)
	}
}

// reserved is what the node does not offer to pods: for the system, and what the evictions keep free.
func (a *Agent) reserved() v1.ResourceList {
	memory, storage := a.cfg.Eviction.Reserved(a.facts.Memory, a.facts.Storage)
	out := v1.ResourceList{v1.ResourceMemory: *resource.NewQuantity(memory, resource.BinarySI),
		v1.ResourceEphemeralStorage: *resource.NewQuantity(storage, resource.BinarySI)}
	for name, q := range a.cfg.Reserved {
		sum := out[name]
		sum.Add(q)
		out[name] = sum
	}
	return out
}
