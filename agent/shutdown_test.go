package agent

import (
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNodeShutdown: ordinary pods end before critical ones, the node is not ready and takes no pods any more.
func TestNodeShutdown(t *testing.T) {
	e := newEnv(t)
	e.stop()
	imminent := make(chan struct{})
	e.shutdown = Shutdown{Grace: 60 * time.Second, CriticalGrace: 30 * time.Second, Imminent: imminent}
	e.start()
	vital := simplePod("vital")
	vital.Spec.PriorityClassName, vital.Spec.Priority = "system-cluster-critical", new(int32(2_000_000_000)) // as admission would
	e.create(vital)
	e.create(simplePod("web"))
	e.awaitPod("vital", "ready", isReady)
	e.awaitPod("web", "ready", isReady)
	close(imminent)
	for _, name := range []string{"web", "vital"} {
		got := e.awaitPod(name, "failed", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
		if got.Status.Reason != "Terminated" || got.Status.Message != "Pod was terminated in response to imminent node shutdown." ||
			!slices.ContainsFunc(got.Status.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.DisruptionTarget && c.Status == v1.ConditionTrue }) {
			t.Errorf("%s: %+v", name, got.Status)
		}
	}
	log := e.node.transcript()
	if first, last := slices.Index(log, "exit web/app-0 143"), slices.Index(log, "stop vital/app-0"); first < 0 || last < first {
		t.Errorf("order: %q", log)
	}
	e.await("not ready", func() bool {
		n, err := e.client.CoreV1().Nodes().Get(t.Context(), testNode, metav1.GetOptions{})
		return err == nil && slices.ContainsFunc(n.Status.Conditions, func(c v1.NodeCondition) bool {
			return c.Type == v1.NodeReady && c.Status == v1.ConditionFalse && c.Reason == "KubeletNotReady" && c.Message == "node is shutting down"
		})
	})
	e.create(simplePod("late"))
	e.awaitPod("late", "refused", func(p *v1.Pod) bool {
		return p.Status.Phase == v1.PodFailed && p.Status.Reason == "NodeShutdown" && p.Status.Message == "Pod was rejected as the node is shutting down."
	})
}
