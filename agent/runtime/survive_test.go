package runtime_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/agent/runtime/runtimetest"
)

// containerdPID is the child that serves the test's socket.
func containerdPID(t *testing.T, e *runtimetest.Env) int {
	t.Helper()
	data, err := os.ReadFile(e.Layout.ContainerdState() + "/containerd.lock")
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestKillOfContainerdDisturbsNoContainer(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "live", runtime.SandboxConfig{})
	web := run(t, e, runtime.ContainerConfig{Pod: p, Name: "web", Image: v1})
	short := run(t, e, runtime.ContainerConfig{Pod: p, Name: "short", Image: v1, Command: []string{"sh", "-c", "sleep 0.2; echo bye; exit 5"}})
	before, err := e.Runtime.Status(e.Ctx, web)
	if err != nil {
		t.Fatal(err)
	}
	pid := containerdPID(t, e)
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil { // so that the exit falls into the time without containerd
		t.Fatal(err)
	}
	time.Sleep(400 * time.Millisecond)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-e.Restarts
	if c := ended(t, e, e.Runtime, short); c.ExitCode != 5 || c.Reason != "Error" {
		t.Errorf("exit while containerd was away: %+v", c)
	}
	pods, err := e.Runtime.List(e.Ctx)
	if err != nil || len(pods[p.UID].Containers) != 2 || pods[p.UID].Sandbox == nil {
		t.Fatalf("list: %+v %v", pods, err)
	}
	after, err := e.Runtime.Status(e.Ctx, web)
	if err != nil || after.State != runtime.StateRunning || after.Pid != before.Pid || containerdPID(t, e) == pid {
		t.Errorf("the other container: %+v %v", after, err)
	}
	if out, _ := execOut(t, e, web, "wget", "-qO-", "http://127.0.0.1:8080/log?line=after"); out != "logged\n" {
		t.Errorf("serves: %q", out)
	}
	eventually(t, "the log goes on", func() bool {
		data, _ := os.ReadFile(after.LogPath)
		return strings.Contains(string(data), "after")
	})
	if err := e.Runtime.Stop(e.Ctx, web, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if c := ended(t, e, e.Runtime, web); c.ExitCode != 0 {
		t.Errorf("stopped afterwards: %+v", c)
	}
}

func TestAgentRestartLosesNoLineAndNoExit(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "talk", runtime.SandboxConfig{Annotations: map[string]string{"k": "v"}})
	script := "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do echo line-$i; sleep 0.05; done; exit 4"
	talker := run(t, e, runtime.ContainerConfig{Pod: p, Name: "talker", Image: v1, Command: []string{"sh", "-c", script}, Labels: map[string]string{"l": "x"}})
	quiet := run(t, e, runtime.ContainerConfig{Pod: p, Name: "quiet", Image: v1})
	started, _ := e.Runtime.Status(e.Ctx, quiet)
	time.Sleep(200 * time.Millisecond)
	e.Halt()
	time.Sleep(time.Second) // it writes on and ends without an agent
	e.Runtime = e.NewRuntime(runtime.Config{})
	c := ended(t, e, e.Runtime, talker)
	if c.ExitCode != 4 || c.Labels["l"] != "x" || c.ImageID != v1 || c.Attempt != 0 || c.Name != "talker" || c.Pod != p {
		t.Errorf("after the restart: %+v", c)
	}
	data, _ := os.ReadFile(c.LogPath)
	for i := 1; i <= 15; i++ {
		if strings.Count(string(data), fmt.Sprintf(" F line-%d\n", i)) != 1 {
			t.Errorf("line %d is not there once:\n%s", i, data)
			break
		}
	}
	pods, err := e.Runtime.List(e.Ctx)
	if err != nil || pods[p.UID].Sandbox.Annotations["k"] != "v" || pods[p.UID].Sandbox.NetNS == "" {
		t.Errorf("sandbox: %+v %v", pods[p.UID].Sandbox, err)
	}
	if again, err := e.Runtime.Status(e.Ctx, quiet); err != nil || again.State != runtime.StateRunning || !again.StartedAt.Equal(started.StartedAt) || again.Pid != started.Pid {
		t.Errorf("running container: %+v, was %+v", again, started)
	}
}

func TestKillOfShimIsSeen(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "shim", runtime.SandboxConfig{})
	id := run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Image: v1})
	for pid, command := range runtimetest.Processes(e.Layout.Run) {
		if strings.Contains(command, "containerd-shim") {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	if c := ended(t, e, e.Runtime, id); c.ExitCode != 137 {
		t.Errorf("%+v", c)
	}
	id = run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Attempt: 1, Image: v1})
	if out, _ := execOut(t, e, id, "hostname"); out != "shim\n" {
		t.Errorf("the pod's namespaces outlive the shim: %q", out)
	}
}

