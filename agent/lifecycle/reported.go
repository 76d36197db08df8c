package lifecycle

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// What was once reported of an instance's end stands: the API server refuses to have it taken back, and somebody may
// have acted upon it. The runtime, which can lose its record when the power is cut, does not overrule it.

// asReported has the instances whose end was reported as they were then, also those that the runtime no longer knows.
func asReported(containers []Container, last *v1.PodStatus) []Container {
	for _, list := range [][]v1.ContainerStatus{last.InitContainerStatuses, last.ContainerStatuses, last.EphemeralContainerStatuses} {
		for i := range list {
			t := list[i].State.Terminated
			if t == nil || t.ContainerID == "" {
				continue
			}
			at := slices.IndexFunc(containers, func(c Container) bool { return containerID(c.ID) == t.ContainerID })
			switch {
			case at >= 0:
				containers[at].endAs(t)
			case !slices.ContainsFunc(containers, func(c Container) bool { return c.Name == list[i].Name && c.Attempt >= int(list[i].RestartCount) }):
				c := Container{ID: instanceID(t.ContainerID), Name: list[i].Name, Attempt: int(list[i].RestartCount), CreatedAt: t.StartedAt.Time,
					Image: list[i].Image, ImageID: list[i].ImageID, Grace: -1}
				c.endAs(t)
				containers = append(containers, c)
			}
		}
	}
	return containers
}

// endAs makes the instance one that ended as reported, unless that is known better: it runs, or the same is known in more detail.
func (c *Container) endAs(t *v1.ContainerStateTerminated) {
	if c.State == Running || c.State == Exited && c.ExitCode == t.ExitCode {
		return
	}
	c.State, c.ExitCode, c.Reason, c.Message = Exited, t.ExitCode, t.Reason, t.Message
	c.StartedAt, c.FinishedAt = t.StartedAt.Time, t.FinishedAt.Time
}

// keepEnd lets a container that was said to have ended for good be so, even where it runs once more: init containers
// do in a new sandbox.
func (d *decision) keepEnd(c *v1.Container, prev, st *v1.ContainerStatus) {
	if prev == nil || prev.State.Terminated == nil || st.State.Terminated != nil || d.mayStartAnew(c, prev.State.Terminated.ExitCode) {
		return
	}
	*st = *prev.DeepCopy()
}

// mayStartAnew is the API server's rule for leaving the state terminated.
func (d *decision) mayStartAnew(c *v1.Container, exit int32) bool {
	policy := d.Pod.Spec.RestartPolicy
	switch {
	case d.isEphemeral(c.Name):
		return false
	case d.restartsAll():
		return true
	case c.RestartPolicy != nil:
		if matchingRule(c, exit) != nil {
			return true
		}
		policy = v1.RestartPolicy(*c.RestartPolicy)
	}
	return policy == v1.RestartPolicyAlways || policy == v1.RestartPolicyOnFailure && exit != 0
}
