package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// parts is a cluster whose server and agent are processes of their own, so that each can be killed alone.
type parts struct {
	*kube
	server, agent *cluster.Process
}

func startParts(t *testing.T) *parts {
	t.Helper()
	t.Parallel()
	c := cluster.New(t)
	p := &parts{server: c.StartServer(), agent: c.StartAgent()}
	c.ImportDemo(testenv.Repository())
	p.kube = newKube(t, c)
	return p
}

// serving is a pod behind a Service, and what is known of it before something is killed.
type serving struct {
	*parts
	url, container string
	pid            int
}

// serve starts a Deployment of one with its Service, and waits until it answers.
func (p *parts) serve() *serving {
	p.t.Helper()
	p.deployment("web", 1)
	p.run("expose", "deployment", "web", "--port=80", "--target-port=8080")
	s := &serving{parts: p, url: "http://" + p.get("service/web", "{.spec.clusterIP}") + "/"}
	s.answers()
	s.container = s.containerID()
	s.pid = containerProcess(p.t, s.container)
	return s
}

// containerID is that of the one pod's container.
func (s *serving) containerID() string {
	s.t.Helper()
	_, id, _ := strings.Cut(s.status("containerID"), "://")
	return id
}

// status is a field of the one container's status.
func (s *serving) status(field string) string {
	s.t.Helper()
	return s.run("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.containerStatuses[0]."+field+"}")
}

// answers waits until the Service does.
func (s *serving) answers() {
	s.t.Helper()
	cluster.Eventually(s.t, 40*time.Second, func() error {
		_, err := fetch(context.Background(), s.c, s.url)
		return err
	})
}

// undisturbed checks that the container is what it was, and still serves.
func (s *serving) undisturbed() {
	s.t.Helper()
	s.want("container", s.containerID(), s.container)
	s.want("restarts", s.status("restartCount"), "0")
	if err := unix.Kill(s.pid, 0); err != nil {
		s.t.Fatalf("the container's process %d is gone: %v", s.pid, err)
	}
	s.answers()
}

// works checks that pods can be made, entered and removed.
func (s *serving) works(name string) {
	s.t.Helper()
	cluster.Eventually(s.t, 30*time.Second, func() error { // the API server may be starting
		if r, ok := s.try("", "run", name, "--image=coracle/demo:v1"); !ok {
			return errors.New(r.all())
		}
		return nil
	})
	s.ready("pod/" + name)
	s.want("exec", s.run("exec", name, "--", "hostname"), name)
	s.run("delete", "pod", name, "--now")
}

func TestKillContainer(t *testing.T) {
	p := startParts(t)
	p.apply(`
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: always}
  spec:
    containers: [{name: c, image: "coracle/demo:v1"}]
- apiVersion: v1
  kind: Pod
  metadata: {name: on-failure}
  spec:
    restartPolicy: OnFailure
    containers: [{name: c, image: "coracle/demo:v1"}]
- apiVersion: v1
  kind: Pod
  metadata: {name: never}
  spec:
    restartPolicy: Never
    containers: [{name: c, image: "coracle/demo:v1"}]
`)
	status := "{.status.containerStatuses[0]."
	for _, pod := range []string{"always", "on-failure", "never"} {
		p.ready("pod/" + pod)
		_, id, _ := strings.Cut(p.get("pod/"+pod, status+"containerID}"), "://")
		kill(t, containerProcess(t, id))
	}
	for _, pod := range []string{"always", "on-failure"} {
		p.eventually("pod/"+pod, status+"restartCount}", "1")
		p.eventually("pod/"+pod, status+"ready}", "true")
		p.want("last state", p.get("pod/"+pod, status+"lastState.terminated.exitCode} "+status+"lastState.terminated.reason}"), "137 Error")
	}
	p.eventually("pod/never", "{.status.phase}", "Failed")
	p.want("never's state", p.get("pod/never", status+"restartCount} "+status+"state.terminated.exitCode}"), "0 137")
}

