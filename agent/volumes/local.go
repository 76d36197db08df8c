package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// Mount is one bind mount into a container.
type Mount struct {
	Source, Destination string
	ReadOnly            bool
	Propagation         string   // rprivate, rslave or rshared
	Options             []string // of the volume, beside these
}

// Device is one block volume in a container.
type Device struct {
	Source, Destination string
	ReadOnly            bool
}

// ContainerDevices are the container's block volumes.
func (m *Manager) ContainerDevices(c *v1.Container, mounted Mounted) ([]Device, error) {
	var out []Device
	for _, d := range c.VolumeDevices {
		v, ok := mounted.Volumes[d.Name]
		if !ok || !v.Block {
			return nil, fmt.Errorf("cannot find volume %q to pass into container %q", d.Name, c.Name)
		}
		out = append(out, Device{Source: v.Path, Destination: d.DevicePath, ReadOnly: v.ReadOnly})
	}
	return out, nil
}

// ContainerMounts are the container's mounts of its pod's volumes, expand resolves subPathExpr. Sub-paths are held by
// mounts of their own, made from an open file, so that nobody can swap in a link that leads out of the volume.
func (m *Manager) ContainerMounts(pod *v1.Pod, c *v1.Container, mounted Mounted, expand func(string) (string, error)) ([]Mount, error) {
	var out []Mount
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		v, ok := mounted.Volumes[vm.Name]
		if !ok || v.Block {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, c.Name)
		}
		source, sub := v.Path, vm.SubPath
		if vm.SubPathExpr != "" {
			var err error
			if sub, err = expand(vm.SubPathExpr); err != nil {
				return nil, err
			}
		}
		if err := checkSubPath(sub); err != nil {
			return nil, err
		}
		if sub = filepath.Clean(sub); sub != "." {
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
		out = append(out, Mount{Source: source, Destination: dest, ReadOnly: vm.ReadOnly || v.ReadOnly,
			Propagation: propagation(vm.MountPropagation), Options: v.Options})
	}
	return out, nil
}

// checkSubPath is for what an expansion has come to; what a pod says as it is, is checked when it is created.
func checkSubPath(sub string) error {
	if filepath.IsAbs(sub) {
		return fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
	}
	if slices.Contains(strings.Split(sub, string(filepath.Separator)), "..") {
		return fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", sub)
	}
	return nil
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
	root, err := os.OpenRoot(volume)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := makeFolders(root, sub); err != nil {
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

// makeFolders makes what is missing of the path. Each folder gets the volume's own mode, so that who may write to the one may
// write to the other.
func makeFolders(root *os.Root, path string) error {
	if _, err := root.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	made := ""
	for part := range strings.SplitSeq(path, string(filepath.Separator)) {
		made = filepath.Join(made, part)
		err := root.Mkdir(made, 0o750)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := root.Chmod(made, info.Mode()&(os.ModePerm|os.ModeSetgid)); err != nil {
			return err
		}
	}
	return nil
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
