package runtime

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

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
	a := pump.attach()
	defer pump.leave(a)
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
	return a.copy(ctx, c.ended, cfg)
}

// attachment is somebody who gets a container's output as it comes.
type attachment struct {
	chunks chan chunk
	gone   chan struct{} // closed when nobody takes chunks any more
}

type chunk struct {
	stream string
	data   []byte
}

// attachedChunks is how much an attached client may be behind before the container waits for it.
const attachedChunks = 16

func (p *logPump) attach() *attachment {
	a := &attachment{chunks: make(chan chunk, attachedChunks), gone: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attached[a] = struct{}{}
	return a
}

func (p *logPump) leave(a *attachment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.attached, a)
	close(a.gone)
}

// deliver gives output to all who are attached, waiting for those that are slow.
func (p *logPump) deliver(stream string, data []byte) {
	p.mu.Lock()
	if len(p.attached) == 0 {
		p.mu.Unlock()
		return
	}
	list := slices.Collect(maps.Keys(p.attached))
	p.mu.Unlock()
	piece := chunk{stream, slices.Clone(data)}
	for _, a := range list {
		select {
		case a.chunks <- piece:
		case <-a.gone:
		case <-p.stopped:
		}
	}
}

// copy writes what is delivered until the container has ended and all of it is written.
func (a *attachment) copy(ctx context.Context, ended <-chan struct{}, cfg AttachConfig) error {
	write := func(c chunk) error {
		w := cfg.Stdout
		if c.stream == "stderr" {
			w = cfg.Stderr
		}
		if w == nil {
			return nil
		}
		_, err := w.Write(c.data)
		return err
	}
	for {
		select {
		case c := <-a.chunks:
			if write(c) != nil {
				return nil // the client is gone
			}
		case <-ctx.Done():
			return nil
		case <-ended:
			for len(a.chunks) > 0 {
				if write(<-a.chunks) != nil {
					return nil
				}
			}
			return nil
		}
	}
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
