// Package containerd keeps containerd running as a child process of the agent: Supervise starts the helper binary
// (cmd/containerd, see package server) and keeps it alive. The child has its own session, so that it, like the
// shims, outlives the agent; an agent that starts finds it by its socket and adopts it. Only Stop ends it.
//
// Its invariant: at most one containerd serves a state folder (a lock file held by the child), and whoever
// listens on the socket is that one.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/internal/assets"
	"github.com/coracle-dev/coracle/internal/paths"
)

// Config of the child process.
type Config struct {
	// Layout says where containerd's root, state and socket are, and the folder of the helpers.
	Layout paths.Layout
	// Debug makes containerd and its shims log every step.
	Debug bool
}

// command is how the child is started. Its name tells people what it belongs to.
func (c Config) command() (path string, args []string) {
	args = []string{"coracle", "containerd", "--data-dir", c.Layout.Data, "--run-dir", c.Layout.Run}
	if c.Debug {
		args = append(args, "--debug")
	}
	return filepath.Join(c.Layout.Bin(), assets.Containerd), args
}

// Main becomes the child: it replaces this process by the unpacked helper and returns only if that fails.
func Main(_ context.Context, cfg Config) error {
	if err := assets.Unpack(cfg.Layout); err != nil {
		return err
	}
	path, args := cfg.command()
	return fmt.Errorf("start %s: %w", path, syscall.Exec(path, args, os.Environ()))
}

// Supervisor says how the child is started and who wants to know.
type Supervisor struct {
	Config
	// Command starts another program as the child, for tests.
	Command []string
	// Ready, if set, is called each time a containerd serves: at first and after every restart.
	Ready func()
	Log   *slog.Logger
}

const (
	startTimeout = 20 * time.Second
	maxBackOff   = 30 * time.Second
	healthyAfter = time.Minute // a child that lived so long starts with the shortest back-off again
	maxLogSize   = 10 << 20
)

// Supervise keeps one containerd alive until ctx ends: it adopts one that already serves the socket, starts one
// otherwise, and starts it anew after a crash, with back-off. At ctx's end the child is left running.
func (s Supervisor) Supervise(ctx context.Context) error {
	if s.Log == nil {
		s.Log = slog.Default()
	}
	s.Log = s.Log.With("component", "containerd")
	backOff := 100 * time.Millisecond
	for {
		began := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > healthyAfter {
			backOff = 100 * time.Millisecond
		}
		s.Log.Warn("containerd ended; starting it again", "error", err, "after", backOff)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backOff):
		}
		backOff = min(backOff*2, maxBackOff)
	}
}

// once adopts or starts a containerd and waits for its end or ctx's.
func (s Supervisor) once(ctx context.Context) error {
	pid, err := servingPID(s.Layout.ContainerdSocket())
	if err != nil {
		if pid, err = s.start(ctx); err != nil {
			return err
		}
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("containerd (pid %d): %w", pid, err)
	}
	defer unix.Close(fd)
	if s.Ready != nil {
		s.Ready()
	}
	return waitPidfd(ctx, fd)
}

// start runs the child in a session of its own and waits until it serves its socket.
func (s Supervisor) start(ctx context.Context) (pid int, err error) {
	path, args := s.command()
	if len(s.Command) > 0 {
		path, args = s.Command[0], s.Command
	}
	out, err := openLog(s.Layout)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	cmd := exec.Command(path)
	cmd.Args = args
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	deadline := time.After(startTimeout)
	for wait := 2 * time.Millisecond; ; wait = min(wait*2, 50*time.Millisecond) {
		if pid, err := servingPID(s.Layout.ContainerdSocket()); err == nil {
			return pid, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case err := <-ended:
			return 0, fmt.Errorf("containerd did not start (%v): see %s", err, out.Name())
		case <-deadline:
			_ = cmd.Process.Kill()
			return 0, fmt.Errorf("containerd did not serve %s within %s: see %s", s.Layout.ContainerdSocket(), startTimeout, out.Name())
		case <-time.After(wait):
		}
	}
}

// openLog opens containerd's log for appending; one that has grown large is kept once as containerd.log.1.
func openLog(l paths.Layout) (*os.File, error) {
	if err := os.MkdirAll(l.Logs(), 0o700); err != nil {
		return nil, err
	}
	name := filepath.Join(l.Logs(), "containerd.log")
	if st, err := os.Stat(name); err == nil && st.Size() > maxLogSize {
		if err := os.Rename(name, name+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// servingPID is the process that listens on a unix socket.
func servingPID(socket string) (int, error) {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	if cred.Pid == 0 {
		return 0, errors.New("the process behind the socket is in another PID namespace")
	}
	return int(cred.Pid), nil
}

// waitPidfd returns when the process ended or ctx did. The descriptor is polled by a blocking thread that a
// pipe wakes, so that nothing ticks while nothing happens.
func waitPidfd(ctx context.Context, fd int) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { w.Close() })
	defer func() {
		if stop() {
			w.Close()
		}
	}()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(r.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			return errors.New("the process ended")
		}
	}
}

// Stop ends the containerd that serves the layout's socket, if any, and waits for its end. Containers and
// shims are not touched.
func Stop(ctx context.Context, l paths.Layout) error {
	pid, err := servingPID(l.ContainerdSocket())
	if err != nil {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	grace, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if waitPidfd(grace, fd); grace.Err() == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	waitPidfd(ctx, fd)
	return ctx.Err()
}
