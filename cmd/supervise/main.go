// Command supervise keeps one program running: it starts it, restarts it with back-off when it ends, and
// stops it when told to. It is a program of its own, on the standard library alone, because a second copy
// of coracle would cost ten times its memory.
//
//	supervise -pidfile FILE -log FILE -- PROGRAM [ARG ...]
//
// SIGTERM and SIGINT are passed on; supervise then waits for the program and exits 0. A program that exits
// with code 2 asked not to be restarted (a mistake in its configuration); supervise exits with 2 too.
//
// It holds both ends of a pair of sockets, which each run of the program gets as well: what one run leaves in that queue is there for the next
// (package internal/handover).
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
	// healthy is how long a run must last for the back-off to start anew.
	healthy = 10 * time.Second
	// maxLog is the size at which the log is put aside before the next start.
	maxLog = 10 << 20
	// exitNoRestart is the exit code by which the program asks not to be started again.
	exitNoRestart = 2
)

func main() {
	pidfile := flag.String("pidfile", "", "file that holds this process's id while it runs")
	logfile := flag.String("log", "", "file that takes the program's output")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: supervise -pidfile FILE -log FILE -- PROGRAM [ARG ...]")
		os.Exit(2)
	}
	code, err := supervise(*pidfile, *logfile, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "supervise:", err)
	}
	os.Exit(code)
}

// supervise returns the exit code for this process.
func supervise(pidfile, logfile string, argv []string) (int, error) {
	if pidfile != "" {
		lock, err := lockPidfile(pidfile)
		if err != nil {
			return 1, err
		}
		defer func() { _ = os.Remove(pidfile); _ = lock.Close() }()
	}
	queue, err := handoverQueue()
	if err != nil {
		return 1, err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	backoff := minBackoff
	for {
		started := time.Now()
		code, stopped, err := runOnce(logfile, argv, queue, signals)
		if stopped {
			return 0, nil
		}
		if err != nil || code == exitNoRestart {
			return exitNoRestart, err
		}
		if time.Since(started) > healthy {
			backoff = minBackoff
		}
		select {
		case <-signals:
			return 0, nil
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// runOnce starts the program and waits for it; stopped tells that a signal asked for its end.
func runOnce(logfile string, argv []string, queue []*os.File, signals <-chan os.Signal) (code int, stopped bool, err error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.ExtraFiles = queue // descriptors 3 and 4
	cmd.Env = append(os.Environ(), "CORACLE_HANDOVER=3,4")
	if logfile != "" {
		out, err := openLog(logfile)
		if err != nil {
			return 0, false, err
		}
		defer out.Close()
		cmd.Stdout, cmd.Stderr = out, out
	}
	if err := cmd.Start(); err != nil {
		return 0, false, err
	}
	type end struct {
		status syscall.WaitStatus
		err    error
	}
	ended := make(chan end, 1)
	go func() {
		status, err := reap(cmd.Process.Pid)
		ended <- end{status, err}
	}()
	for {
		select {
		case s := <-signals:
			stopped = true
			_ = cmd.Process.Signal(s)
		case e := <-ended:
			return e.status.ExitStatus(), stopped, e.err
		}
	}
}

// reap waits for the program's end. As the first process of a machine in a lab, supervise is the parent of every process that lost its
// own: whatever ends meanwhile is waited for too.
func reap(pid int) (status syscall.WaitStatus, err error) {
	for {
		ended, err := syscall.Wait4(-1, &status, 0, nil)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return status, os.NewSyscallError("wait4", err)
		}
		if ended == pid {
			return status, nil
		}
	}
}

// handoverQueue is the pair of sockets.
func handoverQueue() ([]*os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	return []*os.File{os.NewFile(uintptr(fds[0]), "handover"), os.NewFile(uintptr(fds[1]), "handover")}, nil
}

// lockPidfile takes the lock that only one live supervisor can hold, and writes our id into the file.
func lockPidfile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("another supervisor holds %s: %w", path, err)
	}
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	_, err = f.WriteString(strconv.Itoa(os.Getpid()) + "\n")
	return f, err
}

func openLog(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}
