package simulate

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/apiserver/apiservertest"
)

// world is an API server and a simulator.
type world struct {
	*testing.T
	config *rest.Config
	kube   kubernetes.Interface
	cfg    Config
	stop   func()
}

func start(t *testing.T, cfg Config) *world {
	t.Helper()
	t.Parallel()
	w := &world{T: t, config: apiservertest.Start(t)}
	w.kube = kubernetes.NewForConfigOrDie(w.config)
	cfg.RestConfig, cfg.Log = w.config, slog.New(slog.DiscardHandler)
	if !cfg.PodCIDR.IsValid() {
		cfg.PodCIDR = netip.MustParsePrefix(DefaultPodCIDR)
	}
	w.cfg = cfg
	w.stop = w.run()
	t.Cleanup(func() { w.stop() })
	return w
}

// run starts the simulator, waits until its nodes are registered, and gives what ends it.
func (w *world) run() func() {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	registered, done := make(chan struct{}), make(chan error, 1)
	cfg := w.cfg
	cfg.Registered = func() { close(registered) }
	go func() { done <- Run(ctx, cfg) }()
	select {
	case <-registered:
	case err := <-done:
		w.Fatalf("ended: %v", err)
	}
	ended := false
	return func() {
		cancel()
		if ended {
			return
		}
		ended = true
		if err := <-done; err != nil {
			w.Errorf("simulator: %v", err)
		}
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) eventually(what string, check func() error) {
	w.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// create makes a pod that is bound to the first node already.
func (w *world) create(name string, change func(*v1.Pod)) *v1.Pod {
	w.Helper()
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{NodeName: "sim-0",
		Containers: []v1.Container{{Name: "c", Image: "registry.example/app:1"}}}}
	if change != nil {
		change(pod)
	}
	pod, err := w.kube.CoreV1().Pods("default").Create(w.Context(), pod, metav1.CreateOptions{})
	w.must(err)
	return pod
}

// awaitPod waits until the pod is as ok wants it.
func (w *world) awaitPod(name, what string, ok func(*v1.Pod) bool) *v1.Pod {
	w.Helper()
	var pod *v1.Pod
	w.eventually(name+" "+what, func() (err error) {
		if pod, err = w.kube.CoreV1().Pods("default").Get(w.Context(), name, metav1.GetOptions{}); err == nil && !ok(pod) {
			err = fmt.Errorf("status %+v", pod.Status)
		}
		return err
	})
	return pod
}

func podReady(pod *v1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

func in(phase v1.PodPhase) func(*v1.Pod) bool {
	return func(pod *v1.Pod) bool { return pod.Status.Phase == phase }
}

func TestPodBecomesReadyAndGoes(t *testing.T) {
	w := start(t, Config{Nodes: 2, Zones: 2})
	w.create("p", func(p *v1.Pod) { p.Spec.InitContainers = []v1.Container{{Name: "i", Image: "init"}} })
	pod := w.awaitPod("p", "ready", podReady)
	s := pod.Status
	if s.Phase != v1.PodRunning || s.StartTime == nil || s.HostIP != "198.18.0.1" || s.ObservedGeneration != pod.Generation {
		t.Errorf("status %+v", s)
	}
	if ip := netip.MustParseAddr(s.PodIP); !netip.MustParsePrefix("100.64.0.0/24").Contains(ip) {
		t.Errorf("address %v is not of the node's range", ip)
	}
	if c := s.ContainerStatuses[0]; c.State.Running == nil || !c.Ready || c.ContainerID == "" || c.RestartCount != 0 {
		t.Errorf("container %+v", c)
	}
	if c := s.InitContainerStatuses[0]; c.State.Terminated == nil || c.State.Terminated.Reason != "Completed" {
		t.Errorf("init container %+v", c)
	}
	w.must(w.kube.CoreV1().Pods("default").Delete(t.Context(), "p", metav1.DeleteOptions{}))
	w.gone("p")
}

// TestDeletedBeforeReady: the end of a container is not forgotten for a time that was noted before and comes sooner.
func TestDeletedBeforeReady(t *testing.T) {
	w := start(t, Config{Nodes: 1, Ready: time.Second, Terminate: 2 * time.Second})
	w.create("p", nil)
	w.awaitPod("p", "running", in(v1.PodRunning))
	w.must(w.kube.CoreV1().Pods("default").Delete(t.Context(), "p", metav1.DeleteOptions{}))
	w.gone("p")
}

func (w *world) gone(name string) {
	w.Helper()
	w.eventually(name+" is gone", func() error {
		pod, err := w.kube.CoreV1().Pods("default").Get(w.Context(), name, metav1.GetOptions{})
		if err == nil {
			return fmt.Errorf("there still: %+v", pod.Status)
		}
		return ignoreGone(err)
	})
}

func TestEndsAndRestarts(t *testing.T) {
	w := start(t, Config{Nodes: 1, RunFor: 10 * time.Millisecond})
	never := func(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyNever }
	w.create("done", never)
	w.create("failed", func(p *v1.Pod) { never(p); p.Annotations = map[string]string{AnnotationExitCode: "3"} })
	w.create("crashes", func(p *v1.Pod) { p.Annotations = map[string]string{AnnotationRunFor: "1ms", AnnotationExitCode: "1"} })
	w.create("serves", nil)
	w.create("late", func(p *v1.Pod) { p.Annotations = map[string]string{AnnotationReadyAfter: "never"} })
	w.awaitPod("done", "succeeds", in(v1.PodSucceeded))
	failed := w.awaitPod("failed", "fails", in(v1.PodFailed))
	if end := failed.Status.ContainerStatuses[0].State.Terminated; end == nil || end.ExitCode != 3 || end.Reason != "Error" {
		t.Errorf("%+v", failed.Status.ContainerStatuses)
	}
	w.awaitPod("crashes", "is restarted", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount == 1
	})
	w.awaitPod("crashes", "backs off", func(p *v1.Pod) bool {
		wait := p.Status.ContainerStatuses[0].State.Waiting
		return wait != nil && wait.Reason == "CrashLoopBackOff"
	})
	w.awaitPod("serves", "is ready", podReady)
	if late := w.awaitPod("late", "runs", in(v1.PodRunning)); podReady(late) {
		t.Errorf("ready: %+v", late.Status)
	}
}

func TestFinalizersKeepAPod(t *testing.T) {
	w := start(t, Config{Nodes: 1})
	w.create("p", func(p *v1.Pod) { p.Finalizers = []string{"example.com/hold"} })
	w.awaitPod("p", "ready", podReady)
	w.must(w.kube.CoreV1().Pods("default").Delete(t.Context(), "p", metav1.DeleteOptions{}))
	w.awaitPod("p", "has ended", func(p *v1.Pod) bool {
		return p.Status.Phase == v1.PodFailed && p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds == 0
	})
	_, err := w.kube.CoreV1().Pods("default").Patch(t.Context(), "p", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	w.must(err)
	w.gone("p")
}

func (w *world) setState(node, state string) {
	w.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, LabelState, state)
	_, err := w.kube.CoreV1().Nodes().Patch(w.Context(), node, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	w.must(err)
}

func TestANodeThatIsDownDoesNothing(t *testing.T) {
	w := start(t, Config{Nodes: 2, LeaseInterval: 20 * time.Millisecond})
	w.setState("sim-0", `"down"`)
	lease := func(name string) string {
		l, err := w.kube.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return ""
		}
		return l.ResourceVersion
	}
	w.eventually("sim-0's lease rests", func() error {
		before, other := lease("sim-0"), lease("sim-1")
		time.Sleep(200 * time.Millisecond)
		if now := lease("sim-0"); now != before || lease("sim-1") == other {
			return fmt.Errorf("renewed: %s after %s", now, before)
		}
		return nil
	})
	w.create("p", nil)
	w.create("other", func(p *v1.Pod) { p.Spec.NodeName = "sim-1" })
	w.awaitPod("other", "ready", podReady)
	if pod := w.awaitPod("p", "rests", in(v1.PodPending)); pod.Status.StartTime != nil {
		t.Errorf("taken by a node that is down: %+v", pod.Status)
	}
	w.setState("sim-0", "null")
	w.awaitPod("p", "ready", podReady)
}

func TestTheNextSimulatorTakesOver(t *testing.T) {
	w := start(t, Config{Nodes: 1})
	w.create("a", nil)
	before := w.awaitPod("a", "ready", podReady)
	w.stop()
	w.create("b", nil)
	w.stop = w.run()
	b := w.awaitPod("b", "ready", podReady)
	if a := w.awaitPod("a", "ready", podReady); a.ResourceVersion != before.ResourceVersion {
		t.Errorf("written anew: %+v\nbefore: %+v", a.Status, before.Status)
	}
	if b.Status.PodIP == before.Status.PodIP {
		t.Errorf("both have %s", b.Status.PodIP)
	}
	w.must(w.kube.CoreV1().Pods("default").Delete(t.Context(), "a", metav1.DeleteOptions{}))
	w.gone("a")
}

func TestClean(t *testing.T) {
	w := start(t, Config{Nodes: 3})
	_, err := w.kube.CoreV1().Nodes().Create(t.Context(), &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "sim-real"}}, metav1.CreateOptions{})
	w.must(err)
	w.stop()
	count, err := Clean(t.Context(), w.config, "sim-")
	w.must(err)
	left, err := w.kube.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	w.must(err)
	if count != 3 || len(left.Items) != 1 {
		t.Errorf("%d deleted, %d left", count, len(left.Items))
	}
}

