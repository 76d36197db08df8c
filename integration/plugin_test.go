package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// plugInConfig has a profile for the example in Go, which pods wait for, one for that in Python, which they do not, and one for
// a plug-in that answers nonsense.
const plugInConfig = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: default-scheduler
- schedulerName: by-price
  plugins: {multiPoint: {enabled: [{name: price, weight: 3}]}}
  pluginConfig: [{name: price, args: {apiVersion: coracle.dev/v1alpha1, kind: GRPCPluginArgs, address: "unix://%[1]s/price", deadline: 500ms}}]
- schedulerName: maintained
  plugins: {filter: {enabled: [{name: maintenance}]}}
  pluginConfig: [{name: maintenance, args: {apiVersion: coracle.dev/v1alpha1, kind: GRPCPluginArgs, address: "unix://%[1]s/maintenance", deadline: 2s, encoding: json, whenDown: Ignore}}]
- schedulerName: confused
  plugins: {filter: {enabled: [{name: confused}]}}
  pluginConfig: [{name: confused, args: {apiVersion: coracle.dev/v1alpha1, kind: GRPCPluginArgs, address: "unix://%[1]s/price", encoding: json}}]
`

// TestPlugIns runs the examples as plug-ins of the real scheduler: they decide, and one that hangs, dies or is not understood
// holds up nobody but the pods of its own profile.
func TestPlugIns(t *testing.T) {
	c := cluster.New(t)
	config := filepath.Join(c.Dir, "scheduler.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, plugInConfig, c.Dir), 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(c.Dir, "plugin-go")
	build := exec.Command("go", "build", "-o", program, "./examples/plugin-go")
	build.Dir = testenv.Repository()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.Up("--scheduler-config", config)
	k := &plugged{kube: newKubeNamed(t, c, "plug-ins"), program: program, socket: filepath.Join(c.Dir, "price"), config: config}
	k.run("label", "node", "node", "example.com/price=7")

	price := k.serve()
	t.Run("Filter", func(t *testing.T) { k.filters(t) })
	t.Run("Hang", func(t *testing.T) { k.hangs(t, price) })
	t.Run("Crash", func(t *testing.T) { k.crashes(t, price) })
	t.Run("Nonsense", func(t *testing.T) { k.talksNonsense(t) })
	t.Run("Ignored", func(t *testing.T) { k.isIgnored(t) })
	t.Run("Python", func(t *testing.T) { k.python(t) })
}

// plugged is a namespace of the cluster with plug-ins.
type plugged struct {
	*kube
	program, socket, config string
}

// serve starts the example in Go.
func (k *plugged) serve() *exec.Cmd {
	k.t.Helper()
	cmd := exec.Command(k.program, k.socket)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// make creates a pod of a profile that bears a price.
func (k *plugged) make(name, scheduler, maxPrice string) {
	k.t.Helper()
	k.apply(fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, annotations: {example.com/max-price: "%s"}},
		spec: {schedulerName: %s, terminationGracePeriodSeconds: 0, containers: [{name: c, image: "coracle/demo:v1"}]}}`, name, maxPrice, scheduler))
}

const (
	whyPending = `{.status.conditions[?(@.type=="PodScheduled")].message}`
	nodeName   = `{.spec.nodeName}`
)

func (k *plugged) waitsBecause(pod, reason string) {
	k.t.Helper()
	cluster.Eventually(k.t, time.Minute, func() error {
		if got := k.get("pod/"+pod, whyPending); !strings.Contains(got, reason) {
			return fmt.Errorf("%s: message %q, want %q", pod, got, reason)
		}
		return nil
	})
}

func (k *plugged) in(t *testing.T) *plugged {
	dup := *k
	dup.kube = k.kube.in(t)
	return &dup
}

func (k *plugged) filters(t *testing.T) {
	k = k.in(t)
	k.make("cheap", "by-price", "10")
	k.eventually("pod/cheap", nodeName, "node")
	k.make("dear", "by-price", "5")
	k.waitsBecause("dear", "0/1 nodes are available: 1 node(s) dearer than the pod's max-price.")
	r := k.why("dear", "--scheduler-config", k.config)
	k.contains("why", r.all(), "1 node: node(s) dearer than the pod's max-price (plug-in price); nothing else")
	// The node gets cheaper: the pod wakes, and the plug-in knows the node as it is now.
	k.run("label", "node", "node", "example.com/price=4", "--overwrite")
	k.eventually("pod/dear", nodeName, "node")
	r = k.why("dear", "--scheduler-config", k.config)
	k.contains("why", r.all(), " on node", "price", " 60\n") // 3 * 100/(1+4)
}

func (k *plugged) hangs(t *testing.T, price *exec.Cmd) {
	k = k.in(t)
	if err := price.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	k.make("hung", "by-price", "10")
	k.make("free", "default-scheduler", "10")
	k.eventually("pod/free", nodeName, "node")
	k.waitsBecause("hung", `plug-in "price" is not available: no answer in time: 500ms`)
	if err := price.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	k.eventually("pod/hung", nodeName, "node")
}

func (k *plugged) crashes(t *testing.T, price *exec.Cmd) {
	k = k.in(t)
	if err := price.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = price.Wait()
	if err := os.Remove(k.socket); err != nil {
		t.Fatal(err)
	}
	k.make("orphan", "by-price", "10")
	k.waitsBecause("orphan", `plug-in "price" is not available: `)
	k.make("bystander", "default-scheduler", "10")
	k.eventually("pod/bystander", nodeName, "node")
	k.serve()
	k.eventually("pod/orphan", nodeName, "node")
}

// talksNonsense has a plug-in that is spoken to in the wrong encoding.
func (k *plugged) talksNonsense(t *testing.T) {
	k = k.in(t)
	k.serve()
	k.make("puzzled", "confused", "10")
	k.waitsBecause("puzzled", `plug-in "confused" is not available: `)
	k.make("clear", "by-price", "10")
	k.eventually("pod/clear", nodeName, "node")
}

// isIgnored has a plug-in that is not there and that pods do not wait for.
func (k *plugged) isIgnored(t *testing.T) {
	k = k.in(t)
	k.make("unminded", "maintained", "10")
	k.eventually("pod/unminded", nodeName, "node")
}

func (k *plugged) python(t *testing.T) {
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
	k = k.in(t)
	dir := filepath.Dir(k.socket)
	closed := filepath.Join(dir, "closed")
	if err := os.WriteFile(closed, []byte("node\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, filepath.Join(testenv.Repository(), "examples", "plugin-python", "plugin.py"), "unix://"+filepath.Join(dir, "maintenance"), closed)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	// The scheduler may still be about to try again: pods that come earlier are placed without the plug-in.
	cluster.Eventually(t, time.Minute, func() error {
		k.make("kept-out", "maintained", "10")
		time.Sleep(2 * time.Second)
		if got := k.get("pod/kept-out", nodeName); got != "" {
			k.run("delete", "pod", "kept-out", "--wait")
			return fmt.Errorf("placed on %s", got)
		}
		return nil
	})
	k.waitsBecause("kept-out", "1 node(s) in maintenance")
	if err := os.WriteFile(closed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	k.run("label", "node", "node", "example.com/open=yes") // something must change for a pod to be tried again
	k.eventually("pod/kept-out", nodeName, "node")
}
