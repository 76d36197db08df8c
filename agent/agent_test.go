package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/agent/eviction"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/paths"
)

const testNode = "n1"

// env is an API server with one node whose containers are a double.
type env struct {
	t        *testing.T
	rest     *rest.Config
	client   kubernetes.Interface
	node     *double
	layout   paths.Layout
	shutdown Shutdown
	policies Policies
	left     atomic.Int64 // of memory, in bytes of 100; zero is all
	stop     func()
}

func newEnv(t *testing.T) *env {
	e := &env{t: t, rest: apiservertest.Start(t), node: newDouble(), layout: paths.Layout{Data: t.TempDir(), Run: t.TempDir()}}
	var err error
	if e.client, err = (client.Config{RestConfig: e.rest, Component: "test"}).Clientset(); err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{"default", "kube-node-lease"} {
		_, err := e.client.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	e.start()
	t.Cleanup(func() { e.stop() })
	e.await("node ready", func() bool {
		n, err := e.client.CoreV1().Nodes().Get(t.Context(), testNode, metav1.GetOptions{})
		return err == nil && slices.ContainsFunc(n.Status.Conditions, func(c v1.NodeCondition) bool {
			return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
		})
	})
	return e
}

// start runs the agent until stop.
func (e *env) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	thresholds := []eviction.Threshold{{Signal: eviction.MemoryAvailable, Less: eviction.Amount{Quantity: 20}}}
	cfg := Config{RestConfig: e.rest, NodeName: testNode, Layout: e.layout, NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		PodCIDR: netip.MustParsePrefix("10.244.0.0/24"), ClusterDNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
		Sandboxes: e.node, Containers: e.node, Images: doubleImages{e.node}, Network: doubleNetwork{e.node}, Policies: e.policies, Usage: e.node, RuntimeVersion: "double://1", Manifests: e.layout.Manifests(), Shutdown: e.shutdown,
		Eviction: eviction.Policy{Interval: 20 * time.Millisecond, Thresholds: thresholds, Transition: time.Hour}, Observe: e.observe}
	go func() { done <- Run(ctx, cfg) }()
	e.stop = func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				e.t.Errorf("agent: %v", err)
			}
		case <-time.After(10 * time.Second):
			e.t.Error("agent does not end")
		}
		e.stop = func() {}
	}
}

// observe is a node of which only memory can run out.
func (e *env) observe(context.Context) (eviction.Observations, error) {
	left := e.left.Load()
	if left == 0 {
		left = 100
	}
	return eviction.Observations{eviction.MemoryAvailable: {Available: left, Capacity: 100}}, nil
}

func (e *env) await(what string, ok func() bool) {
	e.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.t.Fatalf("no %s within 10 s; node: %s", what, strings.Join(e.node.transcript(), ", "))
		}
	}
}

func (e *env) pod(name string) *v1.Pod {
	p, err := e.client.CoreV1().Pods("default").Get(e.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return p
}

func (e *env) awaitPod(name, what string, ok func(*v1.Pod) bool) *v1.Pod {
	e.t.Helper()
	var p *v1.Pod
	e.await(name+": "+what, func() bool { p = e.pod(name); return p != nil && ok(p) })
	return p
}

func simplePod(name string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: v1.PodSpec{NodeName: testNode,
		TerminationGracePeriodSeconds: new(int64(5)), AutomountServiceAccountToken: new(false), Containers: []v1.Container{{Name: "app", Image: "demo:v1"}}}}
}

func (e *env) create(p *v1.Pod) *v1.Pod {
	e.t.Helper()
	got, err := e.client.CoreV1().Pods("default").Create(e.t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		e.t.Fatal(err)
	}
	return got
}

func isReady(p *v1.Pod) bool {
	return p.Status.Phase == v1.PodRunning && slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodReady && c.Status == v1.ConditionTrue
	})
}

