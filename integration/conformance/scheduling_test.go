package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// schedulingTests need a node.
var schedulingTests = map[string]func(*env){
	"requests beyond the node's capacity keep a pod pending":    resourcesRespected,
	"a node selector is respected if not matching":              selectorRespected,
	"required node affinity is respected":                       affinityRespected,
	"taints keep pods without toleration off":                   taintsRespected,
	"host ports conflict by protocol":                           hostPortsRespected,
	"a pod with gates waits until they are gone":                gatesRespected,
	"pods are spread as their constraint says":                  spreadRespected,
	"a more important pod preempts":                             preemptionBasic,
	"a critical pod preempts":                                   preemptionCritical,
	"a preempted pod is marked before it goes":                  preemptionMarks,
	"replica sets of four priorities end with the highest":      preemptionPath,
	"a pod that never preempts waits":                           preemptionNever,
	"priority classes are operated with all methods":            priorityClasses,
	"limit ranges are changed, and apply to pods":               limitRangeLives,
	"limit ranges of all namespaces are listed, one is deleted": limitRangeCollection,
}

// TestScheduling places pods on a real node.
func TestScheduling(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up()
	s := newSuite(t, c)
	t.Run("pods", func(t *testing.T) {
		for _, name := range slices.Sorted(maps.Keys(schedulingTests)) { // one after the other: they share the node's room
			t.Run(name, func(t *testing.T) { schedulingTests[name](s.env(t)) })
		}
	})
}

// fake is a resource that only these tests know.
const fake = "example.com/fakecpu"

// nodeWith gives the node once it has n of the fake resource for pods.
func (e *env) nodeWith(n string) *corev1.Node {
	e.Helper()
	node := e.node()
	patch := fmt.Appendf(nil, `[{"op":"add","path":"/status/capacity/example.com~1fakecpu","value":%q},{"op":"add","path":"/status/allocatable/example.com~1fakecpu","value":%q}]`, n, n)
	node, err := e.kube.CoreV1().Nodes().Patch(e.ctx, node.Name, types.JSONPatchType, patch, metav1.PatchOptions{}, "status")
	e.must(err)
	return node
}

func (e *env) node() *corev1.Node {
	e.Helper()
	list, err := e.kube.CoreV1().Nodes().List(e.ctx, metav1.ListOptions{})
	e.must(err)
	return &list.Items[0]
}

// changeNode patches the node and undoes it at the test's end.
func (e *env) changeNode(do, undo string) {
	e.Helper()
	name := e.node().Name
	_, err := e.kube.CoreV1().Nodes().Patch(e.ctx, name, types.StrategicMergePatchType, []byte(do), metav1.PatchOptions{})
	e.must(err)
	e.Cleanup(func() {
		if _, err := e.kube.CoreV1().Nodes().Patch(context.Background(), name, types.StrategicMergePatchType, []byte(undo), metav1.PatchOptions{}); err != nil {
			e.Error(err)
		}
	})
}

// runnable is a pod that runs until it is deleted.
func runnable(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := pod(name)
	p.Spec.SchedulerName = ""
	p.Spec.Containers[0].Image = "coracle/demo:v1"
	for _, c := range change {
		c(p)
	}
	return p
}

func asking(pairs ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		r := &p.Spec.Containers[0].Resources
		r.Requests = quantities(pairs...)
		r.Limits = quantities(pairs...)
	}
}

func ofClass(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.PriorityClassName = name }
}

// running waits until the pod does.
func (e *env) running(name string) {
	e.Helper()
	e.eventually(func() error {
		p, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if p.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("%s is %s: %s: %s", name, p.Status.Phase, p.Status.Reason, p.Status.Message)
		}
		return nil
	})
}

// pending waits until the scheduler has said why the pod goes nowhere.
func (e *env) pending(name string, parts ...string) {
	e.Helper()
	e.eventually(func() error {
		p, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c := conditionOf(p, corev1.PodScheduled)
		for _, part := range parts {
			if c.Status != corev1.ConditionFalse || !strings.Contains(c.Message, part) {
				return fmt.Errorf("want %q, got %+v", part, c)
			}
		}
		return nil
	})
}

func conditionOf(p *corev1.Pod, kind corev1.PodConditionType) corev1.PodCondition {
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.PodCondition{}
}

