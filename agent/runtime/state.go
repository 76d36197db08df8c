package runtime

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
)

// drainTime is how long the end of a container's output is waited for after its first process ended.
const drainTime = 3 * time.Second

func (r *Runtime) lookup(id string) *container {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.containers[id]
}

func (r *Runtime) remember(c *container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.containers[c.id] = c
}

func (r *Runtime) stateOf(c *container) State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.state
}

// get finds a container in memory, else in containerd.
func (r *Runtime) get(ctx context.Context, id string) (*container, error) {
	if c := r.lookup(id); c != nil {
		return c, nil
	}
	return r.load(ctx, id)
}

func (r *Runtime) load(ctx context.Context, id string) (*container, error) {
	rec, err := r.client.ContainerService().Get(ctx, id)
	if err != nil {
		return nil, err
	}
	c, err := fromRecord(rec)
	if err != nil {
		return nil, err
	}
	return c, r.adopt(ctx, c)
}

// fromRecord rebuilds what is known from containerd's metadata alone.
func fromRecord(rec containers.Container) (*container, error) {
	c := &container{id: rec.ID, created: rec.CreatedAt, ended: make(chan struct{})}
	ext, ok := rec.Extensions[extMeta]
	if !ok {
		return nil, fmt.Errorf("container %q is not ours", rec.ID)
	}
	if err := json.Unmarshal(ext.GetValue(), &c.meta); err != nil {
		return nil, fmt.Errorf("container %q: %w", rec.ID, err)
	}
	if ext, ok := rec.Extensions[extStatus]; ok {
		if err := json.Unmarshal(ext.GetValue(), &c.end); err != nil {
			return nil, fmt.Errorf("container %q: %w", rec.ID, err)
		}
		c.state, c.started = StateExited, c.end.StartedAt
		close(c.ended)
	}
	return c, nil
}

// adopt takes over a container that another run of the agent started: it asks for the task and attaches the logs.
func (r *Runtime) adopt(ctx context.Context, c *container) error {
	if c.state == StateExited {
		r.rememberNew(c)
		return nil
	}
	resp, err := r.tasks.Get(ctx, &tasks.GetRequest{ContainerID: c.id})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	started := r.startedAt(c)
	end, known := r.unrecordedEnd(c)
	switch {
	case err != nil && !known && started.IsZero() && c.meta.Boot == bootID():
		c.state = StateCreated
	case err != nil:
		// It was started and its task is gone: the shim died with it, or the machine was restarted.
		if started.IsZero() {
			started = c.created
		}
		if !known {
			end = lostStatus(started)
		}
		// Nobody may see it in a state from which it would be started once more.
		c.state, c.end, c.started = StateExited, end, end.StartedAt
		if c = r.rememberNew(c); c != nil {
			r.finish(ctx, c, end)
		}
		return nil
	case resp.Process.Status == task.Status_CREATED:
		// An agent died between runc's create and start; begin again from a clean state.
		if err := r.discard(ctx, c); err != nil {
			return err
		}
		c.state = StateCreated
	default:
		c.state, c.pid, c.started = StateRunning, int(resp.Process.Pid), started
		if c.logs, err = r.openLogs(c); err != nil {
			r.log.Warn("log not attached", "container", c.id, "error", err)
		}
	}
	if c = r.rememberNew(c); c != nil && resp != nil && resp.Process.Status == task.Status_STOPPED {
		r.reap(ctx, c, nil)
	}
	return nil
}

// rememberNew stores a container unless another caller was quicker; then nil is returned.
func (r *Runtime) rememberNew(c *container) *container {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.containers[c.id] != nil {
		if c.logs != nil {
			go c.logs.detach()
		}
		return nil
	}
	r.containers[c.id] = c
	return c
}

// lostStatus is the end of a container that nobody saw, in containerd's words: after a reboot, for example.
func lostStatus(started time.Time) status {
	return status{StartedAt: started, FinishedAt: time.Now().UTC(), ExitCode: 255, Reason: "Unknown"}
}

