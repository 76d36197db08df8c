package lifecycle

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/resource"
)

// Resize is how far a change of the pod's resources has come. State.Pod asks for what the node has allocated; what runs may have
// other resources still.
type Resize struct {
	// Pending: the API server's pod asks for resources that the node has not allocated.
	Pending *Pending
	// Generation of the pod whose resources are being put in place.
	Generation int64
	// Pod: the pod's own cgroup does not have its resources yet. Applied are those that it has, where the pod as a whole has any.
	Pod     bool
	Applied *v1.ResourceRequirements
	// Restarting has the IDs of instances that are stopped so that their successors have other resources.
	Restarting map[string]bool
}

// Pending is why resources are not allocated: v1.PodReasonDeferred until there is room, or v1.PodReasonInfeasible.
type Pending struct {
	Reason, Message string
	Generation      int64
}

// SameResources tells whether two requirements are equal in what can change while a container runs: CPU and memory.
func SameResources(a, b *v1.ResourceRequirements) bool {
	return sameAmount(a, b, v1.ResourceCPU) && sameAmount(a, b, v1.ResourceMemory)
}

func sameAmount(a, b *v1.ResourceRequirements, name v1.ResourceName) bool {
	return sameIn(a.Requests, b.Requests, name) && sameIn(a.Limits, b.Limits, name)
}

func sameIn(a, b v1.ResourceList, name v1.ResourceName) bool {
	x, hasX := a[name]
	y, hasY := b[name]
	return hasX == hasY && x.Cmp(y) == 0
}

// ResizeRestarts tells whether the container is to be restarted so that it has c's resources instead of have.
func ResizeRestarts(c *v1.Container, have *v1.ResourceRequirements) bool {
	for _, p := range c.ResizePolicy {
		if p.RestartPolicy != v1.RestartContainer {
			continue
		}
		switch p.ResourceName {
		case v1.ResourceCPU:
			if !sameAmount(&c.Resources, have, v1.ResourceCPU) {
				return true
			}
		case v1.ResourceMemory: // a request of memory is in no cgroup
			if !sameIn(c.Resources.Limits, have.Limits, v1.ResourceMemory) {
				return true
			}
		}
	}
	return false
}

// outgrown: the instance runs with other resources than its container is to have.
func outgrown(c *v1.Container, inst *Container) bool {
	return inst != nil && inst.State == Running && inst.Resources != nil && !SameResources(&c.Resources, inst.Resources)
}

// restartsToResize: the instance runs, and is to be replaced by one with other resources.
func restartsToResize(c *v1.Container, inst *Container) bool {
	return outgrown(c, inst) && ResizeRestarts(c, inst.Resources)
}

// eachOutgrown calls f for every container that runs with other resources than it is to have.
func (d *decision) eachOutgrown(f func(*v1.Container, *Container)) {
	for _, list := range [][]v1.Container{d.Pod.Spec.InitContainers, d.Pod.Spec.Containers} {
		for i := range list {
			if inst := d.current(list[i].Name); outgrown(&list[i], inst) {
				f(&list[i], inst)
			}
		}
	}
}

// resize changes resources in place: those of containers that need no restart for it and, once none has others than it is to have,
// those of the pod.
func (d *decision) resize() {
	if d.Sandbox == nil {
		return
	}
	inPlace, restarts := false, false
	d.eachOutgrown(func(c *v1.Container, inst *Container) {
		if restartsToResize(c, inst) {
			restarts = true
		} else {
			inPlace = true
		}
	})
	if inPlace || d.Resize.Pod && !restarts {
		d.try(Action{Kind: ResizePod})
	}
}

// resizing: something runs with other resources than the node has allocated.
func (d *decision) resizing() bool {
	if d.plan.Stage > Syncing || d.Sandbox == nil {
		return false
	}
	some := d.Resize.Pod
	d.eachOutgrown(func(*v1.Container, *Container) { some = true })
	for id := range d.Resize.Restarting { // one that has no successor yet
		i := slices.IndexFunc(d.Containers, func(c Container) bool { return c.ID == id })
		some = some || i >= 0 && d.newest(d.Containers[i].Name) == &d.Containers[i]
	}
	return some
}

// resizeConditions are there only while they are true.
func (d *decision) resizeConditions() []v1.PodCondition {
	var out []v1.PodCondition
	add := func(t v1.PodConditionType, reason, message string, generation int64) {
		c := condition(t, true, reason, message)
		c.ObservedGeneration, c.LastTransitionTime = generation, seconds(d.Now)
		if old := findCondition(d.Last.Conditions, t); old != nil {
			c.LastTransitionTime = old.LastTransitionTime
		}
		out = append(out, c)
	}
	if p := d.Resize.Pending; p != nil && d.plan.Stage == Syncing {
		add(v1.PodResizePending, p.Reason, p.Message, p.Generation)
	}
	if d.resizing() {
		f, failed := d.Failed[Action{Kind: ResizePod}.Key()]
		if failed {
			add(v1.PodResizeInProgress, v1.PodReasonError, f.Message, d.Resize.Generation)
		} else {
			add(v1.PodResizeInProgress, "", "", d.Resize.Generation)
		}
	}
	return out
}

func isResizeCondition(t v1.PodConditionType) bool {
	return t == v1.PodResizePending || t == v1.PodResizeInProgress
}

// resources are what the container has now, or will have when it starts.
func resources(c *v1.Container, inst *Container) *v1.ResourceRequirements {
	if outgrown(c, inst) {
		return inst.Resources.DeepCopy()
	}
	return c.Resources.DeepCopy()
}

// podResources tells what is allocated to the pod, and what it has as a whole.
func (d *decision) podResources(out *v1.PodStatus) {
	out.AllocatedResources, out.Resources = nil, nil
	if requests := helpers.PodRequests(d.Pod, helpers.PodResourcesOptions{ExcludeOverhead: true}); len(requests) > 0 {
		out.AllocatedResources = requests
	}
	if r := d.Pod.Spec.Resources; r != nil && helpers.IsPodLevelResourcesSet(d.Pod) {
		out.Resources = r.DeepCopy()
		if d.Resize.Pod && d.Resize.Applied != nil {
			out.Resources = d.Resize.Applied.DeepCopy()
		}
	}
}
