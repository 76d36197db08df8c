package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/agent/admission"
	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/podspec"
	"github.com/coracle-dev/coracle/agent/runtime"
)

// Reasons of events about resizes.
const (
	eventResizeStarted    = "ResizeStarted"
	eventResizeCompleted  = "ResizeCompleted"
	eventResizeDeferred   = "ResizeDeferred"
	eventResizeInfeasible = "ResizeInfeasible"
	eventResizeError      = "ResizeError"
)

// resize is what a worker knows of a change of its pod's resources. The rest is in its state.
type resize struct {
	// wanted is the API server's pod while it asks for other resources than those that state.Pod has, which are allocated.
	wanted *v1.Pod
	// considered is the generation that allocation was last tried for.
	considered int64
	// counted: the pod used the node's resources when that was last asked.
	counted bool
	// applied caches what containers' labels say, by container ID.
	applied map[string]appliedResources
}

type appliedResources struct {
	label     string
	resources *v1.ResourceRequirements
}

// appliedTo are the resources that a container was last given.
func (z *resize) appliedTo(rc *runtime.Container) *v1.ResourceRequirements {
	label := rc.Labels[podspec.LabelResources]
	if a, ok := z.applied[rc.ID]; ok && a.label == label {
		return a.resources
	}
	if z.applied == nil {
		z.applied = map[string]appliedResources{}
	}
	a := appliedResources{label, podspec.Applied(label)}
	z.applied[rc.ID] = a
	return a.resources
}

// forget drops what is known of containers that are gone.
func (z *resize) forget(present map[string]bool) {
	maps.DeleteFunc(z.applied, func(id string, _ appliedResources) bool { return !present[id] })
}

// adoptResources gives the pod that an earlier run of the agent has admitted the resources that it has. Those that it was to have beyond
// them are allocated anew.
func (w *worker) adoptResources(pod *v1.Pod, found runtime.Pod) {
	if pod.Status.StartTime == nil && len(found.Containers) == 0 {
		return
	}
	have := map[string]v1.ResourceRequirements{}
	for _, list := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			if r := list[i].Resources; r != nil {
				have[list[i].Name] = *r
			}
		}
	}
	for i := range found.Containers { // by attempt, so that the newest counts
		rc := &found.Containers[i]
		if r := w.resize.appliedTo(rc); r != nil && rc.State == runtime.StateRunning {
			have[rc.Name] = *r
		}
	}
	w.takeResources(pod, have, pod.Status.Resources)
	if found.Sandbox == nil {
		return
	}
	target := podspec.PodCgroup(w.a.cfg.CgroupRoot, w.state.Pod, w.a.machine()).Resources
	w.state.Resize.Pod = found.Sandbox.Resources != nil && !sameLimits(*found.Sandbox.Resources, target)
	w.state.Resize.Applied = w.state.Pod.Spec.Resources
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodResizeInProgress {
			w.state.Resize.Generation = c.ObservedGeneration
		}
	}
}

// takeResources has the worker go on with pod, but for its resources: those stay as they are allocated.
func (w *worker) takeResources(pod *v1.Pod, have map[string]v1.ResourceRequirements, whole *v1.ResourceRequirements) {
	w.resize.wanted = nil
	w.state.Pod = podspec.WithResources(pod, have, whole)
	if w.state.Pod != pod {
		w.resize.wanted = pod
	} else {
		w.state.Resize.Pending = nil
	}
}

// wantsResources tells whether the pod asks for resources that nobody has tried to allocate yet.
func (w *worker) wantsResources() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.resizable() && w.resize.considered != w.resize.wanted.Generation
}

// resizable: the pod asks for other resources, and may have them. The caller holds mu.
func (w *worker) resizable() bool {
	s := &w.state
	return w.resize.wanted != nil && s.Stage == lifecycle.Syncing && s.Rejection == nil && !s.Gone && s.Pod.DeletionTimestamp == nil
}

// gaveRoom tells, once, that the pod no longer uses the node's resources.
func (w *worker) gaveRoom() bool {
	counts := w.active() != nil
	w.mu.Lock()
	defer w.mu.Unlock()
	gave := w.resize.counted && !counts
	w.resize.counted = counts
	return gave
}

// allocate tries to give every pod the resources that it asks for. It waits for the agent to know all pods of the node.
func (a *Agent) allocate() {
	if !a.adopted.Load() {
		return
	}
	a.allocating.Lock()
	defer a.allocating.Unlock()
	a.mu.Lock()
	byPod := map[*v1.Pod]*worker{}
	var list []podspec.Resize
	for _, w := range a.workers {
		w.mu.Lock()
		if w.resizable() {
			byPod[w.resize.wanted] = w
			list = append(list, podspec.Resize{Wanted: w.resize.wanted, Allocated: w.state.Pod})
		}
		w.mu.Unlock()
	}
	a.mu.Unlock()
	podspec.ResizeOrder(list)
	for _, r := range list {
		others := slices.DeleteFunc(a.taken(), func(p *v1.Pod) bool { return p.UID == r.Wanted.UID })
		w := byPod[r.Wanted]
		refused := admission.Resize(a.node.Load(), others, r.Wanted)
		w.settleResize(r.Wanted, refused)
	}
}

