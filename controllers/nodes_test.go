package controllers_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers"
)

func TestNodeAddresses(t *testing.T) {
	c := start(t, nil)
	for i := range 20 {
		c.node(fmt.Sprint("n", i))
	}
	c.eventually("ranges", func() error {
		list, err := c.client.CoreV1().Nodes().List(c.ctx, metav1.ListOptions{})
		c.must(err)
		seen := map[string]string{}
		for _, n := range list.Items {
			if n.Spec.PodCIDR == "" || !slices.Equal(n.Spec.PodCIDRs, []string{n.Spec.PodCIDR}) {
				return fmt.Errorf("%s has %q", n.Name, n.Spec.PodCIDR)
			}
			if other, taken := seen[n.Spec.PodCIDR]; taken {
				c.Fatalf("%s and %s both have %s", other, n.Name, n.Spec.PodCIDR)
			}
			seen[n.Spec.PodCIDR] = n.Name
		}
		return nil
	})
}

// renew renews a node's lease as its agent does.
func (c *cluster) renew(node string) {
	leases := c.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	lease, err := leases.Get(c.ctx, node, metav1.GetOptions{})
	now := metav1.NowMicro()
	if err != nil {
		_, _ = leases.Create(c.ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: coordinationv1.LeaseSpec{RenewTime: &now}}, metav1.CreateOptions{})
		return
	}
	lease.Spec.RenewTime = &now
	_, _ = leases.Update(c.ctx, lease, metav1.UpdateOptions{})
}

func TestLostNode(t *testing.T) {
	c := start(t, func(cfg *controllers.Config) { cfg.NodeMonitorGrace = 1500 * time.Millisecond })
	c.node("n1")
	c.node("n2")
	beat := make(chan struct{})
	done := make(chan struct{})
	go func() { // n2 stays alive
		defer close(done)
		for {
			select {
			case <-beat:
				return
			case <-time.After(200 * time.Millisecond):
				c.renew("n2")
			}
		}
	}()
	defer func() { close(beat); <-done }()
	for name, seconds := range map[string]*int64{"quick": ptr.To[int64](1), "patient": nil} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: template(web, "v1").Spec}
		pod.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}}
		_, err := c.client.CoreV1().Pods("default").Create(c.ctx, pod, metav1.CreateOptions{})
		c.must(err)
	}
	c.eventually("the node's condition", func() error {
		n, err := c.client.CoreV1().Nodes().Get(c.ctx, "n1", metav1.GetOptions{})
		c.must(err)
		ready := n.Status.Conditions[slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })]
		if ready.Status != corev1.ConditionUnknown || ready.Reason != "NodeStatusUnknown" || len(n.Spec.Taints) != 2 {
			return fmt.Errorf("%+v %+v", ready, n.Spec.Taints)
		}
		return nil
	})
	c.event("n1", "NodeNotReady", "Node n1 status is now: NodeNotReady")
	c.eventually("the pod's condition", func() error {
		pod, err := c.client.CoreV1().Pods("default").Get(c.ctx, "patient", metav1.GetOptions{})
		c.must(err)
		for _, cond := range pod.Status.Conditions {
			if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionFalse {
				return nil
			}
		}
		return fmt.Errorf("%+v", pod.Status.Conditions)
	})
	c.event("quick", "TaintManagerEviction", "Marking for deletion Pod default/quick")
	c.eventually("eviction", func() error {
		if _, err := c.client.CoreV1().Pods("default").Get(c.ctx, "quick", metav1.GetOptions{}); err == nil {
			return fmt.Errorf("still there")
		}
		return nil
	})
	stop := time.Now().Add(500 * time.Millisecond)
	c.eventually("return", func() error {
		n := c.report("n1")
		if len(n.Spec.Taints) != 0 || time.Now().Before(stop) {
			return fmt.Errorf("%+v", n.Spec.Taints)
		}
		return nil
	})
	if _, err := c.client.CoreV1().Pods("default").Get(c.ctx, "patient", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
}
