package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// TestCNI brings a cluster up whose pods get their network from a CNI plug-in.
func TestCNI(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	conf, bin := filepath.Join(c.Dir, "net.d"), filepath.Join(c.Dir, "bin")
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "tester"), "./agent/network/cni/testdata/plugin")
	build.Dir = testenv.Repository()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	args := []string{"up", "--node-name", "node", "--cni-conf-dir", conf, "--cni-bin-dir", bin, "--wait", "5s"}
	out, err := c.Run(append(append(args, c.ServerFlags()...), c.SteadyFlags()...)...)
	if err == nil || !strings.Contains(out, "cni plugin not initialized") {
		t.Fatalf("up without a configuration: %v\n%s", err, out)
	}
	k := newKube(t, c)
	text := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "testnet", "plugins": [{"type": "tester", "address": "10.1.2.3/24", "log": %q}]}`, filepath.Join(c.Dir, "log"))
	if err := os.WriteFile(filepath.Join(conf, "10-test.conflist"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	k.eventually("node/node", `{.status.conditions[?(@.type=="Ready")].status}`, "True")
	c.ImportDemo(testenv.Repository()) // up gave up waiting before
	k.run("run", "one", "--image=coracle/demo:v1")
	k.ready("pod/one")
	k.want("address", k.get("pod/one", "{.status.podIP}"), "10.1.2.3")
	k.contains("the pod's link", k.run("exec", "one", "--", "cat", "/proc/net/fib_trie"), "10.1.2.3")
	uid := k.get("pod/one", "{.metadata.uid}")
	ask := func(verb string) {
		t.Helper()
		cluster.Eventually(t, 30*time.Second, func() error {
			log, err := os.ReadFile(filepath.Join(c.Dir, "log"))
			if err != nil || !strings.Contains(string(log), verb+" "+uid) {
				return fmt.Errorf("%v\n%s", err, log)
			}
			return nil
		})
	}
	ask("ADD")
	if links, _ := c.Command("ip", "-br", "link").CombinedOutput(); strings.Contains(string(links), "coracle0") {
		t.Errorf("the built-in network is there too:\n%s", links)
	}
	if out, err := c.Coracle("down", "--cni-bin-dir", bin); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ask("DEL")
	if links, _ := c.Command("ip", "-br", "link").CombinedOutput(); strings.Contains(string(links), "test-") {
		t.Errorf("left behind:\n%s", links)
	}
}
