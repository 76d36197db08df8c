package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

// The labels and extensions of our containers. The first four are those that crictl and nerdctl know.
const (
	labelUID       = "io.kubernetes.pod.uid"
	labelNamespace = "io.kubernetes.pod.namespace"
	labelPod       = "io.kubernetes.pod.name"
	labelContainer = "io.kubernetes.container.name"

	extMeta   = "coracle.dev/container"
	extStatus = "coracle.dev/status"
)

// meta is what is kept of a container's configuration.
type meta struct {
	Pod              PodRef
	Name             string
	Attempt          int
	ImageRef         string
	ImageID          string
	LogPath          string `json:",omitempty"`
	StopSignal       string `json:",omitempty"`
	TTY              bool   `json:",omitempty"`
	Stdin, StdinOnce bool   `json:",omitempty"`
	Cgroup           string `json:",omitempty"`
	User             User
	Labels           map[string]string `json:",omitempty"`
	// Boot is the machine's boot in which the container was created: in another one it cannot be started any more.
	Boot string `json:",omitempty"`
}

// status is what is kept of a container's end; it is written once.
type status struct {
	StartedAt, FinishedAt time.Time
	ExitCode              int32
	Reason, Message       string
}

// container is the runtime's view of one container. mu of the Runtime guards the fields below it, and the labels; the rest is
// constant.
type container struct {
	id      string
	meta    meta
	created time.Time

	state   State
	pid     int
	started time.Time
	end     status
	rootfs  []mount.Mount // prepared by Create, used by the Start that follows
	logs    *logPump
	oom     bool
	ended   chan struct{} // closed when the state is Exited

	// unsettled: nobody knows whether the last start came about. The pod's lock guards it.
	unsettled bool
}

// ContainerID is the ID that a container of a pod has in containerd: the same for the same pod, name and
// attempt, which makes Create idempotent.
func ContainerID(pod PodRef, name string, attempt int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", pod.UID, name, attempt))
	return hex.EncodeToString(sum[:])
}

// Create records a container and prepares its root file system; nothing runs yet. The pod's sandbox must exist.
// A container that exists already is left as it is. A *ConfigError is the pod's fault and not the node's.
func (r *Runtime) Create(ctx context.Context, cfg ContainerConfig) (id string, err error) {
	id = ContainerID(cfg.Pod, cfg.Name, cfg.Attempt)
	if r.lookup(id) != nil {
		return id, nil
	}
	dir := r.sandboxDir(cfg.Pod.UID)
	sandbox, err := readSandbox(dir)
	if err != nil {
		return "", fmt.Errorf("failed to find sandbox of pod %q: %w", cfg.Pod.UID, err)
	}
	image, err := r.cfg.Images.Rootfs(ctx, cfg.Image)
	if err != nil {
		return "", fmt.Errorf("failed to resolve image %q: %w", cfg.Image, err)
	}
	if cfg.Mounts, err = sandbox.mapMounts(dir, id, cfg.Mounts); err != nil {
		return "", fmt.Errorf("failed to map the owners of a volume: %w", err)
	}
	in := specInput{id: id, cfg: cfg, sandbox: sandbox.Config, firstID: sandbox.FirstID, dir: dir, image: image, oomMin: r.oomMin}
	if in.processes, err = r.processesOf(ctx, cfg); err != nil {
		return "", err
	}
	if err := in.gather(); err != nil {
		return "", err
	}
	spec, err := buildSpec(in)
	if err != nil {
		return "", wrapConfig(err)
	}
	c := &container{id: id, meta: metaOf(cfg, image, spec), created: time.Now().UTC(), ended: make(chan struct{})}
	binary, err := r.handler(sandbox.Config.Handler)
	if err != nil {
		return "", err
	}
	if err := r.record(ctx, c, image, spec, binary); err != nil {
		if !errdefs.IsAlreadyExists(err) {
			return "", fmt.Errorf("failed to create containerd container: %w", err)
		}
		_, err := r.load(ctx, id)
		return id, err
	}
	// The record came first, so that the snapshot is referred to from its first moment.
	sn := r.client.SnapshotService(image.Snapshotter)
	if c.rootfs, err = sn.Prepare(ctx, id, image.Parent, sandbox.snapshotOptions()...); errdefs.IsAlreadyExists(err) {
		c.rootfs, err = sn.Mounts(ctx, id)
	}
	if err != nil {
		_ = r.client.ContainerService().Delete(context.WithoutCancel(ctx), id)
		return "", fmt.Errorf("failed to prepare the container's root file system: %w", err)
	}
	r.remember(c)
	return id, nil
}

