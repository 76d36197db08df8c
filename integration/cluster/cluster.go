// Package cluster runs the real binary as a user would, each cluster in a network namespace of its own with no
// way out, for tests and benchmarks.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/internal/paths"
	"github.com/coracle-dev/coracle/internal/testenv"
	"github.com/coracle-dev/coracle/internal/thread"
)

// Binary is the coracle under test: $CORACLE_BIN, or bin/coracle of this checkout.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("CORACLE_BIN"); path != "" {
		return path
	}
	path := filepath.Join(testenv.Repository(), "bin", "coracle")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is missing: run `make build` first", path)
	}
	return path
}

// Cluster is one cluster's places. Nothing runs before Up or Start.
type Cluster struct {
	// Dir holds everything; Kubeconfig is the admin's.
	Dir        string
	Kubeconfig string
	Layout     paths.Layout
	// NetNS is the path of its network namespace.
	NetNS string

	t   testing.TB
	bin string
}

// New makes a cluster's folders and namespace; they go at the test's end, after everything was taken down.
func New(t testing.TB) *Cluster {
	t.Helper()
	testenv.NeedsRoot(t)
	bin, err := filepath.Abs(Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	// A short name: unix sockets live below it.
	dir, err := os.MkdirTemp("", "cor")
	if err != nil {
		t.Fatal(err)
	}
	// The users of pods with user namespaces come through it to their root file systems.
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	c := &Cluster{
		Dir: dir, Kubeconfig: filepath.Join(dir, "admin.kubeconfig"), t: t, bin: bin,
		Layout: paths.Layout{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run")},
		NetNS:  filepath.Join(dir, "net"),
	}
	t.Cleanup(c.clean)
	c.makeNetNS()
	return c
}

// Fatalf ends the test with what a cluster's log says.
func (c *Cluster) fatalf(format string, args ...any) {
	c.t.Helper()
	c.t.Fatalf(format, args...)
}

func (c *Cluster) makeNetNS() {
	c.t.Helper()
	if err := os.WriteFile(c.NetNS, nil, 0o600); err != nil {
		c.fatalf("%v", err)
	}
	err := thread.Do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", c.NetNS, "", unix.MS_BIND, "")
	})
	if err != nil {
		c.fatalf("network namespace: %v", err)
	}
	if out, err := c.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		c.fatalf("loopback: %v\n%s", err, out)
	}
}

// ForgetNetNS gives the cluster a new network namespace without links, as after a reboot. Processes in the old one must have ended.
func (c *Cluster) ForgetNetNS() {
	c.t.Helper()
	if err := unix.Unmount(c.NetNS, unix.MNT_DETACH); err != nil {
		c.fatalf("unmount the namespace: %v", err)
	}
	c.makeNetNS()
}

func (c *Cluster) clean() {
	log := ""
	if c.t.Failed() {
		log = c.Log() // before it is removed
	}
	if out, err := c.Coracle("down", "--purge", "--kubeconfig-out", c.Kubeconfig); err != nil {
		c.t.Errorf("down: %v\n%s", err, out)
	}
	if log != "" {
		c.t.Logf("the cluster's log:\n%s", log)
	}
	if err := unix.Unmount(c.NetNS, unix.MNT_DETACH); err != nil {
		c.t.Errorf("unmount the namespace: %v", err)
	}
	if err := unix.Unmount(c.Layout.Data, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // where a test gave it a disk of its own
		c.t.Errorf("unmount the data: %v", err)
	}
	if err := os.RemoveAll(c.Dir); err != nil {
		c.t.Errorf("remove: %v", err)
	}
}

// Log gives the end of the log of what Up started; it lies outside the data, which down removes.
func (c *Cluster) Log() string {
	data, err := os.ReadFile(filepath.Join(c.Layout.Logs(), "coracle.log"))
	if err != nil {
		return err.Error()
	}
	const most = 20_000
	return string(data[max(0, len(data)-most):])
}

// Command makes a command that runs inside the cluster's network namespace.
func (c *Cluster) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--net=" + c.NetNS, "--", name}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	return cmd
}

// Binary is the path of the coracle that the cluster is made of.
func (c *Cluster) Binary() string { return c.bin }

