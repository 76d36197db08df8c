// Package runtimetest gives tests a real container runtime: a containerd child of the test binary with its own
// roots, the shim, the demo image, and an end that leaves nothing behind.
package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/agent/containerd"
	"github.com/coracle-dev/coracle/agent/containerd/server"
	"github.com/coracle-dev/coracle/agent/images"
	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/internal/assets"
	"github.com/coracle-dev/coracle/internal/paths"
)

// childArg as first argument makes the test binary be containerd.
const childArg = "containerd-child"

// Main is called by TestMain: it runs the tests, or containerd where this process is the child.
func Main(m *testing.M) {
	if len(os.Args) != 4 || os.Args[1] != childArg {
		os.Exit(m.Run())
	}
	layout := paths.Layout{Data: os.Args[2], Run: os.Args[3]}
	if err := server.Main(context.Background(), server.Config{Layout: layout}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Env is one test's runtime.
type Env struct {
	Layout     paths.Layout
	Client     *client.Client
	Images     *images.Store
	Runtime    *runtime.Runtime
	Supervisor containerd.Supervisor
	Ctx        context.Context
	// CgroupRoot is a cgroup for the test's pods; it is removed at the end.
	CgroupRoot string
	// Restarts counts how often containerd came to serve.
	Restarts chan struct{}

	t      testing.TB
	stop   context.CancelFunc
	ended  chan struct{}
	agents []context.CancelFunc
}

// Start boots containerd and a Runtime for a test, which is skipped without root. With the demo image imported.
func Start(t testing.TB) *Env {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root")
	}
	root, err := os.MkdirTemp("", "crt")
	if err != nil {
		t.Fatal(err)
	}
	e := &Env{Layout: paths.Layout{Data: filepath.Join(root, "data"), Run: filepath.Join(root, "run")}, t: t, Restarts: make(chan struct{}, 100), ended: make(chan struct{})}
	e.CgroupRoot = "/" + filepath.Base(root)
	e.Ctx, e.stop = context.WithCancel(context.Background())
	t.Cleanup(func() { e.close(root) })
	e.unpack()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	e.Supervisor = containerd.Supervisor{
		Config: containerd.Config{Layout: e.Layout}, Command: []string{self, childArg, e.Layout.Data, e.Layout.Run}, Ready: func() { e.Restarts <- struct{}{} },
	}
	go func() {
		defer close(e.ended)
		_ = e.Supervisor.Supervise(e.Ctx)
	}()
	select {
	case <-e.Restarts:
	case <-time.After(20 * time.Second):
		t.Fatal("containerd did not start")
	}
	if e.Client, err = runtime.Dial(e.Layout.ContainerdSocket(), runtime.Namespace); err != nil {
		t.Fatal(err)
	}
	if e.Images, err = images.New(e.Ctx, images.Config{Client: e.Client, TempDir: filepath.Join(e.Layout.Run, "tmp")}); err != nil {
		t.Fatal(err)
	}
	e.Runtime = e.NewRuntime(runtime.Config{})
	return e
}

// NewRuntime is another agent's view on the same containerd; it runs until Halt or the test's end.
func (e *Env) NewRuntime(cfg runtime.Config) *runtime.Runtime {
	e.t.Helper()
	cfg.Layout, cfg.Client, cfg.Images = e.Layout, e.Client, e.Images
	r, err := runtime.New(cfg)
	if err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(e.Ctx)
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	e.agents = append(e.agents, func() { cancel(); <-done })
	return r
}

// Halt ends the newest Runtime's Run as an agent's end does.
func (e *Env) Halt() {
	last := len(e.agents) - 1
	e.agents[last]()
	e.agents = e.agents[:last]
}

// Demo imports the demo image and returns the IDs of its versions.
func (e *Env) Demo() (v1, v2 string) {
	e.t.Helper()
	archive, err := assets.Demo()
	if err != nil {
		e.t.Skipf("skipped: %v", err)
	}
	defer archive.Close()
	if _, err := e.Images.Import(e.Ctx, archive, images.ImportOptions{}); err != nil {
		e.t.Fatal(err)
	}
	ids := map[string]string{}
	for _, v := range []string{"v1", "v2"} {
		img, err := e.Images.Get(e.Ctx, "coracle/demo:"+v)
		if err != nil {
			e.t.Fatal(err)
		}
		ids[v] = img.ID
	}
	return ids["v1"], ids["v2"]
}

// unpack installs the shim; a binary built without it compiles one.
func (e *Env) unpack() {
	e.t.Helper()
	err := assets.Unpack(e.Layout)
	if errors.Is(err, assets.ErrMissing) {
		cmd := exec.Command("go", "build", "-tags=no_grpc", "-o", filepath.Join(e.Layout.Bin(), assets.Shim), "github.com/coracle-dev/coracle/cmd/containerd-shim-runc-v2")
		var out []byte
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

// close removes every container and sandbox, ends containerd and reports what is left.
func (e *Env) close(root string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if e.Runtime != nil {
		if err := Purge(ctx, e.Runtime); err != nil {
			e.t.Errorf("clean up: %v", err)
		}
	}
	for len(e.agents) > 0 {
		e.Halt()
	}
	e.stop()
	<-e.ended
	if err := containerd.Stop(ctx, e.Layout); err != nil {
		e.t.Errorf("stop containerd: %v", err)
	}
	if e.Client != nil {
		e.Client.Close()
	}
	if e.t.Failed() {
		if log, err := os.ReadFile(filepath.Join(e.Layout.Logs(), "containerd.log")); err == nil {
			e.t.Logf("containerd said:\n%s", log)
		}
	}
	for _, left := range Leftovers(root) {
		e.t.Errorf("left behind: %s", left)
	}
	if err := runtime.RemoveCgroup(e.CgroupRoot); err != nil {
		e.t.Errorf("left behind: %v", err)
	}
	for _, m := range mountsBelow(root) {
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
	_ = os.RemoveAll(root)
	_ = os.RemoveAll(e.Layout.ShimSockets())
}

// Purge removes all containers and sandboxes.
func Purge(ctx context.Context, r *runtime.Runtime) error {
	pods, err := r.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for uid, pod := range pods {
		for _, c := range pod.Containers {
			errs = append(errs, r.Remove(ctx, c.ID))
		}
		errs = append(errs, r.RemoveSandbox(ctx, uid))
	}
	return errors.Join(errs...)
}

// Leftovers are mounts below a folder and processes that mention it.
func Leftovers(root string) (out []string) {
	for _, m := range mountsBelow(root) {
		out = append(out, "mount "+m)
	}
	// A shim ends a moment after its last container.
	var procs []string
	for range 100 {
		if procs = processesOf(root); len(procs) == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return append(out, procs...)
}

func mountsBelow(root string) (out []string) {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], root) {
			out = append(out, f[4])
		}
	}
	return out
}

func processesOf(root string) (out []string) {
	for pid, command := range Processes(root) {
		out = append(out, fmt.Sprintf("process %d %s", pid, command))
	}
	return out
}

// Processes are those whose command line or environment names a folder, by PID.
func Processes(root string) map[int]string {
	out := map[int]string{}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		command, _ := os.ReadFile(f)
		environ, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "environ"))
		if pid != os.Getpid() && (strings.Contains(string(command), root) || strings.Contains(string(environ), root)) {
			out[pid] = strings.ReplaceAll(string(command), "\x00", " ")
		}
	}
	return out
}
