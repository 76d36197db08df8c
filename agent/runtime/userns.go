package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/sys"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/internal/thread"
)

// idsPerPod is how many user and group IDs a pod with a user namespace has: 0 to 65535 inside.
const idsPerPod = 1 << 16

// IDRange is a range of the machine's user and group IDs.
type IDRange struct{ First, Count uint32 }

// DefaultPodIDs are the IDs that no convention of Linux distributions gives to anybody.
func DefaultPodIDs() IDRange { return IDRange{First: 0x70000000, Count: 0x10000000} }

// takeIDs gives a pod IDs that no other pod has; a pod that has some keeps them. RemoveSandbox frees them.
func (r *Runtime) takeIDs(uid string) (first uint32, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids == nil {
		if r.ids, err = r.recordedIDs(); err != nil {
			return 0, err
		}
	}
	if first, ok := r.ids[uid]; ok {
		return first, nil
	}
	taken := map[uint32]bool{}
	for _, first := range r.ids {
		taken[first] = true
	}
	for i := range r.cfg.PodIDs.Count / idsPerPod {
		if first := r.cfg.PodIDs.First + i*idsPerPod; !taken[first] {
			r.ids[uid] = first
			return first, nil
		}
	}
	return 0, errors.New("could not find an empty slot to allocate a user namespace")
}

// recordedIDs are those of the sandboxes that an earlier run of the agent made.
func (r *Runtime) recordedIDs() (map[string]uint32, error) {
	out := map[string]uint32{}
	entries, err := os.ReadDir(r.cfg.Layout.Sandboxes())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if rec, err := readSandbox(r.sandboxDir(e.Name())); err == nil && rec.FirstID != 0 {
			out[e.Name()] = rec.FirstID
		}
	}
	return out, nil
}

func idMappings(first uint32) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: first, Size: idsPerPod}}
}

func mappingText(first uint32) string { return fmt.Sprintf("0:%d:%d", first, idsPerPod) }

// makeUserNamespaces creates a sandbox's user namespace and those that belong to it. A shared PID namespace has to belong to it
// too, so that its holder is the one that makes them all.
func (r *Runtime) makeUserNamespaces(dir string, rec *sandboxRecord) error {
	cfg, flags := rec.Config, 0
	for _, ns := range cfg.namespaces() {
		if ns.flag != unix.CLONE_NEWUSER {
			flags |= ns.flag
		}
	}
	keep := func(pid int) error {
		for _, ns := range cfg.namespaces() {
			if err := bindNamespace(fmt.Sprintf("/proc/%d/ns/%s", pid, ns.file), filepath.Join(dir, ns.file)); err != nil {
				return err
			}
		}
		return thread.Do(func() error { return enterAndPrepare(dir, cfg, rec.FirstID) })
	}
	if !cfg.ShareProcess {
		return sys.UnshareAfterEnterUserns(mappingText(rec.FirstID), mappingText(rec.FirstID), uintptr(flags), keep)
	}
	if err := r.startUserPause(dir, rec, flags); err != nil {
		return err
	}
	return keep(rec.Pause)
}

// enterAndPrepare sets up the namespaces kept in dir, from within.
func enterAndPrepare(dir string, cfg SandboxConfig, owner uint32) error {
	list := slices.DeleteFunc(cfg.namespaces(), func(ns namespace) bool { return ns.flag == unix.CLONE_NEWUSER })
	for _, ns := range list {
		fd, err := unix.Open(filepath.Join(dir, ns.file), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &fs.PathError{Op: "open", Path: ns.file, Err: err}
		}
		err = unix.Setns(fd, ns.flag)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("enter namespace %s: %w", ns.file, err)
		}
	}
	return prepareNamespaces(cfg, list, owner)
}

// startUserPause starts the holder of a PID namespace within a user namespace of its own. It is started by an open file, as its user may
// not enter the folder that it lies in.
func (r *Runtime) startUserPause(dir string, rec *sandboxRecord, flags int) error {
	program, err := os.Open(r.cfg.Shim)
	if err != nil {
		return err
	}
	defer program.Close()
	cmd := exec.Command("/proc/self/fd/3", "pause")
	cmd.ExtraFiles = []*os.File{program}
	cmd.Dir, cmd.Env = "/", pauseEnv()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(rec.FirstID), Size: idsPerPod}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID, Unshareflags: uintptr(flags),
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{}}
	return rec.hold(dir, cmd)
}

// snapshotOptions have the root file system's owners shown as the pod's own.
func (rec *sandboxRecord) snapshotOptions() []snapshots.Opt {
	if rec.FirstID == 0 {
		return nil
	}
	ids := mappingText(rec.FirstID)
	return []snapshots.Opt{snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotUIDMapping: ids, snapshots.LabelSnapshotGIDMapping: ids})}
}

