package runtime_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/agent/runtime/runtimetest"
)

// withUserNamespaces skips the test where the machine has none, saying why.
func withUserNamespaces(t *testing.T) *runtimetest.Env {
	t.Helper()
	e := runtimetest.Start(t)
	for _, dir := range []string{filepath.Dir(e.Layout.Run), e.Layout.Run} {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if why := e.Runtime.Features(e.Ctx).UserNamespaces; why != "" {
		t.Skipf("skipped: no user namespaces: %s", why)
	}
	return e
}

func TestUserNamespace(t *testing.T) {
	t.Parallel()
	e := withUserNamespaces(t)
	v1, _ := e.Demo()
	volume := filepath.Join(e.Layout.Data, "volume")
	if err := os.MkdirAll(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(volume+"/file", []byte("of user 1000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(volume+"/file", 1000, 1000); err != nil {
		t.Fatal(err)
	}
	for _, share := range []bool{false, true} {
		name := fmt.Sprintf("users-%t", share)
		p := pod(t, e, name, runtime.SandboxConfig{UserNamespace: true, ShareProcess: share,
			Sysctls: map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.tcp_syncookies": "0"}})
		id := run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Image: v1, Args: []string{"sleep", "1000"}, Mounts: []runtime.Mount{{Source: volume, Destination: "/v"}, {Source: volume + "/file", Destination: "/etc/one"}}})
		first := ids(t, e, id)
		if first < runtime.DefaultPodIDs().First {
			t.Errorf("%s: root is user %d of the machine", name, first)
		}
		for _, c := range []struct{ want, script string }{
			{"0", "id -u"},
			{name, "hostname"},
			{"of user 1000", "cat /etc/one"},
			{"1", "cat /proc/sys/kernel/shm_rmid_forced"},
			{"0", "cat /proc/sys/net/ipv4/tcp_syncookies"},
			{"written", "echo written > /root-owned && cat /root-owned"},
			{"shared", "echo shared > /dev/shm/x && cat /dev/shm/x"},
		} {
			if out, code := execOut(t, e, id, "sh", "-c", c.script); !strings.Contains(out, c.want) {
				t.Errorf("%s: %s: %q (%d)", name, c.script, out, code)
			}
		}
		if out, _ := execOut(t, e, id, "sh", "-c", "echo x > /v/made-"+name); out != "" {
			t.Errorf("write to the volume: %s", out)
		}
		var st unix.Stat_t
		if err := unix.Stat(volume+"/made-"+name, &st); err != nil || st.Uid != 0 {
			t.Errorf("a file of the pod's root is user %d's on the volume: %v", st.Uid, err)
		}
		if err := e.Runtime.Remove(e.Ctx, id); err != nil {
			t.Error(err)
		}
		if err := e.Runtime.RemoveSandbox(e.Ctx, p.UID); err != nil {
			t.Error(err)
		}
	}
}

// ids is the machine's user ID that the container's root is.
func ids(t *testing.T, e *runtimetest.Env, id string) uint32 {
	t.Helper()
	c, err := e.Runtime.Status(e.Ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", c.Pid))
	var inside, outside, count uint32
	if _, serr := fmt.Sscan(string(data), &inside, &outside, &count); err != nil || serr != nil || inside != 0 || count != 65536 {
		t.Fatalf("mapping %q: %v %v", data, err, serr)
	}
	return outside
}

func TestUserNamespacesHaveTheirOwnIDs(t *testing.T) {
	t.Parallel()
	e := withUserNamespaces(t)
	v1, _ := e.Demo()
	start := func(name string) uint32 {
		t.Helper()
		p := pod(t, e, name, runtime.SandboxConfig{UserNamespace: true})
		return ids(t, e, run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Image: v1, Args: []string{"sleep", "1000"}}))
	}
	a, b := start("a"), start("b")
	if a == b {
		t.Fatalf("both pods have the users from %d", a)
	}
	e.Halt()
	e.Runtime = e.NewRuntime(runtime.Config{})
	if c := start("c"); c == a || c == b {
		t.Errorf("after a restart a third pod has the users of another: %d of %d and %d", c, a, b)
	}
	list, err := e.Runtime.List(e.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	for uid := range list {
		for _, c := range list[uid].Containers {
			if err := e.Runtime.Remove(e.Ctx, c.ID); err != nil {
				t.Error(err)
			}
		}
		if err := e.Runtime.RemoveSandbox(e.Ctx, uid); err != nil {
			t.Error(err)
		}
	}
	if again := start("d"); again != a {
		t.Errorf("the users of pods that are gone are not given again: %d, not %d", again, a)
	}
}
