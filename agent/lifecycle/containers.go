package lifecycle

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// IsSidecar tells a native sidecar: an init container that keeps running beside the others.
func IsSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

func (d *decision) isSidecar(name string) bool {
	return slices.ContainsFunc(d.Pod.Spec.InitContainers, func(c v1.Container) bool { return c.Name == name && IsSidecar(&c) })
}

func (d *decision) isInit(name string) bool {
	return slices.ContainsFunc(d.Pod.Spec.InitContainers, func(c v1.Container) bool { return c.Name == name })
}

// newest is the last attempt of the named container, or nil.
func (d *decision) newest(name string) *Container {
	for i := range d.Containers {
		if d.Containers[i].Name == name {
			return &d.Containers[i]
		}
	}
	return nil
}

// current is the newest attempt if it belongs to the sandbox of now, and not to what is started anew as a whole. Where the sandbox was lost, only what
// ended before counts, and it counts for nothing once there is a new one.
func (d *decision) current(name string) *Container {
	c := d.newest(name)
	if c == nil || d.Sandbox == nil || c.CreatedAt.Before(d.Sandbox.CreatedAt) || d.replaced(c) {
		return nil
	}
	return c
}

// ended: the newest instance has exited and is not to be replaced, whichever sandbox it was in.
func (d *decision) ended(c *v1.Container) bool {
	n := d.newest(c.Name)
	if n == nil {
		st := find(d.Last.ContainerStatuses, c.Name)
		return st != nil && st.State.Terminated != nil && !d.shouldRestart(c, false, st.State.Terminated.ExitCode)
	}
	return n.State == Exited && !d.replaced(n) && !d.shouldRestart(c, false, n.ExitCode)
}

// completed: the pod has come to its own end: every container has ended, or an init container failed for good.
func (d *decision) completed() bool {
	if d.initFailed() {
		return true
	}
	return !slices.ContainsFunc(d.Pod.Spec.Containers, func(c v1.Container) bool { return !d.ended(&c) })
}

func (d *decision) initFailed() bool {
	return slices.ContainsFunc(d.Pod.Spec.InitContainers, func(c v1.Container) bool {
		n := d.newest(c.Name)
		return n != nil && n.State == Exited && n.ExitCode != 0 && !IsSidecar(&c) && !d.replaced(n) && !d.shouldRestart(&c, false, n.ExitCode)
	})
}

// initialized: a regular container has been created in this sandbox, so that init containers are over. While
// there is no sandbox, the one before counts.
func (d *decision) initialized() bool {
	if d.plan.Stage >= Terminated {
		if c := findCondition(d.Last.Conditions, v1.PodInitialized); c != nil {
			return c.Status == v1.ConditionTrue
		}
	}
	return slices.ContainsFunc(d.Pod.Spec.Containers, func(c v1.Container) bool {
		return d.current(c.Name) != nil || d.Sandbox == nil && d.newest(c.Name) != nil
	})
}

// initContainers starts the next init container, keeps sidecars alive, and tells whether regular ones may start.
func (d *decision) initContainers() bool {
	over := d.initialized()
	for i := range d.Pod.Spec.InitContainers {
		c := &d.Pod.Spec.InitContainers[i]
		cur := d.current(c.Name)
		if IsSidecar(c) {
			d.container(c, true)
			if !over && (cur == nil || cur.State != Running || !d.started(c, cur) || d.hookPending(c, cur)) {
				return false
			}
			continue
		}
		if over || cur != nil && cur.State == Exited && cur.ExitCode == 0 {
			continue
		}
		d.container(c, false)
		return false
	}
	return true
}

// container takes the next step for one container: start it, restart it, stop it because it must not go on.
func (d *decision) container(c *v1.Container, sidecar bool) {
	cur := d.current(c.Name)
	if cur != nil && cur.State == Running {
		d.running(c, cur)
		return
	}
	start := Action{Kind: StartContainer, Container: c.Name, Attempt: d.nextAttempt(c.Name)}
	if _, ok := d.InFlight[start.Key()]; ok {
		d.blocked = true
		return
	}
	if prev := d.newest(c.Name); prev != nil && prev.State == Exited {
		// An init container of a lost sandbox runs again, whatever came of it there; so do all that are started anew together.
		again := cur == nil && d.isInit(c.Name) || d.replaced(prev)
		if !again && !d.shouldRestart(c, sidecar, prev.ExitCode) {
			return
		}
		delay := d.delay(c, prev)
		if d.backsOff(prev, delay) {
			d.wake(prev.FinishedAt.Add(delay))
			return
		}
		start.Backoff = nextBackoff(delay)
	}
	if prev := d.newest(c.Name); prev != nil && prev.State == Created {
		start.Attempt, start.Backoff, start.ID = prev.Attempt, prev.Backoff, prev.ID
	}
	d.startWhenReady(c, start)
}

