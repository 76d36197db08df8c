package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

// ErrExecTimeout is returned (wrapped) by Exec when the process did not end in ExecConfig.Timeout.
var ErrExecTimeout = context.DeadlineExceeded

// execDrain is how long further output is waited for after a process ended: a child that it left behind may hold it open.
const execDrain = 10 * time.Second

// execStart is how long a process may take to start.
const execStart = time.Minute

// Exec runs a process in a running container and returns its exit code when it has ended and its output is
// written. The process is killed when ctx ends or the timeout passes. The error's words are those that kubectl
// exec shows with containerd.
func (r *Runtime) Exec(ctx context.Context, id string, cfg ExecConfig) (exitCode int, err error) {
	c, err := r.get(ctx, id)
	if err != nil {
		return 0, err
	}
	if r.stateOf(c) != StateRunning {
		return 0, fmt.Errorf("container is in %s state", r.stateOf(c))
	}
	spec, err := r.execSpec(ctx, id, cfg)
	if err != nil {
		return 0, err
	}
	var random [16]byte
	_, _ = rand.Read(random[:])
	execID := hex.EncodeToString(random[:])
	started := make(chan struct{})
	streams, err := r.execIO(c, execID, cfg, started)
	if err != nil {
		return 0, fmt.Errorf("failed to exec in container: %w", err)
	}
	defer streams.Close()
	return r.runExec(ctx, c, execID, cfg, spec, streams, started)
}

func (s State) String() string {
	return []string{"CONTAINER_CREATED", "CONTAINER_RUNNING", "CONTAINER_EXITED", "CONTAINER_UNKNOWN"}[s]
}

// execSpec is the container's own process with another command.
func (r *Runtime) execSpec(ctx context.Context, id string, cfg ExecConfig) (*anypb.Any, error) {
	rec, err := r.client.ContainerService().Get(ctx, id)
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := typeurl.UnmarshalTo(rec.Spec, &spec); err != nil {
		return nil, err
	}
	p := spec.Process
	p.Args, p.Terminal = cfg.Command, cfg.TTY
	if cfg.TTY {
		p.Env = append(p.Env, "TERM=xterm")
	}
	a, err := typeurl.MarshalAny(p)
	if err != nil {
		return nil, err
	}
	return typeurl.MarshalProto(a), nil
}

func (r *Runtime) execIO(c *container, execID string, cfg ExecConfig, started <-chan struct{}) (_ *execStreams, err error) {
	dir := filepath.Join(r.sandboxDir(c.meta.Pod.UID), "io")
	stdin := cfg.Stdin
	if stdin != nil && !cfg.TTY { // closing a terminal would hang the process up
		stdin = &endingReader{Reader: stdin, atEnd: func() {
			select { // the shim has no input to close before
			case <-started:
				r.closeStdin(c.id, execID)
			case <-time.After(time.Minute):
			}
		}}
	}
	out := &execStreams{}
	opts := []cio.Opt{cio.WithStreams(stdin, out.through(cfg.Stdout), out.through(cfg.Stderr)), cio.WithFIFODir(dir)}
	if cfg.TTY {
		opts = append(opts, cio.WithTerminal)
	}
	out.IO, err = cio.NewCreator(opts...)(execID)
	return out, err
}

// endingReader calls atEnd once its source has ended: the shim holds the process's standard input open until it is
// told that there is no more.
type endingReader struct {
	io.Reader
	atEnd func()
	once  sync.Once
}

func (r *endingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil {
		r.once.Do(func() { go r.atEnd() })
	}
	return n, err
}

// closeStdin tells the shim that no more input comes to a process that was started.
func (r *Runtime) closeStdin(id, execID string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := r.tasks.CloseIO(ctx, &tasks.CloseIORequest{ContainerID: id, ExecID: execID, Stdin: true})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		r.log.Debug("standard input not closed", "container", id, "error", err)
	}
}

// execStreams are a process's streams, and how its output gets on.
type execStreams struct {
	cio.IO
	writes  atomic.Int64 // that were begun
	pending atomic.Int64 // of those, which the client has not taken yet
}

// through passes everything on to w; nil takes it all.
func (s *execStreams) through(w io.Writer) io.Writer {
	if w == nil {
		w = io.Discard
	}
	return countedWriter{s, w}
}