// startedAt reads the time noted by running; without it, as after a reboot, it is zero.
func (r *Runtime) startedAt(c *container) time.Time {
	data, err := os.ReadFile(r.ioPath(c.meta.Pod.UID, c.id, "started"))
	if err != nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, string(data))
	if err != nil {
		return time.Time{}
	}
	return t
}

// unrecordedEnd reads the end that finish could not write to containerd.
func (r *Runtime) unrecordedEnd(c *container) (end status, known bool) {
	data, err := os.ReadFile(r.ioPath(c.meta.Pod.UID, c.id, "ended"))
	return end, err == nil && json.Unmarshal(data, &end) == nil
}

// reap records the end of a container whose task has stopped, or vanished, and frees its task and with the last
// one of the pod the shim. It does nothing while the container runs. The exit event, if there was one, has the code
// of a container whose shim was killed.
func (r *Runtime) reap(ctx context.Context, c *container, event *eventtypes.TaskExit) {
	defer r.pods.Lock(c.meta.Pod.UID)()
	r.reapLocked(ctx, c, event)
}

// reapLocked is reap; the caller holds the pod's lock.
func (r *Runtime) reapLocked(ctx context.Context, c *container, event *eventtypes.TaskExit) {
	if r.stateOf(c) != StateRunning {
		return
	}
	end := status{StartedAt: c.started}
	resp, err := r.tasks.Get(ctx, &tasks.GetRequest{ContainerID: c.id})
	err = errgrpc.ToNative(err)
	switch {
	case errdefs.IsNotFound(err) && event != nil:
		end.ExitCode, end.FinishedAt = int32(event.ExitStatus), event.ExitedAt.AsTime()
		end.Reason = r.reasonOf(c, end.ExitCode)
	case errdefs.IsNotFound(err):
		end = lostStatus(c.started)
	case err != nil:
		return // containerd is away; the next event or resync comes here again
	case resp.Process.Status != task.Status_STOPPED:
		return
	default:
		end.ExitCode = int32(resp.Process.ExitStatus)
		end.FinishedAt = resp.Process.ExitedAt.AsTime()
		end.Reason = r.reasonOf(c, end.ExitCode)
		c.logs.drain(drainTime)
		r.noteEnd(c, end) // from here on nobody else knows
		if err := r.deleteTask(ctx, c.id); err != nil {
			r.log.Warn("task not removed", "container", c.id, "error", err)
			return // it would keep the shim; this is called again when containerd is back
		}
	}
	r.finish(ctx, c, end)
}

func (r *Runtime) reasonOf(c *container, code int32) string {
	r.mu.Lock()
	oom := c.oom
	r.mu.Unlock()
	switch {
	case code == 0:
		return "Completed"
	case oom || machineCgroups().oomKills(c.meta.Cgroup) > 0:
		return "OOMKilled"
	}
	return "Error"
}

// finish is the one place where a container's end is written: in containerd first, then in memory, then the
// pod's worker is woken.
func (r *Runtime) finish(ctx context.Context, c *container, end status) {
	err := twice(func() error { return r.recordEnd(ctx, c, end) })
	c.logs.drain(time.Second)
	if err != nil && !errdefs.IsNotFound(err) {
		// It is noted in the run folder, for an agent that starts anew must not start it again.
		r.log.Warn("end of container not recorded", "container", c.id, "error", err)
		r.noteEnd(c, end)
		r.removePipes(c)
	} else {
		r.removeFIFOs(c)
	}
	r.mu.Lock()
	c.state, c.pid, c.end, c.started, c.logs = StateExited, 0, end, end.StartedAt, nil
	select {
	case <-c.ended:
	default:
		close(c.ended)
	}
	r.mu.Unlock()
	r.wake(c.meta.Pod.UID)
}

// recordEnd writes the end beside the container's record.
func (r *Runtime) recordEnd(ctx context.Context, c *container, end status) error {
	data, err := json.Marshal(end)
	if err != nil {
		return err
	}
	_, err = r.client.ContainerService().Update(ctx, containers.Container{
		ID: c.id, Extensions: map[string]typeurl.Any{extStatus: jsonAny(extStatus, data)},
	}, "extensions."+extStatus)
	return err
}

