package volumes

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	dataLink = "..data"
	newLink  = "..data_tmp"
)

// writeAtomically makes dir hold exactly files. A reader sees all of the old content or all of the new: files lie in
// a folder of their own, ..data is a link to it that one rename moves, and each visible name is a link through ..data.
func writeAtomically(dir string, files map[string]file, group *int64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if unchanged(dir, files) {
		return nil
	}
	fresh, err := os.MkdirTemp(dir, "..2006_")
	if err != nil {
		return err
	}
	if err := fill(fresh, files, group); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	old, _ := os.Readlink(filepath.Join(dir, dataLink))
	tmp := filepath.Join(dir, newLink)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(fresh), tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	if err := linkNames(dir, files); err != nil {
		return err
	}
	return removeOld(dir, filepath.Base(fresh), old)
}

// unchanged compares what is there with what is wanted, modes aside.
func unchanged(dir string, files map[string]file) bool {
	base := filepath.Join(dir, dataLink)
	target, err := filepath.EvalSymlinks(base)
	if err != nil {
		return false
	}
	seen := 0
	err = filepath.WalkDir(target, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(target, path)
		if err != nil {
			return err
		}
		f, ok := files[rel]
		have, err := os.ReadFile(path)
		if !ok || err != nil || !bytes.Equal(have, f.data) {
			return fs.ErrInvalid
		}
		seen++
		return nil
	})
	if err != nil || seen != len(files) {
		return false
	}
	for name := range topNames(files) {
		if _, err := os.Readlink(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

func fill(dir string, files map[string]file, group *int64) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.data, 0o600); err != nil {
			return err
		}
		// Chmod because the umask took part in the creation.
		if err := os.Chmod(path, os.FileMode(f.mode)&os.ModePerm); err != nil {
			return err
		}
		if f.uid != nil {
			if err := os.Lchown(path, int(*f.uid), -1); err != nil {
				return err
			}
		}
	}
	if group != nil {
		return ownByGroup(dir, *group, true)
	}
	return nil
}

// topNames are the names visible in the volume's root.
func topNames(files map[string]file) map[string]bool {
	out := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, string(filepath.Separator))
		out[top] = true
	}
	return out
}

func linkNames(dir string, files map[string]file) error {
	wanted := topNames(files)
	for name := range wanted {
		err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") && !wanted[e.Name()] && e.Type()&os.ModeSymlink != 0 {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeOld drops the folder replaced, and any that an interrupted write left.
func removeOld(dir, keep, old string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		stale := e.Name() == old || strings.HasPrefix(e.Name(), "..2006_")
		if e.IsDir() && stale && e.Name() != keep {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// ownByGroup gives a volume to a group as fsGroup asks: readable for it (writable unless readOnly), and new files
// in its folders belong to it.
func ownByGroup(dir string, group int64, readOnly bool) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if err := os.Lchown(path, -1, int(group)); err != nil {
			return err
		}
		if info.Mode()&os.ModeSymlink != 0 {
			return nil
		}
		add := os.FileMode(0o660)
		if readOnly {
			add = 0o440
		}
		if info.IsDir() {
			add |= 0o110 | os.ModeSetgid
		}
		kept := info.Mode() & (os.ModePerm | os.ModeSetuid | os.ModeSetgid | os.ModeSticky)
		return os.Chmod(path, kept|add)
	})
}

// mountPoint tells whether something is mounted at path.
func mountPoint(path string) bool {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil {
		return false
	}
	return st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// mountTmpfs mounts a tmpfs at dir unless there is one.
func mountTmpfs(dir, options string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if mountPoint(dir) {
		return nil
	}
	return os.NewSyscallError("mount tmpfs", unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options))
}

// bindMount mounts source at target, whatever was mounted there before.
func bindMount(source, target string) error {
	if err := unmount(target); err != nil {
		return err
	}
	return os.NewSyscallError("bind mount", unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""))
}

func unmount(path string) error {
	for range 16 {
		err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return nil // nothing (more) is mounted there
		}
		if err != nil {
			return &fs.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
	return &fs.PathError{Op: "unmount", Path: path, Err: unix.EBUSY}
}

// unmountBelow unmounts everything below dir, the deepest first.
func unmountBelow(dir string) error {
	points, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	slices.SortFunc(points, func(a, b string) int { return len(b) - len(a) })
	for _, p := range points {
		if err := unmount(p); err != nil {
			return err
		}
	}
	return nil
}