func TestLogsRotateAndSplit(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	e.Halt()
	e.Runtime = e.NewRuntime(runtime.Config{LogSize: 4096, LogFiles: 3})
	p := pod(t, e, "logs", runtime.SandboxConfig{})
	long := strings.Repeat("x", 20000)
	id := run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Image: v1, Command: []string{"sh", "-c",
		"for i in 1 2 3 4 5 6 7 8 9; do echo $i " + strings.Repeat("y", 1000) + "; sleep 0.01; done; echo " + long + "; echo -n end"}})
	c := ended(t, e, e.Runtime, id)
	files, _ := os.ReadDir(strings.TrimSuffix(c.LogPath, "/0.log"))
	if len(files) != 3 {
		t.Errorf("files: %v", files)
	}
	data, _ := os.ReadFile(c.LogPath)
	if !strings.HasSuffix(string(data), " stdout P end\n") {
		t.Errorf("the last line without its end: %q", data[max(0, len(data)-80):])
	}
	var all string
	for _, f := range files {
		data, _ := os.ReadFile(strings.TrimSuffix(c.LogPath, "0.log") + f.Name())
		all += string(data)
	}
	if !strings.Contains(all, " stdout P "+long[:16384]+"\n") || !strings.Contains(all, " stdout F "+long[16384:]+"\n") {
		t.Error("a long line is not in parts")
	}
	if err := e.Runtime.Remove(e.Ctx, id); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(strings.TrimSuffix(c.LogPath, "/0.log")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestReboot takes away all that a reboot takes: processes, mounts and the run folder.
func TestReboot(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "boot", runtime.SandboxConfig{})
	id := run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Image: v1})
	e.Halt()
	for pid, command := range runtimetest.Processes(e.Layout.Run) {
		if strings.Contains(command, "containerd-shim") {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	eventually(t, "the container's cgroup is empty", func() bool { return runtime.CgroupUsage(e.CgroupRoot+"/boot").Pids == 0 })
	if err := e.Runtime.RemoveSandbox(e.Ctx, p.UID); err != nil {
		t.Fatal(err)
	}
	e.Runtime = e.NewRuntime(runtime.Config{})
	var c runtime.Container
	eventually(t, "the task is gone", func() bool {
		pods, err := e.Runtime.List(e.Ctx)
		if err != nil || len(pods[p.UID].Containers) != 1 {
			t.Fatalf("%+v %v", pods, err)
		}
		if pods[p.UID].Sandbox != nil {
			t.Fatal("a sandbox was found")
		}
		c = pods[p.UID].Containers[0]
		return c.ID == id
	})
	p = pod(t, e, "boot", runtime.SandboxConfig{})
	next := run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Attempt: 1, Image: v1})
	if c, err := e.Runtime.Status(e.Ctx, next); err != nil || c.State != runtime.StateRunning {
		t.Errorf("%+v %v", c, err)
	}
}

// interrupt leaves what there is when agent and shim were killed while runc made a container: a bundle, the runtime's state, and a process that waits.
func interrupt(t *testing.T, e *runtimetest.Env, id string, age time.Duration) (state string, pid int) {
	t.Helper()
	bundle := filepath.Join(e.Layout.ContainerdState(), "io.containerd.runtime.v2.task", "coracle", id)
	root := filepath.Join(e.Layout.Run, "runc", "coracle")
	for _, dir := range []string{filepath.Join(bundle, "rootfs"), root} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "rootfs", "sh"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	spec := `{"ociVersion":"1.0.2","process":{"args":["/sh"],"cwd":"/"},"root":{"path":"rootfs"},"mounts":[{"destination":"/proc","type":"proc","source":"proc"}],"linux":{"cgroupsPath":"` + e.CgroupRoot + "/left-" + id[:12] + `","namespaces":[{"type":"mount"}]}}`
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(bundle, "pid")
	if err := exec.Command("runc", "--root", root, "create", "--bundle", bundle, "--pid-file", pidFile, id).Run(); err != nil {
		t.Fatalf("runc create: %v", err)
	}
	if data, err = os.ReadFile(pidFile); err == nil {
		pid, err = strconv.Atoi(string(data))
	}
	if err != nil {
		t.Fatal(err)
	}
	state = filepath.Join(root, id)
	then := time.Now().Add(-age)
	for _, dir := range []string{bundle, state} {
		if err := os.Chtimes(dir, then, then); err != nil {
			t.Fatal(err)
		}
	}
	return state, pid
}

func TestStartAfterAnInterruptedOne(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "again", runtime.SandboxConfig{})
	create := func(name string) string {
		id, err := e.Runtime.Create(e.Ctx, runtime.ContainerConfig{Pod: p, Name: name, Image: v1, LogPath: logPath(e, p, name)})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	young, gone := create("young"), create("gone")
	interrupt(t, e, young, 0)
	if err := e.Runtime.Start(e.Ctx, young); !errdefs.IsUnavailable(err) {
		t.Errorf("start while an earlier one may be under way: %v", err)
	}
	eventually(t, "the container starts", func() bool { return e.Runtime.Start(e.Ctx, young) == nil })
	if c, err := e.Runtime.Status(e.Ctx, young); err != nil || c.State != runtime.StateRunning {
		t.Errorf("after another start: %+v, %v", c, err)
	}
	state, pid := interrupt(t, e, gone, time.Minute)
	if err := e.Runtime.Remove(e.Ctx, gone); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("the runtime still knows the container: %v", err)
	}
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(line), "runc") {
		t.Errorf("process %d is left: %s", pid, line)
	}
}