// processesOf is the PID namespace of the container whose processes are to be seen; empty is none.
func (r *Runtime) processesOf(ctx context.Context, cfg ContainerConfig) (string, error) {
	if cfg.ProcessesOf == "" {
		return "", nil
	}
	c, err := r.get(ctx, cfg.ProcessesOf)
	if err != nil {
		return "", fmt.Errorf("failed to get the target container of %q: %w", cfg.Name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.meta.Pod.UID != cfg.Pod.UID || c.state != StateRunning {
		return "", fmt.Errorf("the target container of %q does not run", cfg.Name)
	}
	return fmt.Sprintf("/proc/%d/ns/pid", c.pid), nil
}

func wrapConfig(err error) error {
	var config *ConfigError
	if errors.As(err, &config) {
		return err
	}
	return fmt.Errorf("failed to generate container spec: %w", err)
}

func metaOf(cfg ContainerConfig, image Rootfs, spec *specs.Spec) meta {
	ref := cfg.Image
	if len(image.Names) > 0 {
		ref = image.Names[0]
	}
	m := meta{
		Pod: cfg.Pod, Name: cfg.Name, Attempt: cfg.Attempt, ImageRef: ref, ImageID: image.ImageID, LogPath: cfg.LogPath,
		StopSignal: cfg.StopSignal, TTY: cfg.TTY, Stdin: cfg.Stdin, StdinOnce: cfg.StdinOnce, Cgroup: spec.Linux.CgroupsPath, Labels: cfg.Labels,
		Boot: bootID(), User: User{UID: spec.Process.User.UID, GID: spec.Process.User.GID, Groups: spec.Process.User.AdditionalGids},
	}
	if m.StopSignal == "" {
		m.StopSignal = image.Config.StopSignal
	}
	return m
}

// record writes the container to containerd's metadata: one transaction.
func (r *Runtime) record(ctx context.Context, c *container, image Rootfs, spec *specs.Spec, binary string) error {
	specAny, err := typeurl.MarshalAny(spec)
	if err != nil {
		return err
	}
	runcOpts, err := typeurl.MarshalAny(&options.Options{
		BinaryName: binary, Root: r.states(),
	})
	if err != nil {
		return err
	}
	data, err := json.Marshal(c.meta)
	if err != nil {
		return err
	}
	_, err = r.client.ContainerService().Create(ctx, containers.Container{
		ID: c.id,
		Labels: map[string]string{
			labelUID: c.meta.Pod.UID, labelNamespace: c.meta.Pod.Namespace, labelPod: c.meta.Pod.Name, labelContainer: c.meta.Name,
		},
		Image:       c.meta.ImageRef,
		Runtime:     containers.RuntimeInfo{Name: r.cfg.Shim, Options: runcOpts},
		Spec:        specAny,
		SnapshotKey: c.id,
		Snapshotter: image.Snapshotter,
		Extensions:  map[string]typeurl.Any{extMeta: jsonAny(extMeta, data)},
	})
	return err
}

func jsonAny(url string, data []byte) typeurl.Any { return &anypb.Any{TypeUrl: url, Value: data} }

// Start runs a created container. One that runs, or ran, is left alone. Where the OCI runtime refuses, the
// container has ended with reason StartError and exit code 128, as with containerd's CRI plugin, and the error
// says why.
func (r *Runtime) Start(ctx context.Context, id string) error {
	c, err := r.get(ctx, id)
	if err != nil {
		return err
	}
	defer r.pods.Lock(c.meta.Pod.UID)()
	if err := r.settle(ctx, c); err != nil || r.stateOf(c) != StateCreated {
		return err
	}
	err = r.startTask(ctx, c)
	if err != nil && (ctx.Err() != nil || errdefs.IsUnavailable(err)) {
		c.unsettled = true
		return err // the node's trouble: to be tried again
	}
	r.dropMappedMounts(c)
	if err != nil {
		now := time.Now().UTC()
		r.finish(context.WithoutCancel(ctx), c, status{StartedAt: now, FinishedAt: now, ExitCode: 128, Reason: "StartError", Message: err.Error()})
		return err
	}
	return nil
}

// startTask is runc create and start, with the log attached in between.
func (r *Runtime) startTask(ctx context.Context, c *container) error {
	if err := r.clear(ctx, c); err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
	}
	rootfs, err := r.rootfsOf(ctx, c)
	if err != nil {
		return err
	}
	req := &tasks.CreateTaskRequest{ContainerID: c.id, Terminal: c.meta.TTY}
	for _, m := range rootfs {
		req.Rootfs = append(req.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	if req.Stdin, req.Stdout, req.Stderr, err = r.makeFIFOs(c); err != nil {
		return err
	}
	if _, err := r.tasks.Create(ctx, req); err != nil {
		r.removeFIFOs(c)
		if err = errgrpc.ToNative(err); errdefs.IsAlreadyExists(err) { // made by a call of an agent that has died
			err = fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
		}
		return fmt.Errorf("failed to create containerd task: %w", err)
	}
	pump, err := r.openLogs(c)
	if err == nil {
		var resp *tasks.StartResponse
		now := time.Now().UTC() // before, so that no container ends before it began
		r.noteStart(c, now)     // and so that none that may have run is started again
		if resp, err = r.tasks.Start(ctx, &tasks.StartRequest{ContainerID: c.id}); err == nil {
			r.running(c, int(resp.Pid), now, pump)
			return nil
		}
		err = fmt.Errorf("failed to start containerd task %q: %w", c.id, errgrpc.ToNative(err))
		if ctx.Err() != nil || errdefs.IsUnavailable(err) {
			pump.detach() // it may run
			return err
		}
	}
	clean := context.WithoutCancel(ctx)
	if derr := r.deleteTask(clean, c.id); derr != nil {
		r.log.Warn("task not removed", "container", c.id, "error", derr)
	}
	pump.drain(time.Second)
	r.removeFIFOs(c)
	return err
}

// settle finds out what became of a start whose answer was lost, with containerd or because nobody waited for it any more. The caller holds
// the pod's lock.
func (r *Runtime) settle(ctx context.Context, c *container) error {
	if !c.unsettled {
		return nil
	}
	resp, err := r.tasks.Get(ctx, &tasks.GetRequest{ContainerID: c.id})
	err = errgrpc.ToNative(err)
	started := r.startedAt(c)
	switch {
	case errdefs.IsNotFound(err) && started.IsZero():
	case errdefs.IsNotFound(err):
		r.finish(ctx, c, lostStatus(started))
	case err != nil:
		return err
	case resp.Process.Status == task.Status_CREATED:
		if err := r.discard(ctx, c); err != nil {
			return err
		}
	default:
		pump, err := r.openLogs(c)
		if err != nil {
			r.log.Warn("log not attached", "container", c.id, "error", err)
		}
		r.running(c, int(resp.Process.Pid), started, pump)
		r.reapLocked(ctx, c, nil) // it may have ended before anybody looked
	}
	c.unsettled = false
	return nil
}

// discard takes back a task that was created and not started.
func (r *Runtime) discard(ctx context.Context, c *container) error {
	if err := r.deleteTask(ctx, c.id); err != nil {
		return err
	}
	r.removeFIFOs(c)
	return nil
}

// noteStart tells an agent that starts anew that the container has been started.
func (r *Runtime) noteStart(c *container, at time.Time) {
	_ = os.WriteFile(r.ioPath(c.meta.Pod.UID, c.id, "started"), []byte(at.Format(time.RFC3339Nano)), 0o600)
}

// running notes a start in memory.
func (r *Runtime) running(c *container, pid int, started time.Time, pump *logPump) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.state, c.pid, c.started, c.logs, c.rootfs = StateRunning, pid, started, pump, nil
}

func (r *Runtime) rootfsOf(ctx context.Context, c *container) ([]mount.Mount, error) {
	if c.rootfs != nil {
		return c.rootfs, nil
	}
	rec, err := r.client.ContainerService().Get(ctx, c.id)
	if err != nil {
		return nil, err
	}
	sn := r.client.SnapshotService(rec.Snapshotter)
	mounts, err := sn.Mounts(ctx, rec.SnapshotKey)
	if errdefs.IsNotFound(err) { // an agent ended between record and snapshot
		image, ierr := r.cfg.Images.Rootfs(ctx, c.meta.ImageID)
		if ierr != nil {
			return nil, ierr
		}
		sandbox, serr := readSandbox(r.sandboxDir(c.meta.Pod.UID))
		if serr != nil {
			return nil, serr
		}
		mounts, err = sn.Prepare(ctx, rec.SnapshotKey, image.Parent, sandbox.snapshotOptions()...)
	}
	return mounts, err
}

// bootID tells this boot of the machine from others.
func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}

// Stop asks a container to end with its stop signal, kills it after the grace period, and returns when it has
// ended. It is no error if it has ended or never was.
func (r *Runtime) Stop(ctx context.Context, id string, grace time.Duration) error {
	c, err := r.get(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	unlock := r.pods.Lock(c.meta.Pod.UID)
	err = r.settle(ctx, c)
	unlock()
	if err != nil || r.stateOf(c) != StateRunning {
		return err
	}
	if grace > 0 {
		if err := r.Kill(ctx, id, signalOf(c.meta.StopSignal)); err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, grace)
		err := r.waitEnd(wait, c)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	if err := r.Kill(ctx, id, unix.SIGKILL); err != nil {
		return err
	}
	return r.waitEnd(ctx, c)
}

// Kill sends a signal to a container's first process; it is no error if that has ended.
func (r *Runtime) Kill(ctx context.Context, id string, sig unix.Signal) error {
	if c := r.lookup(id); c != nil {
		if done, err := r.signal(ctx, c, sig); done || err != nil {
			return err
		}
	}
	_, err := r.tasks.Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(sig)})
	return killError(id, err)
}

