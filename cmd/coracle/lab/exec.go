package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/internal/thread"
)

// Exec runs a command inside a machine that is on, with this process's standard streams, and returns its exit code. Its processes are the
// machine's: they end with it.
func (l *Lab) Exec(node string, argv []string) (code int, err error) {
	if err := l.has(node); err != nil {
		return 0, err
	}
	cmd := exec.Command(argv[0])
	cmd.Args = argv
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := l.startAsItsOwn(node, cmd); err != nil {
		return 0, err
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status := exit.Sys().(interface {
			Signaled() bool
			Signal() unix.Signal
		}); status.Signaled() {
			return 128 + int(status.Signal()), nil // as shells say it
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// startAsItsOwn starts a command in the machine's cgroup too: this process goes there, and back once the command is born. It is not to end with
// the machine.
func (l *Lab) startAsItsOwn(node string, cmd *exec.Cmd) error {
	before, err := ownCgroups()
	if err != nil {
		return err
	}
	err = enterCgroups(filepath.Join(l.NodeCgroup(node), ownCgroup))
	if errors.Is(err, fs.ErrNotExist) {
		err = l.off(node)
	}
	if err == nil {
		err = l.startIn(node, cmd)
	}
	return errors.Join(err, returnTo(before))
}

// off is the error of a machine that should be on.
func (l *Lab) off(node string) error {
	return fmt.Errorf("%s: %w; start it with `coracle lab start%s %s`", node, errOff, nameFlag(l.Name), node)
}

// startIn starts a command inside a machine. Its program is looked up there.
func (l *Lab) startIn(node string, cmd *exec.Cmd) error {
	pid, err := l.first(node)
	if err == nil && pid == 0 {
		err = l.off(node)
	}
	if err != nil {
		return err
	}
	path := filepath.Dir(nodeSelf) + ":" + os.Getenv("PATH")
	cmd.Env = append(os.Environ(), "PATH="+path)
	if node == Server {
		cmd.Env = append(cmd.Env, "KUBECONFIG="+nodeKubeconfig)
	}
	err = thread.Do(func() error {
		if err := enterNamespaces(pid); err != nil {
			return err
		}
		program, err := lookPath(cmd.Args[0], path)
		if err != nil {
			return err
		}
		cmd.Path, cmd.Err = program, nil
		return cmd.Start()
	})
	if err != nil {
		return fmt.Errorf("%s: %w", node, err)
	}
	return nil
}

// lookPath finds a program as a shell does.
func lookPath(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(path, ":") {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("there is no program %q on its PATH", name)
}

// enterNamespaces moves this thread into the namespaces of a process; those of processes holds for what the thread starts.
func enterNamespaces(pid int) error {
	var open []int
	for _, name := range []string{"cgroup", "ipc", "uts", "net", "pid", "mnt"} { // with the last one, /proc is another
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("namespace %s: %w", name, err)
		}
		defer unix.Close(fd)
		open = append(open, fd)
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	for _, fd := range open {
		if err := unix.Setns(fd, 0); err != nil {
			return err
		}
	}
	return unix.Chdir("/")
}
