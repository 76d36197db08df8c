package runtime

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// AttachConfig is what is connected to a container's own process.
type AttachConfig struct {
	Stdin          io.Reader // nil: none; needs ContainerConfig.Stdin
	Stdout, Stderr io.Writer
	Resize         <-chan TerminalSize
}

// Attach connects to the container's first process until it ends, ctx does, or a writer fails. Output from before
// is in the log only. With StdinOnce the process sees the end of its input when the first attached input ends.
func (r *Runtime) Attach(ctx context.Context, id string, cfg AttachConfig) error {
	c, err := r.get(ctx, id)
	if err != nil {
		return err
	}
	r.mu.Lock()
	pump, state := c.logs, c.state
	r.mu.Unlock()
	if state != StateRunning || pump == nil {
		return fmt.Errorf("container is in %s state", state)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &attachment{stdout: cfg.Stdout, stderr: cfg.Stderr, gone: make(chan struct{})}
	pump.mu.Lock()
	pump.attached[a] = struct{}{}
	pump.mu.Unlock()
	defer func() {
		pump.mu.Lock()
		delete(pump.attached, a)
		pump.mu.Unlock()
	}()
	if cfg.Stdin != nil && c.meta.Stdin {
		in, err := os.OpenFile(r.ioPath(c.meta.Pod.UID, id, "in"), os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("failed to attach to standard input: %w", err)
		}
		defer in.Close()
		go func() {
			_, _ = io.Copy(in, cfg.Stdin)
			in.Close()
			if c.meta.StdinOnce && !c.meta.TTY {
				r.closeStdin(id, "")
			}
		}()
	}
	if cfg.Resize != nil {
		go r.resizes(ctx, id, "", cfg.Resize)
	}
	select {
	case <-a.gone:
	case <-c.ended:
	case <-ctx.Done():
	}
	return nil
}

// Usage is what a container uses now; its time is zero where the container does not run.
func (r *Runtime) Usage(id string) Usage {
	c := r.lookup(id)
	if c == nil || r.stateOf(c) != StateRunning {
		return Usage{}
	}
	return CgroupUsage(c.meta.Cgroup)
}

// PodUsage is what a pod's cgroup uses; its time is zero where there is no sandbox.
func (r *Runtime) PodUsage(uid string) Usage {
	rec, err := readSandbox(r.sandboxDir(uid))
	if err != nil || rec.Config.CgroupParent == "" {
		return Usage{}
	}
	return CgroupUsage(rec.Config.CgroupParent)
}