func resourcesRespected(e *env) {
	e.nodeWith("10")
	e.create(runnable("fits", asking(fake, "7")))
	e.running("fits")
	e.create(runnable("beyond", asking(fake, "4")))
	e.pending("beyond", "0/1 nodes are available: 1 Insufficient example.com/fakecpu.", "No preemption victims found for incoming pod")
	e.create(runnable("overhead", asking("cpu", "1000")))
	e.pending("overhead", "1 Insufficient cpu", "Preemption is not helpful for scheduling")
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, "fits", metav1.DeleteOptions{}))
	e.running("beyond")
}

func selectorRespected(e *env) {
	e.create(runnable("picky", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }))
	e.pending("picky", "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.")
	e.changeNode(`{"metadata":{"labels":{"disk":"ssd"}}}`, `{"metadata":{"labels":{"disk":null}}}`)
	e.running("picky")
}

func affinityRespected(e *env) {
	e.changeNode(`{"metadata":{"labels":{"rack":"7"}}}`, `{"metadata":{"labels":{"rack":null}}}`)
	in := func(rack string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "rack", Operator: corev1.NodeSelectorOpIn, Values: []string{rack}}}}},
			}}}
		}
	}
	e.create(runnable("there", in("7")))
	e.create(runnable("elsewhere", in("8")))
	e.running("there")
	e.pending("elsewhere", "didn't match Pod's node affinity/selector")
}

func taintsRespected(e *env) {
	e.changeNode(`{"spec":{"taints":[{"key":"dedicated","value":"db","effect":"NoSchedule"}]}}`, `{"spec":{"taints":null}}`)
	e.create(runnable("tolerant", func(p *corev1.Pod) {
		p.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpEqual, Value: "db", Effect: corev1.TaintEffectNoSchedule}}
	}))
	e.create(runnable("intolerant"))
	e.running("tolerant")
	e.pending("intolerant", "1 node(s) had untolerated taint(s)")
}

func hostPortsRespected(e *env) {
	port := func(protocol corev1.Protocol) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 54321, Protocol: protocol}}
		}
	}
	e.create(runnable("tcp", port(corev1.ProtocolTCP)))
	e.create(runnable("udp", port(corev1.ProtocolUDP)))
	e.running("tcp")
	e.running("udp")
	e.create(runnable("again", port(corev1.ProtocolTCP)))
	e.pending("again", "1 node(s) didn't have free ports for the requested pod ports")
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, "tcp", metav1.DeleteOptions{}))
	e.running("again")
}

func gatesRespected(e *env) {
	e.create(runnable("gated", func(p *corev1.Pod) {
		p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/one"}, {Name: "example.com/two"}}
	}))
	pods := e.kube.CoreV1().Pods(e.ns)
	p, err := pods.Get(e.ctx, "gated", metav1.GetOptions{})
	e.must(err)
	c := conditionOf(p, corev1.PodScheduled)
	equal(e, "reason", c.Reason, "SchedulingGated")
	equal(e, "message", c.Message, "Scheduling is blocked due to non-empty scheduling gates")
	for _, left := range []string{`[{"name":"example.com/two"}]`, `null`} {
		equal(e, "node while gated", p.Spec.NodeName, "")
		p, err = pods.Patch(e.ctx, "gated", types.MergePatchType, []byte(`{"spec":{"schedulingGates":`+left+`}}`), metav1.PatchOptions{})
		e.must(err)
	}
	e.running("gated")
}

func spreadRespected(e *env) {
	spread := func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": "spread"}
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule, MinDomains: ptr.To[int32](2),
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "spread"}},
		}}
	}
	e.create(runnable("first", spread))
	e.running("first")
	e.create(runnable("second", spread)) // of two domains that are wanted there is one
	e.pending("second", "1 node(s) didn't match pod topology spread constraints")
}

// class makes a priority class that goes with the test.
func (e *env) class(name string, value int32, change ...func(*schedulingv1.PriorityClass)) string {
	e.Helper()
	c := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: e.ns + "-" + name, Labels: map[string]string{"test": e.ns}}, Value: value}
	for _, do := range change {
		do(c)
	}
	_, err := e.kube.SchedulingV1().PriorityClasses().Create(e.ctx, c, metav1.CreateOptions{})
	e.must(err)
	e.Cleanup(func() {
		err := e.kube.SchedulingV1().PriorityClasses().Delete(context.Background(), c.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			e.Error(err)
		}
	})
	return c.Name
}

// gone waits until the pod is deleted.
func (e *env) podGone(name string) {
	e.Helper()
	e.eventually(func() error {
		p, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%s is there: %v, %v", name, p.Status.Phase, err)
	})
}

