// Package guest is what runs inside the machine that integration/vm boots: a node on control groups of version 2.
package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/coracle-dev/coracle/integration/vm"
)

const (
	kubeconfig = "/etc/coracle/admin.kubeconfig"
	cgroups    = "/sys/fs/cgroup"
	demo       = "coracle/demo:v1"
)

func TestGuest(t *testing.T) {
	if os.Getenv("CORACLE_GUEST") == "" {
		t.Skip("skipped: it runs in the machine of make test-vm")
	}
	g := &guest{before: traces(t)}
	checks := map[string]func(*guest){
		"Up": (*guest).up, "FirstApp": (*guest).firstApp, "Limits": (*guest).limits, "OOMKilled": (*guest).oomKilled, "QoS": (*guest).qos,
		"Resize": (*guest).resize, "Stats": (*guest).stats, "Eviction": (*guest).eviction, "Down": (*guest).down, "Lab": (*guest).lab,
	}
	for _, name := range vm.Checks {
		t.Run(name, func(t *testing.T) {
			g.T = t
			checks[name](g)
		})
	}
}

// guest is the machine with its one cluster.
type guest struct {
	*testing.T
	client kubernetes.Interface
	before map[string]string
}

func (g *guest) must(err error) {
	g.Helper()
	if err != nil {
		g.Fatal(err)
	}
}

// run runs a program and gives what it printed.
func (g *guest) run(name string, args ...string) string {
	g.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		g.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func (g *guest) kubectl(args ...string) string {
	g.Helper()
	return g.run("coracle", append([]string{"kubectl"}, args...)...)
}

// eventually asks until condition gives nil.
func (g *guest) eventually(within time.Duration, condition func() error) {
	g.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(200 * time.Millisecond) {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			g.Fatalf("not within %v: %v", within, err)
		}
	}
}

func (g *guest) pods() interface {
	Create(context.Context, *corev1.Pod, metav1.CreateOptions) (*corev1.Pod, error)
	Get(context.Context, string, metav1.GetOptions) (*corev1.Pod, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
	Patch(context.Context, string, types.PatchType, []byte, metav1.PatchOptions, ...string) (*corev1.Pod, error)
} {
	return g.client.CoreV1().Pods("default")
}

// start makes a pod of one container with requests and limits such as "cpu=100m", and waits for the condition.
func (g *guest) start(name string, requests, limits corev1.ResourceList, command ...string) {
	g.Helper()
	_, err := g.pods().Create(context.Background(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Containers: []corev1.Container{{Name: "main", Image: demo, Command: command,
				Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}},
		},
	}, metav1.CreateOptions{})
	g.must(err)
}

// until waits for a pod to be as wanted.
func (g *guest) until(name string, ok func(*corev1.Pod) bool) *corev1.Pod {
	g.Helper()
	var pod *corev1.Pod
	g.eventually(2*time.Minute, func() (err error) {
		if pod, err = g.pods().Get(context.Background(), name, metav1.GetOptions{}); err == nil && !ok(pod) {
			status, _ := json.Marshal(pod.Status)
			err = fmt.Errorf("%s", status)
		}
		return err
	})
	return pod
}

func running(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodRunning }

func (g *guest) remove(names ...string) {
	g.Helper()
	for _, name := range names {
		g.must(g.pods().Delete(context.Background(), name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	}
}

func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

// group is the folder of a pod's cgroup; below it each container has one.
func (g *guest) group(class string, pod *corev1.Pod) string {
	g.Helper()
	return filepath.Join(cgroups, "kubepods", class, "pod"+string(pod.UID))
}

// container is the folder of a pod's one container's cgroup.
func (g *guest) container(pod *corev1.Pod, pattern string) string {
	g.Helper()
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	found, _ := filepath.Glob(filepath.Join(pattern, "*"+id+"*"))
	if len(found) != 1 {
		g.Fatalf("container %s has the cgroups %v", id, found)
	}
	return found[0]
}

// file checks what a file of a cgroup says.
func (g *guest) file(dir, name, want string) {
	g.Helper()
	g.eventually(30*time.Second, func() error {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if got := strings.TrimSpace(string(data)); err == nil && got != want {
			err = fmt.Errorf("%s/%s is %q, want %q", dir, name, got, want)
		}
		return err
	})
}

func (g *guest) up() {
	var fs unix.Statfs_t
	g.must(unix.Statfs(cgroups, &fs))
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		g.Fatalf("%s is no cgroup2 file system: %x", cgroups, fs.Type)
	}
	out := g.run("coracle", "up", "--wait=5m", "--eviction-hard=memory.available<400Mi", "--eviction-pressure-transition-period=5s")
	if !strings.Contains(out, "What to type next") {
		g.Errorf("up says:\n%s", out)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	g.must(err)
	g.client, err = kubernetes.NewForConfig(config)
	g.must(err)
}

func (g *guest) firstApp() {
	g.kubectl("create", "deployment", "web", "--image="+demo, "--replicas=2")
	g.kubectl("expose", "deployment", "web", "--port=80", "--target-port=8080")
	g.kubectl("rollout", "status", "deployment", "web", "--timeout=3m")
	if out := g.kubectl("exec", "deploy/web", "--", "wget", "-qO-", "http://web"); !strings.Contains(out, "Hello from demo v1 on web-") {
		g.Errorf("the app says %q", out)
	}
	tables, err := new(nftables.Conn).ListTables()
	g.must(err)
	if len(tables) == 0 {
		g.Error("services make no table")
	}
	g.kubectl("delete", "deployment,service", "web")
}

func (g *guest) limits() {
	g.start("limits", list("cpu", "100m", "memory", "32Mi"), list("cpu", "200m", "memory", "64Mi"))
	pod := g.until("limits", running)
	group := g.group("burstable", pod)
	container := g.container(pod, group)
	for _, dir := range []string{group, container} {
		g.file(dir, "memory.max", fmt.Sprint(64<<20))
		g.file(dir, "cpu.max", "20000 100000")
	}
	g.remove("limits")
}

func (g *guest) oomKilled() {
	g.start("hungry", nil, list("memory", "32Mi"), "stress", "-m", "200")
	pod := g.until("hungry", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if end := pod.Status.ContainerStatuses[0].State.Terminated; end == nil || end.Reason != "OOMKilled" || end.ExitCode != 137 {
		g.Errorf("it ended as %+v", end)
	}
	g.remove("hungry")
}

func (g *guest) qos() {
	g.start("best-effort", nil, nil)
	g.start("guaranteed", list("cpu", "500m", "memory", "64Mi"), list("cpu", "500m", "memory", "64Mi"))
	best := g.until("best-effort", running)
	guaranteed := g.until("guaranteed", running)
	g.file(filepath.Join(cgroups, "kubepods", "besteffort"), "cpu.weight", "1")
	g.file(g.group("besteffort", best), "memory.max", "max")
	g.file(g.group("", guaranteed), "memory.max", fmt.Sprint(64<<20))
	g.file(g.group("", guaranteed), "cpu.weight", fmt.Sprint(1+(512-2)*9999/262142)) // 500m are 512 shares
	if _, err := os.Stat(filepath.Join(cgroups, "kubepods", "burstable", "cpu.weight")); err != nil {
		g.Error(err)
	}
	g.remove("best-effort", "guaranteed")
}

func (g *guest) resize() {
	g.start("grows", list("cpu", "100m", "memory", "32Mi"), list("cpu", "200m", "memory", "64Mi"))
	pod := g.until("grows", running)
	container := g.container(pod, g.group("burstable", pod))
	patch := `{"spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":"400m","memory":"96Mi"}}}]}}`
	_, err := g.pods().Patch(context.Background(), "grows", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize")
	g.must(err)
	for _, dir := range []string{container, filepath.Dir(container)} {
		g.file(dir, "cpu.max", "40000 100000")
		g.file(dir, "memory.max", fmt.Sprint(96<<20))
	}
	g.until("grows", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses[0]
		return s.RestartCount == 0 && s.Resources != nil && s.Resources.Limits.Memory().Value() == 96<<20 && s.ContainerID == pod.Status.ContainerStatuses[0].ContainerID
	})
	g.remove("grows")
}

func (g *guest) stats() {
	g.start("busy", nil, nil, "stress", "-m", "30", "-c", "1")
	g.until("busy", running)
	nodes, err := g.client.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{})
	g.must(err)
	path := "/api/v1/nodes/" + nodes.Items[0].Name + "/proxy/stats/summary"
	g.eventually(2*time.Minute, func() error {
		data, err := g.client.CoreV1().RESTClient().Get().AbsPath(path).DoRaw(context.Background())
		if err != nil {
			return err
		}
		var summary struct {
			Node struct {
				Memory struct{ WorkingSetBytes uint64 }
			}
			Pods []struct {
				PodRef struct{ Name string }
				CPU    struct{ UsageNanoCores uint64 }
				Memory struct{ WorkingSetBytes uint64 }
			}
		}
		if err := json.Unmarshal(data, &summary); err != nil {
			return err
		}
		for _, p := range summary.Pods {
			if p.PodRef.Name == "busy" && p.CPU.UsageNanoCores > 100e6 && p.Memory.WorkingSetBytes > 30<<20 && summary.Node.Memory.WorkingSetBytes > p.Memory.WorkingSetBytes {
				return nil
			}
		}
		return fmt.Errorf("the summary is %s", data)
	})
	g.eventually(2*time.Minute, func() error {
		out, err := exec.Command("coracle", "kubectl", "top", "pod", "busy", "--no-headers").CombinedOutput()
		if fields := strings.Fields(string(out)); err == nil && (len(fields) != 3 || fields[1] == "0m" || fields[2] == "0Mi") {
			err = fmt.Errorf("top says %q", out)
		} else if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	g.remove("busy")
}

func (g *guest) eviction() {
	g.start("modest", list("memory", "64Mi"), list("memory", "64Mi"))
	g.until("modest", running)
	available, err := strconv.Atoi(strings.TrimSpace(g.run("sh", "-c", "sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")))
	g.must(err)
	g.start("greedy", nil, nil, "stress", "-m", fmt.Sprint(available>>10-200)) // half of what is to be left
	pod := g.until("greedy", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if pod.Status.Reason != "Evicted" || !strings.Contains(pod.Status.Message, "The node was low on resource: memory") {
		g.Errorf("it failed for %q: %s", pod.Status.Reason, pod.Status.Message)
	}
	if p := g.until("modest", func(*corev1.Pod) bool { return true }); !running(p) {
		g.Errorf("the pod within its request is %s", p.Status.Phase)
	}
	pressure := func(want corev1.ConditionStatus) {
		g.Helper()
		g.eventually(2*time.Minute, func() error {
			nodes, err := g.client.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{})
			if err != nil {
				return err
			}
			for _, c := range nodes.Items[0].Status.Conditions {
				if c.Type == corev1.NodeMemoryPressure && c.Status == want {
					return nil
				}
			}
			return fmt.Errorf("conditions: %v", nodes.Items[0].Status.Conditions)
		})
	}
	pressure(corev1.ConditionFalse)
	g.remove("greedy", "modest")
}

func (g *guest) down() {
	g.run("coracle", "down", "--purge")
	g.nothingLeft()
}

// lab runs a pod on a node of a lab, whose cgroups are below the lab's, and cuts the node's power.
func (g *guest) lab() {
	g.Cleanup(func() { _ = exec.Command("coracle", "lab", "down").Run() })
	g.run("coracle", "lab", "up", "--nodes", "1")
	config := strings.TrimSpace(g.run("coracle", "lab", "kubeconfig"))
	g.kubectl("--kubeconfig", config, "create", "deployment", "web", "--image="+demo)
	g.kubectl("--kubeconfig", config, "rollout", "status", "deployment", "web", "--timeout=3m")
	if pods, err := filepath.Glob(cgroups + "/coracle-lab-lab/node-1/kubepods/*/*/memory.max"); err != nil || len(pods) == 0 {
		g.Errorf("no pod's cgroup below the node's: %v", err)
	}
	if out := g.run("coracle", "lab", "exec", "node-1", "--", "cat", "/proc/self/cgroup"); strings.TrimSpace(out) != "0::/system" {
		g.Errorf("inside a node: %s", out)
	}
	g.run("coracle", "lab", "kill", "node-1")
	if procs, err := os.ReadFile(cgroups + "/coracle-lab-lab/node-1/system/cgroup.procs"); err == nil && len(procs) > 0 {
		g.Errorf("a node without power has the processes %s", procs)
	}
	g.run("coracle", "lab", "start", "node-1")
	g.run("coracle", "lab", "down")
	g.nothingLeft()
}

// nothingLeft compares with what there was before.
func (g *guest) nothingLeft() {
	g.Helper()
	after := traces(g.T)
	for what, was := range g.before {
		if is := after[what]; is != was {
			g.Errorf("%s changed from\n%s\nto\n%s", what, was, is)
		}
	}
	for _, path := range []string{"/var/lib/coracle", "/run/coracle", kubeconfig, filepath.Join(cgroups, "kubepods")} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			g.Errorf("%s is left: %v", path, err)
		}
	}
}

// traces are what a cluster could leave behind.
func traces(t *testing.T) map[string]string {
	t.Helper()
	tr := map[string]string{"processes": "", "tables": ""}
	for what, command := range map[string]string{
		"links": "ip -o link | cut -d: -f2", "addresses": "ip -o addr | cut -c1-60", "routes": "ip route", "mounts": "cut -d' ' -f5 /proc/self/mountinfo",
		"cgroups": "find /sys/fs/cgroup -mindepth 1 -type d",
	} {
		out, err := exec.Command("sh", "-c", command).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
		tr[what] = string(out)
	}
	programs, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range programs {
		if program, _ := os.Readlink(link); strings.Contains(program, "coracle") {
			tr["processes"] += program + "\n"
		}
	}
	tables, err := new(nftables.Conn).ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		tr["tables"] += table.Name + "\n"
	}
	return tr
}
