package volumes

import (
	"io/fs"
	"os"
	"syscall"

	v1 "k8s.io/api/core/v1"
)

// ownByGroup gives a volume to a group as fsGroup asks: readable for it (writable unless readOnly), and new files
// in its folders belong to it.
// Paths are resolved within dir, so that a link that a pod puts there leads nowhere else.
func ownByGroup(dir string, group int64, readOnly bool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if err := root.Lchown(path, -1, int(group)); err != nil {
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
		return root.Chmod(path, kept|add)
	})
}

// takeGroup gives a persistent volume to the pod's fsGroup, unless its root is the group's already and the pod has that be enough.
func takeGroup(dir string, pod *v1.Pod) error {
	g := fsGroup(pod)
	if g == nil {
		return nil
	}
	if p := pod.Spec.SecurityContext.FSGroupChangePolicy; p != nil && *p == v1.FSGroupChangeOnRootMismatch && ownedBy(dir, *g) {
		return nil
	}
	return ownByGroup(dir, *g, false)
}

// ownedBy tells whether the folder is the group's, as ownByGroup leaves it.
func ownedBy(dir string, group int64) bool {
	info, err := os.Stat(dir)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	const mode = 0o770 | os.ModeSetgid
	return ok && int64(st.Gid) == group && info.Mode()&mode == mode
}