type countedWriter struct {
	s *execStreams
	w io.Writer
}

func (w countedWriter) Write(b []byte) (int, error) {
	w.s.writes.Add(1)
	w.s.pending.Add(1)
	defer w.s.pending.Add(-1)
	return w.w.Write(b)
}

// drained waits until all output was written, however slow the client is that takes it. It gives up when nothing has come for a while.
func (s *execStreams) drained(ctx context.Context) bool {
	done := make(chan struct{})
	go func() { s.Wait(); close(done) }()
	for {
		before := s.writes.Load()
		select {
		case <-done:
			return true
		case <-ctx.Done():
			return false
		case <-time.After(execDrain):
			if s.writes.Load() == before && s.pending.Load() == 0 {
				return false
			}
		}
	}
}

func (r *Runtime) runExec(ctx context.Context, c *container, execID string, cfg ExecConfig, spec *anypb.Any, streams *execStreams, started chan<- struct{}) (int, error) {
	conf := streams.Config()
	clean := context.WithoutCancel(ctx)
	// A client may leave as soon as it sees output, which is before the start is answered: then there is a process to be killed.
	starting, stop := context.WithTimeout(clean, execStart)
	defer stop()
	_, err := r.tasks.Exec(starting, &tasks.ExecProcessRequest{
		ContainerID: c.id, ExecID: execID, Stdin: conf.Stdin, Stdout: conf.Stdout, Stderr: conf.Stderr, Terminal: cfg.TTY, Spec: spec,
	})
	if err != nil {
		streams.Cancel()
		return 0, fmt.Errorf("failed to exec in container: failed to create exec %q: %w", execID, errgrpc.ToNative(err))
	}
	defer r.tasks.DeleteProcess(clean, &tasks.DeleteProcessRequest{ContainerID: c.id, ExecID: execID})
	if _, err := r.tasks.Start(starting, &tasks.StartRequest{ContainerID: c.id, ExecID: execID}); err != nil {
		streams.Cancel()
		return 0, fmt.Errorf("failed to exec in container: failed to start exec %q: %w", execID, errgrpc.ToNative(err))
	}
	close(started)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if cfg.Resize != nil {
		go r.resizes(ctx, c.id, execID, cfg.Resize)
	}
	code, err := r.waitExec(ctx, c.id, execID, cfg.Timeout)
	if !streams.drained(ctx) {
		streams.Cancel()
	}
	return code, err
}

// resizes sets the size of a process's terminal as it changes; execID is empty for the container's own.
func (r *Runtime) resizes(ctx context.Context, id, execID string, sizes <-chan TerminalSize) {
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-sizes:
			if !ok {
				return
			}
			_, _ = r.tasks.ResizePty(ctx, &tasks.ResizePtyRequest{ContainerID: id, ExecID: execID, Width: uint32(s.Width), Height: uint32(s.Height)})
		}
	}
}

// waitExec waits for the process and kills it when its time is over.
func (r *Runtime) waitExec(ctx context.Context, id, execID string, timeout time.Duration) (int, error) {
	clean := context.WithoutCancel(ctx)
	type result struct {
		code int
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		resp, err := r.tasks.Wait(clean, &tasks.WaitRequest{ContainerID: id, ExecID: execID})
		if err != nil {
			ended <- result{0, errgrpc.ToNative(err)}
			return
		}
		ended <- result{int(resp.ExitStatus), nil}
	}()
	var timer <-chan time.Time
	if timeout > 0 {
		timer = time.After(timeout)
	}
	var cause error
	select {
	case res := <-ended:
		if res.err != nil {
			return 0, fmt.Errorf("failed to wait for exec %q: %w", execID, res.err)
		}
		return res.code, nil
	case <-timer:
		cause = fmt.Errorf("timeout %v exceeded: %w", timeout, ErrExecTimeout)
	case <-ctx.Done():
		cause = ctx.Err()
	}
	_, err := r.tasks.Kill(clean, &tasks.KillRequest{ContainerID: id, ExecID: execID, Signal: uint32(unix.SIGKILL)})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) && !strings.Contains(err.Error(), "already finished") {
		return 0, errors.Join(cause, err)
	}
	select {
	case <-ended:
	case <-time.After(execDrain):
	}
	return 137, cause
}
