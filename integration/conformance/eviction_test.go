package conformance

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// TestEviction starts an agent anew with thresholds that no machine satisfies, over pods that run.
func TestEviction(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.StartServer()
	agent := c.StartAgent()
	c.ImportBusybox()
	e := newSuite(t, c).env(t)
	registry := serveRegistry(t, c, "", false)
	pushTo(t, c, registry, "unused:v1", "", busybox(t, c, "unused"))
	unused := hostOf(registry) + "/unused:v1"
	e.create(sleeper("passing", unused, ""))
	e.ready("passing")
	greedy, modest, critical := onePod("greedy", shell("c", "sleep 3600")), onePod("modest", shell("c", "sleep 3600")), onePod("critical", shell("c", "sleep 3600"))
	modest.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
	critical.Spec.PriorityClassName = "system-node-critical"
	for _, p := range []*corev1.Pod{greedy, modest, critical} {
		e.create(p)
	}
	for _, name := range []string{"greedy", "modest", "critical"} {
		e.ready(name)
	}
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, "passing", metav1.DeleteOptions{}))
	e.removed("passing")
	t.Run("garbage", func(t *testing.T) { unusedImageGoes(e, agent, unused) })
	t.Run("memory", func(t *testing.T) { memoryPressure(e) })
}

// unusedImageGoes starts the agent for the rest of the test: images are to be removed until the disk is empty, which it never is.
func unusedImageGoes(e *env, agent *cluster.Process, unused string) {
	e.Helper()
	cluster.Eventually(e.T, time.Minute, func() error { // the pod had no grace: its container may be there yet
		if found := e.listed(unused); found.ID == "" || found.InUse {
			return fmt.Errorf("the image is not there unused to begin with: %+v", found)
		}
		return nil
	})
	agent.Stop()
	e.cluster.StartAgent("--eviction-hard=memory.available<99.9%", "--image-gc-high-threshold=1", "--image-gc-low-threshold=0", "--minimum-image-ttl-duration=1s")
	cluster.Eventually(e.T, time.Minute, func() error {
		if e.listed(unused).ID != "" {
			return errors.New("the unused image is still there")
		}
		return nil
	})
	if e.listed(cluster.Busybox).ID == "" {
		e.Error("an imported image is gone")
	}
	e.nodeTold("FreeDiskSpaceFailed", "Failed to garbage collect required amount of images. Attempted to free ")
}

// nodeTold waits for an event of the node.
func (e *env) nodeTold(reason, begin string) {
	e.Helper()
	cluster.Eventually(e.T, time.Minute, func() error {
		list, err := e.kube.CoreV1().Events("default").List(e.ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Node,reason=" + reason})
		if err == nil && !slices.ContainsFunc(list.Items, func(ev corev1.Event) bool { return strings.HasPrefix(ev.Message, begin) }) {
			err = fmt.Errorf("no event %s %q among %d", reason, begin, len(list.Items))
		}
		return err
	})
}

func memoryPressure(e *env) {
	first := e.evicted("greedy", "The node was low on resource: memory. Threshold quantity: ")
	second := e.evicted("modest", "The node was low on resource: memory. Threshold quantity: ")
	if m := first.Status.Message; !strings.Contains(m, "Container c was using ") || !strings.Contains(m, ", request is 0, has larger consumption of memory. ") {
		e.Errorf("message %q", m)
	}
	if m := second.Status.Message; strings.Contains(m, "Container c") {
		e.Errorf("the modest pod used no more than it asked for, but its message is %q", m)
	}
	for _, p := range []*corev1.Pod{first, second} {
		if !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonTerminationByKubelet && c.Message == p.Status.Message
		}) {
			e.Errorf("conditions of %s: %+v", p.Name, p.Status.Conditions)
		}
	}
	ended := func(p *corev1.Pod) time.Time { return p.Status.ContainerStatuses[0].State.Terminated.FinishedAt.Time }
	if ended(second).Before(ended(first)) {
		e.Error("the pod within its requests was evicted first")
	}
	e.nodeTold("EvictionThresholdMet", "Attempting to reclaim memory")
	cluster.Eventually(e.T, time.Minute, func() error {
		list, err := e.kube.CoreV1().Nodes().List(e.ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 {
			return fmt.Errorf("nodes: %v", err)
		}
		n := list.Items[0]
		if !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeMemoryPressure && c.Status == corev1.ConditionTrue && c.Reason == "KubeletHasInsufficientMemory"
		}) {
			return fmt.Errorf("conditions %+v", n.Status.Conditions)
		}
		if !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
			return t.Key == corev1.TaintNodeMemoryPressure && t.Effect == corev1.TaintEffectNoSchedule
		}) {
			return fmt.Errorf("taints %+v", n.Spec.Taints)
		}
		return nil
	})
	nodes, err := e.kube.CoreV1().Nodes().List(e.ctx, metav1.ListOptions{})
	e.must(err)
	late := onePod("late", shell("c", "sleep 3600"))
	late.Spec.NodeName = nodes.Items[0].Name // past the scheduler, which keeps away
	e.create(late)
	e.evicted("late", "Pod was rejected: The node had condition: [MemoryPressure]. ")
	if e.ready("critical").Status.ContainerStatuses[0].RestartCount != 0 {
		e.Error("the critical pod was disturbed")
	}
}