func TestKillShim(t *testing.T) {
	p := startParts(t)
	s := p.serve()
	shims := cluster.ProcessesOf(filepath.Join(p.c.Layout.Bin(), "containerd-shim-runc-v2"))
	if len(shims) != 1 {
		t.Fatalf("%d shims for one pod", len(shims))
	}
	kill(t, shims[0])
	cluster.Eventually(t, 40*time.Second, func() error {
		if id := s.containerID(); id == s.container || id == "" {
			return fmt.Errorf("the container is still %q", id)
		}
		return nil
	})
	s.answers()
	s.rolledOut("web")
	cluster.Eventually(t, 20*time.Second, func() error {
		if err := unix.Kill(s.pid, 0); err == nil {
			return fmt.Errorf("the old container's process %d lives on", s.pid)
		}
		return nil
	})
	s.works("after")
}

func TestKillAgent(t *testing.T) {
	p := startParts(t)
	s := p.serve()
	p.pod("doomed")
	p.pod("dies")
	_, dies, _ := strings.Cut(p.get("pod/dies", "{.status.containerStatuses[0].containerID}"), "://")
	p.agent.Kill()
	s.undisturbed()
	p.run("delete", "pod", "doomed", "--wait=false", "--grace-period=1")
	p.run("run", "new", "--image=coracle/demo:v1")
	kill(t, containerProcess(t, dies))

	p.agent = p.c.StartAgent()
	p.ready("pod/new")
	p.gone("pod/doomed")
	p.eventually("pod/dies", "{.status.phase} {.status.containerStatuses[0].state.terminated.exitCode}", "Failed 137")
	s.undisturbed()
	s.works("after")
}

func TestKillContainerd(t *testing.T) {
	p := startParts(t)
	s := p.serve()
	daemons := p.containerd()
	if len(daemons) != 1 {
		t.Fatalf("%d containerds", len(daemons))
	}
	kill(t, daemons[0])
	s.undisturbed()
	s.works("after")
	s.undisturbed()
	if after := p.containerd(); len(after) != 1 || after[0] == daemons[0] {
		t.Fatalf("containerd was %v and is %v", daemons, after)
	}
}

// containerd finds the cluster's containerd.
func (p *parts) containerd() []int {
	p.t.Helper()
	return cluster.ProcessesOf(filepath.Join(p.c.Layout.Bin(), "containerd"))
}

