package agent

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/agent/node"
)

func amounts(cpu, memory string) v1.ResourceRequirements {
	list := v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	return v1.ResourceRequirements{Requests: list, Limits: list}
}

func sizedPod(name, cpu, memory string) *v1.Pod {
	p := simplePod(name)
	p.Spec.Containers[0].Resources = amounts(cpu, memory)
	return p
}

// resize asks for other resources of a pod's first container.
func (e *env) resize(name, cpu, memory string) *v1.Pod {
	e.t.Helper()
	p := e.pod(name)
	p.Spec.Containers[0].Resources = amounts(cpu, memory)
	got, err := e.client.CoreV1().Pods("default").UpdateResize(e.t.Context(), name, p, metav1.UpdateOptions{})
	if err != nil {
		e.t.Fatal(err)
	}
	return got
}

// has tells that the first container has such limits by its status, and the pod no resize under way.
func has(cpu, memory string) func(*v1.Pod) bool {
	want := amounts(cpu, memory)
	return func(p *v1.Pod) bool {
		st := p.Status.ContainerStatuses
		return len(st) > 0 && st[0].Resources != nil && st[0].State.Running != nil && st[0].Resources.Limits.Cpu().Cmp(*want.Limits.Cpu()) == 0 &&
			st[0].Resources.Limits.Memory().Cmp(*want.Limits.Memory()) == 0 && condition(&p.Status, v1.PodResizeInProgress) == nil &&
			p.Status.AllocatedResources.Cpu().Cmp(*want.Requests.Cpu()) == 0
	}
}

// sizes are the resizes of the double's transcript.
func (e *env) sizes() []string {
	return slices.DeleteFunc(e.node.transcript(), func(s string) bool { return !strings.HasPrefix(s, "resize ") })
}

func TestResizeInPlace(t *testing.T) {
	e := newEnv(t)
	e.create(sizedPod("web", "100m", "64Mi"))
	e.awaitPod("web", "ready", isReady)
	e.resize("web", "200m", "128Mi")
	e.awaitPod("web", "grown", has("200m", "128Mi"))
	e.resize("web", "150m", "32Mi")
	p := e.awaitPod("web", "shrunk", has("150m", "32Mi"))
	if n := p.Status.ContainerStatuses[0].RestartCount; n != 0 || !isReady(p) {
		t.Errorf("restarted %d times: %+v", n, p.Status)
	}
	want := []string{
		"resize web cpu=20000 memory=134217728", "resize web/app cpu=20000 memory=134217728",
		"resize web/app cpu=15000 memory=33554432", "resize web cpu=15000 memory=33554432",
	}
	if got := e.sizes(); !slices.Equal(got, want) {
		t.Errorf("order: %q", got)
	}
	e.await("events", func() bool {
		all := strings.Join(e.events("web"), "\n")
		return strings.Contains(all, `ResizeStarted: Pod resize started: {"containers":[{"name":"app","resources":{"limits":{"cpu":"200m","memory":"128Mi"},`+
			`"requests":{"cpu":"200m","memory":"128Mi"}}}],"generation":2}`) &&
			strings.Contains(all, `ResizeCompleted: Pod resize completed: {"containers":[{"name":"app","resources":{"limits":{"cpu":"150m","memory":"32Mi"},`)
	})
}

func TestResizeBelowUsageWaits(t *testing.T) {
	e := newEnv(t)
	e.node.used = 40 << 20
	e.create(sizedPod("web", "100m", "64Mi"))
	e.awaitPod("web", "ready", isReady)
	e.resize("web", "100m", "32Mi")
	const message = `cannot decrease memory limits: [attempting to set pod memory limit (33554432) below current usage (41943040), ` +
		`attempting to set container "app" memory limit (33554432) below current usage (41943040)]`
	p := e.awaitPod("web", "an error", func(p *v1.Pod) bool {
		c := condition(&p.Status, v1.PodResizeInProgress)
		return c != nil && c.Reason == v1.PodReasonError && c.Message == message && c.ObservedGeneration == 2
	})
	if q := p.Status.ContainerStatuses[0].Resources.Limits.Memory(); q.Value() != 64<<20 || len(e.sizes()) != 0 {
		t.Errorf("the limit is %s; %q", q, e.sizes())
	}
	e.stop()
	e.node.mu.Lock()
	e.node.used = 10 << 20
	e.node.mu.Unlock()
	e.start() // it finds what was begun
	e.awaitPod("web", "shrunk", has("100m", "32Mi"))
	e.await("event", func() bool {
		return strings.Contains(strings.Join(e.events("web"), "\n"), "ResizeError: Pod resize error: {")
	})
}