func killError(id string, err error) error {
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("failed to kill container %q: %w", id, err)
	}
	return nil
}

// signal sends a signal by itself, which saves the start of an OCI runtime. It leaves that to the runtime where SIGKILL would not end all
// of the container, because its first process is not the first of a PID namespace.
func (r *Runtime) signal(ctx context.Context, c *container, sig unix.Signal) (done bool, err error) {
	r.mu.Lock()
	pid, running := c.pid, c.state == StateRunning
	r.mu.Unlock()
	if !running || pid <= 0 {
		return false, nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false, nil // it has ended, which the runtime will say
	}
	defer unix.Close(fd)
	if sig == unix.SIGKILL && !firstOfNamespace(pid) {
		return false, nil
	}
	// What was opened is the container's if the task still runs now: no other process has its number before it is reaped.
	resp, err := r.tasks.Get(ctx, &tasks.GetRequest{ContainerID: c.id})
	if err != nil {
		return true, killError(c.id, err)
	}
	if resp.Process.Status != task.Status_RUNNING || int(resp.Process.Pid) != pid {
		return false, nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, nil // a signal that there is not: the runtime has the words
	}
	return true, nil
}

// firstOfNamespace tells whether a process is the first of a PID namespace of its own, so that all others in there end with it.
func firstOfNamespace(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	_, line, _ := strings.Cut(string(data), "\nNSpid:")
	line, _, _ = strings.Cut(line, "\n")
	numbers := strings.Fields(line)
	return len(numbers) > 1 && numbers[len(numbers)-1] == "1"
}

