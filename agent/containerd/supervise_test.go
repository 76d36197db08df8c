package containerd_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/agent/containerd"
	"github.com/coracle-dev/coracle/agent/containerd/server"
	"github.com/coracle-dev/coracle/agent/runtime/runtimetest"
)

func TestMain(m *testing.M) { runtimetest.Main(m) }

func servers(e *runtimetest.Env) (pids []int) {
	for pid, command := range runtimetest.Processes(e.Layout.Run) {
		if strings.Contains(command, "containerd-child") {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestASecondSupervisorAdopts(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	before := servers(e)
	ctx, cancel := context.WithCancel(e.Ctx)
	ready := make(chan struct{}, 10)
	second := containerd.Supervisor{Config: e.Supervisor.Config, Command: []string{"/bin/false"}, Ready: func() { ready <- struct{}{} }}
	done := make(chan error)
	go func() { done <- second.Supervise(ctx) }()
	select {
	case <-ready:
	case <-time.After(5 * time.Second):
		t.Fatal("not adopted")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if after := servers(e); len(before) != 1 || len(after) != 1 || before[0] != after[0] {
		t.Errorf("processes: %v, then %v", before, after)
	}
	st, err := os.Stat(e.Layout.ContainerdSocket())
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", st.Mode(), err)
	}
	// It has a session of its own and is restarted after a crash.
	if sid, err := unix.Getsid(before[0]); err != nil || sid != before[0] {
		t.Errorf("session %d %v", sid, err)
	}
	if err := unix.Kill(before[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-e.Restarts:
	case <-time.After(10 * time.Second):
		t.Fatal("not restarted")
	}
	if after := servers(e); len(after) != 1 || after[0] == before[0] {
		t.Errorf("after the crash: %v", after)
	}
	if _, err := e.Client.Version(e.Ctx); err != nil {
		t.Errorf("the old connection: %v", err)
	}
}

func TestStartSaysWhyItFailed(t *testing.T) {
	e := runtimetest.Start(t)
	bad := server.Config{Layout: e.Layout}
	if err := server.Main(e.Ctx, bad); err == nil || !strings.Contains(err.Error(), "another containerd uses") {
		t.Errorf("a second server of one state: %v", err)
	}
}
