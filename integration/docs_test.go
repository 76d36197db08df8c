package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// TestCommandsDocument checks that docs/commands.md names every command and every flag, and no other.
func TestCommandsDocument(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(testenv.Repository(), "docs", "commands.md"))
	if err != nil {
		t.Fatal(err)
	}
	document := string(data)
	help := func(args ...string) string {
		out, err := exec.Command(cluster.Binary(t), append(args, "--help")...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v --help: %v\n%s", args, err, out)
		}
		return string(out)
	}
	flags := map[string]bool{}
	var visit func(args ...string)
	visit = func(args ...string) {
		text := help(args...)
		for _, match := range regexp.MustCompile(`(?m)^ +(?:-\w, )?--([a-z-]+)`).FindAllStringSubmatch(text, -1) {
			flags[match[1]] = true
		}
		_, commands, _ := strings.Cut(text, "Available Commands:\n")
		commands, _, _ = strings.Cut(commands, "\n\n")
		for line := range strings.Lines(commands) {
			name := strings.Fields(line)[0]
			if name == "help" {
				continue
			}
			if command := strings.Join(append(append([]string{"`coracle"}, args...), name), " "); !strings.Contains(document, command) {
				t.Errorf("docs/commands.md lacks %s`", command)
			}
			visit(append(append([]string{}, args...), name)...)
		}
	}
	visit()
	delete(flags, "help")
	for name := range flags {
		if !strings.Contains(document, "`--"+name+"`") {
			t.Errorf("docs/commands.md lacks --%s", name)
		}
	}
	for _, match := range regexp.MustCompile("`--([a-z-]+)`").FindAllStringSubmatch(document, -1) {
		if !flags[match[1]] && match[1] != "server" { // kubectl's
			t.Errorf("docs/commands.md has --%s, which is no flag", match[1])
		}
	}
}

// TestLinks checks that the documents' links to files lead somewhere.
func TestLinks(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(testenv.Repository(), "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, filepath.Join(testenv.Repository(), "README.md")) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), match[1])); err != nil {
				t.Errorf("%s: %v", filepath.Base(file), err)
			}
		}
	}
}