func (e *env) events(name string) []string {
	list, err := e.client.CoreV1().Events("default").List(e.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
	if err != nil {
		e.t.Fatal(err)
	}
	var out []string
	for _, ev := range list.Items {
		out = append(out, ev.Reason+": "+ev.Message)
	}
	return out
}

func TestPodLife(t *testing.T) {
	e := newEnv(t)
	created := e.create(simplePod("web"))
	p := e.awaitPod("web", "running", isReady)
	st := p.Status.ContainerStatuses[0]
	if p.Status.PodIP != "10.244.0.2" || p.Status.HostIP != "192.0.2.1" || st.ContainerID == "" || st.State.Running == nil || p.Status.StartTime == nil {
		t.Errorf("status %+v", p.Status)
	}
	cfg := e.node.configs[string(created.UID)+"-app-0"]
	hosts, err := os.ReadFile(cfg.Mounts[0].Source)
	if err != nil || !strings.Contains(string(hosts), "10.244.0.2\tweb") {
		t.Errorf("hosts %q, %v", hosts, err)
	}
	e.node.exit(string(created.UID)+"-app-0", 3)
	e.awaitPod("web", "restarted", func(p *v1.Pod) bool { return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	e.node.exit(string(created.UID)+"-app-1", 4)
	e.awaitPod("web", "backing off", func(p *v1.Pod) bool {
		w := p.Status.ContainerStatuses[0].State.Waiting
		return w != nil && w.Reason == "CrashLoopBackOff" && strings.HasPrefix(w.Message, "back-off 10s restarting failed container=app pod=web_default(")
	})
	if err := e.client.CoreV1().Pods("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.await("web gone", func() bool { return e.pod("web") == nil })
	if rest, _ := e.node.List(t.Context()); len(rest) > 0 {
		t.Errorf("left on the node: %v", rest)
	}
	e.await("folder gone", func() bool {
		_, err := os.Stat(filepath.Join(e.layout.Pods(), string(created.UID)))
		return os.IsNotExist(err)
	})
	e.await("events", func() bool { return len(e.events("web")) >= 4 })
	for _, want := range []string{"Started: Container started", "Created: Container created",
		`Pulled: Container image "demo:v1" already present on machine`, "BackOff: Back-off restarting failed container app in pod web_default("} {
		if !slices.ContainsFunc(e.events("web"), func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("no event %q in %q", want, e.events("web"))
		}
	}
}

func TestRestartOfTheAgentDisturbsNothing(t *testing.T) {
	e := newEnv(t)
	kept := simplePod("kept")
	kept.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"ok"}}}}
	uid := e.create(kept).UID
	gone := e.create(simplePod("gone"))
	e.awaitPod("kept", "ready", isReady)
	e.awaitPod("gone", "ready", isReady)
	before := e.pod("kept")
	e.stop()
	if err := e.client.CoreV1().Pods("default").Delete(t.Context(), "gone", *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	e.start()
	e.await("orphan ended", func() bool { return e.node.Pod(string(gone.UID)).Sandbox == nil })
	time.Sleep(50 * time.Millisecond)
	after := e.pod("kept")
	if !isReady(after) || after.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID {
		t.Errorf("pod was disturbed: %+v", after.Status)
	}
	if before.ResourceVersion != after.ResourceVersion {
		t.Errorf("status was written though nothing changed: %+v", after.Status)
	}
	starts := 0
	for _, l := range e.node.transcript() {
		if l == "start kept/app-0" {
			starts++
		}
	}
	if starts != 1 {
		t.Errorf("started %d times", starts)
	}
	e.node.exit(string(uid)+"-app-0", 0)
	e.awaitPod("kept", "restarted", func(p *v1.Pod) bool { return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
}

func TestGracefulDeletionWithHooks(t *testing.T) {
	e := newEnv(t)
	p := simplePod("web")
	p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{
		PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"hello"}}},
		PreStop:   &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"bye"}}}}
	e.node.stubborn["app"] = true
	uid := e.create(p).UID
	e.awaitPod("web", "ready", isReady)
	if err := e.client.CoreV1().Pods("default").Delete(t.Context(), "web", *metav1.NewDeleteOptions(30)); err != nil {
		t.Fatal(err)
	}
	e.await("stop", func() bool { return slices.Contains(e.node.transcript(), "stop web/app-0") })
	// A second deletion shortens the grace.
	if err := e.client.CoreV1().Pods("default").Delete(t.Context(), "web", *metav1.NewDeleteOptions(1)); err != nil {
		t.Fatal(err)
	}
	e.await("web gone", func() bool { return e.pod("web") == nil })
	want := []string{"sandbox web", "start web/app-0", "exec web/app [hello]", "exec web/app [bye]", "stop web/app-0",
		"stop web/app-0", "exit web/app-0 137", "remove web/app-0", "unsandbox web"}
	if got := e.node.transcript(); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if e.node.Pod(string(uid)).Sandbox != nil {
		t.Error("sandbox left")
	}
}

