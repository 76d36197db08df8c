package vm

import (
	"bufio"
	"context"
	"io"
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

// boots is how long the machine may take for all of it; software emulation is some ten times slower than the processor.
const boots = 15 * time.Minute

// TestVM boots the machine and shows the tests that run in it as subtests.
func TestVM(t *testing.T) {
	dir := os.Getenv("CORACLE_TEST_VM")
	if dir == "" {
		t.Skip("skipped: make test-vm boots a machine for it")
	}
	output := boot(t, filepath.Join(testenv.Repository(), dir))
	results := parse(output)
	for _, name := range Checks {
		t.Run(name, func(t *testing.T) {
			switch r, ran := results[name]; {
			case !ran:
				t.Error("it did not come to its end in the machine")
			case r.verdict == "FAIL":
				t.Errorf("in the machine:\n%s", r.output)
			case r.verdict == "SKIP":
				t.Skipf("in the machine: %s", r.output)
			default:
				t.Logf("in the machine: %s", r.took)
			}
		})
	}
	if t.Failed() {
		t.Logf("the machine's console:\n%s", output)
	}
}

// boot runs the machine to its end and gives what it printed.
func boot(t *testing.T, dir string) string {
	t.Helper()
	temp := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	k, err := findKernel(dir)
	must(err)
	initramfs, err := os.Create(filepath.Join(temp, "initramfs"))
	must(err)
	must(k.initramfs(initramfs))
	must(initramfs.Close())
	guest := filepath.Join(temp, "guest")
	if out, err := exec.Command("go", "test", "-c", "-ldflags", "-s -w", "-o", guest, "./guest").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	image, err := disk(temp, cluster.Binary(t), guest)
	must(err)
	ctx, cancel := context.WithTimeout(context.Background(), boots)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "2048", "-no-reboot", "-nodefaults", "-display", "none",
		"-serial", "stdio", "-kernel", k.image, "-initrd", initramfs.Name(), "-append", "console=ttyS0 quiet loglevel=1 panic=-1",
		"-drive", "file="+image+",format=raw,if=virtio,cache=unsafe")
	console, err := cmd.StdoutPipe()
	must(err)
	cmd.Stderr = os.Stderr
	began := time.Now()
	must(cmd.Start())
	var all strings.Builder
	lines := bufio.NewScanner(io.TeeReader(console, &all))
	for lines.Scan() {
		if testing.Verbose() {
			t.Logf("%6.1fs %s", time.Since(began).Seconds(), strings.TrimSpace(lines.Text()))
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the machine: %v", err)
	}
	return strings.ReplaceAll(all.String(), "\r", "")
}

type result struct{ verdict, took, output string }

var verdict = regexp.MustCompile(`^ +--- (PASS|FAIL|SKIP): TestGuest/(\w+) \((.*)\)`)

// parse reads what a test program printed. What a subtest says comes before its verdict.
func parse(output string) map[string]result {
	results := map[string]result{}
	said := ""
	for line := range strings.Lines(output) {
		if m := verdict.FindStringSubmatch(line); m != nil {
			results[m[2]] = result{verdict: m[1], took: m[3], output: said}
		} else if strings.HasPrefix(line, "=== RUN ") {
			said = ""
		} else {
			said += line
		}
	}
	return results
}

func TestParse(t *testing.T) {
	results := parse("noise\n=== RUN   TestGuest/Up\n    --- PASS: TestGuest/Up (1.00s)\n=== RUN   TestGuest/Down\n    x_test.go:1: left\n          behind\n    --- FAIL: TestGuest/Down (2.00s)\n--- FAIL: TestGuest (3.00s)\nFAIL\n")
	if r := results["Down"]; len(results) != 2 || r.verdict != "FAIL" || r.output != "    x_test.go:1: left\n          behind\n" || results["Up"].took != "1.00s" {
		t.Errorf("%+v", results)
	}
}