func preemptionBasic(e *env) {
	e.nodeWith("10")
	low, high := e.class("low", 1), e.class("high", 1000)
	e.create(runnable("low", asking(fake, "6"), ofClass(low)))
	e.create(runnable("middle", asking(fake, "4"), ofClass(e.class("middle", 100))))
	e.running("low")
	e.running("middle")
	e.create(runnable("high", asking(fake, "5"), ofClass(high)))
	e.running("high")
	e.podGone("low")
	e.running("middle")
	e.eventually(func() error {
		l, err := e.kube.CoreV1().Events(e.ns).List(e.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=low,reason=Preempted"})
		if err != nil {
			return err
		}
		return same(len(l.Items), 1)
	})
}

func preemptionCritical(e *env) {
	e.nodeWith("10")
	e.create(runnable("low", asking(fake, "10"), ofClass(e.class("low", 1))))
	e.running("low")
	critical := runnable(e.ns+"-critical", asking(fake, "10"), ofClass("system-cluster-critical"))
	pods := e.kube.CoreV1().Pods(metav1.NamespaceSystem)
	_, err := pods.Create(e.ctx, critical, metav1.CreateOptions{})
	e.must(err)
	e.Cleanup(func() {
		if err := pods.Delete(context.Background(), critical.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
			e.Error(err)
		}
	})
	e.eventually(func() error {
		p, err := pods.Get(e.ctx, critical.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return same(p.Status.Phase, corev1.PodRunning)
	})
	e.podGone("low")
}

func preemptionMarks(e *env) {
	e.nodeWith("1")
	const finalizer = "example.com/test-finalizer"
	low := runnable("victim", asking(fake, "1"), ofClass(e.class("low", 1)))
	low.Finalizers = []string{finalizer}
	e.create(low)
	e.running("victim")
	e.create(runnable("preemptor", asking(fake, "1"), ofClass(e.class("high", 1000))))
	e.eventually(func() error {
		p, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, "victim", metav1.GetOptions{})
		if err != nil {
			return err
		}
		c := conditionOf(p, corev1.DisruptionTarget)
		if p.DeletionTimestamp == nil || c.Status != corev1.ConditionTrue || c.Reason != "PreemptionByScheduler" {
			return fmt.Errorf("%v %+v", p.DeletionTimestamp, c)
		}
		return nil
	})
	_, err := e.kube.CoreV1().Pods(e.ns).Patch(e.ctx, "victim", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	e.must(err)
	e.running("preemptor")
	e.podGone("victim")
}

// preemptionPath: sets of rising priority in a node of 10; what each may have is what the more important ones leave.
func preemptionPath(e *env) {
	e.nodeWith("10")
	sets := []struct {
		name     string
		replicas int32
		each     string
		want     int32
	}{{"p1", 3, "2", 0}, {"p2", 2, "2", 0}, {"p3", 1, "3", 1}, {"p4", 1, "6", 1}}
	for i, s := range sets {
		class := e.class(s.name, int32(i+1))
		labels := map[string]string{"set": s.name}
		template := runnable("", asking(fake, s.each), ofClass(class))
		_, err := e.kube.AppsV1().ReplicaSets(e.ns).Create(e.ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: s.name}, Spec: appsv1.ReplicaSetSpec{
			Replicas: &s.replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: template.Spec},
		}}, metav1.CreateOptions{})
		e.must(err)
		if i == 2 {
			e.readySets(map[string]int32{"p3": 1})
		}
	}
	e.readySets(map[string]int32{"p1": 0, "p2": 0, "p3": 1, "p4": 1})
}

func (e *env) readySets(want map[string]int32) {
	e.Helper()
	e.eventually(func() error {
		for name, n := range want {
			set, err := e.kube.AppsV1().ReplicaSets(e.ns).Get(e.ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if set.Status.ReadyReplicas != n {
				return fmt.Errorf("%s has %d ready, want %d", name, set.Status.ReadyReplicas, n)
			}
		}
		return nil
	})
}

func preemptionNever(e *env) {
	e.nodeWith("1")
	e.create(runnable("low", asking(fake, "1"), ofClass(e.class("low", 1))))
	e.running("low")
	patient := e.class("patient", 1000, func(c *schedulingv1.PriorityClass) { c.PreemptionPolicy = ptr.To(corev1.PreemptNever) })
	e.create(runnable("patient", asking(fake, "1"), ofClass(patient)))
	e.pending("patient", "preemption: not eligible due to preemptionPolicy=Never.")
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, "low", metav1.DeleteOptions{}))
	e.running("patient")
}

