package conformance

import (
	"errors"
	"fmt"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// tainted are behaviours of a real node with taints that evict.
var tainted = map[string]func(*env){
	"pods without a toleration are evicted":  evictedAtOnce,
	"pods that tolerate for ever stay":       toleratedForEver,
	"pods are evicted when their time is up": evictedInTime,
	"taking the taint away cancels it":       evictionCancelled,
	"the shortest time of several counts":    shortestCounts,
	"a node renews its lease":                leaseRenewed,
	"a node's life":                          nodeLife,
}

// TestOneNode runs pods on a real node, one behaviour after the other: each taints it.
func TestOneNode(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up()
	s := newSuite(t, c)
	t.Run("tainted", func(t *testing.T) {
		for name, test := range tainted {
			t.Run(name, func(t *testing.T) {
				e := s.env(t)
				defer e.taint()
				test(e)
			})
		}
	})
}

const maintenance = "conformance.coracle.dev/maintenance"

// taint gives the node taints of these keys that evict, and no others.
func (e *env) taint(keys ...string) {
	e.Helper()
	list := []corev1.Taint{}
	for _, key := range keys {
		list = append(list, corev1.Taint{Key: key, Value: "v", Effect: corev1.TaintEffectNoExecute})
	}
	e.eventually(func() error {
		node, err := e.kube.CoreV1().Nodes().Get(e.ctx, "node", metav1.GetOptions{})
		if err != nil {
			return err
		}
		node.Spec.Taints = list
		_, err = e.kube.CoreV1().Nodes().Update(e.ctx, node, metav1.UpdateOptions{})
		return err
	})
}

// runs starts a pod that sleeps, and waits until it runs. It tolerates the key for so many seconds; nil is for ever, negative not at all.
func (e *env) runs(name, key string, seconds *int64) {
	e.Helper()
	p := pod(name)
	p.Spec.Containers[0].Image, p.Spec.Containers[0].Command, p.Spec.TerminationGracePeriodSeconds = "coracle/demo:v1", []string{"sleep", "3600"}, ptr.To[int64](0)
	p.Spec.SchedulerName = ""
	if seconds == nil || *seconds >= 0 {
		p.Spec.Tolerations = []corev1.Toleration{{Key: key, Operator: corev1.TolerationOpEqual, Value: "v", Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}}
	}
	_, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, p, metav1.CreateOptions{})
	e.must(err)
	e.eventually(func() error {
		got, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, name, metav1.GetOptions{})
		if err == nil && got.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("%s is %s", name, got.Status.Phase)
		}
		return err
	})
}

func (e *env) gone(name string) {
	e.Helper()
	e.eventually(func() error {
		_, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New(name+" is there"))
	})
}

// stays fails where the pod is deleted within the time.
func (e *env) stays(name string, within time.Duration) {
	e.Helper()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		got, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, name, metav1.GetOptions{})
		e.must(err)
		if got.DeletionTimestamp != nil {
			e.Fatalf("%s is deleted", name)
		}
	}
}

func evictedAtOnce(e *env) {
	e.runs("none", maintenance, ptr.To[int64](-1))
	e.runs("forever", maintenance, nil)
	e.taint(maintenance)
	e.gone("none")
	e.stays("forever", time.Second)
}

func toleratedForEver(e *env) {
	e.runs("forever", maintenance, nil)
	e.taint(maintenance)
	e.stays("forever", 2*time.Second)
}

func evictedInTime(e *env) {
	const seconds = 3
	e.runs("brief", maintenance, ptr.To[int64](seconds))
	begin := time.Now()
	e.taint(maintenance)
	e.stays("brief", time.Second)
	e.gone("brief")
	if took := time.Since(begin); took < seconds*time.Second-time.Second {
		e.Errorf("evicted after %v", took)
	}
}

func evictionCancelled(e *env) {
	const seconds = 5
	e.runs("patient", maintenance, ptr.To[int64](seconds))
	e.taint(maintenance)
	e.stays("patient", time.Second)
	e.taint()
	e.stays("patient", (seconds+2)*time.Second)
}

func shortestCounts(e *env) {
	e.runs("short", maintenance, ptr.To[int64](2))
	e.runs("long", maintenance, ptr.To[int64](600))
	e.taint(maintenance)
	e.gone("short")
	e.stays("long", time.Second)
}

func leaseRenewed(e *env) {
	leases := e.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	renewed := func() *coordinationv1.Lease {
		lease, err := leases.Get(e.ctx, "node", metav1.GetOptions{})
		e.must(err)
		return lease
	}
	first := renewed()
	if ptr.Deref(first.Spec.HolderIdentity, "") != "node" || ptr.Deref(first.Spec.LeaseDurationSeconds, 0) != 40 || len(first.OwnerReferences) != 1 || first.OwnerReferences[0].Kind != "Node" {
		e.Errorf("lease %+v", first)
	}
	e.eventually(func() error {
		if now := renewed(); !now.Spec.RenewTime.After(first.Spec.RenewTime.Time) {
			return fmt.Errorf("renewed at %v", now.Spec.RenewTime)
		}
		return nil
	})
}

// nodeLife makes a node that no machine stands for, changes it, and deletes it.
func nodeLife(e *env) {
	nodes, name := e.kube.CoreV1().Nodes(), "fake-"+e.ns
	_, err := nodes.Create(e.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	e.must(err)
	_, err = nodes.Get(e.ctx, name, metav1.GetOptions{})
	e.must(err)
	_, err = nodes.Patch(e.ctx, name, types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"life":"`+e.ns+`"}}}`), metav1.PatchOptions{})
	e.must(err)
	list, err := nodes.List(e.ctx, metav1.ListOptions{LabelSelector: "life=" + e.ns})
	e.must(err)
	equal(e, "nodes with the label", len(list.Items), 1)
	e.eventually(func() error {
		node, err := nodes.Get(e.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if node.Annotations["node.alpha.kubernetes.io/ttl"] != "0" {
			return fmt.Errorf("annotations %v", node.Annotations)
		}
		node.Labels["life"] = "updated"
		node, err = nodes.Update(e.ctx, node, metav1.UpdateOptions{})
		if err == nil && node.Labels["life"] != "updated" {
			err = fmt.Errorf("labels %v", node.Labels)
		}
		return err
	})
	e.must(nodes.Delete(e.ctx, name, metav1.DeleteOptions{}))
	e.eventually(func() error {
		_, err := nodes.Get(e.ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("the node is there"))
	})
}
