package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/resource"
)

func mountsBelow(dir string) ([]string, error) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(i.Mountpoint, dir+string(filepath.Separator)), false
	})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, i := range infos {
		out = append(out, i.Mountpoint)
	}
	return out, nil
}

// emptyDir is a folder for the pod's life, on disk or in memory.
func (m *Manager) emptyDir(pod *v1.Pod, v *v1.Volume) (string, error) {
	dir := filepath.Join(m.PodDir(pod.UID), "volumes", v.Name)
	if _, err := os.Lstat(dir); err == nil && (v.EmptyDir.Medium != v1.StorageMediumMemory || mountPoint(dir)) {
		return dir, nil // it holds the pod's data by now: hands off
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	switch v.EmptyDir.Medium {
	case v1.StorageMediumDefault:
	case v1.StorageMediumMemory:
		if err := mountTmpfs(dir, tmpfsOptions(pod, v.EmptyDir)); err != nil {
			return "", err
		}
	default:
		return "", fmt.Errorf("emptyDir of medium %s is not supported on this node", v.EmptyDir.Medium)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return "", err
	}
	if g := fsGroup(pod); g != nil {
		return dir, ownByGroup(dir, *g, false)
	}
	return dir, nil
}

// tmpfsOptions limits the volume by its sizeLimit and the pod's memory limit, whichever is smaller.
func tmpfsOptions(pod *v1.Pod, e *v1.EmptyDirVolumeSource) string {
	var size int64
	if e.SizeLimit != nil {
		size = e.SizeLimit.Value()
	}
	lim := helpers.PodLimits(pod, helpers.PodResourcesOptions{})
	if l := lim.Memory().Value(); l > 0 && (size == 0 || l < size) && everyMemoryLimited(pod) {
		size = l
	}
	if size == 0 {
		return "mode=0777"
	}
	return fmt.Sprintf("mode=0777,size=%d", size)
}

func everyMemoryLimited(pod *v1.Pod) bool {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Resources.Limits.Memory().IsZero() {
			return false
		}
	}
	return true
}

// checkHostPath makes sure that the path is what its type says, and makes it where the type says so.
func checkHostPath(h *v1.HostPathVolumeSource) error {
	kind := v1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	if strings.Contains("/"+h.Path+"/", "/../") {
		return fmt.Errorf("hostPath %s must not contain '..'", h.Path)
	}
	info, err := os.Stat(h.Path)
	absent := errors.Is(err, os.ErrNotExist)
	if err != nil && !absent {
		return err
	}
	switch kind {
	case v1.HostPathUnset:
		if absent {
			return os.MkdirAll(h.Path, 0o755)
		}
		return nil
	case v1.HostPathDirectoryOrCreate:
		if absent {
			return os.MkdirAll(h.Path, 0o755)
		}
		return is(info.IsDir(), h.Path, "directory")
	case v1.HostPathFileOrCreate:
		if absent {
			f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		return is(info.Mode().IsRegular(), h.Path, "file")
	}
	what, fits := hostPathKind(kind, info, absent)
	if what == "" {
		return fmt.Errorf("%s is an invalid volume type", kind)
	}
	return is(fits, h.Path, what)
}

func hostPathKind(kind v1.HostPathType, info fs.FileInfo, absent bool) (what string, fits bool) {
	var mode fs.FileMode
	if !absent {
		mode = info.Mode()
	}
	switch kind {
	case v1.HostPathDirectory:
		return "directory", mode.IsDir()
	case v1.HostPathFile:
		return "file", !absent && mode.IsRegular()
	case v1.HostPathSocket:
		return "socket file", mode&fs.ModeSocket != 0
	case v1.HostPathCharDev:
		return "character device", mode&fs.ModeCharDevice != 0
	case v1.HostPathBlockDev:
		return "block device", mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
	}
	return "", false
}

func is(ok bool, path, what string) error {
	if ok {
		return nil
	}
	return fmt.Errorf("hostPath type check failed: %s is not a %s", path, what)
}

// Mount is one bind mount into a container.
type Mount struct {
	Source, Destination string
	ReadOnly            bool
	Propagation         string // rprivate, rslave or rshared
}

// ContainerMounts are the container's mounts of its pod's volumes, expand resolves subPathExpr. Sub-paths are held by
// mounts of their own, made from an open file, so that nobody can swap in a link that leads out of the volume.
func (m *Manager) ContainerMounts(pod *v1.Pod, c *v1.Container, mounted Mounted, expand func(string) (string, error)) ([]Mount, error) {
	var out []Mount
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		source, ok := mounted.Paths[vm.Name]
		if !ok {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, c.Name)
		}
		sub := vm.SubPath
		if vm.SubPathExpr != "" {
			var err error
			if sub, err = expand(vm.SubPathExpr); err != nil {
				return nil, err
			}
		}
		if sub != "" {
			held := filepath.Join(m.PodDir(pod.UID), "subpaths", c.Name, fmt.Sprint(i))
			if err := holdSubPath(source, sub, held); err != nil {
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", vm.Name, c.Name, err)
			}
			source = held
		}
		dest := vm.MountPath
		if !filepath.IsAbs(dest) {
			dest = filepath.Join("/", dest)
		}
		out = append(out, Mount{Source: source, Destination: dest, ReadOnly: vm.ReadOnly || madeOfObjects(pod, vm.Name), Propagation: propagation(vm.MountPropagation)})
	}
	return out, nil
}

// madeOfObjects: what is written into such a volume would be lost with the next update, so nothing can be.
func madeOfObjects(pod *v1.Pod, name string) bool {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Name == name {
			return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
		}
	}
	return false
}

func propagation(p *v1.MountPropagationMode) string {
	if p == nil {
		return "rprivate"
	}
	switch *p {
	case v1.MountPropagationHostToContainer:
		return "rslave"
	case v1.MountPropagationBidirectional:
		return "rshared"
	}
	return "rprivate"
}

// holdSubPath bind-mounts what lies at sub within volume to held; a folder is made where there is nothing. os.Root
// keeps the creation, and RESOLVE_BENEATH the opening, within the volume.
func holdSubPath(volume, sub, held string) error {
	if !filepath.IsLocal(sub) {
		return fmt.Errorf("subPath %q must be relative and must not contain '..'", sub)
	}
	root, err := os.OpenRoot(volume)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Stat(sub); errors.Is(err, os.ErrNotExist) {
		if err := root.MkdirAll(sub, 0o750); err != nil {
			return err
		}
		if info, err := root.Stat("."); err == nil {
			_ = root.Chmod(sub, info.Mode().Perm())
		}
	} else if err != nil {
		return err
	}
	dir, err := unix.Open(volume, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: volume, Err: err}
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, sub, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return &fs.PathError{Op: "open", Path: filepath.Join(volume, sub), Err: err}
	}
	defer unix.Close(fd)
	return hold(fd, held)
}

func hold(fd int, held string) error {
	if err := unmount(held); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if err := os.RemoveAll(held); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(held), 0o750); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := os.Mkdir(held, 0o750); err != nil {
			return err
		}
	} else if err := os.WriteFile(held, nil, 0o600); err != nil {
		return err
	}
	return bindMount(fmt.Sprintf("/proc/self/fd/%d", fd), held)
}