// twice makes a call again if containerd went away under it; another waits until it is back.
func twice(call func() error) error {
	err := errgrpc.ToNative(call())
	if errdefs.IsUnavailable(err) {
		err = errgrpc.ToNative(call())
	}
	return err
}

// deleteTask removes a task that does not run, if there is one.
func (r *Runtime) deleteTask(ctx context.Context, id string) error {
	err := twice(func() error {
		_, err := r.tasks.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
		return err
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// noteEnd writes the end to the run folder, until it is recorded.
func (r *Runtime) noteEnd(c *container, end status) {
	if data, err := json.Marshal(end); err == nil {
		_ = os.WriteFile(r.ioPath(c.meta.Pod.UID, c.id, "ended"), data, 0o600)
	}
}

// report is a container as others see it; the caller holds mu.
func (c *container) report() Container {
	return Container{
		ID: c.id, Pod: c.meta.Pod, Name: c.meta.Name, Attempt: c.meta.Attempt, State: c.state, Pid: c.pid,
		CreatedAt: c.created, StartedAt: c.started, FinishedAt: c.end.FinishedAt, ExitCode: c.end.ExitCode,
		Reason: c.end.Reason, Message: c.end.Message, ImageRef: c.meta.ImageRef, ImageID: c.meta.ImageID,
		LogPath: c.meta.LogPath, Cgroup: c.meta.Cgroup, User: c.meta.User, Labels: c.meta.Labels,
	}
}

// Status returns one container; errdefs.IsNotFound tells that there is none.
func (r *Runtime) Status(ctx context.Context, id string) (Container, error) {
	if _, err := r.get(ctx, id); err != nil {
		return Container{}, err
	}
	c := r.lookup(id)
	if c == nil {
		return Container{}, fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.report(), nil
}

// Pod returns what is known of one pod, from memory: exits are there as soon as the worker is woken for them.
// Before the first List it knows nothing of earlier containers.
func (r *Runtime) Pod(uid string) Pod {
	p := Pod{}
	dir := r.sandboxDir(uid)
	if rec, err := readSandbox(dir); err == nil && rec.pauses() {
		p.Sandbox = rec.sandbox(dir)
	}
	r.mu.Lock()
	for _, c := range r.containers {
		if c.meta.Pod.UID == uid {
			p.Containers = append(p.Containers, c.report())
		}
	}
	r.mu.Unlock()
	sortContainers(p.Containers)
	return p
}

func sortContainers(list []Container) {
	slices.SortFunc(list, func(a, b Container) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Attempt, b.Attempt))
	})
}

// List rebuilds the whole state from containerd and the sandboxes on disk: every pod with a sandbox or a
// container, by UID. It is the first call of an agent that starts, and again after containerd came back.
func (r *Runtime) List(ctx context.Context) (map[string]Pod, error) {
	records, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("failed to list containers: %w", err)
	}
	seen := map[string]bool{}
	for _, rec := range records {
		seen[rec.ID] = true
		if c := r.lookup(rec.ID); c != nil {
			r.reap(ctx, c, nil)
			continue
		}
		c, err := fromRecord(rec)
		if err != nil {
			r.log.Debug("container skipped", "error", err)
			continue
		}
		if err := r.adopt(ctx, c); err != nil {
			return nil, fmt.Errorf("container %q: %w", rec.ID, err)
		}
	}
	uids := map[string]bool{}
	r.mu.Lock()
	for id, c := range r.containers {
		// One created while the list was made is not in it; such are young.
		if !seen[id] && time.Since(c.created) > time.Minute {
			delete(r.containers, id)
			continue
		}
		uids[c.meta.Pod.UID] = true
	}
	r.mu.Unlock()
	dirs, err := os.ReadDir(r.cfg.Layout.Sandboxes())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, d := range dirs {
		uids[d.Name()] = true
	}
	pods := make(map[string]Pod, len(uids))
	for uid := range uids {
		pods[uid] = r.Pod(uid)
	}
	return pods, nil
}
