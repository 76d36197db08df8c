package plugin

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// startExample runs a plug-in of examples/ until the test's end.
func startExample(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
}

func TestGoExample(t *testing.T) {
	program := filepath.Join(t.TempDir(), "plugin-go")
	if out, err := exec.Command("go", "build", "-o", program, "../../examples/plugin-go").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	path := socket(t)
	startExample(t, program, path)
	c := client(t, path)
	list := nodes("cheap", "dear", "free")
	list[0].Labels, list[1].Labels = map[string]string{"example.com/price": "1"}, map[string]string{"example.com/price": "9"}
	p := pod("p")
	p.Annotations = map[string]string{"example.com/max-price": "5"}
	var answer Answer
	eventually(t, "answer", func() (ok bool) { var err error; answer, err = c.Evaluate(t.Context(), p, list); return err == nil })
	if !maps.Equal(answer.Rejected, map[string]string{"dear": "node(s) dearer than the pod's max-price"}) ||
		!maps.Equal(answer.Scores, map[string]int64{"cheap": 50, "free": 100}) {
		t.Errorf("answer %+v", answer)
	}
}

// TestPythonExample needs python3 with grpcio (python3-grpcio of Debian and Ubuntu); $PYTHON names another python3.
func TestPythonExample(t *testing.T) {
	python := ""
	for _, name := range []string{os.Getenv("PYTHON"), "python3", "/usr/bin/python3"} {
		if name != "" && exec.Command(name, "-c", "import grpc").Run() == nil {
			python = name
			break
		}
	}
	if python == "" {
		t.Skip("python3 with grpcio is missing: install python3-grpcio")
	}
	maintenance := filepath.Join(t.TempDir(), "maintenance")
	if err := os.WriteFile(maintenance, []byte("ssd-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := socket(t)
	startExample(t, python, "../../examples/plugin-python/plugin.py", "unix://"+path, maintenance)
	c := client(t, path, func(cfg *Config) { cfg.Encoding = JSON })
	list := nodes("disk-1", "ssd-1", "ssd-2")
	var answer Answer
	eventually(t, "answer", func() (ok bool) {
		var err error
		answer, err = c.Evaluate(t.Context(), pod("p"), list)
		return err == nil
	})
	if !maps.Equal(answer.Rejected, map[string]string{"ssd-1": "node(s) in maintenance"}) || !maps.Equal(answer.Scores, map[string]int64{"disk-1": 0, "ssd-2": 100}) {
		t.Errorf("answer %+v", answer)
	}
	if err := os.Remove(maintenance); err != nil { // the plug-in fails
		t.Fatal(err)
	}
	if _, err := c.Evaluate(t.Context(), pod("p"), list); err == nil || errors.Is(err, ErrDeadline) {
		t.Errorf("error %v of a plug-in that raised", err)
	}
}
