package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// status is the pod's status now. What others write in it (PodScheduled, further conditions, nominatedNodeName)
// is taken over as the API server has it.
func (d *decision) status() v1.PodStatus {
	out := *d.Pod.Status.DeepCopy()
	out.ObservedGeneration = d.Pod.Generation
	out.StartTime = d.startTime()
	d.addresses(&out)
	out.InitContainerStatuses = d.initStatuses()
	out.ContainerStatuses = d.statuses()
	out.EphemeralContainerStatuses = d.ephemeralStatuses()
	out.Phase, out.Reason, out.Message = d.phase(&out)
	if out.QOSClass == "" {
		out.QOSClass = QOSClass(&d.Pod.Spec)
	}
	d.podResources(&out)
	out.Conditions = d.conditions(&out)
	return out
}

func (d *decision) startTime() *metav1.Time {
	if d.Last.StartTime != nil {
		return d.Last.StartTime
	}
	now := seconds(d.Now)
	return &now
}

// seconds is t as it survives the wire.
func seconds(t time.Time) metav1.Time {
	return metav1.NewTime(t).Rfc3339Copy()
}

func (d *decision) addresses(out *v1.PodStatus) {
	out.HostIP, out.HostIPs = "", nil
	for i, ip := range d.Node.IPs {
		if i == 0 {
			out.HostIP = ip
		}
		out.HostIPs = append(out.HostIPs, v1.HostIP{IP: ip})
	}
	ips := []string(nil)
	switch {
	case d.Sandbox != nil && d.Sandbox.Networked && d.Pod.Spec.HostNetwork:
		ips = d.Node.IPs
	case d.Sandbox != nil:
		ips = d.Sandbox.IPs
	}
	if len(ips) == 0 { // kept after the sandbox is gone
		out.PodIP, out.PodIPs = d.Last.PodIP, d.Last.PodIPs
		return
	}
	out.PodIP, out.PodIPs = ips[0], nil
	for _, ip := range ips {
		out.PodIPs = append(out.PodIPs, v1.PodIP{IP: ip})
	}
}

func (d *decision) initStatuses() []v1.ContainerStatus {
	if d.rejectedUnstarted() {
		return nil
	}
	var out []v1.ContainerStatus
	for i := range d.Pod.Spec.InitContainers {
		c := &d.Pod.Spec.InitContainers[i]
		st := d.containerStatus(c, find(d.Last.InitContainerStatuses, c.Name))
		if !IsSidecar(c) {
			st.Ready = st.State.Terminated != nil && st.State.Terminated.ExitCode == 0
		}
		out = append(out, st)
	}
	return out
}

func (d *decision) statuses() []v1.ContainerStatus {
	if d.rejectedUnstarted() {
		return nil
	}
	var out []v1.ContainerStatus
	for i := range d.Pod.Spec.Containers {
		c := &d.Pod.Spec.Containers[i]
		out = append(out, d.containerStatus(c, find(d.Last.ContainerStatuses, c.Name)))
	}
	return out
}

// rejectedUnstarted: the node refused the pod, so that there is nothing to tell of its containers.
func (d *decision) rejectedUnstarted() bool {
	r := d.plan.Rejection
	return r != nil && r.Reason != ReasonDeadline && len(d.Containers) == 0 && len(d.Last.ContainerStatuses) == 0
}

func find(list []v1.ContainerStatus, name string) *v1.ContainerStatus {
	if i := slices.IndexFunc(list, func(s v1.ContainerStatus) bool { return s.Name == name }); i >= 0 {
		return &list[i]
	}
	return nil
}

// containerStatus is one container's; prev is what was last said of it.
func (d *decision) containerStatus(c *v1.Container, prev *v1.ContainerStatus) v1.ContainerStatus {
	st := v1.ContainerStatus{Name: c.Name, Image: c.Image, Started: new(bool), VolumeMounts: volumeMounts(c, d.Node.RecursiveReadOnly),
		Resources: resources(c, d.newest(c.Name)), AllocatedResources: c.Resources.Requests.DeepCopy()}
	if prev != nil {
		st.RestartCount, st.LastTerminationState = prev.RestartCount, prev.LastTerminationState
		st.User = prev.User
	}
	newest := d.newest(c.Name)
	if newest == nil {
		d.withoutInstance(c, prev, &st)
	} else {
		d.fromInstance(c, prev, newest, &st)
	}
	if d.plan.Stage == Syncing {
		d.explainWaiting(c, newest, &st)
	}
	if d.plan.Stage >= Terminated {
		d.concludeUnknown(c, &st)
	}
	d.keepEnd(c, prev, &st)
	return st
}

