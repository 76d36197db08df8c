package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/objects"
	"github.com/coracle-dev/coracle/agent/podspec"
	"github.com/coracle-dev/coracle/agent/probes"
	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/agent/volumes"
)

// worker lives as long as its pod has anything on this node.
type worker struct {
	a    *Agent
	ref  runtime.PodRef
	log  *slog.Logger
	wake chan struct{}

	mu       sync.Mutex
	state    lifecycle.State
	mounted  volumes.Mounted
	images   map[string]runtime.Image      // by container name, of the images resolved for the next start
	cancels  map[string]context.CancelFunc // of the actions in flight
	messages map[string]string             // termination messages, by container ID
	watched  map[string]bool               // container IDs with probes
	stopping map[string]bool               // container IDs whose preStop hook has begun
	report   report
	// static: the pod comes from a file of the node, and the API has mirror of it, or nothing; ended is called at its end.
	static bool
	mirror *v1.Pod
	ended  func()
	resize resize
}

func newWorker(a *Agent, pod *v1.Pod) *worker {
	w := &worker{
		a: a, ref: podspec.Ref(pod), wake: make(chan struct{}, 1),
		log:    a.cfg.Log.With("pod", pod.Namespace+"/"+pod.Name),
		images: map[string]runtime.Image{}, cancels: map[string]context.CancelFunc{}, messages: map[string]string{}, watched: map[string]bool{},
		stopping: map[string]bool{},
		state: lifecycle.State{
			Pod: pod, Last: *pod.Status.DeepCopy(), Images: map[string]string{}, Health: map[string]lifecycle.Health{},
			Hooks: map[string]lifecycle.Hook{}, Failed: map[string]lifecycle.Failure{}, InFlight: map[string]lifecycle.Action{},
		},
	}
	w.state.Node.RecursiveReadOnly = a.cfg.Support.RecursiveReadOnly
	for _, ip := range a.cfg.NodeIPs {
		w.state.Node.IPs = append(w.state.Node.IPs, ip.String())
	}
	w.adopt()
	return w
}

// adopt takes over what an earlier run of the agent has made of the pod.
func (w *worker) adopt() {
	found, pod := w.a.cfg.Sandboxes.Pod(w.ref.UID), w.state.Pod
	w.adoptResources(pod, found)
	if found.Sandbox != nil && (pod.Spec.HostNetwork || pod.Status.PodIP != "") {
		w.state.Sandbox = &lifecycle.Sandbox{CreatedAt: found.Sandbox.CreatedAt, Networked: true}
		for _, ip := range pod.Status.PodIPs {
			w.state.Sandbox.IPs = append(w.state.Sandbox.IPs, ip.IP)
		}
	}
	for _, c := range found.Containers {
		if c.State != runtime.StateCreated {
			// Its postStart hook ran, or was lost with the agent that was to run it.
			w.state.Hooks[c.ID] = lifecycle.Hook{}
		}
	}
	w.a.objects.Hold(w.ref.UID, volumeKeys(pod), w.volumesChanged)
}

// volumeKeys are the objects whose changes are to show in the pod's volumes.
func volumeKeys(pod *v1.Pod) []objects.Key {
	var keys []objects.Key
	add := func(kind objects.Kind, name string) {
		if k := (objects.Key{Kind: kind, Namespace: pod.Namespace, Name: name}); name != "" && !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.ConfigMap != nil {
			add(objects.ConfigMap, v.ConfigMap.Name)
		}
		if v.Secret != nil {
			add(objects.Secret, v.Secret.SecretName)
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil {
				add(objects.ConfigMap, s.ConfigMap.Name)
			}
			if s.Secret != nil {
				add(objects.Secret, s.Secret.Name)
			}
		}
	}
	return keys
}

func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// volumesChanged: an object that a volume is made from is another one now.
func (w *worker) volumesChanged() {
	w.mu.Lock()
	w.state.VolumesStale = true
	delete(w.state.Failed, lifecycle.Action{Kind: lifecycle.MountVolumes}.Key())
	w.mu.Unlock()
	w.poke()
}

// update takes the pod as the API server has it now.
func (w *worker) update(pod *v1.Pod) {
	w.mu.Lock()
	w.take(pod)
	w.mu.Unlock()
	w.poke()
}