// settleResize takes over whether the pod gets the resources that it wants.
func (w *worker) settleResize(wanted *v1.Pod, refused *admission.Rejection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &w.state
	if w.resize.wanted != wanted || !w.resizable() {
		return // it is another one by now, and comes here again
	}
	w.resize.considered = wanted.Generation
	if refused != nil {
		was := s.Resize.Pending
		s.Resize.Pending = &lifecycle.Pending{Reason: refused.Reason, Message: refused.Message, Generation: wanted.Generation}
		if was != nil && *was == *s.Resize.Pending {
			return
		}
		if told := condition(&s.Last, v1.PodResizePending); told == nil || told.Reason != refused.Reason || told.ObservedGeneration != wanted.Generation {
			event := eventResizeDeferred
			if refused.Reason == v1.PodReasonInfeasible {
				event = eventResizeInfeasible
			}
			w.a.event(wanted, v1.EventTypeWarning, event, podspec.ResizeMessage("Pod resize "+refused.Reason, wanted, wanted.Generation, refused.Message))
		}
		w.poke()
		return
	}
	if !s.Resize.Pod {
		s.Resize.Applied = s.Pod.Spec.Resources
	}
	s.Pod, w.resize.wanted = wanted, nil
	s.Resize.Pending, s.Resize.Pod, s.Resize.Generation, s.VolumesStale = nil, true, wanted.Generation, true
	delete(s.Failed, lifecycle.Action{Kind: lifecycle.ResizePod}.Key())
	if under := condition(&s.Last, v1.PodResizeInProgress); under == nil || under.ObservedGeneration != wanted.Generation {
		w.a.event(wanted, v1.EventTypeNormal, eventResizeStarted, podspec.ResizeMessage("Pod resize started", wanted, wanted.Generation, ""))
	}
	w.poke()
}

func condition(st *v1.PodStatus, t v1.PodConditionType) *v1.PodCondition {
	for i := range st.Conditions {
		if st.Conditions[i].Type == t {
			return &st.Conditions[i]
		}
	}
	return nil
}

// resizeEvents tells of a resize that has come to its end, or met an error, between two statuses.
func resizeEvents(pod *v1.Pod, old, now *v1.PodStatus) []note {
	before, after := condition(old, v1.PodResizeInProgress), condition(now, v1.PodResizeInProgress)
	switch {
	case before != nil && after == nil && now.Phase == v1.PodRunning:
		return []note{{v1.EventTypeNormal, eventResizeCompleted, podspec.ResizeMessage("Pod resize completed", pod, before.ObservedGeneration, "")}}
	case after != nil && after.Reason == v1.PodReasonError && (before == nil || before.Reason != after.Reason || before.ObservedGeneration != after.ObservedGeneration):
		return []note{{v1.EventTypeWarning, eventResizeError, podspec.ResizeMessage("Pod resize error", pod, after.ObservedGeneration, after.Message)}}
	}
	return nil
}

// resizePod puts the pod's resources in place. What grows grows first in the pod's cgroup, what shrinks shrinks there last, so that
// containers always fit in it.
func (w *worker) resizePod(ctx context.Context, pod *v1.Pod) (func(*lifecycle.State), error) {
	found := w.a.cfg.Sandboxes.Pod(w.ref.UID)
	if found.Sandbox == nil {
		return nil, nil // the next one is made of the right size
	}
	target := podspec.PodCgroup(w.a.cfg.CgroupRoot, pod, w.a.machine()).Resources
	w.mu.Lock()
	was := w.state.Resize.Applied
	w.mu.Unlock()
	now := pod.Spec.Resources
	changes, waiting := containerChanges(pod, found.Containers, was != nil && now != nil && !lifecycle.SameResources(was, now))
	if err := w.tooSmall(found.Sandbox, target, changes); err != nil {
		return nil, err
	}
	size, err := w.growPod(ctx, found.Sandbox, target)
	if err != nil {
		return nil, err
	}
	for _, c := range changes {
		label := map[string]string{podspec.LabelResources: podspec.AppliedLabel(c.spec.Resources)}
		if err := w.a.cfg.Containers.Update(ctx, c.id, podspec.Resources(pod, c.spec, w.a.machine()), label); err != nil {
			return nil, err
		}
	}
	if !waiting && !sameLimits(size, target) {
		if err := w.a.cfg.Sandboxes.ResizeSandbox(ctx, w.ref.UID, target); err != nil {
			return nil, err
		}
	}
	w.a.weighQOS()
	return func(s *lifecycle.State) {
		if !waiting {
			s.Resize.Pod = !sameLimits(target, podspec.PodCgroup(w.a.cfg.CgroupRoot, s.Pod, w.a.machine()).Resources)
		}
	}, nil
}

