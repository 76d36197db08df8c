package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/agent/network"
	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/agent/runtime/runtimetest"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/sysctl"
)

func TestMain(m *testing.M) { runtimetest.Main(m) }

const insideNetNS = "CORACLE_TEST_INSIDE_NETNS"

// inNetNS runs the test again in a process with a network namespace of its own, and is false in the outer one.
func inNetNS(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root")
	}
	if os.Getenv(insideNetNS) != "" {
		return true
	}
	cmd := exec.Command("unshare", "-n", "sh", "-c", `ip link set lo up; exec "$0" "$@"`, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), insideNetNS+"=1")
	out, err := cmd.CombinedOutput()
	if testing.Verbose() || err != nil {
		t.Logf("%s", out)
	}
	if err != nil {
		t.Error(err)
	}
	return false
}

// realEnv is an API server with one node of real containers.
type realEnv struct {
	*env
	rt *runtimetest.Env
}

func newRealEnv(t *testing.T) *realEnv {
	rt := runtimetest.Start(t)
	rt.Demo()
	e := &realEnv{rt: rt, env: &env{t: t, rest: apiservertest.Start(t), node: newDouble(), layout: rt.Layout}}
	var err error
	if e.client, err = (client.Config{RestConfig: e.rest, Component: "test"}).Clientset(); err != nil {
		t.Fatal(err)
	}
	net := network.New(network.Config{ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"), Sysctls: sysctl.NewKeeper(filepath.Join(t.TempDir(), "sysctls"))})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	cfg := Config{RestConfig: e.rest, NodeName: testNode, Layout: e.layout, NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		PodCIDR: netip.MustParsePrefix("10.244.0.0/24"), ClusterDNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, CgroupRoot: rt.CgroupRoot,
		Sandboxes: rt.Runtime, Containers: rt.Runtime, Usage: rt.Runtime, Images: rt.Images, Network: net, RuntimeVersion: "containerd://test"}
	go func() { done <- Run(ctx, cfg) }()
	t.Cleanup(func() {
		e.deleteAll()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		unmountAll(e.layout.Data)
	})
	e.await("node ready", func() bool {
		n, err := e.client.CoreV1().Nodes().Get(t.Context(), testNode, metav1.GetOptions{})
		return err == nil && slices.ContainsFunc(n.Status.Conditions, func(c v1.NodeCondition) bool {
			return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
		})
	})
	return e
}

func unmountAll(root string) {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], root+"/agent/pods/") {
			_ = unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
}

func (e *realEnv) deleteAll() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	pods := e.client.CoreV1().Pods("default")
	_ = pods.DeleteCollection(ctx, *metav1.NewDeleteOptions(1), metav1.ListOptions{})
	for ctx.Err() == nil {
		list, err := pods.List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	e.t.Error("pods do not go away")
}

func realPod(name string, command ...string) *v1.Pod {
	p := simplePod(name)
	p.Spec.Containers[0].Image, p.Spec.Containers[0].Command = "docker.io/coracle/demo:v1", command
	p.Spec.TerminationGracePeriodSeconds = new(int64(2))
	return p
}

// run executes a command in a running container and gives its output.
func (e *realEnv) run(p *v1.Pod, container string, command ...string) string {
	e.t.Helper()
	for _, c := range e.rt.Runtime.Pod(string(p.UID)).Containers {
		if c.Name == container && c.State == runtime.StateRunning {
			out := &gather{} // standard output and error come side by side
			code, err := e.rt.Runtime.Exec(e.t.Context(), c.ID, runtime.ExecConfig{Command: command, Stdout: out, Stderr: out})
			if err != nil || code != 0 {
				e.t.Errorf("%v: exit %d, %v: %s", command, code, err, out.buf.String())
			}
			return out.buf.String()
		}
	}
	e.t.Errorf("%s/%s does not run", p.Name, container)
	return ""
}

func TestRealPods(t *testing.T) {
	if !inNetNS(t) {
		return
	}
	e := newRealEnv(t)
	t.Run("volumes and environment", e.volumesAndEnvironment)
	t.Run("probes", e.probes)
	t.Run("ends", e.ends)
	t.Run("speed", e.speed)
	t.Run("many at once", e.manyAtOnce)
}

