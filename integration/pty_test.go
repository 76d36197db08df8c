package integration

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// writeScript makes an executable shell script.
func writeScript(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// openTerminal makes a pseudo-terminal: what is written to the first is typed on the second.
func openTerminal() (keyboard, terminal *os.File, err error) {
	keyboard, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	var n int
	conn, err := keyboard.SyscallConn()
	if err == nil {
		var ioctlErr error
		err = conn.Control(func(fd uintptr) {
			if ioctlErr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ioctlErr == nil {
				n, ioctlErr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
			}
		})
		if err == nil {
			err = ioctlErr
		}
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		keyboard.Close()
		return nil, nil, err
	}
	return keyboard, terminal, nil
}

func kubectlExecTTY(k *kube) {
	k.pod("web")
	first := openScreen(k, "exec", "-it", "web", "--", "sh")
	first.shows("# ") // the prompt: the shell sees a terminal
	first.types("hostname\n")
	first.shows("hostname\r\nweb\r\n") // the terminal in the container echoes what is typed and ends lines as terminals do
	first.types("exit 7\n")
	first.exits(7)

	second := openScreen(k, "exec", "-it", "web", "--", "sh")
	second.shows("# ")
	second.types("\x03") // Ctrl-C reaches the process in the container, as SIGINT
	second.exits(130)
}

// screen is a kubectl that runs on a terminal.
type screen struct {
	k        *kube
	cmd      *exec.Cmd
	keyboard *os.File
	text     *syncBuffer
	done     chan struct{}
}

func openScreen(k *kube, args ...string) *screen {
	k.t.Helper()
	keyboard, terminal, err := openTerminal()
	if err != nil {
		k.t.Fatal(err)
	}
	s := &screen{k: k, cmd: k.command(args...), keyboard: keyboard, text: &syncBuffer{}, done: make(chan struct{})}
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = terminal, terminal, terminal
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	terminal.Close()
	go func() { _, _ = io.Copy(s.text, keyboard) }() // ends when the terminal has no other end
	go func() { _ = s.cmd.Wait(); close(s.done) }()
	k.t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.done
		keyboard.Close()
	})
	return s
}

func (s *screen) shows(text string) {
	s.k.t.Helper()
	cluster.Eventually(s.k.t, 15*time.Second, func() error { return wantPart(s.text.String(), text) })
}

func (s *screen) types(text string) {
	s.k.t.Helper()
	if _, err := s.keyboard.WriteString(text); err != nil {
		s.k.t.Fatal(err)
	}
}

func (s *screen) exits(code int) {
	s.k.t.Helper()
	select {
	case <-s.done:
	case <-time.After(15 * time.Second):
		s.k.t.Fatalf("kubectl does not end; the screen:\n%s", s.text)
	}
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.k.t.Fatalf("exit code %d, want %d; the screen:\n%s", got, code, s.text)
	}
}