func signalOf(name string) unix.Signal {
	name = strings.ToUpper(strings.TrimSpace(name))
	if name == "" {
		return unix.SIGTERM
	}
	var n int
	if _, err := fmt.Sscanf(name, "%d", &n); err == nil && n > 0 {
		return unix.Signal(n)
	}
	var base, plus int
	if _, err := fmt.Sscanf(name, "SIGRTMIN+%d", &plus); err == nil {
		base = 34
		return unix.Signal(base + plus)
	}
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if s := unix.SignalNum(name); s != 0 {
		return s
	}
	return unix.SIGTERM
}

// waitEnd returns when the container's end has been recorded. The exit event leads to that; asking from time to
// time covers a lost one.
func (r *Runtime) waitEnd(ctx context.Context, c *container) error {
	for {
		select {
		case <-c.ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Second):
			r.reap(ctx, c, nil)
		}
	}
}

// Remove deletes a container, killing it first if it runs, with its root file system and its logs. It is
// idempotent.
func (r *Runtime) Remove(ctx context.Context, id string) error {
	c, err := r.get(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.Stop(ctx, id, 0); err != nil {
		return err
	}
	unlock := r.pods.Lock(c.meta.Pod.UID)
	defer unlock()
	rec, err := r.client.ContainerService().Get(ctx, id)
	if err == nil {
		// A task that never started, or whose end could not be recorded.
		if err := r.deleteTask(ctx, id); err != nil {
			_ = r.Kill(ctx, id, unix.SIGKILL) // should it run after all, the next attempt finds it dead
			return fmt.Errorf("failed to delete containerd task: %w", err)
		}
		if err := r.removeRemains(ctx, c); err != nil {
			return err
		}
		err = r.client.ContainerService().Delete(ctx, id)
		if err == nil || errdefs.IsNotFound(err) {
			err = r.client.SnapshotService(rec.Snapshotter).Remove(ctx, rec.SnapshotKey)
		}
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("failed to delete container %q: %w", id, err)
	}
	r.dropMappedMounts(c)
	c.logs.drain(time.Second)
	r.removeFIFOs(c)
	removeLogs(c.meta.LogPath)
	_ = os.Remove(r.logLink(c))
	r.mu.Lock()
	delete(r.containers, id)
	r.mu.Unlock()
	return nil
}