func TestResizeRestarts(t *testing.T) {
	e := newEnv(t)
	p := sizedPod("web", "100m", "64Mi")
	p.Spec.RestartPolicy = v1.RestartPolicyOnFailure
	p.Spec.Containers[0].ResizePolicy = []v1.ContainerResizePolicy{{ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer},
		{ResourceName: v1.ResourceCPU, RestartPolicy: v1.NotRequired}}
	e.create(p)
	e.awaitPod("web", "ready", isReady)
	e.resize("web", "200m", "64Mi")
	if p := e.awaitPod("web", "grown", has("200m", "64Mi")); p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Error("restarted for CPU")
	}
	e.resize("web", "200m", "128Mi")
	e.awaitPod("web", "restarted", func(p *v1.Pod) bool {
		return has("200m", "128Mi")(p) && p.Status.ContainerStatuses[0].RestartCount == 1
	})
	e.await("event", func() bool { return slices.Contains(e.events("web"), "Killing: Container app resize requires restart") })
}

func TestResizeIsDeferred(t *testing.T) {
	e := newEnv(t)
	n, err := e.client.CoreV1().Nodes().Get(t.Context(), testNode, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all := n.Status.Allocatable.Cpu().DeepCopy()
	half := resource.NewMilliQuantity(all.MilliValue()/2, resource.DecimalSI).String()
	e.create(sizedPod("big", half, "16Mi"))
	e.create(sizedPod("web", "100m", "16Mi"))
	e.awaitPod("big", "ready", isReady)
	e.awaitPod("web", "ready", isReady)
	e.resize("web", all.String(), "16Mi")
	deferred := func(p *v1.Pod) bool {
		c := condition(&p.Status, v1.PodResizePending)
		return c != nil && c.Reason == v1.PodReasonDeferred && strings.HasPrefix(c.Message, "Node didn't have enough resource: cpu, requested: ") &&
			c.ObservedGeneration == 2 && has("100m", "16Mi")(p)
	}
	e.awaitPod("web", "deferred", deferred)
	e.stop()
	e.start()
	e.await("the node's pods are known again", func() bool { return len(e.events("web")) > 0 })
	e.awaitPod("web", "deferred", deferred)
	if err := e.client.CoreV1().Pods("default").Delete(t.Context(), "big", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.awaitPod("web", "grown", func(p *v1.Pod) bool {
		return has(all.String(), "16Mi")(p) && condition(&p.Status, v1.PodResizePending) == nil
	})
	e.await("event", func() bool {
		return strings.Contains(strings.Join(e.events("web"), "\n"), "ResizeDeferred: Pod resize Deferred: {")
	})
}

func TestQOSLimits(t *testing.T) {
	burst := sizedPod("b", "300m", "1Mi")
	delete(burst.Spec.Containers[0].Resources.Limits, v1.ResourceMemory)
	all := node.ForPods(node.Facts{CPUs: 2, Memory: 4 << 30, MaxPids: 1000}, v1.ResourceList{
		v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("1Gi"), node.ResourcePids: resource.MustParse("100")})
	got := qosLimits("/kubepods", all, []*v1.Pod{burst, sizedPod("g", "1", "1Mi"), simplePod("e")})
	if r := got["/kubepods"]; r.CPUShares != 1536 || r.MemoryLimit != 3<<30 || r.PidsLimit != 900 {
		t.Errorf("root %+v", r)
	}
	if got["/kubepods/burstable"].CPUShares != 307 || got["/kubepods/besteffort"].CPUShares != 2 {
		t.Errorf("got %+v", got)
	}
}
