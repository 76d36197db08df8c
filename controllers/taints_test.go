package controllers_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// hold is a finalizer by which a test sees what became of a pod that was deleted.
const hold = "test.coracle.dev/hold"

// tolerating makes a pod on n1, held, with a toleration of the taint "maintenance" for so many seconds; nil is for ever, negative none.
func (c *cluster) tolerating(name string, seconds *int64) {
	c.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{hold}}, Spec: template(web, "v1").Spec}
	if seconds == nil || *seconds >= 0 {
		pod.Spec.Tolerations = []corev1.Toleration{{Key: "maintenance", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}}
	}
	_, err := c.client.CoreV1().Pods("default").Create(c.ctx, pod, metav1.CreateOptions{})
	c.must(err)
	c.eventually(name+" runs", func() error {
		if p := c.pod(name); p.Status.Phase != corev1.PodRunning {
			return errors.New(string(p.Status.Phase))
		}
		return nil
	})
}

func (c *cluster) pod(name string) *corev1.Pod {
	c.Helper()
	p, err := c.client.CoreV1().Pods("default").Get(c.ctx, name, metav1.GetOptions{})
	c.must(err)
	return p
}

func (c *cluster) setTaints(node, taints string) {
	c.Helper()
	_, err := c.client.CoreV1().Nodes().Patch(c.ctx, node, "application/merge-patch+json", []byte(`{"spec":{"taints":`+taints+`}}`), metav1.PatchOptions{})
	c.must(err)
}

// disrupted waits until a pod is being deleted, and gives why its DisruptionTarget says that is.
func (c *cluster) disrupted(name string) string {
	c.Helper()
	var why string
	c.eventually("the deletion of "+name, func() error {
		p := c.pod(name)
		if p.DeletionTimestamp == nil {
			return errors.New("it stays")
		}
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.DisruptionTarget {
				why = fmt.Sprint(cond.Status, " ", cond.Reason, ": ", cond.Message)
			}
		}
		return nil
	})
	return why
}

func TestNoExecuteTaints(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.tolerating("none", ptr.To[int64](-1))
	c.tolerating("brief", ptr.To[int64](1))
	c.tolerating("long", ptr.To[int64](3600))
	c.tolerating("forever", nil)
	// A mark that has gone stale does not keep from marking again.
	_, err := c.client.CoreV1().Pods("default").Patch(c.ctx, "none", "application/strategic-merge-patch+json",
		[]byte(`{"status":{"conditions":[{"type":"DisruptionTarget","status":"False"}]}}`), metav1.PatchOptions{}, "status")
	c.must(err)
	c.setTaints("n1", `[{"key":"maintenance","effect":"NoExecute"}]`)
	for _, name := range []string{"none", "brief"} {
		if why := c.disrupted(name); why != "True DeletionByTaintManager: Taint manager: deleting due to NoExecute taint" {
			t.Errorf("%s: %s", name, why)
		}
		c.event(name, "TaintManagerEviction", "Marking for deletion Pod default/"+name)
	}
	c.setTaints("n1", `null`)
	c.event("long", "TaintManagerEviction", "Cancelling deletion of Pod default/long")
	for _, name := range []string{"long", "forever"} {
		if p := c.pod(name); p.DeletionTimestamp != nil {
			t.Errorf("%s is deleted", name)
		}
	}
}

func TestOutOfService(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.event("n1", "RegisteredNode", "Node n1 event: Registered Node n1 in Controller")
	c.tolerating("deleted", nil)
	c.tolerating("kept", nil)
	c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, "deleted", metav1.DeleteOptions{}))
	_, err := c.client.CoreV1().Nodes().Patch(c.ctx, "n1", "application/strategic-merge-patch+json", []byte(`{"status":{"conditions":[{"type":"Ready","status":"False","reason":"Off"}]}}`), metav1.PatchOptions{}, "status")
	c.must(err)
	time.Sleep(50 * time.Millisecond)
	if p := c.pod("deleted"); p.Status.Phase == corev1.PodFailed {
		t.Error("failed before anybody said that the node is out of service")
	}
	_, err = c.client.CoreV1().Nodes().Patch(c.ctx, "n1", "application/strategic-merge-patch+json", []byte(`{"spec":{"taints":[{"key":"node.kubernetes.io/out-of-service","value":"nodeshutdown","effect":"NoSchedule"}]}}`), metav1.PatchOptions{})
	c.must(err)
	c.eventually("the pod's end", func() error {
		if p := c.pod("deleted"); p.Status.Phase != corev1.PodFailed {
			return errors.New(string(p.Status.Phase))
		}
		return nil
	})
	if p := c.pod("kept"); p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil {
		t.Errorf("a pod that nobody deleted is %s", p.Status.Phase)
	}
	c.must(c.client.CoreV1().Nodes().Delete(c.ctx, "n1", metav1.DeleteOptions{}))
	c.event("n1", "RemovingNode", "Node n1 event: Removing Node n1 from Controller")
}

func TestNodesHaveTheirOlderLabels(t *testing.T) {
	c := start(t, nil)
	_, err := c.client.CoreV1().Nodes().Create(c.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"}}}, metav1.CreateOptions{})
	c.must(err)
	c.report("n1")
	c.eventually("labels", func() error {
		n, err := c.client.CoreV1().Nodes().Get(c.ctx, "n1", metav1.GetOptions{})
		c.must(err)
		if n.Labels["beta.kubernetes.io/os"] != "linux" || n.Labels["beta.kubernetes.io/arch"] != "arm64" {
			return fmt.Errorf("%v", n.Labels)
		}
		return nil
	})
}

// TestUnscheduledPodsEnd: a pod that is deleted before it has a node ends as failed, so that whoever counts it learns of it.
func TestUnscheduledPodsEnd(t *testing.T) {
	c := start(t, nil)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "waits", Finalizers: []string{hold}}, Spec: template(web, "v1").Spec}
	pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "test.coracle.dev/gate"}} // nobody binds it
	_, err := c.client.CoreV1().Pods("default").Create(c.ctx, pod, metav1.CreateOptions{})
	c.must(err)
	c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, "waits", metav1.DeleteOptions{}))
	c.eventually("its end", func() error {
		p, err := c.client.CoreV1().Pods("default").Get(c.ctx, "waits", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			t.Fatal("gone in spite of its finalizer")
		}
		if err == nil && p.Status.Phase != corev1.PodFailed {
			return errors.New(string(p.Status.Phase))
		}
		return err
	})
}
