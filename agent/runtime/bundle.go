package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// removeBundle removes what containerd may have left in its folders of a container without a task: when it or the shim was killed while it made
// or removed one. Of a containerd that is not the cluster's own, nothing is there.
func (r *Runtime) removeBundle(id string) error {
	for _, root := range []string{r.cfg.Layout.ContainerdState(), r.cfg.Layout.Containerd()} {
		dir := filepath.Join(root, "io.containerd.runtime.v2.task", r.cfg.Namespace, id)
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		// A runc that outlived the shim which started it may have made folders where the root file system was mounted.
		if err := mount.UnmountRecursive(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("failed to remove the bundle: %w", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("failed to remove the bundle: %w", err)
		}
	}
	return nil
}