// withoutInstance: the runtime knows no instance, because none was made yet or because it was lost or purged.
func (d *decision) withoutInstance(c *v1.Container, prev *v1.ContainerStatus, st *v1.ContainerStatus) {
	st.State.Waiting = d.defaultWaiting(c)
	if prev == nil {
		return
	}
	switch {
	case prev.State.Terminated != nil && d.settled(c, prev.State.Terminated.ExitCode):
		*st = *prev.DeepCopy()
	case prev.State.Terminated != nil:
		st.LastTerminationState = prev.State
	case prev.State.Running != nil:
		lost := v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			Reason: ReasonStatusUnknown, ExitCode: 137, ContainerID: prev.ContainerID,
			Message: "The container could not be located when the pod was deleted.  The container used to be Running"}}
		if d.isEphemeral(c.Name) {
			*st = *prev.DeepCopy()
			st.State = lost
		} else {
			st.LastTerminationState = lost
		}
	}
}

// settled: a container that ended so and of which no instance is left will not be started again.
func (d *decision) settled(c *v1.Container, exit int32) bool {
	if d.plan.Stage > Syncing {
		return true
	}
	if d.isInit(c.Name) {
		return d.initialized()
	}
	return !d.shouldRestart(c, false, exit)
}

func (d *decision) fromInstance(c *v1.Container, prev *v1.ContainerStatus, n *Container, st *v1.ContainerStatus) {
	st.RestartCount = int32(n.Attempt)
	if n.Image != "" {
		st.Image = n.Image
	}
	st.ImageID = n.ImageID
	st.ContainerID = containerID(n.ID)
	if n.User != nil {
		st.User = &v1.ContainerUser{Linux: n.User}
	}
	if before := d.before(n); before != nil {
		st.LastTerminationState = terminated(before)
	} else if prev != nil && prev.ContainerID != st.ContainerID && prev.State.Terminated != nil {
		st.LastTerminationState = prev.State
	}
	switch {
	case n.State == Running && d.hookPending(c, n) && !toldRunning(prev, st.ContainerID): // it counts as running once its postStart hook has ended
		st.State.Waiting = d.defaultWaiting(c)
	case n.State == Running:
		at := seconds(n.StartedAt)
		st.State.Running = &v1.ContainerStateRunning{StartedAt: at}
		d.health(c, prev, n, st)
	case n.State == Exited:
		st.State = terminated(n)
	default:
		st.State.Waiting = d.defaultWaiting(c)
	}
}

func toldRunning(s *v1.ContainerStatus, id string) bool {
	return s != nil && s.ContainerID == id && s.State.Running != nil
}

// before is the dead instance that n replaced.
func (d *decision) before(n *Container) *Container {
	for i := range d.Containers {
		if c := &d.Containers[i]; c.Name == n.Name && c.Attempt < n.Attempt && c.State == Exited {
			return c
		}
	}
	return nil
}

// health fills in started and ready. An instance that ran before the agent did keeps what was said of it until its
// probes have a verdict.
func (d *decision) health(c *v1.Container, prev *v1.ContainerStatus, n *Container, st *v1.ContainerStatus) {
	same := prev != nil && prev.ContainerID == st.ContainerID
	h := d.Health[n.ID]
	*st.Started = d.started(c, n) || h.Started == nil && same && prev.Started != nil && *prev.Started
	switch {
	case !*st.Started:
	case c.ReadinessProbe == nil:
		st.Ready = true
	case h.Ready != nil:
		st.Ready = *h.Ready
	default:
		st.Ready = same && prev.Ready
	}
}

// started: a running instance has no startup probe, or has passed it.
func (d *decision) started(c *v1.Container, n *Container) bool {
	if c.StartupProbe == nil {
		return true
	}
	h := d.Health[n.ID]
	return h.Started != nil && *h.Started
}

func terminated(c *Container) v1.ContainerState {
	t := &v1.ContainerStateTerminated{ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message,
		StartedAt: seconds(c.StartedAt), FinishedAt: seconds(c.FinishedAt), ContainerID: containerID(c.ID)}
	if t.Reason == "" {
		t.Reason = ReasonError
		if t.ExitCode == 0 {
			t.Reason = ReasonCompleted
		}
	}
	return v1.ContainerState{Terminated: t}
}

func containerID(id string) string {
	if id == "" {
		return ""
	}
	return idScheme + id
}

