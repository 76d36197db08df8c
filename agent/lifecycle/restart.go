package lifecycle

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// shouldRestart applies a container's rules, its policy and the pod's to an instance that has exited.
func (d *decision) shouldRestart(c *v1.Container, sidecar bool, exit int32) bool {
	switch {
	case sidecar:
		return true
	case d.isEphemeral(c.Name):
		return false
	case c.RestartPolicy != nil:
		return matchingRule(c, exit) != nil || d.byPolicy(c, v1.RestartPolicy(*c.RestartPolicy), exit)
	}
	return d.byPolicy(c, d.Pod.Spec.RestartPolicy, exit)
}

// byPolicy: an init container that has succeeded is done, whatever the policy.
func (d *decision) byPolicy(c *v1.Container, p v1.RestartPolicy, exit int32) bool {
	if exit == 0 && d.isInit(c.Name) {
		return false
	}
	switch p {
	case v1.RestartPolicyNever:
		return false
	case v1.RestartPolicyOnFailure:
		return exit != 0
	}
	return true
}

// matchingRule is the first of a container's rules that is for this exit code, or nil.
func matchingRule(c *v1.Container, exit int32) *v1.ContainerRestartRule {
	i := slices.IndexFunc(c.RestartPolicyRules, func(r v1.ContainerRestartRule) bool {
		if r.ExitCodes == nil {
			return false
		}
		in := slices.Contains(r.ExitCodes.Values, exit)
		return in == (r.ExitCodes.Operator == v1.ContainerRestartRuleOnExitCodesOpIn)
	})
	if i < 0 {
		return nil
	}
	return &c.RestartPolicyRules[i]
}

// restartsAll: the end of some container can restart all of the pod's.
func (d *decision) restartsAll() bool {
	all := func(list []v1.Container) bool {
		return slices.ContainsFunc(list, func(c v1.Container) bool {
			return slices.ContainsFunc(c.RestartPolicyRules, func(r v1.ContainerRestartRule) bool {
				return r.Action == v1.ContainerRestartRuleActionRestartAllContainers
			})
		})
	}
	return all(d.Pod.Spec.InitContainers) || all(d.Pod.Spec.Containers)
}

// asksForAll: the instance ended in a way for which all of the pod's containers are to be started anew.
func (d *decision) asksForAll(n *Container) bool {
	c := d.spec(n.Name)
	if c == nil || n.State != Exited {
		return false
	}
	rule := matchingRule(c, n.ExitCode)
	return rule != nil && rule.Action == v1.ContainerRestartRuleActionRestartAllContainers
}

// anewSince is the newest such end: instances from before it are stopped and replaced, those after it are what replaced
// them. Zero is never.
func (d *decision) anewSince() time.Time {
	var at time.Time
	if !d.restartsAll() {
		return at
	}
	for i := range d.Containers {
		if c := &d.Containers[i]; c.FinishedAt.After(at) && d.asksForAll(c) {
			at = c.FinishedAt
		}
	}
	return at
}

// replaced: the instance belongs to what is started anew as a whole, or was stopped to have other resources.
func (d *decision) replaced(n *Container) bool {
	return d.Resize.Restarting[n.ID] || n.CreatedAt.Before(d.anew) && !d.isEphemeral(n.Name)
}

// awaitsRestart: some container is still to be started anew with all others.
func (d *decision) awaitsRestart() bool {
	return slices.ContainsFunc(slices.Concat(d.Pod.Spec.InitContainers, d.Pod.Spec.Containers), func(c v1.Container) bool {
		n := d.newest(c.Name)
		return n != nil && d.replaced(n)
	})
}

// restarting is the condition that says that all containers are being ended to be started anew, on pods where that may happen.
func (d *decision) restarting(phase v1.PodPhase) (v1.PodCondition, bool) {
	begun := slices.ContainsFunc(d.Containers, func(c Container) bool { return !c.CreatedAt.Before(d.anew) && !d.isEphemeral(c.Name) })
	switch {
	case !d.restartsAll():
		return v1.PodCondition{}, false
	case phase == v1.PodSucceeded:
		return condition(v1.AllContainersRestarting, false, condCompleted, ""), true
	case phase == v1.PodFailed:
		return condition(v1.AllContainersRestarting, false, condFailed, ""), true
	case d.anew.IsZero(), begun:
		return condition(v1.AllContainersRestarting, false, "", ""), true
	}
	return condition(v1.AllContainersRestarting, true, "RestartAllContainersStarted", "container exited with restart policy rule"), true
}

// spec is the named container among those that restart, or nil.
func (d *decision) spec(name string) *v1.Container {
	for _, list := range [][]v1.Container{d.Pod.Spec.Containers, d.Pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
