package lifecycle

import (
	"cmp"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Step decides what is to be done for the pod now, and what its status is. It panics if the stage it was given lies
// behind what the pod has already reached, which would be a programming error of the caller.
func Step(s State) Plan {
	d := &decision{State: normalize(s)}
	d.plan = Plan{Stage: s.Stage, Since: s.Since, Rejection: s.Rejection}
	d.anew = d.anewSince()
	d.advance()
	switch d.plan.Stage {
	case Syncing:
		d.sync()
	case Terminating:
		d.terminate()
	}
	if d.plan.Stage >= Terminated {
		d.reclaim()
	}
	if d.plan.Stage < s.Stage {
		panic("lifecycle: backward transition from " + s.Stage.String() + " to " + d.plan.Stage.String())
	}
	d.plan.Status = d.status()
	return d.plan
}

// decision is one run of Step.
type decision struct {
	State
	plan Plan
	// blocked: a container earlier in order is on its way; those after it wait to be started.
	blocked bool
	// anew is since when instances count, where all containers were to be started anew.
	anew time.Time
}

// normalize sorts the containers by attempt, newest first, and settles states the rest need not know.
func normalize(s State) State {
	s.Containers = asReported(slices.Clone(s.Containers), &s.Last)
	slices.SortStableFunc(s.Containers, func(a, b Container) int { return cmp.Compare(b.Attempt, a.Attempt) })
	for i := range s.Containers {
		c := &s.Containers[i]
		// Created before its sandbox: whatever it came to, it was lost with the one before, as in a reboot.
		lost := c.State == Created && s.Sandbox != nil && c.CreatedAt.Before(s.Sandbox.CreatedAt)
		if c.State == Unknown || lost {
			c.State, c.ExitCode, c.Reason = Exited, 137, ReasonStatusUnknown
			c.Message = "The container could not be located when the pod was terminated"
			if c.FinishedAt.IsZero() {
				c.FinishedAt = c.CreatedAt
			}
		}
	}
	return s
}

// advance moves from Syncing to Terminating where the pod is to end, whatever its containers do.
func (d *decision) advance() {
	if d.Stage != Syncing {
		return
	}
	switch {
	case d.Gone, d.Pod.DeletionTimestamp != nil, d.Rejection != nil, terminalPhase(d.Last.Phase):
		d.enter(Terminating)
	case d.pastDeadline():
		d.plan.Rejection = &Rejection{Reason: ReasonDeadline, Message: deadlineMessage}
		d.enter(Terminating)
	}
}

func (d *decision) enter(s Stage) {
	d.plan.Stage = s
	if s == Terminating && d.plan.Since.IsZero() {
		d.plan.Since = d.Now
	}
}

func terminalPhase(p v1.PodPhase) bool { return p == v1.PodSucceeded || p == v1.PodFailed }

func (d *decision) pastDeadline() bool {
	limit, start := d.Pod.Spec.ActiveDeadlineSeconds, d.Last.StartTime
	if limit == nil || start == nil {
		return false
	}
	end := start.Add(time.Duration(*limit) * time.Second)
	if !d.Now.Before(end) {
		return true
	}
	d.wake(end)
	return false
}

// wake asks for another Step at t.
func (d *decision) wake(t time.Time) {
	if d.plan.Wake.IsZero() || t.Before(d.plan.Wake) {
		d.plan.Wake = t
	}
}

// outcome of trying to plan an action.
type outcome int

const (
	begun outcome = iota
	busy
	waiting
)

// try plans a unless it runs already or failed too recently.
func (d *decision) try(a Action) outcome {
	if _, ok := d.InFlight[a.Key()]; ok {
		return busy
	}
	if f, ok := d.Failed[a.Key()]; ok {
		if at := retryAt(a.Kind, f); d.Now.Before(at) {
			d.wake(at)
			return waiting
		}
	}
	d.plan.Actions = append(d.plan.Actions, a)
	return begun
}

// sync brings the pod towards all of its containers running.
func (d *decision) sync() {
	if d.completed() {
		d.enter(Terminating)
		d.terminate()
		return
	}
	if !d.VolumesReady || d.VolumesStale {
		d.try(Action{Kind: MountVolumes})
	}
	if d.stopStale() {
		return
	}
	if d.Sandbox == nil || !d.Sandbox.Networked {
		d.try(Action{Kind: CreateSandbox, Recreate: d.Sandbox == nil && len(d.Containers) > 0})
	}
	d.ephemeralContainers()
	if d.initContainers() {
		for i := range d.Pod.Spec.Containers {
			d.container(&d.Pod.Spec.Containers[i], false)
		}
	}
	d.resize()
	d.pruneDead()
}

// stopStale stops what runs in a sandbox that was lost, or from before all were to be started anew; only then there is
// something new. Where all start anew, that is fast: no hook and no grace.
func (d *decision) stopStale() bool {
	stale := false
	for i := range d.Containers {
		c := &d.Containers[i]
		if c.State != Running || d.isCurrent(c) {
			continue
		}
		stale = true
		if d.Sandbox != nil && d.replaced(c) {
			d.stopWith(Action{Message: "Container " + c.Name + " is restarted with all containers of the pod", NoHook: true}, c)
		} else {
			d.stop(c, "Pod sandbox changed, it will be killed and re-created.", d.grace())
		}
	}
	return stale
}

// isCurrent: the instance is the one to run now.
func (d *decision) isCurrent(c *Container) bool {
	return d.current(c.Name) != nil && d.newest(c.Name) == c
}

// terminate stops what runs: the regular containers first, then sidecars in reverse order, one after another.
func (d *decision) terminate() {
	d.cancelStarts()
	still := false
	for i := range d.Containers {
		if c := &d.Containers[i]; c.State == Running && !d.isSidecar(c.Name) {
			still = true
			d.stop(c, "Stopping container "+c.Name, d.grace())
		}
	}
	if !still {
		still = d.stopSidecars()
	}
	if !still && !d.anyInFlight() {
		d.enter(Terminated)
	}
}

func (d *decision) stopSidecars() bool {
	inits := d.Pod.Spec.InitContainers
	for i := len(inits) - 1; i >= 0; i-- {
		c := d.newest(inits[i].Name)
		if c == nil || c.State != Running {
			continue
		}
		left := d.plan.Since.Add(d.grace()).Sub(d.Now)
		d.stop(c, "Stopping container "+c.Name, min(max(left, 2*time.Second), max(d.grace(), 2*time.Second)))
		return true
	}
	return false
}

// cancelStarts gives up whatever would bring the pod forward.
func (d *decision) cancelStarts() {
	for key, a := range d.InFlight {
		switch a.Kind {
		case MountVolumes, CreateSandbox, PullImage, PostStart:
			d.plan.Cancel = append(d.plan.Cancel, key)
		}
	}
	slices.Sort(d.plan.Cancel)
}

func (d *decision) anyInFlight() bool { return len(d.InFlight) > 0 || len(d.plan.Actions) > 0 }

// stop plans the end of one instance. A stop under way is cut short where the grace has become shorter.
func (d *decision) stop(c *Container, message string, grace time.Duration) {
	d.stopWith(Action{Grace: grace, Message: message}, c)
}

func (d *decision) stopWith(a Action, c *Container) {
	a.Kind, a.Container, a.ID, a.Attempt, a.Deadline = StopContainer, c.Name, c.ID, c.Attempt, d.Now.Add(a.Grace)
	if spec := d.spec(c.Name); spec != nil && d.plan.Stage == Syncing {
		a.Resize = restartsToResize(spec, c)
	}
	if under, ok := d.InFlight[a.Key()]; ok {
		if a.Deadline.Before(under.Deadline) && a.Grace < under.Grace {
			d.plan.Cancel = append(d.plan.Cancel, a.Key())
		}
		return
	}
	d.try(a)
}

// grace is the time that a stopping container gets.
func (d *decision) grace() time.Duration {
	seconds := int64(30)
	if g := d.Pod.Spec.TerminationGracePeriodSeconds; g != nil {
		seconds = *g
	}
	if g := d.Pod.DeletionGracePeriodSeconds; g != nil {
		seconds = *g
	}
	grace := time.Duration(max(seconds, 1)) * time.Second
	if r := d.plan.Rejection; r != nil && r.Grace > 0 {
		grace = min(grace, r.Grace)
	}
	return grace
}

// reclaim gives back what the pod holds, and ends its record once it is deleted.
func (d *decision) reclaim() {
	deleted := d.Gone || d.Pod.DeletionTimestamp != nil
	switch {
	case deleted && !d.Purged:
		d.try(Action{Kind: Reclaim, Purge: true})
	case !d.Reclaimed:
		d.try(Action{Kind: Reclaim})
	case d.Gone, d.Deleted:
		d.enter(Finished)
		d.plan.Done = !d.anyInFlight()
	case deleted:
		d.enter(Finished)
		if d.Reported {
			d.try(Action{Kind: DeletePod})
		}
	default:
		d.enter(Finished)
	}
}
