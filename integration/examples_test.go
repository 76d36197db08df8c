package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// testExamples types the sections of docs/examples.md and compares what is shown.
func testExamples(t *testing.T, c *cluster.Cluster) {
	text, err := os.ReadFile(filepath.Join(testenv.Repository(), "docs", "examples.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections := strings.Split(string(text), "\n## ")[1:]
	if len(sections) < 5 {
		t.Fatalf("only %d sections in docs/examples.md", len(sections))
	}
	for _, section := range sections {
		title, body, _ := strings.Cut(section, "\n")
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			k := newKubeNamed(t, c, "example-"+regexp.MustCompile(`[^a-z]+`).ReplaceAllString(strings.ToLower(title), "-"))
			dir := checkout(t, k)
			steps := transcript(codeBlocks(body, "console"))
			if len(steps) == 0 {
				t.Fatal("no commands")
			}
			for _, s := range steps {
				k.step(dir, s)
			}
		})
	}
	t.Run("every manifest", func(t *testing.T) { everyManifest(t, string(text)) })
}

// everyManifest checks that no example is left out of the document.
func everyManifest(t *testing.T, document string) {
	files, err := filepath.Glob(filepath.Join(testenv.Repository(), "examples", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("examples: %d, %v", len(files), err)
	}
	for _, file := range files {
		if name := filepath.Base(file); !strings.Contains(document, "apply -f examples/"+name) {
			t.Errorf("docs/examples.md does not use %s", name)
		}
	}
}

// TestMain makes the test's program a small curl where it is called so: a machine need not have one.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "curl" {
		client := http.Client{Timeout: 5 * time.Second}
		body, err := request(context.Background(), &client, os.Args[len(os.Args)-1])
		fmt.Print(body)
		if err != nil {
			fmt.Fprintln(os.Stderr, "curl:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// step is one typed command and what is shown for it.
type step struct{ command, shown string }

// transcript reads commands, behind "$ ", and what follows each.
func transcript(blocks []string) []step {
	var steps []step
	for _, block := range blocks {
		for line := range strings.Lines(block) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				steps = append(steps, step{command: strings.TrimSpace(command)})
			} else if len(steps) > 0 {
				steps[len(steps)-1].shown += line
			}
		}
	}
	return steps
}

// codeBlocks gives a Markdown text's code of one language.
func codeBlocks(markdown, language string) []string {
	var blocks []string
	for _, match := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(markdown, -1) {
		blocks = append(blocks, match[1])
	}
	return blocks
}

// checkout is a folder that looks like a built checkout, in which `sudo` leads to the test's own cluster.
func checkout(t *testing.T, k *kube) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, sub := range []string{"bin", "tools"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	binary, err := filepath.Abs(cluster.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{binary: "bin/coracle", filepath.Join(testenv.Repository(), "examples"): "examples"} {
		if err := os.Symlink(from, filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, "tools", "curl")); err != nil {
		t.Fatal(err)
	}
	sudo := "#!/bin/sh\nexec \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "tools", "sudo"), []byte(sudo), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// shell runs a line as it would be typed in the checkout.
func (k *kube) shell(dir, line string) (result, bool) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	inside := k.c.Command("sh", "-c", line)
	cmd := exec.CommandContext(ctx, inside.Args[0], inside.Args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+k.kubeconfig, "PATH="+filepath.Join(dir, "tools")+":"+os.Getenv("PATH"))
	return k.execute(cmd, "")
}

// step types a command and compares what is shown. What a Service answers may take a moment to be so, as for anyone who types.
func (k *kube) step(dir string, s step) {
	k.t.Helper()
	want := pattern(s.shown)
	within := time.Second / 2
	if strings.Contains(s.command, "wget") || strings.Contains(s.command, "curl") {
		within = 15 * time.Second
	}
	cluster.Eventually(k.t, within, func() error {
		r, ok := k.shell(dir, s.command)
		if !ok || !want.MatchString(strings.TrimSuffix(r.all(), "\n")+"\n") {
			return fmt.Errorf("$ %s\n%s(exit code %d) want\n%s", s.command, r.all(), r.code, s.shown)
		}
		return nil
	})
}

// pattern matches a text in which "..." stands for anything, on a line of its own for any lines.
func pattern(shown string) *regexp.Regexp {
	text := regexp.QuoteMeta(strings.TrimSuffix(shown, "\n")) + "\n"
	text = strings.ReplaceAll(text, `\.\.\.`+"\n", "...\n")
	text = regexp.MustCompile(`(?m)^\.\.\.\n`).ReplaceAllString(text, `(?s:.*)`)
	text = strings.ReplaceAll(text, `\.\.\.`, `.*`)
	text = strings.ReplaceAll(text, "...\n", `.*\n(?s:.*)`)
	text = regexp.MustCompile(` {2,}`).ReplaceAllString(text, ` +`) // columns are as wide as what is in them
	return regexp.MustCompile(`^` + text + `\n?$`)
}
