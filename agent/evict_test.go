package agent

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestEvictionUnderMemoryPressure has the node run short: the pod that uses more than it asked for goes, those without requests are not
// taken, and the condition stays for a while.
func TestEvictionUnderMemoryPressure(t *testing.T) {
	e := newEnv(t)
	modest, greedy := simplePod("modest"), simplePod("greedy")
	for _, p := range []*v1.Pod{modest, greedy} {
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Mi")}
	}
	e.node.stubborn["app"] = true // it does not end before its grace is over, which eviction shortens
	greedy.Spec.TerminationGracePeriodSeconds = new(int64(600))
	modestUID, greedyUID := string(e.create(modest).UID), string(e.create(greedy).UID)
	e.awaitPod("modest", "ready", isReady)
	e.awaitPod("greedy", "ready", isReady)
	e.node.mu.Lock()
	e.node.memory[modestUID+"-app-0"], e.node.memory[greedyUID+"-app-0"] = 1<<20, 3<<20
	e.node.mu.Unlock()
	e.left.Store(10)
	p := e.awaitPod("greedy", "evicted", func(p *v1.Pod) bool {
		if p.Status.Phase == v1.PodFailed {
			e.left.Store(50)
		}
		return p.Status.Phase == v1.PodFailed
	})
	const words = "The node was low on resource: memory. Threshold quantity: 20, available: 10. Container app was using 3Mi, request is 1Mi, has larger consumption of memory. "
	if p.Status.Reason != "Evicted" || p.Status.Message != words {
		t.Errorf("%s: %q", p.Status.Reason, p.Status.Message)
	}
	if !slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.DisruptionTarget && c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonTerminationByKubelet && c.Message == words
	}) {
		t.Errorf("conditions %+v", p.Status.Conditions)
	}
	e.await("event", func() bool { return slices.Contains(e.events("greedy"), "Evicted: "+words) })
	e.await("the node's event", func() bool {
		return slices.ContainsFunc(e.events(testNode), func(s string) bool { return s == "EvictionThresholdMet: Attempting to reclaim memory" })
	})
	e.create(simplePod("late")) // without requests
	late := e.awaitPod("late", "refused", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	if late.Status.Reason != "Evicted" || late.Status.Message != "Pod was rejected: The node had condition: [MemoryPressure]. " {
		t.Errorf("%s: %q", late.Status.Reason, late.Status.Message)
	}
	n, err := e.client.CoreV1().Nodes().Get(t.Context(), testNode, metav1.GetOptions{})
	if err != nil || !slices.ContainsFunc(n.Status.Conditions, func(c v1.NodeCondition) bool {
		return c.Type == v1.NodeMemoryPressure && c.Status == v1.ConditionTrue && c.Reason == "KubeletHasInsufficientMemory"
	}) {
		t.Errorf("%v %+v", err, n.Status.Conditions)
	}
	if !isReady(e.pod("modest")) {
		t.Error("the modest pod was disturbed")
	}
	if i := slices.IndexFunc(e.node.transcript(), func(s string) bool { return strings.HasPrefix(s, "stop modest") }); i >= 0 {
		t.Errorf("%q", e.node.transcript())
	}
}