func TestVolumesFollowTheirSources(t *testing.T) {
	e := newEnv(t)
	p := simplePod("web")
	p.Spec.Volumes = []v1.Volume{{Name: "c", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}}}}}
	p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "c", MountPath: "/c"}}
	uid := string(e.create(p).UID)
	e.await("mount failure", func() bool {
		return slices.Contains(e.events("web"), `FailedMount: MountVolume.SetUp failed for volume "c" : configmap "cm" not found`)
	})
	cm := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm"}, Data: map[string]string{"k": "one"}}
	cm, err := e.client.CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e.awaitPod("web", "ready", isReady)
	file := filepath.Join(e.node.configs[uid+"-app-0"].Mounts[0].Source, "k")
	cm.Data["k"] = "two"
	if _, err := e.client.CoreV1().ConfigMaps("default").Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	e.await("new content", func() bool { data, _ := os.ReadFile(file); return string(data) == "two" })
}

func TestFailures(t *testing.T) {
	e := newEnv(t)
	waiting := func(reason string) func(*v1.Pod) bool {
		return func(p *v1.Pod) bool {
			return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == reason
		}
	}
	p := simplePod("noimage")
	p.Spec.Containers[0].Image = "missing:v1"
	e.create(p)
	p = simplePod("nosecret")
	p.Spec.Containers[0].EnvFrom = []v1.EnvFromSource{{SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "no"}}}}
	e.create(p)
	p = simplePod("sysctl")
	p.Spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "kernel.msgmax", Value: "1"}}}
	e.create(p)
	e.awaitPod("noimage", "ErrImagePull", waiting("ErrImagePull"))
	e.awaitPod("noimage", "ImagePullBackOff", waiting("ImagePullBackOff"))
	e.awaitPod("nosecret", "CreateContainerConfigError", waiting("CreateContainerConfigError"))
	e.awaitPod("sysctl", "refused", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed && p.Status.Reason == "SysctlForbidden" })
	for _, name := range []string{"noimage", "nosecret", "sysctl"} {
		if err := e.client.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		e.await(name+" gone", func() bool { return e.pod(name) == nil })
	}
}

func TestJobLikePodEnds(t *testing.T) {
	e := newEnv(t)
	p := simplePod("job")
	p.Spec.RestartPolicy = v1.RestartPolicyOnFailure
	uid := string(e.create(p).UID)
	e.awaitPod("job", "ready", isReady)
	e.node.exit(uid+"-app-0", 0)
	got := e.awaitPod("job", "succeeded", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded })
	if tm := got.Status.ContainerStatuses[0].State.Terminated; tm == nil || tm.Reason != "Completed" {
		t.Errorf("status %+v", got.Status.ContainerStatuses)
	}
	e.await("sandbox given back", func() bool { return e.node.Pod(uid).Sandbox == nil })
	if n := len(e.node.Pod(uid).Containers); n != 1 {
		t.Errorf("%d containers kept, want the one whose log can be read", n)
	}
}

func TestManyPods(t *testing.T) {
	e := newEnv(t)
	const n = 50
	began := time.Now()
	for i := range n {
		e.create(simplePod(fmt.Sprintf("p%d", i)))
	}
	e.await("all running", func() bool {
		list, err := e.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return false
		}
		return !slices.ContainsFunc(list.Items, func(p v1.Pod) bool { return !isReady(&p) })
	})
	t.Logf("%d pods in %s", n, time.Since(began).Round(time.Millisecond))
}

func TestEvictionForLocalStorage(t *testing.T) {
	e := newEnv(t)
	p := simplePod("hog")
	limit := resource.MustParse("64Ki")
	p.Spec.Volumes = []v1.Volume{{Name: "d", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "d", MountPath: "/d"}}
	uid := string(e.create(p).UID)
	e.awaitPod("hog", "ready", isReady)
	if err := os.WriteFile(filepath.Join(e.node.configs[uid+"-app-0"].Mounts[0].Source, "f"), make([]byte, 256<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	e.awaitPod("hog", "evicted", func(p *v1.Pod) bool {
		return p.Status.Phase == v1.PodFailed && p.Status.Reason == "Evicted" && p.Status.Message == `Usage of EmptyDir volume "d" exceeds the limit "64Ki". `
	})
}

func TestContainerdAway(t *testing.T) {
	e := newEnv(t)
	e.node.mu.Lock()
	e.node.broken = errors.New("connection refused")
	e.node.mu.Unlock()
	e.create(simplePod("web"))
	e.awaitPod("web", "an error", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerError"
	})
	e.node.mu.Lock()
	e.node.broken = nil
	e.node.mu.Unlock()
	e.awaitPod("web", "ready", isReady)
}
