package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// abandonedAfter is the age from which what there is of a task that containerd does not know is nobody's: a call that makes one is
// called off when the agent that made it dies.
const abandonedAfter = 5 * time.Second

// bundles are containerd's folders of a container's task. Of a containerd that is not the cluster's own, nothing is there.
func (r *Runtime) bundles(id string) (dirs []string) {
	for _, root := range []string{r.cfg.Layout.ContainerdState(), r.cfg.Layout.Containerd()} {
		dirs = append(dirs, filepath.Join(root, "io.containerd.runtime.v2.task", r.cfg.Namespace, id))
	}
	return dirs
}

// states is where the OCI runtime keeps what it knows of containers.
func (r *Runtime) states() string { return filepath.Join(r.cfg.Layout.Run, "runc") }

func (r *Runtime) stateDir(id string) string { return filepath.Join(r.states(), r.cfg.Namespace, id) }

// clear makes room for a container's task: what an earlier agent's attempt has left is removed. While that may still be under way this is an error.
func (r *Runtime) clear(ctx context.Context, c *container) error {
	for _, dir := range append(r.bundles(c.id), r.stateDir(c.id)) {
		info, err := os.Lstat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case time.Since(info.ModTime()) < abandonedAfter:
			return errors.New("an earlier attempt to start is not over")
		default:
			return r.removeRemains(ctx, c)
		}
	}
	return nil
}

// removeRemains removes what containerd and the OCI runtime may have left of a container without a task, when one of them, the shim or the agent
// was killed while a task was made or removed.
func (r *Runtime) removeRemains(ctx context.Context, c *container) error {
	if err := r.deleteState(ctx, c); err != nil {
		return err
	}
	for _, dir := range r.bundles(c.id) {
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

// deleteState has the OCI runtime forget a container, and end the process that waits to become it.
func (r *Runtime) deleteState(ctx context.Context, c *container) error {
	if _, err := os.Lstat(r.stateDir(c.id)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	handler := ""
	if rec, err := readSandbox(r.sandboxDir(c.meta.Pod.UID)); err == nil {
		handler = rec.Config.Handler
	}
	binary, err := r.handler(handler)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, binary, "--root", filepath.Dir(r.stateDir(c.id)), "delete", "--force", c.id).CombinedOutput()
	if err != nil {
		return fmt.Errorf("failed to delete what an earlier start has left: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
