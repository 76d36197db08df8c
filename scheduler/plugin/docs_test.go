package plugin_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/scheduler/plugin"
	"github.com/coracle-dev/coracle/scheduler/profile"
)

// TestDocument reads the configuration that docs/plugins.md shows.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/plugins.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```yaml\n")
	example, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatal("no configuration")
	}
	got, err := profile.Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	want := plugin.Config{
		Name: "price", Address: "unix:///run/price.sock", Deadline: 200 * time.Millisecond, WhenDown: plugin.Reject, Encoding: plugin.Protobuf,
		Weight: 3, Filter: true, Score: true,
	}
	if p := got.Profiles[0].Plugins; len(p) != 1 || p[0] != want {
		t.Errorf("%+v, want %+v", p, want)
	}
	for _, limit := range []string{"`200ms`", "31 lines"} {
		if !strings.Contains(string(text), limit) {
			t.Errorf("docs/plugins.md does not say %s", limit)
		}
	}
	lines, err := os.ReadFile("../../examples/plugin-python/plugin.py")
	if err != nil || strings.Count(string(lines), "\n") != 31 {
		t.Errorf("the example in Python has %d lines: %v", strings.Count(string(lines), "\n"), err)
	}
}