func TestKillServer(t *testing.T) {
	p := startParts(t)
	s := p.serve()
	p.server.Kill()
	for range 20 {
		if _, err := fetch(context.Background(), p.c, s.url); err != nil {
			t.Fatalf("without the server: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.server = p.c.StartServer()
	s.undisturbed()
	p.run("scale", "deployment/web", "--replicas=2")
	p.eventually("deployment/web", "{.status.readyReplicas}", "2")
	s.works("after")
}

// TestKillUp kills the one process of `coracle up`: its supervisor starts it again, and no pod notices.
func TestKillUp(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up()
	s := (&parts{kube: newKube(t, c)}).serve()
	for _, pid := range cluster.ProcessesOf(mustReal(t, cluster.Binary(t))) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(line), "\x00--foreground\x00") && strings.Contains(string(line), c.Layout.Run) {
			kill(t, pid)
		}
	}
	if _, err := fetch(context.Background(), c, s.url); err != nil {
		t.Errorf("while the cluster is restarted: %v", err)
	}
	s.works("after")
	s.undisturbed()
}

// TestKillEverything kills every process of a cluster at once, as a loss of power does, and brings it up again.
func TestKillEverything(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up()
	s := (&parts{kube: newKube(t, c)}).serve()
	s.pod("never")
	uids := s.get("pods", "{.items[*].metadata.uid}")
	killAll(t, takeResources(t, c).processes())
	c.Up()
	s.answers()
	s.rolledOut("web")
	s.want("pods", s.get("pods", "{.items[*].metadata.uid}"), uids)
	cluster.Eventually(t, 30*time.Second, func() error { // it serves a moment before its status says so
		if id := s.containerID(); id == s.container {
			return fmt.Errorf("container %s is said to run on", id)
		}
		return nil
	})
	s.eventually("pod/never", "{.status.phase} {.status.containerStatuses[0].restartCount}", "Failed 0")
	s.works("after")
}

// TestKillServerWhileWriting: what was acknowledged is there after the restart, as it was written.
func TestKillServerWhileWriting(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	server := c.StartServer()
	const clients, objects = 8, 1000
	w := &writers{c: c, acknowledged: map[string]string{}, halfway: make(chan struct{})}
	var wait sync.WaitGroup
	for i := range clients {
		wait.Go(func() { w.write(t, i, objects/clients, objects/2) })
	}
	<-w.halfway
	server.Kill()
	server = c.StartServer()
	wait.Wait()
	w.check(t, objects)
	// And once more, in peace: it was written to disk.
	server.Kill()
	c.StartServer()
	w.check(t, objects)
}

// writers create config maps and remember which were acknowledged.
type writers struct {
	c            *cluster.Cluster
	mu           sync.Mutex
	acknowledged map[string]string // name to resourceVersion
	halfway      chan struct{}
}

// write creates count objects; one that fails, as while the server is down, is tried again.
func (w *writers) write(t *testing.T, client, count, halfway int) {
	maps := w.c.Client().CoreV1().ConfigMaps("default")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i := 0; i < count && ctx.Err() == nil; {
		name := fmt.Sprintf("written-%d-%d", client, i)
		created, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-"}, Data: map[string]string{"by": name}}, metav1.CreateOptions{})
		if err != nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		i++
		w.mu.Lock()
		w.acknowledged[created.Name] = created.ResourceVersion
		if len(w.acknowledged) == halfway {
			close(w.halfway)
		}
		w.mu.Unlock()
	}
	if ctx.Err() != nil {
		t.Error("writing took longer than a minute")
	}
}

func (w *writers) check(t *testing.T, want int) {
	t.Helper()
	if len(w.acknowledged) != want {
		t.Errorf("%d writes were acknowledged, want %d", len(w.acknowledged), want)
	}
	list, err := w.c.Client().CoreV1().ConfigMaps("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for i := range list.Items {
		found[list.Items[i].Name] = list.Items[i].ResourceVersion
	}
	for name, version := range w.acknowledged {
		if found[name] != version {
			t.Errorf("%s was acknowledged at %s, and is at %q", name, version, found[name])
		}
	}
}

func mustReal(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		t.Fatal(err)
	}
	return real
}

// containerProcess finds the first process of a container: that with the number 1 inside, in the container's cgroup.
func containerProcess(t *testing.T, id string) int {
	t.Helper()
	var found []int
	cluster.Processes(func(pid int, dir string) {
		groups, _ := os.ReadFile(dir + "/cgroup")
		status, _ := os.ReadFile(dir + "/status")
		if strings.Contains(string(groups), id) && hasNSPid1(string(status)) {
			found = append(found, pid)
		}
	})
	if len(found) != 1 {
		t.Fatalf("container %q has the first processes %v", id, found)
	}
	return found[0]
}

func hasNSPid1(status string) bool {
	for line := range strings.Lines(status) {
		if numbers, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(numbers)
			return len(fields) > 1 && fields[len(fields)-1] == "1"
		}
	}
	return false
}

// killAll kills processes as a power cut does, so that none sees another's end, and waits until none holds its ports any more.
func killAll(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			t.Fatalf("stop %d: %v", pid, err)
		}
	}
	for _, pid := range pids {
		kill(t, pid)
	}
	cluster.Eventually(t, 10*time.Second, func() error {
		for _, pid := range pids {
			if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(stat), ") Z ") {
				return fmt.Errorf("process %d has not ended", pid)
			}
		}
		return nil
	})
}

// kill sends SIGKILL.
func kill(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}