// Flags place a cluster.
func (c *Cluster) Flags() []string {
	return []string{"--data-dir", c.Layout.Data, "--run-dir", c.Layout.Run}
}

// Coracle runs a command of the binary that takes the place flags, and returns all it printed.
func (c *Cluster) Coracle(command string, args ...string) (string, error) {
	out, err := c.Command(c.bin, append(append([]string{command}, c.Flags()...), args...)...).CombinedOutput()
	return string(out), err
}

// ServerFlags are Flags with what a server wants besides.
func (c *Cluster) ServerFlags() []string {
	return append(c.Flags(), "--kubeconfig-out", c.Kubeconfig, "--config", "/dev/null")
}

// SteadyFlags make an agent independent of what else there is on the machine: a disk that is nearly full has no pods evicted and no images removed, and
// the configuration of registries lies in the cluster's folder.
func (c *Cluster) SteadyFlags() []string {
	return []string{"--eviction-hard=memory.available<50Mi", "--image-gc-high-threshold=100", "--registry-config-dir", c.Registries()}
}

// Registries is the folder of the registries' configuration.
func (c *Cluster) Registries() string { return filepath.Join(c.Dir, "registries") }

// Up brings the whole cluster up as `coracle up` does; the node is called node.
func (c *Cluster) Up(args ...string) string {
	c.t.Helper()
	all := append(append([]string{"up"}, c.ServerFlags()...), c.SteadyFlags()...)
	all = append(all, "--node-name", "node")
	out, err := c.Command(c.bin, append(all, args...)...).CombinedOutput()
	if err != nil {
		c.fatalf("up: %v\n%s", err, out)
	}
	return string(out)
}

// Process is a part that runs alone, in the foreground.
type Process struct {
	Cmd    *exec.Cmd
	output *bytes.Buffer
	done   chan struct{}
}

// Start runs a command of the binary in the background until Kill, Stop or the test's end.
func (c *Cluster) Start(args ...string) *Process {
	c.t.Helper()
	p := &Process{Cmd: c.Command(c.bin, args...), output: &bytes.Buffer{}, done: make(chan struct{})}
	p.Cmd.Stdout, p.Cmd.Stderr = p.output, p.output
	if err := p.Cmd.Start(); err != nil {
		c.fatalf("start %v: %v", args, err)
	}
	go func() { _ = p.Cmd.Wait(); close(p.done) }()
	c.t.Cleanup(func() {
		p.Kill()
		if c.t.Failed() {
			c.t.Logf("%v printed:\n%s", args, p.output)
		}
	})
	return p
}

// Ended tells whether the process is gone.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Kill sends SIGKILL and waits for the end. nsenter executes the program in its own place, so it is that which dies.
func (p *Process) Kill() { p.signal(unix.SIGKILL) }

// Stop sends SIGTERM and waits for the end.
func (p *Process) Stop() { p.signal(unix.SIGTERM) }

func (p *Process) signal(s unix.Signal) {
	_ = p.Cmd.Process.Signal(s)
	<-p.done
}

// Kubectl runs our own kubectl and fails the test where that fails.
func (c *Cluster) Kubectl(args ...string) string {
	c.t.Helper()
	out, err := c.TryKubectl("", args...)
	if err != nil {
		c.fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// KubectlIn is Kubectl with standard input.
func (c *Cluster) KubectlIn(stdin string, args ...string) string {
	c.t.Helper()
	out, err := c.TryKubectl(stdin, args...)
	if err != nil {
		c.fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// TryKubectl runs kubectl and returns all it printed.
func (c *Cluster) TryKubectl(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := c.KubectlCommand(args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "", err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return out.String(), err
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		<-done
		return out.String(), errors.New("kubectl did not end in three minutes")
	}
}

// KubectlCommand makes a kubectl command without running it.
func (c *Cluster) KubectlCommand(args ...string) *exec.Cmd {
	return c.Command(c.bin, append([]string{"kubectl"}, args...)...)
}

// Eventually asks until condition gives nil, and fails the test with its last error after the time.
func Eventually(t testing.TB, within time.Duration, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", within, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Want makes the error of Eventually where something differs.
func Want(what, got, want string) error {
	if strings.TrimSpace(got) == want {
		return nil
	}
	return fmt.Errorf("%s is %q, want %q", what, strings.TrimSpace(got), want)
}
