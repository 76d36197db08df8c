package lifecycle

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// conditions puts the agent's own conditions first, in the kubelet's order, and keeps everyone else's.
func (d *decision) conditions(out *v1.PodStatus) []v1.PodCondition {
	foreign := out.Conditions
	ready := d.containersReady(out)
	own := []v1.PodCondition{
		d.readyToStart(),
		d.initializedCondition(out),
		d.ready(ready, foreign),
		ready,
	}
	if !slices.ContainsFunc(foreign, func(c v1.PodCondition) bool { return c.Type == v1.PodScheduled }) {
		// Bound by whoever made it: there was no scheduler to say so.
		own = append(own, condition(v1.PodScheduled, true, "", ""))
	}
	if c, ok := d.restarting(out.Phase); ok {
		own = append(own, c)
	}
	if r := d.plan.Rejection; r != nil && r.Disruption && out.Phase == v1.PodFailed {
		own = append(own, condition(v1.DisruptionTarget, true, v1.PodReasonTerminationByKubelet, r.Message))
	}
	for i := range own {
		own[i].ObservedGeneration = d.Pod.Generation
		own[i].LastTransitionTime = seconds(d.Now)
		if old := findCondition(d.Last.Conditions, own[i].Type); old != nil && old.Status == own[i].Status {
			own[i].LastTransitionTime = old.LastTransitionTime
		}
	}
	own = append(own, d.resizeConditions()...)
	return append(own, slices.DeleteFunc(slices.Clone(foreign), func(c v1.PodCondition) bool {
		return findCondition(own, c.Type) != nil || isResizeCondition(c.Type)
	})...)
}

func condition(t v1.PodConditionType, ok bool, reason, message string) v1.PodCondition {
	c := v1.PodCondition{Type: t, Status: v1.ConditionFalse, Reason: reason, Message: message}
	if ok {
		c.Status = v1.ConditionTrue
	}
	return c
}

func findCondition(list []v1.PodCondition, t v1.PodConditionType) *v1.PodCondition {
	if i := slices.IndexFunc(list, func(c v1.PodCondition) bool { return c.Type == t }); i >= 0 {
		return &list[i]
	}
	return nil
}

func (d *decision) readyToStart() v1.PodCondition {
	ok := d.Sandbox != nil && d.Sandbox.Networked && d.plan.Stage < Terminated
	return condition(v1.PodReadyToStartContainers, ok, "", "")
}

func (d *decision) initializedCondition(out *v1.PodStatus) v1.PodCondition {
	if out.Phase == v1.PodSucceeded {
		return condition(v1.PodInitialized, true, condCompleted, "")
	}
	var incomplete []string
	if !d.initialized() {
		for i := range d.Pod.Spec.InitContainers {
			c := &d.Pod.Spec.InitContainers[i]
			st := find(out.InitContainerStatuses, c.Name)
			done := st != nil && st.Ready
			if st != nil && IsSidecar(c) {
				done = st.Started != nil && *st.Started
			}
			if !done {
				incomplete = append(incomplete, c.Name)
			}
		}
	}
	if len(incomplete) > 0 {
		return condition(v1.PodInitialized, false, condUninitialized,
			fmt.Sprintf("containers with incomplete status: %s", names(incomplete)))
	}
	return condition(v1.PodInitialized, true, "", "")
}

func names(list []string) string { return "[" + strings.Join(list, " ") + "]" }

func (d *decision) containersReady(out *v1.PodStatus) v1.PodCondition {
	switch out.Phase {
	case v1.PodSucceeded:
		return condition(v1.ContainersReady, false, condCompleted, "")
	case v1.PodFailed:
		return condition(v1.ContainersReady, false, condFailed, "")
	}
	var unready []string
	check := func(list []v1.ContainerStatus, name string) {
		if st := find(list, name); st == nil || !st.Ready {
			unready = append(unready, name)
		}
	}
	for i := range d.Pod.Spec.InitContainers {
		if c := &d.Pod.Spec.InitContainers[i]; IsSidecar(c) {
			check(out.InitContainerStatuses, c.Name)
		}
	}
	for i := range d.Pod.Spec.Containers {
		check(out.ContainerStatuses, d.Pod.Spec.Containers[i].Name)
	}
	if len(unready) > 0 {
		return condition(v1.ContainersReady, false, condUnready,
			fmt.Sprintf("containers with unready status: %s", names(unready)))
	}
	return condition(v1.ContainersReady, true, "", "")
}

// ready is ContainersReady and every readiness gate.
func (d *decision) ready(containers v1.PodCondition, foreign []v1.PodCondition) v1.PodCondition {
	if containers.Status != v1.ConditionTrue {
		return condition(v1.PodReady, false, containers.Reason, containers.Message)
	}
	var open []string
	for _, gate := range d.Pod.Spec.ReadinessGates {
		switch c := findCondition(foreign, gate.ConditionType); {
		case c == nil:
			open = append(open, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case c.Status != v1.ConditionTrue:
			open = append(open, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, c.Status))
		}
	}
	if len(open) > 0 {
		return condition(v1.PodReady, false, condGates, strings.Join(open, ", "))
	}
	return condition(v1.PodReady, true, "", "")
}
