package integration

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// watched are pods that write a line into a file of the machine each time they start, so that they can be watched without an API server.
type watched struct {
	*parts
	dir string
}

func (p *parts) watch() *watched {
	p.t.Helper()
	p.c.ImportBusybox()
	return &watched{parts: p, dir: p.t.TempDir()}
}

// pod starts one whose container notes its start and then runs the script.
func (w *watched) pod(name, restartPolicy, script, more string) {
	w.t.Helper()
	w.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  restartPolicy: %[2]s
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: %[3]s
    command: [sh, -c, "echo started >> /out/%[1]s; %[4]s"]
    volumeMounts: [{name: out, mountPath: /out}]
    %[5]s
  volumes:
  - name: out
    hostPath: {path: %[6]s}
`, name, restartPolicy, cluster.Busybox, script, more, w.dir))
	w.ready("pod/" + name)
}

func (w *watched) process(name string) int {
	w.t.Helper()
	_, id, _ := strings.Cut(w.get("pod/"+name, "{.status.containerStatuses[0].containerID}"), "://")
	return containerProcess(w.t, id)
}

// starts tells how often a pod's container has started.
func (w *watched) starts(name string) int {
	text, _ := os.ReadFile(filepath.Join(w.dir, name))
	return strings.Count(string(text), "started")
}

func (w *watched) startsAgain(name string) {
	w.t.Helper()
	before := w.starts(name)
	cluster.Eventually(w.t, 60*time.Second, func() error {
		if w.starts(name) <= before {
			return fmt.Errorf("%s has started %d times", name, before)
		}
		return nil
	})
}

// TestServerAway: without the API server a node's pods are kept, restarted and probed, an agent that starts meanwhile disturbs
// nothing, and all of it is told when the server is back.
func TestServerAway(t *testing.T) {
	p := startParts(t)
	w := p.watch()
	const idle = "exec sleep 3600"
	w.pod("stays", "Always", idle, "")
	w.pod("ends", "Always", idle, "")
	w.pod("once", "Never", idle, "")
	w.pod("late", "Always", idle, "")
	w.pod("probed", "Always", idle, "livenessProbe: {exec: {command: [test, '!', -e, /out/sick]}, periodSeconds: 1, failureThreshold: 1}")
	stays, once, ends, late := w.process("stays"), w.process("once"), w.process("ends"), w.process("late")

	p.server.Kill()
	kill(t, once)
	kill(t, ends)
	w.startsAgain("ends")
	sick := filepath.Join(w.dir, "sick")
	if err := os.WriteFile(sick, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.startsAgain("probed")
	if err := os.Remove(sick); err != nil {
		t.Fatal(err)
	}

	p.agent.Kill()
	p.agent = p.c.Start(append([]string{"agent"}, p.c.AgentFlags()...)...)
	time.Sleep(3 * time.Second) // for what it should not do
	if p.agent.Ended() {
		t.Fatalf("an agent without its server ended:\n%s", p.agent.Output())
	}
	kill(t, late) // of this it hears when it knows its pods again
	if err := unix.Kill(stays, 0); err != nil {
		t.Errorf("an agent without its server ended a container: %v", err)
	}

	p.server = p.c.StartServer()
	w.eventually("pod/late", "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].lastState.terminated.exitCode}", "1 137")
	w.eventually("pod/once", "{.status.phase} {.status.containerStatuses[0].state.terminated.exitCode}", "Failed 137")
	for _, name := range []string{"ends", "probed"} {
		w.eventually("pod/"+name, "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}", fmt.Sprint(w.starts(name)-1, " true"))
	}
	w.want("stays", w.get("pod/stays", "{.status.containerStatuses[0].restartCount}"), "0")
	if err := unix.Kill(stays, 0); err != nil {
		t.Errorf("a container was ended: %v", err)
	}
	w.eventually("node", `{.items[0].status.conditions[?(@.type=="Ready")].status}`, "True")

	// One that hangs is the same: connections stay, answers do not come.
	signal(t, p.server, unix.SIGSTOP)
	kill(t, w.processNow("ends"))
	w.startsAgain("ends")
	signal(t, p.server, unix.SIGCONT)
	w.eventually("pod/ends", "{.status.containerStatuses[0].restartCount}", fmt.Sprint(w.starts("ends")-1))
	w.want("exec", w.run("exec", "stays", "--", "hostname"), "stays")
	w.runtimeDown()
	if err := unix.Kill(stays, 0); err != nil {
		t.Errorf("a container was ended: %v", err)
	}
}

// runtimeDown has containerd hang: the node says so, and is well again when containerd is.
func (w *watched) runtimeDown() {
	w.t.Helper()
	daemon := w.containerd()[0]
	if err := unix.Kill(daemon, unix.SIGSTOP); err != nil {
		w.t.Fatal(err)
	}
	const ready = `{.items[0].status.conditions[?(@.type=="Ready")]`
	w.eventually("node", ready+".status} "+ready+".reason} "+ready+".message}", "False KubeletNotReady container runtime is down")
	if err := unix.Kill(daemon, unix.SIGCONT); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("node", ready+".status} "+ready+".reason} "+ready+".message}", "True KubeletReady kubelet is posting ready status")
}

// processNow finds a pod's first process by its command line, for when the API server cannot be asked.
func (w *watched) processNow(name string) int {
	w.t.Helper()
	found := 0
	cluster.Processes(func(pid int, dir string) {
		host, _ := os.ReadFile(dir + "/root/etc/hostname")
		status, _ := os.ReadFile(dir + "/status")
		if strings.TrimSpace(string(host)) == name && hasNSPid1(string(status)) {
			// The folder's last two names: the rest is as the file system that it is on is mounted.
			own := filepath.Join(filepath.Base(filepath.Dir(w.dir)), filepath.Base(w.dir))
			if mounts, _ := os.ReadFile(dir + "/mountinfo"); strings.Contains(string(mounts), own) {
				found = pid
			}
		}
	})
	if found == 0 {
		w.t.Fatalf("no process of pod %s", name)
	}
	return found
}

func signal(t *testing.T, p *cluster.Process, s unix.Signal) {
	t.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// TestReboot takes everything from a machine that a reboot does: processes, mounts, the run folder, links, cgroups. What is on its disk
// is as old as the moment of the power cut.
func TestReboot(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up()
	p := &parts{kube: newKube(t, c)}
	w := p.watch()
	s := p.serve()
	w.pod("always", "Always", "echo kept > /tmp/layer; exec sleep 3600", "")
	w.pod("never", "Never", "exec sleep 3600", "")
	p.run("scale", "deployment/web", "--replicas=4")
	p.rolledOut("web")
	uids := p.get("pods", "{.items[*].metadata.uid}")
	reboot(t, c)
	c.Up()
	s.answers()
	p.rolledOut("web")
	p.want("pods", p.get("pods", "{.items[*].metadata.uid}"), uids)
	p.eventually("pod/always", "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}", "1 true")
	p.eventually("pod/never", "{.status.phase} {.status.containerStatuses[0].restartCount}", "Failed 0")
	if n := w.starts("always"); n != 2 {
		t.Errorf("always started %d times", n)
	}
	cluster.Eventually(t, 60*time.Second, func() error {
		return cluster.Want("restarts", p.run("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.containerStatuses[0].restartCount} {.items[*].status.containerStatuses[0].ready}"),
			"1 1 1 1 true true true true")
	})
	addresses := strings.Fields(p.run("get", "pods", "-o", `jsonpath={.items[?(@.status.phase=="Running")].status.podIP}`))
	slices.Sort(addresses)
	if len(addresses) != 5 || len(slices.Compact(addresses)) != 5 {
		t.Errorf("the pods' addresses are %v", addresses)
	}
	// Nothing is left of the time before: one sandbox a pod that runs.
	sandboxes, err := os.ReadDir(c.Layout.Sandboxes())
	if err != nil || len(sandboxes) != 5 {
		t.Errorf("%d sandboxes, %v, for 5 pods", len(sandboxes), err)
	}
	s.works("after")
}

// reboot ends everything of a cluster's machine at once.
func reboot(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	r := takeResources(t, c)
	pids := r.processes()
	for _, group := range r.cgroups {
		_ = filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Name() == "cgroup.procs" {
				text, _ := os.ReadFile(path)
				for pid := range strings.FieldsSeq(string(text)) {
					if n, err := strconv.Atoi(pid); err == nil && !slices.Contains(pids, n) {
						pids = append(pids, n)
					}
				}
			}
			return nil
		})
	}
	killAll(t, pids)
	for _, group := range r.cgroups {
		removeCgroup(t, group)
	}
	mounts := c.Mounts()
	slices.Reverse(mounts)
	for _, mount := range mounts {
		if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
			t.Errorf("unmount %s: %v", mount, err)
		}
	}
	for _, dir := range []string{c.Layout.Run, c.Layout.ShimSockets()} {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}
	c.ForgetNetNS()
}

func removeCgroup(t *testing.T, group string) {
	t.Helper()
	cluster.Eventually(t, 20*time.Second, func() error {
		var dirs []string
		_ = filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		for _, dir := range dirs {
			if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
				return fmt.Errorf("%s: %w", dir, err)
			}
		}
		return nil
	})
}
