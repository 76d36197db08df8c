package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	shim "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// sandboxRecord is what is kept of a sandbox beside its namespaces. It lies in the run folder, because
// namespaces do not survive a reboot either.
type sandboxRecord struct {
	Config    SandboxConfig
	CreatedAt time.Time
	// PauseStart is the start time of the process that holds a shared PID namespace, and Pause its PID.
	Pause      int    `json:",omitempty"`
	PauseStart string `json:",omitempty"`
	confirm    *os.File
	// FirstID is the first of the machine's user and group IDs that the pod has; zero without a user namespace.
	FirstID uint32 `json:",omitempty"`
}

const (
	shmSize    = "64m"
	recordFile = "sandbox.json"
)

// RunSandbox makes a pod's namespaces, or finds those made before. It needs no containerd.
func (r *Runtime) RunSandbox(ctx context.Context, cfg SandboxConfig) (*Sandbox, error) {
	defer r.pods.Lock(cfg.Pod.UID)()
	dir := r.sandboxDir(cfg.Pod.UID)
	if rec, err := readSandbox(dir); err == nil && r.intact(dir, rec) {
		return rec.sandbox(dir), nil
	}
	if _, err := r.handler(cfg.Handler); err != nil {
		return nil, err
	}
	// What an interrupted attempt or a reboot left is removed first.
	if err := r.teardown(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "io"), 0o700); err != nil {
		return nil, err
	}
	rec := &sandboxRecord{Config: cfg, CreatedAt: time.Now().UTC()}
	if cfg.UserNamespace {
		var err error
		if rec.FirstID, err = r.takeIDs(cfg.Pod.UID); err != nil {
			return nil, fmt.Errorf("failed to create pod sandbox: %w", err)
		}
	}
	if err := r.setUp(ctx, dir, rec); err != nil {
		return nil, errors.Join(fmt.Errorf("failed to create pod sandbox: %w", err), r.teardown(dir))
	}
	return rec.sandbox(dir), nil
}

func (r *Runtime) setUp(ctx context.Context, dir string, rec *sandboxRecord) error {
	cfg := rec.Config
	g, _ := errgroup.WithContext(ctx)
	g.Go(func() error {
		if cfg.UserNamespace {
			return r.makeUserNamespaces(dir, rec)
		}
		return makeNamespaces(dir, cfg)
	})
	if !cfg.HostIPC {
		g.Go(func() error {
			shm := filepath.Join(dir, "shm")
			if err := os.Mkdir(shm, 0o1777); err != nil {
				return err
			}
			return unix.Mount("shm", shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC,
				fmt.Sprintf("mode=1777,size=%s,uid=%d,gid=%d", shmSize, rec.FirstID, rec.FirstID))
		})
	}
	if cfg.CgroupParent != "" {
		g.Go(func() error {
			if cfg.Resources == nil {
				return SetCgroup(cfg.CgroupParent, Resources{})
			}
			return SetCgroup(cfg.CgroupParent, *cfg.Resources)
		})
	}
	if cfg.ShareProcess && !cfg.HostPID && !cfg.UserNamespace {
		g.Go(func() error { return r.startPause(dir, rec) })
	}
	err := g.Wait()
	if err == nil {
		err = rec.write(dir)
	}
	rec.held(err == nil)
	return err
}

// write replaces the record at once, for a reader may be there any time.
func (rec *sandboxRecord) write(dir string) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, recordFile)
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// SetCgroup makes a cgroup and sets those of its limits that are not zero.
func (r *Runtime) SetCgroup(path string, res Resources) error { return SetCgroup(path, res) }

// ResizeSandbox gives the pod's cgroup other limits; those that are zero stay as they are.
func (r *Runtime) ResizeSandbox(_ context.Context, uid string, res Resources) error {
	defer r.pods.Lock(uid)()
	dir := r.sandboxDir(uid)
	rec, err := readSandbox(dir)
	if err != nil {
		return fmt.Errorf("failed to find sandbox of pod %q: %w", uid, err)
	}
	if err := SetCgroup(rec.Config.CgroupParent, res); err != nil {
		return fmt.Errorf("failed to update the cgroup of pod %q: %w", uid, err)
	}
	rec.Config.Resources = &res
	return rec.write(dir)
}