// take keeps pod if it is newer than what is known. The caller holds mu.
func (w *worker) take(pod *v1.Pod) {
	old := w.state.Pod
	if revision(pod) <= revision(old) && old.ResourceVersion != "" {
		return
	}
	have, whole := podspec.ResourcesOf(old)
	w.takeResources(pod, have, whole)
	if !equality.Semantic.DeepEqual(old.Labels, pod.Labels) || !equality.Semantic.DeepEqual(old.Annotations, pod.Annotations) {
		w.state.VolumesStale = true
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if i < len(old.Spec.Containers) && old.Spec.Containers[i].Image != c.Image {
			delete(w.state.Images, c.Name)
			delete(w.state.Failed, lifecycle.Action{Kind: lifecycle.PullImage, Container: c.Name}.Key())
		}
	}
}

func revision(pod *v1.Pod) uint64 {
	n, _ := strconv.ParseUint(pod.ResourceVersion, 10, 64)
	return n
}

// vanish tells that the API server no longer has the pod.
func (w *worker) vanish(last *v1.Pod) {
	w.mu.Lock()
	if last != nil {
		w.take(last)
	}
	w.state.Gone = true
	w.mu.Unlock()
	w.poke()
}

// run works until nothing of the pod is left, or ctx ends; what runs then goes on running.
func (w *worker) run(ctx context.Context) {
	var actions sync.WaitGroup
	defer actions.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if w.wantsResources() {
			w.a.allocate()
		}
		next, done := w.do(ctx, &actions)
		if w.gaveRoom() {
			w.a.allocate()
		}
		if done {
			return
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(time.Until(next), time.Millisecond))
		}
		select {
		case <-ctx.Done():
		case <-w.wake:
		case <-timer.C:
		}
	}
}