func (e *realEnv) volumesAndEnvironment(t *testing.T) {
	ctx := t.Context()
	_, err := e.client.CoreV1().ConfigMaps("default").Create(ctx, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm"}, Data: map[string]string{"k": "conf"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.client.CoreV1().Secrets("default").Create(ctx, &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "sec"}, Data: map[string][]byte{"pw": []byte("hush")}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := realPod("vols", "sleep", "1000")
	p.Labels = map[string]string{"app": "vols"}
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: new(int64(777))}
	p.Spec.Volumes = []v1.Volume{
		{Name: "conf", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}}}},
		{Name: "sec", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "sec", DefaultMode: new(int32(0o400))}}},
		{Name: "down", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}},
		{Name: "tmp", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
	}
	c := &p.Spec.Containers[0]
	c.Env = []v1.EnvVar{{Name: "MY_IP", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
		{Name: "PW", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "sec"}, Key: "pw"}}}}
	c.VolumeMounts = []v1.VolumeMount{{Name: "conf", MountPath: "/conf"}, {Name: "sec", MountPath: "/sec", ReadOnly: true}, {Name: "down", MountPath: "/down"},
		{Name: "tmp", MountPath: "/data"}, {Name: "mem", MountPath: "/mem"}, {Name: "tmp", MountPath: "/sub", SubPath: "a/b"}, {Name: "conf", MountPath: "/one", SubPath: "k"}}
	e.create(p)
	p = e.awaitPod("vols", "ready", isReady)
	for _, f := range []struct{ path, want string }{
		{"/conf/k", "conf"}, {"/sec/pw", "hush"}, {"/down/labels", `app="vols"`}, {"/one", "conf"}, {"/etc/hostname", "vols\n"},
	} {
		if got := e.run(p, "app", "cat", f.path); got != f.want {
			t.Errorf("%s: %q, want %q", f.path, got, f.want)
		}
	}
	e.run(p, "app", "touch", "/data/x", "/mem/y", "/sub/z")
	if got := e.run(p, "app", "ls", "/data/a/b"); !strings.Contains(got, "z") {
		t.Errorf("sub-path: %q", got)
	}
	env := e.run(p, "app", "env")
	for _, want := range []string{"MY_IP=" + p.Status.PodIP, "PW=hush", "HOSTNAME=vols"} {
		if !slices.Contains(strings.Fields(env), want) {
			t.Errorf("no %s in %q", want, env)
		}
	}
	if got := e.run(p, "app", "cat", "/etc/resolv.conf"); !strings.HasPrefix(got, "search default.svc.cluster.local svc.cluster.local cluster.local") || !strings.Contains(got, "nameserver 10.96.0.10") {
		t.Errorf("resolv.conf %q", got)
	}
	e.updateLive(t, p)
}

// updateLive changes a config map and a label and waits for the files.
func (e *realEnv) updateLive(t *testing.T, p *v1.Pod) {
	patch := []byte(`{"data":{"k":"new"}}`)
	if _, err := e.client.CoreV1().ConfigMaps("default").Patch(t.Context(), "cm", "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.client.CoreV1().Pods("default").Patch(t.Context(), p.Name, "application/merge-patch+json", []byte(`{"metadata":{"labels":{"app":"two"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	e.await("live update", func() bool {
		return e.run(p, "app", "cat", "/conf/k") == "new" && e.run(p, "app", "cat", "/down/labels") == `app="two"`
	})
}

func (e *realEnv) probes(t *testing.T) {
	p := realPod("probed")
	c := &p.Spec.Containers[0]
	c.Ports = []v1.ContainerPort{{Name: "http", ContainerPort: 8080}}
	c.ReadinessProbe = &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.FromString("http")}}}
	c.LivenessProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"test", "!", "-e", "/sick"}}}}
	e.create(p)
	p = e.awaitPod("probed", "ready", isReady)
	e.run(p, "app", "touch", "/sick")
	e.awaitPod("probed", "restarted", func(p *v1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount == 1 && isReady(p) })
	e.await("event", func() bool {
		return slices.Contains(e.events("probed"), "Killing: Container app failed liveness probe, will be restarted")
	})
}

func (e *realEnv) ends(t *testing.T) {
	p := realPod("job", "sh", "-c", "echo last words > /dev/termination-log; exit 7")
	p.Spec.RestartPolicy = v1.RestartPolicyNever
	e.create(p)
	p = e.awaitPod("job", "failed", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	if s := p.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 7 || s.Reason != "Error" || s.Message != "last words\n" {
		data, _ := json.Marshal(p.Status)
		t.Errorf("status %s", data)
	}
	p = realPod("nocommand", "/no/such")
	e.create(p)
	p = e.awaitPod("nocommand", "start error", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].LastTerminationState.Terminated != nil
	})
	if s := p.Status.ContainerStatuses[0]; s.LastTerminationState.Terminated.ExitCode != 128 || s.State.Waiting == nil {
		t.Errorf("status %+v", s)
	}
}

// speed measures create to Running, one pod after another.
func (e *realEnv) speed(t *testing.T) {
	var took []time.Duration
	for i := range 9 {
		name := fmt.Sprint("quick", i)
		began := time.Now()
		e.create(realPod(name, "sleep", "1000"))
		waitRunning(t, e.client, name)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("create to Running: p50 %s, max %s", took[len(took)/2], took[len(took)-1])
}

// manyAtOnce measures how long it takes until all of many pods run.
func (e *realEnv) manyAtOnce(t *testing.T) {
	const n = 20
	began := time.Now()
	for i := range n {
		e.create(realPod(fmt.Sprint("many", i), "sleep", "1000"))
	}
	var took []time.Duration
	for i := range n {
		waitRunning(t, e.client, fmt.Sprint("many", i))
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("%d pods at once: half in %s, all in %s", n, took[n/2], took[n-1])
}

func waitRunning(t *testing.T, c kubernetes.Interface, name string) {
	w, err := c.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for ev := range w.ResultChan() {
		if p, ok := ev.Object.(*v1.Pod); ok && p.Status.Phase == v1.PodRunning {
			return
		}
	}
}
