package etcd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/apiserver/store"
)

// writerDir, where set, makes the test binary write to the engine in that directory until it is killed.
const writerDir = "CORACLE_TEST_WRITER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// writeUntilKilled reports each acknowledged write on standard output.
func writeUntilKilled(dir string) error {
	ctx := context.Background()
	e, err := OpenEmbedded(ctx, EmbeddedConfig{DataDir: dir})
	if err != nil {
		return err
	}
	padding := strings.Repeat("x", 1000)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; ; i++ {
				key := fmt.Sprintf("/registry/things/%d-%d-%d", os.Getpid(), w, i)
				rev, err := e.Create(ctx, key, []byte("created"+padding), store.CreateOptions{})
				if err != nil {
					return
				}
				fmt.Printf("%s created %d\n", key, rev)
				if rev, err = e.Update(ctx, key, []byte("updated"+padding), rev); err != nil {
					return
				}
				fmt.Printf("%s updated %d\n", key, rev)
				if i%3 != 0 {
					continue
				}
				if rev, err = e.Delete(ctx, key, rev); err != nil {
					return
				}
				fmt.Printf("%s deleted %d\n", key, rev)
			}
		}()
	}
	wg.Wait()
	return errors.New("the writers ended before they were killed")
}

// acknowledged is the last write of a key that was reported.
type acknowledged struct {
	value    string
	revision int64
}

// killAfter is how many writes a process reports before it is killed: enough for etcd to take snapshots.
const killAfter = 1500

// TestKill kills a process in the midst of writing, several times over on the same data: each write that it
// reported is there afterwards.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	acks := map[string]acknowledged{}
	for range 3 {
		killWriter(t, dir, acks)
		checkAcknowledged(t, dir, acks)
	}
}

func killWriter(t *testing.T, dir string, acks map[string]acknowledged) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerDir+"="+dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for lines := bufio.NewScanner(out); lines.Scan(); n++ {
		var key string
		var a acknowledged
		if _, err := fmt.Sscan(lines.Text(), &key, &a.value, &a.revision); err != nil {
			continue // cut off by the kill
		}
		acks[key] = a
		if n == killAfter {
			time.AfterFunc(20*time.Millisecond, func() { cmd.Process.Kill() })
		}
	}
	_ = cmd.Wait() // it was killed
	if n < killAfter {
		t.Fatalf("the writer ended after %d writes", n)
	}
}

func checkAcknowledged(t *testing.T, dir string, acks map[string]acknowledged) {
	t.Helper()
	start := time.Now()
	e, err := OpenEmbedded(t.Context(), EmbeddedConfig{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	t.Logf("restarted in %v with %d keys acknowledged", time.Since(start), len(acks))
	newest, err := e.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for key, a := range acks {
		got, err := e.Get(t.Context(), key, 0)
		switch {
		case a.revision > newest:
			t.Fatalf("%s was acknowledged at revision %d, the store is at %d", key, a.revision, newest)
		case errors.Is(err, store.ErrNotFound):
			// A deletion not yet acknowledged may have happened, but only behind an update.
			if a.value == "created" {
				t.Fatalf("%s is lost", key)
			}
		case err != nil:
			t.Fatal(err)
		case a.value == "deleted" || got.Revision < a.revision,
			got.Revision == a.revision && !strings.HasPrefix(string(got.Value), a.value):
			t.Fatalf("%s is %.7s at %d, acknowledged was %+v", key, got.Value, got.Revision, a)
		}
	}
}