// delay before the instance prev is replaced. One that ended with its sandbox, or has another image by now, did not crash.
func (d *decision) delay(c *v1.Container, prev *Container) time.Duration {
	lost := d.Sandbox != nil && prev.CreatedAt.Before(d.Sandbox.CreatedAt)
	if lost || d.replaced(prev) && !d.asksForAll(prev) || imageChanged(c, prev) {
		return 0
	}
	return crashDelay(prev)
}

func imageChanged(c *v1.Container, inst *Container) bool {
	return inst.SpecImage != "" && inst.SpecImage != c.Image
}

// startWhenReady pulls the image first, and waits for sandbox, volumes and the containers before this one.
func (d *decision) startWhenReady(c *v1.Container, start Action) {
	if d.Images[c.Name] == "" {
		if d.try(Action{Kind: PullImage, Container: c.Name}) != waiting {
			d.blocked = true
		} else {
			d.wakeForPullBackoff(c.Name)
		}
		return
	}
	if d.blocked || !d.VolumesReady || d.Sandbox == nil || !d.Sandbox.Networked {
		return
	}
	if d.try(start) == begun {
		d.blocked = true
	}
}

// wakeForPullBackoff asks for the moment at which ErrImagePull becomes ImagePullBackOff.
func (d *decision) wakeForPullBackoff(name string) {
	f := d.Failed[Action{Kind: PullImage, Container: name}.Key()]
	if at := f.At.Add(errShown); f.Reason == ReasonErrImagePull && d.Now.Before(at) {
		d.wake(at)
	}
}

// nextAttempt numbers the instance to be made: one more than the last there was, also where only the status remembers.
func (d *decision) nextAttempt(name string) int {
	if n := d.newest(name); n != nil {
		return n.Attempt + 1
	}
	for _, list := range [][]v1.ContainerStatus{d.Last.ContainerStatuses, d.Last.InitContainerStatuses} {
		if st := find(list, name); st != nil {
			if st.ContainerID != "" || st.LastTerminationState.Terminated != nil {
				return int(st.RestartCount) + 1
			}
			return int(st.RestartCount)
		}
	}
	return 0
}

// running looks after an instance that runs.
func (d *decision) running(c *v1.Container, cur *Container) {
	if message, grace := d.mustStop(c, cur); message != "" {
		d.stop(cur, message, grace)
		return
	}
	if d.hookPending(c, cur) {
		d.blocked = true
		d.try(Action{Kind: PostStart, Container: c.Name, ID: cur.ID, Attempt: cur.Attempt})
	}
}

func (d *decision) hookPending(c *v1.Container, cur *Container) bool {
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return false
	}
	_, ran := d.Hooks[cur.ID]
	return !ran
}

// mustStop says why a running instance is to be stopped; an empty message says that it is not.
func (d *decision) mustStop(c *v1.Container, cur *Container) (string, time.Duration) {
	h, again := d.Health[cur.ID], ""
	if d.shouldRestart(c, IsSidecar(c), 137) {
		again = ", will be restarted"
	}
	switch {
	case imageChanged(c, cur):
		return "Container " + c.Name + " definition changed" + again, d.grace()
	case restartsToResize(c, cur):
		return "Container " + c.Name + " resize requires restart", d.grace()
	case d.Hooks[cur.ID].Failed:
		return "FailedPostStartHook", d.grace()
	case h.Started != nil && !*h.Started:
		return "Container " + c.Name + " failed startup probe" + again, d.probeGrace(c.StartupProbe)
	case h.Live != nil && !*h.Live:
		return "Container " + c.Name + " failed liveness probe" + again, d.probeGrace(c.LivenessProbe)
	}
	return "", 0
}

func (d *decision) probeGrace(p *v1.Probe) time.Duration {
	if p != nil && p.TerminationGracePeriodSeconds != nil {
		return time.Duration(max(*p.TerminationGracePeriodSeconds, 1)) * time.Second
	}
	return d.grace()
}

// pruneDead removes dead instances beyond the newest one of each container, and not the one for which all are still to start anew.
func (d *decision) pruneDead() {
	kept := map[string]bool{}
	for i := range d.Containers {
		c := &d.Containers[i]
		if c.State != Exited {
			continue
		}
		if kept[c.Name] && !(c.FinishedAt.Equal(d.anew) && d.awaitsRestart()) {
			d.try(Action{Kind: RemoveContainer, Container: c.Name, ID: c.ID, Attempt: c.Attempt})
		}
		kept[c.Name] = true
	}
}
