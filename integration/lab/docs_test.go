package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// TestDocument types the commands of docs/lab.md, one after another, and compares what they show: all but numbers and blanks.
func TestDocument(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(testenv.Repository(), "docs", "lab.md"))
	if err != nil {
		t.Fatal(err)
	}
	c := cluster.New(t)
	cluster.LabOf(c)
	type step struct {
		command string
		shown   []string
	}
	var steps []step
	for _, block := range regexp.MustCompile("(?ms)^```console\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(block[1]) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				steps = append(steps, step{command: command})
			} else {
				last := &steps[len(steps)-1]
				last.shown = append(last.shown, line)
			}
		}
	}
	if len(steps) < 25 {
		t.Fatalf("only %d commands in docs/lab.md", len(steps))
	}
	dir, path := typist(t, c)

	exports := ""
	for _, s := range steps {
		cmd := c.Command("sh", "-c", exports+s.command)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+path, "HOME="+dir, "SUDO_USER=")
		out, err := cmd.CombinedOutput()
		if strings.HasPrefix(s.command, "export ") {
			exports += s.command
		}
		if err != nil && !strings.Contains(s.command, "lab status") {
			t.Fatalf("%s%v\n%s", s.command, err, out)
		}
		rest := string(out)
		for _, line := range s.shown {
			at := pattern(line).FindStringIndex(rest)
			if at == nil {
				t.Fatalf("%sshows\n%s\nand not, where it should,\n%s", s.command, out, line)
			}
			rest = rest[at[1]:]
		}
	}
}

// typist makes a folder to type in: coracle is the one under test with its labs in the test's own place, and sudo is not needed.
func typist(t *testing.T, c *cluster.Cluster) (dir, path string) {
	t.Helper()
	dir = filepath.Join(c.Dir, "home")
	scripts := map[string]string{
		"sudo": "#!/bin/sh\nexec \"$@\"\n",
		"coracle": fmt.Sprintf("#!/bin/sh\nif [ \"$1\" = lab ]; then shift; exec %[1]s lab --lab-dir %[2]s/labs --lab-run-dir %[2]s/labs-run \"$@\"; fi\nexec %[1]s \"$@\"\n",
			c.Binary(), c.Dir),
	}
	if err := os.MkdirAll(filepath.Join(dir, "tools"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, "tools", name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir, filepath.Join(dir, "tools") + ":" + os.Getenv("PATH")
}

// pattern matches a line with other numbers, IDs and blanks.
func pattern(line string) *regexp.Regexp {
	var parts []string
	for word := range strings.FieldsSeq(line) {
		word = regexp.QuoteMeta(word)
		switch {
		case regexp.MustCompile(`^[0-9a-f]{12}$`).MatchString(word):
			word = `[0-9a-f]{12}`
		case regexp.MustCompile(`^\d+(\\\.\d+)?s?$`).MatchString(word):
			word = `[\d.]+s?`
		}
		parts = append(parts, word)
	}
	return regexp.MustCompile(strings.Join(parts, `\s+`))
}

// TestReadme types the README's story of a lab.
func TestReadme(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(testenv.Repository(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## A cluster of several machines on this one\n")
	block := regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindStringSubmatch(section)
	if block == nil {
		t.Fatal("the README has no lab")
	}
	c := cluster.New(t)
	cluster.LabOf(c)
	dir, path := typist(t, c)
	if err := os.Symlink("tools", filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(block[1]) {
		cmd := c.Command("sh", "-c", line)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+path, "HOME="+dir, "SUDO_USER=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s%v\n%s", line, err, out)
		}
	}
}
