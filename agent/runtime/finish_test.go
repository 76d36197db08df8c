package runtime

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/internal/paths"
)

// TestUnrecordedEndIsNotForgotten: a container ends while containerd is away, and then the agent ends too. The next
// agent must find that the container has run, or it would run it a second time.
func TestUnrecordedEndIsNotForgotten(t *testing.T) {
	dir := t.TempDir()
	conn, err := Dial(filepath.Join(dir, "no.sock"), Namespace)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cfg := Config{Layout: paths.Layout{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run")}}
	r := &Runtime{cfg: cfg, log: slog.New(slog.DiscardHandler), client: conn, containers: map[string]*container{}, listeners: map[*listener]struct{}{}}
	c := &container{id: ContainerID(PodRef{UID: "u"}, "c", 0), state: StateRunning, ended: make(chan struct{})}
	c.meta.Pod.UID = "u"
	note, pipe := r.ioPath("u", c.id, "started"), r.ioPath("u", c.id, "out")
	if err := os.MkdirAll(filepath.Dir(note), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{note: time.Now().Format(time.RFC3339Nano), pipe: ""} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	r.finish(ctx, c, status{ExitCode: 137})
	if r.stateOf(c) != StateExited {
		t.Errorf("state %v", r.stateOf(c))
	}
	if r.startedAt(c).IsZero() {
		t.Error("nothing tells the next agent that the container has run")
	}
	if end, ok := r.unrecordedEnd(c); !ok || end.ExitCode != 137 {
		t.Errorf("nothing tells the next agent how it ended: %+v", end)
	}
	if _, err := os.Stat(pipe); err == nil {
		t.Error("its pipe is left behind")
	}
}
