package runtime_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/agent/images"
	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/agent/runtime/runtimetest"
)

func TestMain(m *testing.M) { runtimetest.Main(m) }

// pod is a sandbox with a name for a test.
func pod(t testing.TB, e *runtimetest.Env, name string, cfg runtime.SandboxConfig) runtime.PodRef {
	t.Helper()
	cfg.Pod = runtime.PodRef{UID: name + "-uid", Namespace: "default", Name: name}
	if cfg.Hostname == "" {
		cfg.Hostname = name
	}
	cfg.CgroupParent = e.CgroupRoot + "/" + name
	if _, err := e.Runtime.RunSandbox(e.Ctx, cfg); err != nil {
		t.Fatal(err)
	}
	return cfg.Pod
}

func logPath(e *runtimetest.Env, p runtime.PodRef, name string) string {
	return filepath.Join(e.Layout.PodLogs(), p.Namespace+"_"+p.Name+"_"+p.UID, name, "0.log")
}

// run creates and starts a container.
func run(t testing.TB, e *runtimetest.Env, cfg runtime.ContainerConfig) string {
	t.Helper()
	if cfg.LogPath == "" {
		cfg.LogPath = logPath(e, cfg.Pod, cfg.Name)
	}
	id, err := e.Runtime.Create(e.Ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Runtime.Start(e.Ctx, id); err != nil {
		t.Fatal(err)
	}
	return id
}

// ended waits until a container has exited.
func ended(t *testing.T, e *runtimetest.Env, r *runtime.Runtime, id string) runtime.Container {
	t.Helper()
	var c runtime.Container
	eventually(t, "container ends", func() bool {
		var err error
		c, err = r.Status(e.Ctx, id)
		return err == nil && c.State == runtime.StateExited
	})
	return c
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain: %s", what)
}

func execOut(t *testing.T, e *runtimetest.Env, id string, command ...string) (string, int) {
	t.Helper()
	var out strings.Builder
	code, err := e.Runtime.Exec(e.Ctx, id, runtime.ExecConfig{Command: command, Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatalf("exec %v: %v", command, err)
	}
	return out.String(), code
}

func TestTwoContainersShareTheirPod(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "web", runtime.SandboxConfig{})
	web := run(t, e, runtime.ContainerConfig{Pod: p, Name: "web", Image: v1})
	kv := run(t, e, runtime.ContainerConfig{Pod: p, Name: "kv", Image: v1, Args: []string{"kv"}})
	eventually(t, "the key-value store listens", func() bool {
		_, code := execOut(t, e, web, "kv-set", "localhost:3306", "a", "1")
		return code == 0
	})
	if out, _ := execOut(t, e, web, "kv-get", "localhost:3306", "a"); out != "1\n" {
		t.Errorf("kv-get: %q", out)
	}
	if out, _ := execOut(t, e, kv, "wget", "-qO-", "http://localhost:8080/"); !strings.HasPrefix(out, "Hello from demo v1 on web\n") {
		t.Errorf("wget: %q", out)
	}
	if log, err := os.ReadFile(logPath(e, p, "web")); err != nil || !strings.Contains(string(log), " stdout F ") || !strings.Contains(string(log), "GET / 200") {
		t.Errorf("log: %s %v", log, err)
	}
	if err := e.Runtime.Stop(e.Ctx, web, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if c := ended(t, e, e.Runtime, web); c.ExitCode != 0 || c.Reason != "Completed" {
		t.Errorf("stopped: %+v", c)
	}
	if c, err := e.Runtime.Status(e.Ctx, kv); err != nil || c.State != runtime.StateRunning {
		t.Errorf("the other container: %+v %v", c, err)
	}
}

func TestStartErrorsReadAsTheKubeletShowsThem(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "bad", runtime.SandboxConfig{})
	id, err := e.Runtime.Create(e.Ctx, runtime.ContainerConfig{Pod: p, Name: "c", Image: v1, Command: []string{"foo"}})
	if err != nil {
		t.Fatal(err)
	}
	err = e.Runtime.Start(e.Ctx, id)
	want := `failed to create containerd task: failed to create shim task: OCI runtime create failed: `
	if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), `exec: "foo": executable file not found in $PATH`) {
		t.Errorf("error: %v", err)
	}
	c, err := e.Runtime.Status(e.Ctx, id)
	if err != nil || c.State != runtime.StateExited || c.Reason != "StartError" || c.ExitCode != 128 || !strings.Contains(c.Message, "executable file not found") {
		t.Errorf("status: %+v %v", c, err)
	}
	// Another attempt in the same pod is not hindered.
	run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Attempt: 1, Image: v1})
	uid := int64(0)
	nonRoot := runtime.ContainerConfig{Pod: p, Name: "n", Image: v1, Security: runtime.Security{RunAsNonRoot: true}}
	_, err = e.Runtime.Create(e.Ctx, nonRoot)
	if want := `container has runAsNonRoot and image will run as root (pod: "bad_default(bad-uid)", container: n)`; err == nil || err.Error() != want {
		t.Errorf("runAsNonRoot: %v", err)
	}
	nonRoot.Security.UID = &uid
	if _, err = e.Runtime.Create(e.Ctx, nonRoot); err == nil || !strings.Contains(err.Error(), "runAsUser breaks non-root policy") {
		t.Errorf("runAsUser 0: %v", err)
	}
}

