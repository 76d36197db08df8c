package runtime_test

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/agent/runtime/runtimetest"
)

// TestProcessesOfAnother: a container that joins another's PID namespace sees it, and tells who it runs as.
func TestProcessesOfAnother(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	p := pod(t, e, "seen", runtime.SandboxConfig{})
	uid, gid := int64(1001), int64(2002)
	web := run(t, e, runtime.ContainerConfig{Pod: p, Name: "web", Image: v1})
	debug := run(t, e, runtime.ContainerConfig{Pod: p, Name: "debug", Image: v1, Args: []string{"sleep", "1000"}, ProcessesOf: web,
		Security: runtime.Security{UID: &uid, GID: &gid, Groups: []int64{3003}}})
	namespace := func(id string) string {
		c, err := e.Runtime.Status(e.Ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", c.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return ns
	}
	if a, b := namespace(web), namespace(debug); a != b {
		t.Errorf("PID namespaces %s and %s", a, b)
	}
	c, err := e.Runtime.Status(e.Ctx, debug)
	if err != nil || c.User.UID != 1001 || c.User.GID != 2002 || !slices.Contains(c.User.Groups, 3003) {
		t.Errorf("user %+v %v", c.User, err)
	}
	if _, err := e.Runtime.Create(e.Ctx, runtime.ContainerConfig{Pod: p, Name: "late", Image: v1, ProcessesOf: "none"}); err == nil {
		t.Error("the processes of a container that is not there are shared")
	}
}
