package conformance

import (
	"fmt"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// TestTwoNodes registers two nodes as agents do: both become schedulable, and pods go to both.
func TestTwoNodes(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.StartServer()
	e := &env{suite: newSuite(t, c), T: t, ctx: t.Context(), ns: "default"}
	for _, name := range []string{"one", "two"} {
		e.registerNode(name)
	}
	e.eventually(func() error {
		nodes, err := e.kube.CoreV1().Nodes().List(e.ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		free := 0
		for _, n := range nodes.Items {
			if len(n.Spec.Taints) == 0 && !n.Spec.Unschedulable {
				free++
			}
		}
		return same(free, 2)
	})
	e.eventually(func() error {
		_, err := e.kube.CoreV1().ServiceAccounts(e.ns).Get(e.ctx, "default", metav1.GetOptions{})
		return err
	})
	for i := range 4 {
		p := pod(fmt.Sprint("pod", i))
		p.Labels, p.Spec.SchedulerName = map[string]string{"app": "spread"}, ""
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelHostname,
			WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels}}}
		_, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, p, metav1.CreateOptions{})
		e.must(err)
	}
	e.eventually(func() error {
		pods, err := e.kube.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		on := map[string]int{}
		for _, p := range pods.Items {
			on[p.Spec.NodeName]++
		}
		return same(fmt.Sprint(on), "map[one:2 two:2]")
	})
}

// registerNode makes a node and its lease, and says that it is ready.
func (e *env) registerNode(name string) {
	e.Helper()
	_, err := e.kube.CoreV1().Nodes().Create(e.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}, metav1.CreateOptions{})
	e.must(err)
	now := time.Now().UTC()
	_, err = e.kube.CoreV1().Nodes().Patch(e.ctx, name, types.StrategicMergePatchType, fmt.Appendf(nil,
		`{"status":{"capacity":{"cpu":"4","memory":"4Gi","pods":"110"},"allocatable":{"cpu":"4","memory":"4Gi","pods":"110"},
		"conditions":[{"type":"Ready","status":"True","reason":"KubeletReady","lastHeartbeatTime":%[1]q,"lastTransitionTime":%[1]q}]}}`, now.Format(time.RFC3339)), metav1.PatchOptions{}, "status")
	e.must(err)
	renewed, holder, seconds := metav1.NewMicroTime(now), name, int32(40)
	_, err = e.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(e.ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &renewed},
	}, metav1.CreateOptions{})
	e.must(err)
}