// do takes one step: look, decide, begin what is to be done. It returns when to look again even if nothing happens.
func (w *worker) do(ctx context.Context, wg *sync.WaitGroup) (next time.Time, done bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.observe()
	plan := lifecycle.Step(w.state)
	if r := plan.Rejection; r != nil && w.state.Rejection == nil {
		w.a.event(w.state.Pod, v1.EventTypeNormal, r.Reason, r.Message)
	}
	w.state.Stage, w.state.Since, w.state.Rejection = plan.Stage, plan.Since, plan.Rejection
	for _, e := range slices.Concat(backOffEvents(w.state.Pod, &w.state.Last, &plan.Status), resizeEvents(w.state.Pod, &w.state.Last, &plan.Status)) {
		w.a.event(w.state.Pod, e.kind, e.reason, e.message)
	}
	w.state.Last = plan.Status
	next = plan.Wake
	if plan.Done {
		w.forget()
		return next, true
	}
	for _, key := range plan.Cancel {
		if cancel := w.cancels[key]; cancel != nil {
			cancel()
		}
	}
	for _, act := range plan.Actions {
		w.begin(ctx, wg, act)
	}
	w.syncProbes()
	next = earlier(next, w.sendReport(ctx, wg))
	if w.state.VolumesReady && plan.Stage == lifecycle.Syncing {
		next = earlier(next, w.mounted.Refresh)
	}
	return next, false
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// observe brings the state up to what the runtime knows.
func (w *worker) observe() {
	s := &w.state
	s.Now = time.Now()
	found := w.a.cfg.Sandboxes.Pod(w.ref.UID)
	switch {
	case found.Sandbox == nil:
		s.Sandbox = nil
	case s.Sandbox == nil || !s.Sandbox.CreatedAt.Equal(found.Sandbox.CreatedAt):
		s.Sandbox = &lifecycle.Sandbox{CreatedAt: found.Sandbox.CreatedAt}
	}
	s.Containers = s.Containers[:0]
	present := map[string]bool{}
	for _, rc := range found.Containers {
		present[rc.ID] = true
		c := podspec.Observed(rc)
		c.Resources = w.resize.appliedTo(&rc)
		if c.State == lifecycle.Exited {
			c.Message = w.terminationMessage(rc)
		}
		s.Containers = append(s.Containers, c)
	}
	for id := range w.messages {
		if !present[id] {
			delete(w.messages, id)
			delete(w.stopping, id)
			delete(s.Hooks, id)
		}
	}
	for id := range s.Health {
		if !present[id] {
			delete(s.Health, id)
		}
	}
	w.resize.forget(present)
	maps.DeleteFunc(s.Resize.Restarting, func(id string, _ bool) bool { return !present[id] })
	if s.VolumesReady && !w.mounted.Refresh.IsZero() && !s.Now.Before(w.mounted.Refresh) {
		s.VolumesStale = true
	}
	s.Reported = w.reported()
}

// begin starts an action. The caller holds mu.
func (w *worker) begin(ctx context.Context, wg *sync.WaitGroup, act lifecycle.Action) {
	ctx, cancel := context.WithCancel(ctx)
	key := act.Key()
	w.state.InFlight[key], w.cancels[key] = act, cancel
	pod := w.state.Pod
	if act.Kind == lifecycle.MountVolumes {
		w.state.VolumesStale = false // what changes from here on makes it stale again
	}
	if act.Resize {
		if w.state.Resize.Restarting == nil {
			w.state.Resize.Restarting = map[string]bool{}
		}
		w.state.Resize.Restarting[act.ID] = true
	}
	wg.Go(func() {
		defer cancel()
		apply, err := w.perform(ctx, pod, act)
		w.finish(act, apply, err)
	})
}

// finish takes over an action's outcome.
func (w *worker) finish(act lifecycle.Action, apply func(*lifecycle.State), err error) {
	w.mu.Lock()
	key := act.Key()
	delete(w.state.InFlight, key)
	delete(w.cancels, key)
	switch {
	case err == nil:
		delete(w.state.Failed, key)
	case errors.Is(err, context.Canceled):
	default:
		f := lifecycle.Failure{Message: err.Error(), Count: w.state.Failed[key].Count + 1, At: time.Now()}
		var r *reasonError
		if errors.As(err, &r) {
			f.Reason = r.reason
		}
		w.state.Failed[key] = f
		w.log.Debug("action failed", "action", key, "error", err)
		if act.Kind == lifecycle.MountVolumes {
			w.state.VolumesStale = true
		}
	}
	if apply != nil {
		apply(&w.state)
	}
	w.mu.Unlock()
	w.poke()
}

// reasonError is an error with the reason that a status or an event shows for it.
type reasonError struct {
	reason string
	err    error
}

func (e *reasonError) Error() string { return e.err.Error() }
func (e *reasonError) Unwrap() error { return e.err }

func because(reason string, err error) error {
	if err == nil {
		return nil
	}
	return &reasonError{reason, err}
}

// syncProbes has exactly the running instances probed. The caller holds mu.
func (w *worker) syncProbes() {
	s := &w.state
	running := map[string]bool{}
	for i := range s.Containers {
		c := &s.Containers[i]
		if c.State != lifecycle.Running || s.Stage > lifecycle.Terminating {
			continue
		}
		spec := containerSpec(s.Pod, c.Name)
		if spec == nil || spec.StartupProbe == nil && spec.ReadinessProbe == nil && spec.LivenessProbe == nil {
			continue
		}
		ip := s.Last.PodIP
		if ip == "" {
			continue
		}
		running[c.ID] = true
		if !w.watched[c.ID] && s.Stage == lifecycle.Syncing {
			w.watched[c.ID] = true
			w.a.probes.Watch(probes.Target{Pod: s.Pod, Container: spec, ID: c.ID, IP: ip, StartedAt: c.StartedAt, Started: wasStarted(&s.Pod.Status, c.ID)})
		}
		if s.Stage == lifecycle.Terminating {
			w.a.probes.Calm(c.ID)
		}
	}
	for id := range w.watched {
		if !running[id] {
			w.a.probes.Forget(id)
			delete(w.watched, id)
			delete(s.Health, id)
		}
	}
}

// wasStarted: the instance has passed its startup probe as far as the API server knows.
func wasStarted(st *v1.PodStatus, id string) bool {
	for _, list := range [][]v1.ContainerStatus{st.ContainerStatuses, st.InitContainerStatuses} {
		for i := range list {
			if list[i].ContainerID == "containerd://"+id {
				return list[i].Started != nil && *list[i].Started
			}
		}
	}
	return false
}

func containerSpec(pod *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if e := &pod.Spec.EphemeralContainers[i]; e.Name == name {
			return lifecycle.Ephemeral(e)
		}
	}
	return nil
}

// verdict takes what a probe found.
func (w *worker) verdict(id string, k probes.Kind, ok bool) {
	w.mu.Lock()
	h := w.state.Health[id]
	switch k {
	case probes.Startup:
		h.Started = &ok
	case probes.Readiness:
		h.Ready = &ok
	case probes.Liveness:
		h.Live = &ok
	}
	w.state.Health[id] = h
	w.mu.Unlock()
	w.poke()
}

// forget lets go of what is held outside of the worker. The caller holds mu.
func (w *worker) forget() {
	for id := range w.watched {
		w.a.probes.Forget(id)
	}
	w.a.objects.Release(w.ref.UID)
}