func readSandbox(dir string) (*sandboxRecord, error) {
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return nil, err
	}
	rec := &sandboxRecord{}
	if err := json.Unmarshal(data, rec); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return rec, nil
}

func (rec *sandboxRecord) sandbox(dir string) *Sandbox {
	s := &Sandbox{Pod: rec.Config.Pod, CreatedAt: rec.CreatedAt, Annotations: rec.Config.Annotations, Cgroup: rec.Config.CgroupParent, Resources: rec.Config.Resources}
	if !rec.Config.HostNetwork {
		s.NetNS = filepath.Join(dir, "net")
	}
	return s
}

// intact says whether all namespaces that a sandbox should have are still mounted.
func (r *Runtime) intact(dir string, rec *sandboxRecord) bool {
	for _, ns := range rec.Config.namespaces() {
		if !isNamespace(filepath.Join(dir, ns.file)) {
			return false
		}
	}
	return rec.pauses()
}

// pauses says whether the process that holds a shared PID namespace lives, where there is one: without it nothing can be started in there.
func (rec *sandboxRecord) pauses() bool {
	return rec.Pause == 0 || startTime(rec.Pause) == rec.PauseStart
}

// RemoveSandbox removes a pod's namespaces and cgroup. Its containers must be gone. It is idempotent.
func (r *Runtime) RemoveSandbox(ctx context.Context, uid string) error {
	unlock := r.pods.Lock(uid)
	defer unlock()
	dir := r.sandboxDir(uid)
	rec, err := readSandbox(dir)
	if err == nil && rec.Config.CgroupParent != "" {
		if err := RemoveCgroup(rec.Config.CgroupParent); err != nil {
			r.log.Warn("cgroup not removed", "pod", uid, "error", err)
		}
	}
	if err := r.teardown(dir); err != nil {
		return fmt.Errorf("failed to remove pod sandbox: %w", err)
	}
	r.endShim(ctx, uid)
	r.mu.Lock()
	delete(r.ids, uid)
	r.mu.Unlock()
	return nil
}

// teardown unmounts and removes whatever there is of a sandbox.
func (r *Runtime) teardown(dir string) error {
	if rec, err := readSandbox(dir); err == nil && rec.Pause != 0 && rec.pauses() {
		_ = unix.Kill(rec.Pause, unix.SIGKILL)
	}
	var errs []error
	mapped, _ := os.ReadDir(filepath.Join(dir, "mapped"))
	for _, e := range mapped {
		if err := unmountBelow(filepath.Join(dir, "mapped", e.Name())); err != nil {
			errs = append(errs, err)
		}
	}
	for _, name := range []string{"net", "ipc", "uts", "user", "pid", "shm"} {
		p := filepath.Join(dir, name)
		for range 8 { // a path may carry several mounts
			if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
					errs = append(errs, &fs.PathError{Op: "unmount", Path: p, Err: err})
				}
				break
			}
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...) // never remove what may still be a mount
	}
	return os.RemoveAll(dir)
}

// endShim ends a shim without containers that containerd does not know of, because it was killed when it had just started it. Of others the
// socket is gone, or dead.
func (r *Runtime) endShim(ctx context.Context, uid string) {
	path := r.shimSocket(uid)
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		client := ttrpc.NewClient(conn)
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		if _, err := shim.NewTTRPCTaskClient(client).Shutdown(ctx, &shim.ShutdownRequest{ID: uid}); err != nil {
			r.log.Warn("shim not ended", "pod", uid, "error", err)
		}
		cancel()
		client.Close()
	}
	_ = os.Remove(path)
}

// shimSocket is where containerd's shim manager puts the socket of a pod's shim.
func (r *Runtime) shimSocket(uid string) string {
	sum := sha256.Sum256([]byte(filepath.Join(r.cfg.Address, r.cfg.Namespace, uid)))
	return filepath.Join(r.cfg.Layout.ShimSockets(), fmt.Sprintf("%x", sum))
}
