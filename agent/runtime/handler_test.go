package runtime_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/agent/runtime/runtimetest"
)

func TestHandlers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() // outlives the containers
	e := runtimetest.Start(t)
	v1, _ := e.Demo()
	script, calls := filepath.Join(dir, "mine"), filepath.Join(dir, "calls")
	if err := os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\necho \"$@\" >>%s\nexec runc \"$@\"\n", calls), 0o755); err != nil {
		t.Fatal(err)
	}
	e.Halt()
	e.Runtime = e.NewRuntime(runtime.Config{Handlers: map[string]string{"mine": script}})
	p := pod(t, e, "handled", runtime.SandboxConfig{Handler: "mine"})
	id := run(t, e, runtime.ContainerConfig{Pod: p, Name: "c", Image: v1, Args: []string{"sleep", "1000"}})
	if out, code := execOut(t, e, id, "echo", "inside"); !strings.Contains(out, "inside") {
		t.Errorf("%q, %d", out, code)
	}
	said, err := os.ReadFile(calls)
	if err != nil || !strings.Contains(string(said), "create") || !strings.Contains(string(said), id) {
		t.Errorf("the runtime was asked %q, %v", said, err)
	}
	_, err = e.Runtime.RunSandbox(e.Ctx, runtime.SandboxConfig{Pod: runtime.PodRef{UID: "u", Namespace: "n", Name: "p"}, Handler: "other"})
	if err == nil || err.Error() != `failed to get sandbox runtime: no runtime for "other" is configured` {
		t.Errorf("an unknown handler: %v", err)
	}
}