// change is a container that is given other resources.
type change struct {
	id   string
	spec *v1.Container
	have v1.ResourceRequirements
}

// shrinks tells whether the container gets less memory.
func (c *change) shrinks() bool {
	now, was := c.spec.Resources.Limits.Memory(), c.have.Limits.Memory()
	return !now.IsZero() && (was.IsZero() || now.Cmp(*was) < 0)
}

// containerChanges are the running containers whose resources change in place, those that get less first; waiting tells that there are
// others, which are restarted for it. Where the pod's limits change as a whole, containers without limits of their own change with it.
func containerChanges(pod *v1.Pod, running []runtime.Container, whole bool) (changes []change, waiting bool) {
	for i := range running {
		rc := &running[i]
		spec, have := containerSpec(pod, rc.Name), podspec.Applied(rc.Labels[podspec.LabelResources])
		switch {
		case rc.State != runtime.StateRunning || spec == nil || have == nil:
		case lifecycle.SameResources(&spec.Resources, have) && !(whole && borrows(spec)):
		case lifecycle.ResizeRestarts(spec, have):
			waiting = true
		default:
			changes = append(changes, change{rc.ID, spec, *have})
		}
	}
	slices.SortStableFunc(changes, func(a, b change) int { return boolRank(b.shrinks()) - boolRank(a.shrinks()) })
	return changes, waiting
}

// borrows tells whether the container lacks a limit of its own, so that the pod's holds.
func borrows(c *v1.Container) bool {
	return c.Resources.Limits.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero()
}

func boolRank(b bool) int {
	if b {
		return 1
	}
	return 0
}

// tooSmall refuses limits of memory below what is used now: the kernel would kill for them.
func (w *worker) tooSmall(sandbox *runtime.Sandbox, target runtime.Resources, changes []change) error {
	var problems []string
	if was := sandbox.Resources; target.MemoryLimit > 0 && was != nil && (was.MemoryLimit == 0 || target.MemoryLimit < was.MemoryLimit) {
		if used := w.a.cfg.Usage.PodUsage(w.ref.UID).Memory; used >= uint64(target.MemoryLimit) {
			problems = append(problems, fmt.Sprintf("attempting to set pod memory limit (%d) below current usage (%d)", target.MemoryLimit, used))
		}
	}
	for i := range changes {
		c := &changes[i]
		if !c.shrinks() {
			continue
		}
		limit := c.spec.Resources.Limits.Memory().Value()
		if used := w.a.cfg.Usage.Usage(c.id).Memory; used >= uint64(limit) {
			problems = append(problems, fmt.Sprintf("attempting to set container %q memory limit (%d) below current usage (%d)", c.spec.Name, limit, used))
		}
	}
	switch len(problems) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("cannot decrease memory limits: %s", problems[0])
	}
	return fmt.Errorf("cannot decrease memory limits: [%s]", strings.Join(problems, ", "))
}

// growPod raises those limits of the pod's cgroup that are below target, and gives those that hold then.
func (w *worker) growPod(ctx context.Context, sandbox *runtime.Sandbox, target runtime.Resources) (runtime.Resources, error) {
	if sandbox.Resources == nil {
		return runtime.Resources{}, nil
	}
	have := *sandbox.Resources
	grown := have
	grown.CPUShares = max(have.CPUShares, target.CPUShares)
	if have.CPUQuota > 0 && target.CPUQuota > have.CPUQuota {
		grown.CPUQuota, grown.CPUPeriod = target.CPUQuota, target.CPUPeriod
	}
	if have.MemoryLimit > 0 {
		grown.MemoryLimit = max(have.MemoryLimit, target.MemoryLimit)
	}
	if sameLimits(have, grown) {
		return have, nil
	}
	return grown, w.a.cfg.Sandboxes.ResizeSandbox(ctx, w.ref.UID, grown)
}

// sameLimits compares what a resize can change.
func sameLimits(a, b runtime.Resources) bool {
	return a.CPUShares == b.CPUShares && a.CPUQuota == b.CPUQuota && a.MemoryLimit == b.MemoryLimit
}

// makeRoom has the pod's cgroup hold what a container that is about to start gets, where a resize has not come that far.
func (w *worker) makeRoom(ctx context.Context, pod *v1.Pod) error {
	w.mu.Lock()
	pending := w.state.Resize.Pod
	w.mu.Unlock()
	sandbox := w.a.cfg.Sandboxes.Pod(w.ref.UID).Sandbox
	if !pending || sandbox == nil {
		return nil
	}
	_, err := w.growPod(ctx, sandbox, podspec.PodCgroup(w.a.cfg.CgroupRoot, pod, w.a.machine()).Resources)
	return err
}
