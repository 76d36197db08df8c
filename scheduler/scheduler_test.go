package scheduler

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/scheduler/profile"
	"github.com/coracle-dev/coracle/scheduler/schedulertest"
)

var node, pod = schedulertest.Node, schedulertest.Pod

// start runs a scheduler on a real API server until the test ends.
func start(t *testing.T) kubernetes.Interface {
	t.Helper()
	return startWith(t, profile.Default())
}

// startWith runs one by these profiles.
func startWith(t *testing.T, profiles profile.Config) kubernetes.Interface {
	t.Helper()
	config := apiservertest.Start(t)
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, Config{RestConfig: config, Profiles: profiles}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("scheduler: %v", err)
		}
	})
	return kube
}

func addNode(t *testing.T, kube kubernetes.Interface, n *corev1.Node) {
	t.Helper()
	made, err := kube.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Status = n.Status
	made.Status.Capacity = n.Status.Allocatable
	if _, err := kube.CoreV1().Nodes().UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func addPod(t *testing.T, kube kubernetes.Interface, p *corev1.Pod) {
	t.Helper()
	p.UID = ""
	p.Spec.Containers[0].Image = "x"
	if _, err := kube.CoreV1().Pods(p.Namespace).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not %s within 10 s", what)
		}
	}
}

func get(t *testing.T, kube kubernetes.Interface, name string) *corev1.Pod {
	t.Helper()
	p, err := kube.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestBindsAndExplains(t *testing.T) {
	kube := start(t)
	addPod(t, kube, pod("p", "1", ""))
	scheduled := func() *corev1.PodCondition {
		for _, c := range get(t, kube, "p").Status.Conditions {
			if c.Type == corev1.PodScheduled {
				return &c
			}
		}
		return nil
	}
	await(t, "explained", func() bool {
		c := scheduled()
		return c != nil && c.Status == corev1.ConditionFalse && c.Reason == "Unschedulable" && c.Message == "no nodes available to schedule pods"
	})
	addNode(t, kube, node("small", "500m", "1Gi"))
	await(t, "explained anew", func() bool {
		c := scheduled()
		return c != nil && c.Message == "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
	})
	addNode(t, kube, node("large", "4", "1Gi"))
	await(t, "bound", func() bool { return get(t, kube, "p").Spec.NodeName == "large" })
	if c := scheduled(); c == nil || c.Status != corev1.ConditionTrue {
		t.Errorf("PodScheduled after binding: %+v", c)
	}
	await(t, "told by events", func() bool {
		events, err := kube.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=p"})
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, e := range events.Items {
			all = append(all, e.Reason+": "+e.Message)
		}
		text := strings.Join(all, "\n")
		return strings.Contains(text, "FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu. preemption: ") &&
			strings.Contains(text, "Scheduled: Successfully assigned default/p to large")
	})
}

func TestRoomOfADeletedPodIsUsed(t *testing.T) {
	kube := start(t)
	addNode(t, kube, node("n", "1", "1Gi"))
	addPod(t, kube, pod("first", "1", ""))
	await(t, "bound", func() bool { return get(t, kube, "first").Spec.NodeName == "n" })
	addPod(t, kube, pod("second", "1", ""))
	other := pod("other", "", "")
	other.Spec.SchedulerName = "someone-else"
	addPod(t, kube, other)
	gated := pod("gated", "", "")
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}}
	addPod(t, kube, gated)
	await(t, "rejected", func() bool { return len(get(t, kube, "second").Status.Conditions) > 0 })
	zero := int64(0)
	if err := kube.CoreV1().Pods("default").Delete(t.Context(), "first", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	await(t, "bound", func() bool { return get(t, kube, "second").Spec.NodeName == "n" })
	for _, name := range []string{"other", "gated"} {
		if n := get(t, kube, name).Spec.NodeName; n != "" {
			t.Errorf("%s was bound to %s", name, n)
		}
	}
	patch := []byte(`{"spec":{"schedulingGates":null}}`)
	if _, err := kube.CoreV1().Pods("default").Patch(t.Context(), "gated", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, "bound without its gate", func() bool { return get(t, kube, "gated").Spec.NodeName == "n" })
}

