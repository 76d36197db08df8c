package lab

import (
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// fnvOf is the end of a cgroup's name, by the place of the labs.
func fnvOf(text string) string {
	h := fnv.New32a()
	_, _ = io.WriteString(h, text)
	return fmt.Sprintf("%08x", h.Sum32())
}

// TestTwoLabs has two labs on one machine with a way out: each reaches the world and not the other, and nothing of them is left.
func TestTwoLabs(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	world := c.Machine(2)
	if out, err := c.Command("ip", "route", "add", "default", "via", "10.99.2.2").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	l := &lab{cluster.LabOf(c), t}
	home := filepath.Join(c.Dir, "home")
	if err := os.Mkdir(home, 0o755); err != nil {
		t.Fatal(err)
	}
	before := l.traces(t)
	up := func(name string, flags ...string) {
		cmd := l.LabCommand("up", append([]string{"--name", name, "--nodes", "1"}, flags...)...)
		cmd.Env = append(cmd.Environ(), "HOME="+home, "SUDO_USER=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("up %s: %v\n%s", name, err, out)
		}
	}
	up("one", "--merge")
	up("two", "--subnet", "10.7.7.0/24", "--merge", "--server-flag=--service-cidr=10.120.0.0/16", "--agent-flag=--service-cidr=10.120.0.0/16")
	contains(t, "list", l.MustLab("list"), "one    10.213.0.0/24   1       2 of 2", "two    10.7.7.0/24     1       2 of 2")
	l.merged(t, home, "coracle-lab-two", "coracle-lab-one", "coracle-lab-two")
	contains(t, "service", strings.TrimSpace(l.in(t, "two", "server", "kubectl", "get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}")), "10.120.0.1")

	from := reachedFrom(t, world, func(address string) { l.in(t, "one", "node-1", "busybox", "nc", "-w", "3", "10.99.2.2", address) })
	if from != "10.99.2.1" {
		t.Errorf("the world sees %s, want the host", from)
	}
	for _, pair := range [][2]string{{"one", "10.7.7.11"}, {"two", "10.213.0.11"}} {
		if out, err := l.Lab.Lab("exec", "--name", pair[0], "node-1", "--", "busybox", "ping", "-q", "-c", "1", "-W", "1", pair[1]); err == nil {
			t.Errorf("%s reaches the other lab: %s", pair[0], out)
		}
	}
	contains(t, "resolv.conf", l.in(t, "one", "node-1", "cat", "/etc/resolv.conf"), "\n")

	l.MustLab("down", "--name", "two")
	l.merged(t, home, "coracle-lab-one", "coracle-lab-one")
	contains(t, "the other lab", l.MustLab("status", "--name", "one"), "node-1")
	l.MustLab("partition", "--name", "one", "node-1")
	l.MustLab("loss", "--name", "one", "node-1", "1%")
	l.MustLab("down", "--name", "one")
	l.MustLab("down", "--name", "one") // and again
	if _, err := os.Stat(filepath.Join(home, ".kube")); err == nil {
		t.Error("~/.kube is left")
	}
	l.nothingLeft(t, before)
}

// nothingLeft compares with what there was before.
func (l *lab) nothingLeft(t *testing.T, before []string) {
	t.Helper()
	cluster.Eventually(t, 30*time.Second, func() error { // links of a namespace go a little later than its processes
		if after := l.traces(t); !slices.Equal(before, after) {
			return fmt.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
		}
		return nil
	})
	if left := l.cgroups(); len(left) > 0 {
		t.Errorf("cgroups are left: %v", left)
	}
}

// in runs a command on a machine of a lab.
func (l *lab) in(t *testing.T, name, machine string, argv ...string) string {
	t.Helper()
	out, err := l.Lab.Lab("exec", append([]string{"--name", name, machine, "--"}, argv...)...)
	if err != nil {
		t.Fatalf("%s: %s: %v: %v\n%s", name, machine, argv, err, out)
	}
	return out
}

// merged checks the contexts of the user's kubeconfig.
func (l *lab) merged(t *testing.T, home, current string, contexts ...string) {
	t.Helper()
	path := filepath.Join(home, ".kube", "config")
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range config.Contexts {
		names = append(names, name)
	}
	slices.Sort(names)
	if config.CurrentContext != current || !slices.Equal(names, contexts) {
		t.Errorf("the current context is %s of %v, want %s of %v", config.CurrentContext, names, current, contexts)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig: %v %v", st.Mode(), err)
	}
	if out, err := l.Command(l.Binary(), "kubectl", "--kubeconfig", path, "get", "nodes", "-o", "name").CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "node/node-1" {
		t.Errorf("kubectl: %v %s", err, out)
	}
}

// reachedFrom listens in the world and tells from which address it is reached; dial is given the port.
func reachedFrom(t *testing.T, world *cluster.Cluster, dial func(port string)) string {
	t.Helper()
	listener, err := world.Listen("tcp", "10.99.2.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	from := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			from <- err.Error()
			return
		}
		defer conn.Close()
		host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		from <- host
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	dial(port)
	return <-from
}

// TestHalfMade takes labs down of which only a part was made, because who made them was killed, and one that is damaged.
func TestHalfMade(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	l := &lab{cluster.LabOf(c), t}
	before := l.traces(t)
	for _, after := range []time.Duration{150, 400, 800, 1400} {
		cmd := l.LabCommand("up", "--nodes", "2")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after * time.Millisecond)
		_ = cmd.Process.Signal(unix.SIGKILL)
		_ = cmd.Wait()
		l.MustLab("down")
		l.nothingLeft(t, before)
	}
	l.MustLab("up", "--nodes", "1")
	settings := filepath.Join(c.Dir, "labs", "lab", "lab.json")
	if err := os.WriteFile(settings, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := l.Lab.Lab("status"); err == nil || !strings.Contains(out, "is damaged: remove the lab with `coracle lab down`") {
		t.Errorf("status: %v %s", err, out)
	}
	contains(t, "list", l.MustLab("list"), "lab    damaged")
	l.MustLab("down")
	l.nothingLeft(t, before)
}

// TestInterrupted asks a lab that is being made to end: it takes itself down.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	l := &lab{cluster.LabOf(c), t}
	before := l.traces(t)
	cmd := l.LabCommand("up", "--nodes", "2")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(700 * time.Millisecond)
	_ = cmd.Process.Signal(unix.SIGINT)
	if err := cmd.Wait(); err == nil {
		t.Skipf("skipped: it was up already:\n%s", &out)
	}
	l.nothingLeft(t, before)
}