func TestRefusals(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no server": {Nodes: 1},
		"no node":   {RestConfig: &rest.Config{}},
		"failures":  {RestConfig: &rest.Config{}, Nodes: 1, Fail: 2},
		"too small": {RestConfig: &rest.Config{}, Nodes: 257, PodCIDR: netip.MustParsePrefix("10.9.0.0/16")},
	} {
		if err := Run(t.Context(), cfg); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
}

func TestAForeignNodeIsLeftAlone(t *testing.T) {
	t.Parallel()
	config := apiservertest.Start(t)
	kube := kubernetes.NewForConfigOrDie(config)
	if _, err := kube.CoreV1().Nodes().Create(t.Context(), &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "sim-1"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), Config{RestConfig: config, Nodes: 2, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "sim-1 exists") {
		t.Errorf("%v", err)
	}
}

func TestAddresses(t *testing.T) {
	n := newNode(&Config{Prefix: "n", PodCIDR: netip.MustParsePrefix("10.0.0.0/8")}, 258)
	if n.name != "n258" || n.ip.String() != "198.18.1.3" || n.cidr.String() != "10.1.2.0/24" {
		t.Fatal(n.name, n.ip, n.cidr)
	}
	n.claim("10.1.2.3", "early")
	seen := map[string]bool{"10.1.2.3": true}
	for i := range 252 { // of .2 to .254 one is claimed
		ip, ok := n.take(types.UID(fmt.Sprint(i)))
		if !ok || seen[ip.String()] || !n.cidr.Contains(ip) {
			t.Fatal(i, ip, ok)
		}
		seen[ip.String()] = true
	}
	if ip, ok := n.take("more"); ok {
		t.Fatal("given twice:", ip)
	}
	n.release("10.1.2.9", "another's")
	if _, ok := n.take("more"); ok {
		t.Fatal("released by somebody else")
	}
	n.release("10.1.2.3", "early")
	if ip, ok := n.take("more"); !ok || ip.String() != "10.1.2.3" {
		t.Fatal(ip, ok)
	}
}