// TestManyPodsNeverOvercommit: of more pods than fit, as many are bound as fit, and again after some went.
func TestManyPodsNeverOvercommit(t *testing.T) {
	kube := start(t)
	for i := range 4 {
		addNode(t, kube, node(fmt.Sprint("n", i), "1", "8Gi"))
	}
	for i := range 60 {
		addPod(t, kube, pod(fmt.Sprint("p", i), "100m", ""))
	}
	bound := func() (n int) {
		pods, err := kube.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		perNode := map[string]int{}
		for _, p := range pods.Items {
			if p.Spec.NodeName != "" {
				n++
				if perNode[p.Spec.NodeName]++; perNode[p.Spec.NodeName] > 10 {
					t.Fatalf("%s holds more than ten pods of a tenth each", p.Spec.NodeName)
				}
			}
		}
		return n
	}
	await(t, "full", func() bool { return bound() == 40 })
	zero := int64(0)
	for i := range 10 {
		err := kube.CoreV1().Pods("default").Delete(t.Context(), fmt.Sprint("p", i), metav1.DeleteOptions{GracePeriodSeconds: &zero})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	await(t, "full again", func() bool { return bound() == 40 })
}

// preemptor asks for a whole node with a high priority, as admission writes it into pods of such a class.
func preemptor() *corev1.Pod {
	p, priority := pod("important", "1", ""), int32(1000)
	p.Spec.Priority = &priority
	return p
}

func condition(p *corev1.Pod, kind corev1.PodConditionType) corev1.PodCondition {
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.PodCondition{}
}

// TestPreemption: the less important pod is marked and deleted, the other is nominated, waits until the room is free, and gets it.
func TestPreemption(t *testing.T) {
	kube := start(t)
	addNode(t, kube, node("n", "1", "1Gi"))
	addPod(t, kube, pod("low", "600m", ""))
	addPod(t, kube, pod("lower", "200m", ""))
	await(t, "bound", func() bool {
		return get(t, kube, "low").Spec.NodeName == "n" && get(t, kube, "lower").Spec.NodeName == "n"
	})
	p := preemptor()
	p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("700m")
	addPod(t, kube, p)
	await(t, "preempting", func() bool { return get(t, kube, "low").DeletionTimestamp != nil })
	low := get(t, kube, "low")
	if c := condition(low, corev1.DisruptionTarget); c.Status != corev1.ConditionTrue || c.Reason != "PreemptionByScheduler" ||
		c.Message != "default-scheduler: preempting to accommodate a higher priority pod" {
		t.Errorf("the victim's condition: %+v", c)
	}
	if get(t, kube, "lower").DeletionTimestamp != nil {
		t.Error("a pod was removed whose room was not needed")
	}
	await(t, "nominated", func() bool { return get(t, kube, "important").Status.NominatedNodeName == "n" })
	time.Sleep(50 * time.Millisecond)
	if got := get(t, kube, "important").Spec.NodeName; got != "" {
		t.Fatalf("bound to %s before the room was free", got)
	}
	addPod(t, kube, pod("thief", "600m", "")) // it must not get what is kept for the important one
	zero := int64(0)
	if err := kube.CoreV1().Pods("default").Delete(t.Context(), "low", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	await(t, "bound", func() bool { return get(t, kube, "important").Spec.NodeName == "n" })
	if got := get(t, kube, "thief").Spec.NodeName; got != "" {
		t.Errorf("the thief is on %s", got)
	}
	await(t, "told by an event", func() bool {
		events, err := kube.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=low,reason=Preempted"})
		return err == nil && len(events.Items) == 1 && events.Items[0].Message == fmt.Sprintf("Preempted by pod %s on node n", get(t, kube, "important").UID)
	})
}

// TestNeverPreempt: a class with preemptionPolicy Never waits its turn.
func TestNeverPreempt(t *testing.T) {
	kube := start(t)
	addNode(t, kube, node("n", "1", "1Gi"))
	addPod(t, kube, pod("low", "1", ""))
	await(t, "bound", func() bool { return get(t, kube, "low").Spec.NodeName == "n" })
	p, never := preemptor(), corev1.PreemptNever
	p.Spec.PreemptionPolicy = &never
	addPod(t, kube, p)
	await(t, "explained", func() bool {
		return condition(get(t, kube, "important"), corev1.PodScheduled).Message == "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
	})
	if get(t, kube, "low").DeletionTimestamp != nil {
		t.Error("it was preempted all the same")
	}
}

// TestProfiles: each schedulerName is placed by its own profile, and events come in its name.
func TestProfiles(t *testing.T) {
	profiles, err := profile.Parse([]byte(`
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: default-scheduler
- schedulerName: packer
  pluginConfig:
  - name: NodeResourcesFit
    args:
      scoringStrategy:
        type: MostAllocated
        resources: [{name: cpu, weight: 1}]
  plugins:
    score:
      disabled: [{name: NodeResourcesBalancedAllocation}]
`))
	if err != nil {
		t.Fatal(err)
	}
	kube := startWith(t, profiles)
	addNode(t, kube, node("a", "4", "8Gi"))
	addNode(t, kube, node("b", "4", "8Gi"))
	first := pod("first", "1", "1Gi")
	first.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "b"}
	addPod(t, kube, first)
	await(t, "bound", func() bool { return get(t, kube, "first").Spec.NodeName == "b" })
	packed := pod("packed", "1", "1Gi")
	packed.Spec.SchedulerName = "packer"
	addPod(t, kube, packed)
	addPod(t, kube, pod("spread", "1", "1Gi"))
	await(t, "bound", func() bool {
		return get(t, kube, "packed").Spec.NodeName == "b" && get(t, kube, "spread").Spec.NodeName == "a"
	})
	await(t, "told by an event", func() bool {
		events, err := kube.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "regarding.name=packed"})
		return err == nil && len(events.Items) == 1 && events.Items[0].ReportingController == "packer"
	})
}