func TestExitCodesAndReasons(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "exits", runtime.SandboxConfig{})
	events := e.Runtime.Events(e.Ctx)
	id := run(t, e, runtime.ContainerConfig{Pod: p, Name: "three", Image: v1, Command: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}})
	if uid := <-events; uid != p.UID {
		t.Errorf("event for %q", uid)
	}
	c := ended(t, e, e.Runtime, id)
	if c.ExitCode != 3 || c.Reason != "Error" || c.FinishedAt.IsZero() || c.StartedAt.After(c.FinishedAt) || c.Pid != 0 {
		t.Errorf("exit 3: %+v", c)
	}
	log, _ := os.ReadFile(c.LogPath)
	if !strings.Contains(string(log), " stdout F out\n") || !strings.Contains(string(log), " stderr F err\n") {
		t.Errorf("log: %s", log)
	}
	id = run(t, e, runtime.ContainerConfig{Pod: p, Name: "sleeper", Image: v1, Command: []string{"sleep", "1000"}})
	if err := e.Runtime.Kill(e.Ctx, id, 9); err != nil {
		t.Fatal(err)
	}
	if c := ended(t, e, e.Runtime, id); c.ExitCode != 137 || c.Reason != "Error" {
		t.Errorf("killed: %+v", c)
	}
	id = run(t, e, runtime.ContainerConfig{Pod: p, Name: "fat", Image: v1, Command: []string{"stress", "-m", "200"}, Resources: runtime.Resources{MemoryLimit: 32 << 20}})
	if c := ended(t, e, e.Runtime, id); c.ExitCode != 137 || c.Reason != "OOMKilled" {
		t.Errorf("out of memory: %+v", c)
	}
	// A stop that is not heeded ends in SIGKILL after the grace period.
	id = run(t, e, runtime.ContainerConfig{Pod: p, Name: "stubborn", Image: v1, Args: []string{"serve", "-lame=1h"}})
	eventually(t, "it serves", func() bool {
		_, code := execOut(t, e, id, "wget", "-qO-", "http://127.0.0.1:8080/healthz")
		return code == 0
	})
	began := time.Now()
	if err := e.Runtime.Stop(e.Ctx, id, 300*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if c := ended(t, e, e.Runtime, id); c.ExitCode != 137 || time.Since(began) < 300*time.Millisecond {
		t.Errorf("stubborn: %+v after %v", c, time.Since(began))
	}
	for range 2 { // all calls may be repeated
		if err := e.Runtime.Stop(e.Ctx, id, time.Second); err != nil {
			t.Error(err)
		}
		if err := e.Runtime.Remove(e.Ctx, id); err != nil {
			t.Error(err)
		}
	}
}

func TestSecurityContextHasItsEffect(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "sec", runtime.SandboxConfig{Sysctls: map[string]string{"kernel.shm_rmid_forced": "1", "net.core.somaxconn": "77"}})
	uid, gid := int64(1000), int64(3000)
	id := run(t, e, runtime.ContainerConfig{Pod: p, Name: "user", Image: v1, Env: []string{"A=1", "VERSION=x"}, WorkingDir: "/tmp",
		Security: runtime.Security{UID: &uid, GID: &gid, Groups: []int64{2000}, RunAsNonRoot: true, ReadOnlyRoot: true, NoNewPrivs: true,
			DropCaps: []string{"ALL"}, AddCaps: []string{"NET_BIND_SERVICE"}, SeccompDefault: true}})
	expect := func(want string, command ...string) {
		t.Helper()
		if out, _ := execOut(t, e, id, command...); !strings.Contains(out, want) {
			t.Errorf("%v: want %q in %q", command, want, out)
		}
	}
	expect("uid=1000 gid=3000 groups=50,2000,3000", "id")
	expect("/tmp\n", "pwd")
	expect("A=1\n", "env")
	expect("VERSION=x\n", "env")
	expect("HOSTNAME=sec\n", "env")
	expect("read-only file system", "touch", "/x")
	expect("NoNewPrivs:\t1", "cat", "/proc/self/status")
	expect("Seccomp:\t2", "cat", "/proc/self/status")
	expect("CapBnd:\t0000000000000400", "cat", "/proc/self/status")
	expect("77\n", "cat", "/proc/sys/net/core/somaxconn")
	expect("1\n", "cat", "/proc/sys/kernel/shm_rmid_forced")
	expect("sec\n", "hostname")
	id = run(t, e, runtime.ContainerConfig{Pod: p, Name: "named", Image: v1, Args: []string{"sleep", "1000"}, Security: runtime.Security{UID: &uid}})
	expect("uid=1000 gid=1000 groups=50,1000", "id")
	id = run(t, e, runtime.ContainerConfig{Pod: p, Name: "root", Image: v1, Args: []string{"sleep", "1000"}})
	expect("CapEff:\t00000000a80425fb", "cat", "/proc/self/status")
	expect("read-only", "touch", "/proc/sys/kernel/hostname")
	id = run(t, e, runtime.ContainerConfig{Pod: p, Name: "priv", Image: v1, Args: []string{"sleep", "1000"}, Security: runtime.Security{Privileged: true}})
	expect("kmsg", "ls", "/dev")
	expect("Seccomp:\t0", "cat", "/proc/self/status")
}