// mapMounts gives each source a mount in which its owners appear as the pod's own, so that a volume's files have inside the IDs that
// they have on disk. They are needed until the container has started.
func (rec *sandboxRecord) mapMounts(dir, id string, mounts []Mount) ([]Mount, error) {
	if rec.FirstID == 0 {
		return mounts, nil
	}
	base := mappedMounts(dir, id)
	if err := unmountBelow(base); err != nil { // of an earlier attempt
		return nil, err
	}
	if err := os.MkdirAll(base, 0o700); err != nil {
		return nil, err
	}
	users, err := os.Open(filepath.Join(dir, "user"))
	if err != nil {
		return nil, err
	}
	defer users.Close()
	out := slices.Clone(mounts)
	for i := range out {
		target := filepath.Join(base, strconv.Itoa(i))
		if err := mapMount(out[i].Source, target, int(users.Fd())); err != nil {
			return nil, errors.Join(err, unmountBelow(base))
		}
		out[i].Source = target
		if out[i].Options, err = lockedOptions(target, out[i].Options); err != nil {
			return nil, errors.Join(err, unmountBelow(base))
		}
	}
	return out, nil
}

// lockedOptions adds what a mount has that a user namespace may not take from it: to make it read-only, all of it has to be said again.
func lockedOptions(path string, options []string) ([]string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	options = slices.Clone(options)
	for flag, option := range map[int64]string{unix.ST_NOSUID: "nosuid", unix.ST_NODEV: "nodev", unix.ST_NOEXEC: "noexec"} {
		if st.Flags&flag != 0 && !slices.Contains(options, option) {
			options = append(options, option)
		}
	}
	slices.Sort(options)
	return options, nil
}

func mappedMounts(dir, id string) string { return filepath.Join(dir, "mapped", id[:24]) }

// dropMappedMounts lets go of what mapMounts made for a container: it has its own by now, or will never have.
func (r *Runtime) dropMappedMounts(c *container) {
	if err := unmountBelow(mappedMounts(r.sandboxDir(c.meta.Pod.UID), c.id)); err != nil {
		r.log.Warn("mounts of a container not given back yet", "container", c.id, "error", err)
	}
}

// mapMount shows source at target with the owners of the user namespace. What is mounted below is shown as it is.
func mapMount(source, target string, users int) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return &fs.PathError{Op: "open_tree", Path: source, Err: err}
	}
	defer unix.Close(tree)
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users)}); err != nil {
		return fmt.Errorf("failed to set MOUNT_ATTR_IDMAP on %s: %w (maybe the filesystem used doesn't support idmap mounts on this kernel?)", source, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.MkdirAll(target, 0o700)
	} else {
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil {
		return err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

// unmountBelow unmounts and removes what mapMounts made in a folder.
func unmountBelow(base string) error {
	entries, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		path := filepath.Join(base, e.Name())
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return &fs.PathError{Op: "unmount", Path: path, Err: err}
		}
		if err := os.Remove(path); err != nil { // not what is below: it may be a volume's
			return err
		}
	}
	return errors.Join(err, os.Remove(base))
}

// userNamespaces says what keeps pods from having user namespaces.
func (r *Runtime) userNamespaces(ctx context.Context, oci features.Features) error {
	if oci.Linux == nil || !slices.Contains(oci.Linux.Namespaces, "user") {
		return errors.New("the OCI runtime does not have them")
	}
	capabilities, err := r.client.GetSnapshotterCapabilities(ctx, r.cfg.Snapshotter)
	if err != nil {
		return err
	}
	if !slices.Contains(capabilities, "remap-ids") {
		return fmt.Errorf("snapshotter %s cannot map owners: overlayfs of Linux 5.19 or later is needed", r.cfg.Snapshotter)
	}
	for dir := r.cfg.Layout.Run; dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case info.Mode()&0o001 == 0:
			return fmt.Errorf("folder %s cannot be entered by other users: chmod o+x", dir)
		}
	}
	return r.tryMapping()
}

// tryMapping maps a folder where volumes are, as it will be done for pods.
func (r *Runtime) tryMapping() error {
	dir := filepath.Join(r.cfg.Layout.Pods())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	ids := mappingText(r.cfg.PodIDs.First)
	return sys.UnshareAfterEnterUserns(ids, ids, 0, func(pid int) error {
		users, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
		if err != nil {
			return err
		}
		defer users.Close()
		tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return fmt.Errorf("the kernel cannot map owners of mounts: %w", err)
		}
		defer unix.Close(tree)
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users.Fd())}); err != nil {
			return fmt.Errorf("the file system of %s cannot map owners of mounts: %w", dir, err)
		}
		return nil
	})
}
