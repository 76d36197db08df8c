// Package integration tests the real binary from outside, as its users meet it. It sees binaries and clients only; the
// tests that need no cluster of their own share one, each in an API namespace of its own.
package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// TestCluster holds the tests that share one cluster.
func TestCluster(t *testing.T) {
	c := cluster.New(t)
	c.Up()
	t.Run("Examples", func(t *testing.T) { testExamples(t, c) })
	t.Run("Kubectl", func(t *testing.T) { testKubectl(t, c) })
	t.Run("Behaviours", func(t *testing.T) { testBehaviours(t, c) })
	t.Run("BadInput", func(t *testing.T) { testBadInput(t, c) })
	t.Run("Events", func(t *testing.T) { testEvents(t, c) })
	t.Run("Rollout", func(t *testing.T) { testRollout(t, c) })
	t.Run("Stories", func(t *testing.T) { testStories(t, c) })
}

// kube is kubectl in one API namespace, for one test.
type kube struct {
	t  *testing.T
	c  *cluster.Cluster
	ns string
	// binary is another kubectl to run, in place of our own.
	binary string
	// kubeconfig leads to the namespace.
	kubeconfig string
}

// newKube makes an API namespace named after the test, which goes with it.
func newKube(t *testing.T, c *cluster.Cluster) *kube {
	t.Helper()
	name := strings.TrimPrefix(t.Name(), "TestCluster/")
	return newKubeNamed(t, c, strings.ToLower(strings.NewReplacer("/", "-", "_", "-", " ", "-").Replace(name)))
}

// newKubeNamed is newKube with another name for the namespace.
func newKubeNamed(t *testing.T, c *cluster.Cluster, name string) *kube {
	t.Helper()
	k := &kube{t: t, c: c.For(t), ns: name}
	admin, err := os.ReadFile(c.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	k.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(k.kubeconfig, admin, 0o600); err != nil {
		t.Fatal(err)
	}
	k.run("create", "namespace", name)
	k.run("config", "set-context", "--current", "--namespace="+name)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := k.try("", "get", "pods,events", "-o", "wide")
			t.Logf("at the end of %s:\n%s", name, out.all())
		}
		k.try("", "delete", "namespace", name, "--wait=false")
	})
	return k
}

// result is what a command left.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) all() string { return r.stdout + r.stderr }

// command makes a kubectl command without running it.
func (k *kube) command(args ...string) *exec.Cmd {
	cmd := k.c.KubectlCommand(args...)
	if k.binary != "" {
		cmd = k.c.Command(k.binary, args...)
	}
	cmd.Env = append(cmd.Env, "KUBECONFIG="+k.kubeconfig, "TMPDIR="+filepath.Dir(k.kubeconfig)) // edit leaves files where it is refused
	return cmd
}

// try runs kubectl; ok tells whether it exited with 0.
func (k *kube) try(stdin string, args ...string) (r result, ok bool) {
	k.t.Helper()
	return k.execute(k.command(args...), stdin)
}

func (k *kube) execute(cmd *exec.Cmd, stdin string) (result, bool) {
	k.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	timer := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		k.t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}, err == nil
}

// run runs kubectl, which must succeed, and gives its standard output without the space around it.
func (k *kube) run(args ...string) string {
	k.t.Helper()
	return k.runIn("", args...)
}

// runIn is run with standard input.
func (k *kube) runIn(stdin string, args ...string) string {
	k.t.Helper()
	r, ok := k.try(stdin, args...)
	if !ok {
		k.t.Fatalf("kubectl %s: exit code %d\n%s", strings.Join(args, " "), r.code, r.all())
	}
	return strings.TrimSpace(r.stdout)
}

// fails runs kubectl, which must exit with 1, and gives its standard error.
func (k *kube) fails(stdin string, args ...string) string {
	k.t.Helper()
	r, ok := k.try(stdin, args...)
	if ok || r.code != 1 {
		k.t.Fatalf("kubectl %s: exit code %d, want 1\n%s", strings.Join(args, " "), r.code, r.all())
	}
	return strings.TrimSpace(r.stderr)
}

