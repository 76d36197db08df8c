package agent

import (
	"context"
	"errors"
	"path/filepath"

	v1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/agent/eviction"
	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/podspec"
	"github.com/coracle-dev/coracle/agent/runtime"
)

// newGuard makes what keeps the node from running out of memory and disk.
func (a *Agent) newGuard(ctx context.Context) *eviction.Manager {
	c := a.cfg
	return eviction.New(ctx, eviction.Config{Policy: c.Eviction, Node: guarded{a}, Observe: c.Observe, SplitImages: c.SplitImages, Alarm: c.Alarm, Log: c.Log})
}

// guarded is the agent as package eviction sees it.
type guarded struct{ a *Agent }

// Active implements eviction.Node.
func (g guarded) Active() []*v1.Pod { return g.a.taken() }

// Usage implements eviction.Node.
func (g guarded) Usage(ctx context.Context, pod *v1.Pod, written bool) (eviction.PodUsage, bool) {
	uid := string(pod.UID)
	out := eviction.PodUsage{Containers: map[string]eviction.ContainerUsage{}, Volumes: map[string]eviction.Disk{}}
	for _, c := range g.a.cfg.Sandboxes.Pod(uid).Containers {
		if c.State != runtime.StateRunning && !written {
			continue
		}
		u := out.Containers[c.Name] // of all instances together
		if c.State == runtime.StateRunning {
			u.Memory = int64(g.a.cfg.Usage.Usage(c.ID).WorkingSet)
		}
		if written {
			if bytes, inodes, err := g.a.cfg.Usage.Written(ctx, c.ID); err == nil {
				u.Rootfs.Bytes, u.Rootfs.Inodes = u.Rootfs.Bytes+bytes, u.Rootfs.Inodes+inodes
			}
			u.Logs = eviction.Measure(filepath.Join(podspec.LogDir(g.a.cfg.Layout.PodLogs(), podspec.Ref(pod)), c.Name))
		}
		out.Containers[c.Name] = u
	}
	out.Processes = int64(g.a.cfg.Usage.PodUsage(uid).Pids)
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; written && v.EmptyDir != nil && v.EmptyDir.Medium == v1.StorageMediumDefault {
			out.Volumes[v.Name] = eviction.Measure(g.a.volumes.EmptyDirPath(pod.UID, v.Name))
		}
	}
	return out, len(out.Containers) > 0 || written
}

// Evict implements eviction.Node.
func (g guarded) Evict(pod *v1.Pod, e eviction.Eviction) {
	w := g.a.worker(string(pod.UID))
	if w == nil {
		return
	}
	w.mu.Lock()
	first := w.state.Rejection == nil && w.state.Stage == lifecycle.Syncing
	if first {
		w.state.Rejection = &lifecycle.Rejection{Reason: lifecycle.ReasonEvicted, Message: e.Message, Grace: e.Grace, Disruption: e.Disruption}
	}
	w.mu.Unlock()
	if first {
		g.a.recorder.AnnotatedEventf(pod, e.Annotations, v1.EventTypeWarning, lifecycle.ReasonEvicted, "%s", e.Message)
		w.poke()
	}
}

// Ended implements eviction.Node.
func (g guarded) Ended(pod *v1.Pod) bool {
	w := g.a.worker(string(pod.UID))
	if w == nil {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.Stage >= lifecycle.Terminated && w.state.Reclaimed
}

// Reclaim implements eviction.Node.
func (g guarded) Reclaim(ctx context.Context) error {
	return errors.Join(g.a.removeDead(ctx), g.a.garbage.RemoveUnused(ctx))
}

// Changed implements eviction.Node.
func (g guarded) Changed(warning string) {
	if warning != "" {
		g.a.nodeEvent(v1.EventTypeWarning, "EvictionThresholdMet", warning)
	}
	g.a.reporter.Poke()
}

// removeDead removes the containers of pods that have ended but are not deleted yet, with their logs and what they wrote.
func (a *Agent) removeDead(ctx context.Context) error {
	a.mu.Lock()
	var over []*worker
	for _, w := range a.workers {
		over = append(over, w)
	}
	a.mu.Unlock()
	var errs []error
	for _, w := range over {
		w.mu.Lock()
		ended := w.state.Stage >= lifecycle.Terminated
		w.mu.Unlock()
		if ended {
			errs = append(errs, w.removeContainers(ctx))
		}
	}
	return errors.Join(errs...)
}