// instanceID is the runtime's part of a container ID as a status has it.
func instanceID(id string) string { return strings.TrimPrefix(id, idScheme) }

const idScheme = "containerd://"

func (d *decision) defaultWaiting(c *v1.Container) *v1.ContainerStateWaiting {
	if len(d.Pod.Spec.InitContainers) > 0 && (d.isInit(c.Name) || !d.initialized()) {
		return &v1.ContainerStateWaiting{Reason: ReasonPodInitializing}
	}
	return &v1.ContainerStateWaiting{Reason: ReasonContainerCreating}
}

// explainWaiting tells why a container that is to run does not.
func (d *decision) explainWaiting(c *v1.Container, n *Container, st *v1.ContainerStatus) {
	if st.State.Running != nil {
		return
	}
	resized := n != nil && d.Resize.Restarting[n.ID]
	if t := st.State.Terminated; t != nil && !d.shouldRestart(c, IsSidecar(c), t.ExitCode) && (n == nil || !d.replaced(n)) {
		return
	}
	why := d.whyWaiting(c, n)
	if why == nil && resized && st.State.Terminated != nil {
		why = d.defaultWaiting(c) // whatever its exit code says, it has not come to its end
	}
	if why == nil {
		return
	}
	if st.State.Terminated != nil {
		st.LastTerminationState = st.State
	}
	st.State = v1.ContainerState{Waiting: why}
}

func (d *decision) whyWaiting(c *v1.Container, n *Container) *v1.ContainerStateWaiting {
	if f, ok := d.Failed[Action{Kind: PullImage, Container: c.Name}.Key()]; ok {
		if f.Reason == ReasonErrImagePull && !d.Now.Before(f.At.Add(errShown)) {
			return &v1.ContainerStateWaiting{Reason: ReasonImagePullBackOff,
				Message: fmt.Sprintf("Back-off pulling image %q: %s: %s", c.Image, f.Reason, f.Message)}
		}
		return &v1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
	}
	if f := d.Failed[Action{Kind: MountVolumes}.Key()]; f.Reason != "" { // an image that is a volume
		if f.Reason == ReasonErrImagePull && !d.Now.Before(f.At.Add(errShown)) {
			return &v1.ContainerStateWaiting{Reason: ReasonImagePullBackOff, Message: "Back-off pulling image: " + f.Reason + ": " + f.Message}
		}
		return &v1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
	}
	if n != nil && n.State == Exited && n.Reason != ReasonStatusUnknown {
		if delay := d.delay(c, n); d.backsOff(n, delay) {
			return &v1.ContainerStateWaiting{Reason: ReasonCrashLoop,
				Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", delay, c.Name, FullName(d.Pod))}
		}
	}
	if f, ok := d.Failed[Action{Kind: StartContainer, Container: c.Name}.Key()]; ok {
		return &v1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
	}
	return nil
}

// FullName is how messages name a pod: NAME_NAMESPACE(UID).
func FullName(p *v1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", p.Name, p.Namespace, p.UID)
}

// concludeUnknown: a pod that has ended has no container that still waits or runs.
func (d *decision) concludeUnknown(c *v1.Container, st *v1.ContainerStatus) {
	st.Ready = st.Ready && st.State.Terminated != nil
	if st.State.Terminated != nil || d.isInit(c.Name) && !IsSidecar(c) || d.isEphemeral(c.Name) || d.neverInitialized() {
		return
	}
	st.State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
		Reason: ReasonStatusUnknown, ExitCode: 137, Message: "The container could not be located when the pod was terminated"}}
}

// neverInitialized: the pod ended before its init containers did.
func (d *decision) neverInitialized() bool {
	for i := range d.Pod.Spec.InitContainers {
		c := &d.Pod.Spec.InitContainers[i]
		n := d.newest(c.Name)
		if n == nil {
			st := find(d.Last.InitContainerStatuses, c.Name)
			if st == nil || st.State.Terminated == nil || st.State.Terminated.ExitCode != 0 && !IsSidecar(c) {
				return true
			}
		} else if !IsSidecar(c) && (n.State != Exited || n.ExitCode != 0) {
			return true
		}
	}
	return false
}

func volumeMounts(c *v1.Container, recursive bool) []v1.VolumeMountStatus {
	var out []v1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		st := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if asked := m.RecursiveReadOnly; asked != nil && *asked != v1.RecursiveReadOnlyDisabled && recursive {
				mode = v1.RecursiveReadOnlyEnabled
			}
			st.RecursiveReadOnly = &mode
		}
		out = append(out, st)
	}
	return out
}
