package runtime_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/agent/runtime/runtimetest"
)

func TestMain(m *testing.M) { runtimetest.Main(m) }

// pod is a sandbox with a name for a test.
func pod(t *testing.T, e *runtimetest.Env, name string, cfg runtime.SandboxConfig) runtime.PodRef {
	t.Helper()
	cfg.Pod = runtime.PodRef{UID: name + "-uid", Namespace: "default", Name: name}
	if cfg.Hostname == "" {
		cfg.Hostname = name
	}
	cfg.CgroupParent = "/coracle-test/" + filepath.Base(filepath.Dir(e.Layout.Run)) + "-" + name
	if _, err := e.Runtime.RunSandbox(e.Ctx, cfg); err != nil {
		t.Fatal(err)
	}
	return cfg.Pod
}

func logPath(e *runtimetest.Env, p runtime.PodRef, name string) string {
	return filepath.Join(e.Layout.PodLogs(), p.Namespace+"_"+p.Name+"_"+p.UID, name, "0.log")
}

// run creates and starts a container.
func run(t *testing.T, e *runtimetest.Env, cfg runtime.ContainerConfig) string {
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