// get reads a field by its JSON path, as {.spec.replicas}, of one object, as pod/web, or a list, as pods.
func (k *kube) get(object, path string) string {
	k.t.Helper()
	return k.run("get", object, "-o", "jsonpath="+path)
}

// want compares; what names the thing.
func (k *kube) want(what, got, want string) {
	k.t.Helper()
	if got != want {
		k.t.Fatalf("%s: got %q, want %q", what, got, want)
	}
}

// contains looks for every part.
func (k *kube) contains(what, got string, parts ...string) {
	k.t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			k.t.Fatalf("%s lacks %q:\n%s", what, part, got)
		}
	}
}

// eventually waits for a field to be what is wanted.
func (k *kube) eventually(object, path, want string) {
	k.t.Helper()
	cluster.Eventually(k.t, time.Minute, func() error {
		r, _ := k.try("", "get", object, "-o", "jsonpath="+path)
		return cluster.Want(object+" "+path, r.all(), want)
	})
}

// gone waits until an object is no more.
func (k *kube) gone(object string) {
	k.t.Helper()
	cluster.Eventually(k.t, time.Minute, func() error {
		r, _ := k.try("", "get", object, "--ignore-not-found", "-o", "name")
		return cluster.Want("object", r.all(), "")
	})
}

// apply applies a manifest.
func (k *kube) apply(manifest string) string {
	k.t.Helper()
	return k.runIn(manifest, "apply", "-f", "-")
}

// pod creates a pod of the demo image and waits until it is ready; args are the container's.
func (k *kube) pod(name string, args ...string) {
	k.t.Helper()
	all := []string{"run", name, "--image=coracle/demo:v1", "--restart=Never"}
	if len(args) > 0 {
		all = append(append(all, "--"), args...)
	}
	k.run(all...)
	k.ready("pod/" + name)
}

func (k *kube) ready(object string) {
	k.t.Helper()
	k.run("wait", "--for=condition=Ready", "--timeout=60s", object)
}

// deployment creates one of the demo image and waits until it is rolled out.
func (k *kube) deployment(name string, replicas int) {
	k.t.Helper()
	k.apply(deployment(name, replicas))
	k.rolledOut(name)
}

func (k *kube) rolledOut(name string) {
	k.t.Helper()
	k.run("rollout", "status", "deployment/"+name, "--timeout=90s")
}

// deployment is a manifest whose pods end quickly; the container is called web.
func deployment(name string, replicas int) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
  labels: {app: %[1]s}
spec:
  replicas: %[2]d
  selector:
    matchLabels: {app: %[1]s}
  template:
    metadata:
      labels: {app: %[1]s}
    spec:
      containers:
      - name: web
        image: coracle/demo:v1
        ports:
        - containerPort: 8080
`, name, replicas)
}

// background runs kubectl until stop; lines come as they are printed.
type background struct {
	cmd    *exec.Cmd
	output *syncBuffer
	done   chan struct{}
}

// start runs kubectl in the background until the test's end or stop.
func (k *kube) start(args ...string) *background {
	k.t.Helper()
	b := &background{cmd: k.command(args...), output: &syncBuffer{}, done: make(chan struct{})}
	b.cmd.Stdout, b.cmd.Stderr = b.output, b.output
	if err := b.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	go func() { _ = b.cmd.Wait(); close(b.done) }()
	k.t.Cleanup(b.stop)
	return b
}

func (b *background) stop() {
	_ = b.cmd.Process.Signal(os.Interrupt)
	select {
	case <-b.done:
	case <-time.After(5 * time.Second):
		_ = b.cmd.Process.Kill()
		<-b.done
	}
}

// expect waits until the output has the text.
func (b *background) expect(t *testing.T, text string) {
	t.Helper()
	cluster.Eventually(t, 30*time.Second, func() error {
		if got := b.output.String(); !strings.Contains(got, text) {
			return fmt.Errorf("%v: %q is not in the output:\n%s", b.cmd.Args[3:], text, got)
		}
		return nil
	})
}

// fetch gets a URL from inside the cluster's network namespace.
func fetch(ctx context.Context, c *cluster.Cluster, url string) (string, error) {
	return request(ctx, c.HTTP(5*time.Second, false), url)
}
