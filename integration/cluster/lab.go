package cluster

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Lab is a lab in a network namespace of its own, which stands for the machine below: kubectl, HTTP and Dial are its host's.
type Lab struct {
	*Cluster
	Name  string
	Nodes []string
}

// NewLab brings up a lab with some nodes, node-1 and so on, all Ready with the demo images. Further flags are those of `coracle lab up`. It is
// taken down at the test's end.
func NewLab(t testing.TB, nodes int, flags ...string) *Lab {
	t.Helper()
	c := New(t)
	l := LabOf(c)
	args := []string{"--nodes", fmt.Sprint(nodes)}
	if out, err := l.Lab("up", append(args, flags...)...); err != nil {
		c.fatalf("lab up: %v\n%s", err, out)
	}
	for n := range nodes {
		l.Nodes = append(l.Nodes, fmt.Sprintf("node-%d", n+1))
	}
	return l
}

// LabOf gives a cluster's machine for labs, of which there is none yet. Those named lab, one, two and other are taken down at the test's end.
func LabOf(c *Cluster) *Lab {
	l := &Lab{Cluster: c, Name: "lab"}
	l.Kubeconfig = filepath.Join(c.Dir, "labs", l.Name, "kubeconfig")
	c.t.Cleanup(func() {
		if c.t.Failed() {
			l.logs()
		}
		for _, name := range []string{l.Name, "one", "two", "other"} {
			if out, err := l.Lab("down", "--name", name); err != nil {
				c.t.Errorf("lab down: %v\n%s", err, out)
			}
		}
	})
	return l
}

// LabCommand makes a command of `coracle lab` without running it.
func (l *Lab) LabCommand(command string, args ...string) *exec.Cmd {
	place := []string{"--name", l.Name, "--lab-dir", filepath.Join(l.Dir, "labs"), "--lab-run-dir", filepath.Join(l.Dir, "labs-run")}
	all := append(append([]string{"lab"}, strings.Fields(command)...), place...)
	return l.Command(l.bin, append(all, args...)...)
}

// Lab runs a command of `coracle lab`, as "kill" or "image import", and returns all it printed.
func (l *Lab) Lab(command string, args ...string) (string, error) {
	out, err := l.LabCommand(command, args...).CombinedOutput()
	return string(out), err
}

// MustLab is Lab, which fails the test where that fails.
func (l *Lab) MustLab(command string, args ...string) string {
	l.t.Helper()
	out, err := l.Lab(command, args...)
	if err != nil {
		l.fatalf("lab %s %s: %v\n%s", command, strings.Join(args, " "), err, out)
	}
	return out
}

// Exec runs a command inside a machine, "server" or a node, and returns all it printed.
func (l *Lab) Exec(machine string, argv ...string) (string, error) {
	return l.Lab("exec", append([]string{machine, "--"}, argv...)...)
}

// ImportBusybox gives the image of Cluster.ImportBusybox to all nodes.
func (l *Lab) ImportBusybox(also ...string) {
	l.t.Helper()
	archive := filepath.Join(l.t.TempDir(), "busybox.tar")
	if err := writeBusybox(archive, append(also, Busybox)); err != nil {
		l.fatalf("make the busybox image: %v", err)
	}
	l.MustLab("image import", archive)
}

// For gives the same lab for a subtest: failures are that test's.
func (l *Lab) For(t testing.TB) *Lab {
	copied := *l
	copied.Cluster = l.Cluster.For(t)
	return &copied
}

// NodeDir is the root folder of a machine, as the host sees it.
func (l *Lab) NodeDir(machine string) string {
	return filepath.Join(l.Dir, "labs", l.Name, "nodes", machine, "root")
}

// ProcessesOn lists the processes of a machine, its pods' left out: those whose root is the machine's.
func (l *Lab) ProcessesOn(machine string) []int {
	var want unix.Stat_t
	if err := unix.Stat(l.NodeDir(machine), &want); err != nil {
		l.fatalf("%s: %v", machine, err)
	}
	var pids []int
	Processes(func(pid int, dir string) {
		var its unix.Stat_t
		if unix.Stat(dir+"/root", &its) == nil && its.Ino == want.Ino && its.Dev == want.Dev {
			pids = append(pids, pid)
		}
	})
	return pids
}

// Machine gives what runs commands and dials in the network of a machine, as it is now.
func (l *Lab) Machine(name string) *Cluster {
	l.t.Helper()
	out, err := l.Exec(name, "readlink", "/proc/self/ns/net")
	if err != nil {
		l.fatalf("%s: %v\n%s", name, err, out)
	}
	want, first := strings.TrimSpace(out), math.MaxInt
	Processes(func(pid int, dir string) {
		if ns, err := os.Readlink(dir + "/ns/net"); err == nil && ns == want {
			first = min(first, pid)
		}
	})
	if first == math.MaxInt {
		l.fatalf("%s: no process in %s", name, want)
	}
	m := *l.Cluster
	m.NetNS = fmt.Sprintf("/proc/%d/ns/net", first)
	return &m
}

// logs prints the end of every machine's log.
func (l *Lab) logs() {
	files, _ := filepath.Glob(filepath.Join(l.Dir, "labs", l.Name, "nodes", "*", "root", "var", "lib", "coracle", "log", "coracle.log"))
	for _, file := range files {
		out, err := exec.Command("tail", "-c", "8000", file).CombinedOutput()
		if err == nil {
			l.t.Logf("%s:\n%s", strings.TrimPrefix(file, l.Dir), bytes.TrimSpace(out))
		}
	}
}