func TestSharedProcessNamespaceAndShm(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "shared", runtime.SandboxConfig{ShareProcess: true})
	a := run(t, e, runtime.ContainerConfig{Pod: p, Name: "a", Image: v1, Args: []string{"sleep", "1111"}})
	b := run(t, e, runtime.ContainerConfig{Pod: p, Name: "b", Image: v1, Args: []string{"kv"}})
	out, _ := execOut(t, e, b, "sh", "-c", "for p in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do cat /proc/$p/cmdline 2>/dev/null; done")
	if !strings.Contains(out, "sleep\x001111") || !strings.Contains(out, "pause") {
		t.Errorf("processes seen: %q", out)
	}
	if _, code := execOut(t, e, a, "sh", "-c", "echo hi > /dev/shm/x"); code != 0 {
		t.Error("write to /dev/shm")
	}
	if out, _ := execOut(t, e, b, "cat", "/dev/shm/x"); out != "hi\n" {
		t.Errorf("shared memory: %q", out)
	}
	if err := e.Runtime.Stop(e.Ctx, a, time.Second); err != nil {
		t.Fatal(err)
	}
	if c := ended(t, e, e.Runtime, a); c.ExitCode != 143 {
		t.Errorf("stopped: %+v", c)
	}
}

func TestExecTTYStdinTimeoutAndMissing(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "exec", runtime.SandboxConfig{})
	id := run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Image: v1})
	var out strings.Builder
	code, err := e.Runtime.Exec(e.Ctx, id, runtime.ExecConfig{Command: []string{"sh"}, Stdin: strings.NewReader("echo hello\nexit 7\n"), Stdout: &out})
	if code != 7 || err != nil || out.String() != "hello\n" {
		t.Errorf("shell on stdin: %d %v %q", code, err, out.String())
	}
	out.Reset()
	sizes := make(chan runtime.TerminalSize, 1)
	sizes <- runtime.TerminalSize{Width: 100, Height: 40}
	code, err = e.Runtime.Exec(e.Ctx, id, runtime.ExecConfig{Command: []string{"sh"}, TTY: true, Stdin: strings.NewReader("echo $TERM\nexit 0\n"), Stdout: &out, Resize: sizes})
	if code != 0 || err != nil || !strings.Contains(out.String(), "xterm") || !strings.Contains(out.String(), "# ") {
		t.Errorf("terminal: %d %v %q", code, err, out.String())
	}
	_, err = e.Runtime.Exec(e.Ctx, id, runtime.ExecConfig{Command: []string{"foo"}})
	if err == nil || !strings.Contains(err.Error(), `OCI runtime exec failed: exec failed: `) || !strings.Contains(err.Error(), `exec: "foo": executable file not found in $PATH`) {
		t.Errorf("missing command: %v", err)
	}
	began := time.Now()
	_, err = e.Runtime.Exec(e.Ctx, id, runtime.ExecConfig{Command: []string{"sleep", "100"}, Timeout: 200 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "timeout 200ms exceeded") || time.Since(began) > 3*time.Second {
		t.Errorf("timeout: %v after %v", err, time.Since(began))
	}
}