func priorityClasses(e *env) {
	classes := e.kube.SchedulingV1().PriorityClasses()
	name := e.class("p1", 1)
	e.class("p2", 2)
	list, err := classes.List(e.ctx, metav1.ListOptions{LabelSelector: "test=" + e.ns})
	e.must(err)
	equal(e, "classes", len(list.Items), 2)
	patched, err := classes.Patch(e.ctx, name, types.MergePatchType, []byte(`{"description":"patched","metadata":{"annotations":{"a":"b"}}}`), metav1.PatchOptions{})
	e.must(err)
	patched.Description = "updated"
	updated, err := classes.Update(e.ctx, patched, metav1.UpdateOptions{})
	e.must(err)
	equal(e, "description", updated.Description, "updated")
	updated.Value = 7
	_, err = classes.Update(e.ctx, updated, metav1.UpdateOptions{})
	e.refused(err, "value", "may not be changed in an update")
	_, err = classes.Patch(e.ctx, name, types.MergePatchType, []byte(`{"preemptionPolicy":"Never"}`), metav1.PatchOptions{})
	e.refused(err, "preemptionPolicy")
	e.must(classes.DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "test=" + e.ns}))
	list, err = classes.List(e.ctx, metav1.ListOptions{LabelSelector: "test=" + e.ns})
	e.must(err)
	equal(e, "classes left", len(list.Items), 0)
}

func limits(name string, labels map[string]string) *corev1.LimitRange {
	return &corev1.LimitRange{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
			Type: corev1.LimitTypeContainer, Min: quantities("cpu", "50m"), Max: quantities("cpu", "500m"),
			Default: quantities("cpu", "300m"), DefaultRequest: quantities("cpu", "100m"),
		}}},
	}
}

func limitRangeLives(e *env) {
	ranges, pods := e.kube.CoreV1().LimitRanges(e.ns), e.kube.CoreV1().Pods(e.ns)
	made, err := ranges.Create(e.ctx, limits("limits", nil), metav1.CreateOptions{})
	e.must(err)
	bare, err := pods.Create(e.ctx, pod("bare"), metav1.CreateOptions{})
	e.must(err)
	equal(e, "default request", bare.Spec.Containers[0].Resources.Requests.Cpu().String(), "100m")
	equal(e, "default limit", bare.Spec.Containers[0].Resources.Limits.Cpu().String(), "300m")
	partial := pod("partial")
	partial.Spec.Containers[0].Resources.Limits = quantities("cpu", "200m")
	partial, err = pods.Create(e.ctx, partial, metav1.CreateOptions{})
	e.must(err)
	equal(e, "request of a pod that states a limit", partial.Spec.Containers[0].Resources.Requests.Cpu().String(), "200m")
	for name, cpu := range map[string]string{"less": "10m", "more": "600m"} {
		p := pod(name)
		asking("cpu", cpu)(p)
		_, err = pods.Create(e.ctx, p, metav1.CreateOptions{})
		e.refused(err, "cpu usage per Container")
	}
	made.Spec.Limits[0].Min = quantities("cpu", "9m")
	_, err = ranges.Update(e.ctx, made, metav1.UpdateOptions{})
	e.must(err)
	e.eventually(func() error {
		p := pod("less")
		asking("cpu", "10m")(p)
		_, err := pods.Create(e.ctx, p, metav1.CreateOptions{})
		return err
	})
	e.must(ranges.Delete(e.ctx, "limits", metav1.DeleteOptions{}))
	e.eventually(func() error {
		p := pod("more")
		asking("cpu", "600m")(p)
		_, err := pods.Create(e.ctx, p, metav1.CreateOptions{})
		return err
	})
}

func limitRangeCollection(e *env) {
	labels := map[string]string{"test": e.ns}
	other := e.namespaceFor(e.ns + "-other")
	for _, ns := range []string{e.ns, other} {
		_, err := e.kube.CoreV1().LimitRanges(ns).Create(e.ctx, limits("limits", labels), metav1.CreateOptions{})
		e.must(err)
	}
	all := func() int {
		l, err := e.kube.CoreV1().LimitRanges("").List(e.ctx, metav1.ListOptions{LabelSelector: "test=" + e.ns})
		e.must(err)
		return len(l.Items)
	}
	equal(e, "ranges", all(), 2)
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{"patched": "yes"}}, "spec": limits("", nil).Spec})
	e.must(err)
	p, err := e.kube.CoreV1().LimitRanges(e.ns).Patch(e.ctx, "limits", types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	e.must(err)
	equal(e, "label", p.Labels["patched"], "yes")
	e.must(e.kube.CoreV1().LimitRanges(e.ns).DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "patched=yes"}))
	equal(e, "ranges left", all(), 1)
}
