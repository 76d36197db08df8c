package lifecycle

import (
	v1 "k8s.io/api/core/v1"
)

// phase sums the containers up, as the kubelet does. A pod whose phase is final keeps it.
func (d *decision) phase(out *v1.PodStatus) (v1.PodPhase, string, string) {
	if terminalPhase(d.Last.Phase) {
		return d.Last.Phase, d.Last.Reason, d.Last.Message
	}
	over := d.plan.Stage >= Terminated
	if r := d.plan.Rejection; r != nil && over {
		return v1.PodFailed, r.Reason, r.Message
	}
	p := d.summary(out, over)
	if over && !terminalPhase(p) {
		p = v1.PodFailed
	}
	if !over && terminalPhase(p) { // final only when nothing runs any more
		p = d.Last.Phase
		if p == "" {
			p = v1.PodPending
		}
	}
	return p, "", ""
}

func (d *decision) summary(out *v1.PodStatus, over bool) v1.PodPhase {
	if !over && d.Last.Phase == v1.PodRunning && d.awaitsRestart() {
		return v1.PodRunning // also while init containers run once more
	}
	pending, failed := d.initPhase(out)
	if failed {
		return v1.PodFailed
	}
	var unknown, waiting, running, stopped, succeeded int
	for i := range d.Pod.Spec.Containers {
		st := find(out.ContainerStatuses, d.Pod.Spec.Containers[i].Name)
		switch {
		case st == nil:
			unknown++
		case st.State.Running != nil:
			running++
		case st.State.Terminated != nil:
			stopped++
			if st.State.Terminated.ExitCode == 0 {
				succeeded++
			}
		case st.LastTerminationState.Terminated != nil:
			stopped++
		default:
			waiting++
		}
	}
	switch {
	case pending, waiting > 0, unknown > 0:
		return v1.PodPending
	case running > 0:
		return v1.PodRunning
	case !over && d.willRestart(out):
		return v1.PodRunning
	case stopped == succeeded:
		return v1.PodSucceeded
	}
	return v1.PodFailed
}

// willRestart: some container that has stopped is to be started again.
func (d *decision) willRestart(out *v1.PodStatus) bool {
	for i := range d.Pod.Spec.Containers {
		c := &d.Pod.Spec.Containers[i]
		st := find(out.ContainerStatuses, c.Name)
		if st == nil || st.State.Terminated == nil || d.shouldRestart(c, false, st.State.Terminated.ExitCode) {
			return true
		}
	}
	return false
}

// initPhase tells whether init containers are still to finish, or have failed for good.
func (d *decision) initPhase(out *v1.PodStatus) (pending, failed bool) {
	if d.initialized() {
		return false, false
	}
	for i := range d.Pod.Spec.InitContainers {
		c := &d.Pod.Spec.InitContainers[i]
		st := find(out.InitContainerStatuses, c.Name)
		switch {
		case st == nil:
			pending = true
		case IsSidecar(c):
			pending = pending || st.Started == nil || !*st.Started
		case st.State.Terminated == nil:
			pending = true
		case st.State.Terminated.ExitCode != 0:
			if !d.shouldRestart(c, false, st.State.Terminated.ExitCode) {
				failed = true
			}
			pending = true
		}
	}
	return pending, failed
}