func TestExecGivesInputToItsEnd(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "input", runtime.SandboxConfig{})
	id := run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Image: v1})
	big := strings.Repeat("0123456789abcdef", 200_000) // more than all pipes hold
	var out strings.Builder
	code, err := e.Runtime.Exec(e.Ctx, id, runtime.ExecConfig{Command: []string{"cat"}, Stdin: strings.NewReader(big), Stdout: &out})
	if code != 0 || err != nil || out.String() != big {
		t.Errorf("cat: %d %v, %d bytes of %d", code, err, out.Len(), len(big))
	}
	out.Reset()
	code, err = e.Runtime.Exec(e.Ctx, id, runtime.ExecConfig{Command: []string{"cat"}, Stdin: strings.NewReader(""), Stdout: &out})
	if code != 0 || err != nil || out.String() != "" {
		t.Errorf("no input: %d %v %q", code, err, out.String())
	}
}

func TestAttach(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "attach", runtime.SandboxConfig{})
	id := run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Image: v1, Command: []string{"sh"}, Stdin: true, StdinOnce: true})
	var out strings.Builder
	if err := e.Runtime.Attach(e.Ctx, id, runtime.AttachConfig{Stdin: strings.NewReader("echo one\necho two\n"), Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if c := ended(t, e, e.Runtime, id); c.ExitCode != 0 || out.String() != "one\ntwo\n" {
		t.Errorf("%+v %q", c, out.String())
	}
}

func TestUsageAndUpdate(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "usage", runtime.SandboxConfig{Resources: &runtime.Resources{CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, MemoryLimit: 256 << 20, PidsLimit: 500}})
	id := run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Image: v1, Command: []string{"stress", "-m", "30"}, Resources: runtime.Resources{CPUShares: 102, MemoryLimit: 100 << 20}})
	eventually(t, "memory is used", func() bool { return e.Runtime.Usage(id).WorkingSet > 30<<20 })
	if u := e.Runtime.PodUsage(p.UID); u.WorkingSet < 30<<20 || u.CPU <= 0 || u.Pids < 1 {
		t.Errorf("pod: %+v", u)
	}
	if err := e.Runtime.Update(e.Ctx, id, runtime.Resources{CPUShares: 204, MemoryLimit: 80 << 20}, map[string]string{"size": "new"}); err != nil {
		t.Fatal(err)
	}
	out, _ := execOut(t, e, id, "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max")
	if !strings.Contains(out, "83886080") {
		t.Errorf("limit: %q", out)
	}
}

func TestHostNamespaces(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "host", runtime.SandboxConfig{HostNetwork: true, HostPID: true, HostIPC: true})
	id := run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Image: v1, Args: []string{"sleep", "1000"}})
	for _, ns := range []string{"net", "pid", "ipc", "uts"} {
		want, _ := os.Readlink("/proc/self/ns/" + ns)
		c, err := e.Runtime.Status(e.Ctx, id)
		if got, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.Pid, ns)); err != nil || got != want {
			t.Errorf("%s: %s, not %s (%v)", ns, got, want, err)
		}
	}
	if sb := e.Runtime.Pod(p.UID).Sandbox; sb == nil || sb.NetNS != "" {
		t.Errorf("sandbox: %+v", sb)
	}
	if err := e.Runtime.Stop(e.Ctx, id, 5*time.Second); err != nil {
		t.Error(err)
	}
}

func TestTerminalContainerAndMounts(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "tty", runtime.SandboxConfig{})
	dir := filepath.Join(e.Layout.Data, "volume")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/hosts", []byte("from outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	mounts := []runtime.Mount{{Source: dir, Destination: "/v"}, {Source: dir, Destination: "/ro", ReadOnly: true}, {Source: dir + "/hosts", Destination: "/etc/hosts"}}
	id := run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Image: v1, TTY: true, Mounts: mounts,
		Command: []string{"sh", "-c", "cat /etc/hosts; echo x > /v/x; echo y > /ro/y; echo end >&2"}})
	c := ended(t, e, e.Runtime, id)
	log, _ := os.ReadFile(c.LogPath)
	if !strings.Contains(string(log), " stdout F from outside\r\n") || !strings.Contains(string(log), "read-only file system") || !strings.Contains(string(log), " stdout F end\r\n") {
		t.Errorf("log: %s", log)
	}
	if data, _ := os.ReadFile(dir + "/x"); string(data) != "x\n" {
		t.Errorf("volume: %q", data)
	}
}

func TestNativeSnapshotter(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	store, err := images.New(e.Ctx, images.Config{Client: e.Client, Snapshotter: "native"})
	if err != nil {
		t.Fatal(err)
	}
	e.Halt()
	e.Images = store
	e.Runtime = e.NewRuntime(runtime.Config{})
	v1, _ := e.Demo()
	p := pod(t, e, "native", runtime.SandboxConfig{})
	id := run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Image: v1, Command: []string{"sh", "-c", "echo x > /f; cat /f"}})
	if c := ended(t, e, e.Runtime, id); c.ExitCode != 0 {
		t.Errorf("%+v", c)
	}
}
