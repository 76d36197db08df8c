package conformance

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// disruptionTests need pods that run.
var disruptionTests = map[string]func(*env){
	"budgets of all namespaces are listed and deleted":      budgetsEverywhere,
	"a budget blocks an eviction until it allows it":        budgetBlocks,
	"a budget's status says how many disruptions it allows": budgetStatus,
	"unhealthy pods may go where the budget says so":        budgetUnhealthy,
	"kubectl drain waits for a budget":                      budgetDrain,
}

// TestDisruption evicts pods of a real node.
func TestDisruption(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up()
	s := newSuite(t, c)
	t.Run("budgets", func(t *testing.T) {
		for name, test := range disruptionTests { // one after the other: draining concerns all
			t.Run(name, func(t *testing.T) { test(s.env(t)) })
		}
	})
}

var guarded = map[string]string{"app": "guarded"}

// guardedSet runs n pods and waits until they are ready.
func (e *env) guardedSet(n int32, command ...string) {
	e.Helper()
	_, err := e.kube.AppsV1().ReplicaSets(e.ns).Create(e.ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "guarded"}, Spec: appsv1.ReplicaSetSpec{
		Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: guarded},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: guarded}, Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](0),
			Containers: []corev1.Container{{Name: "c", Image: "coracle/demo:v1", Command: command, ReadinessProbe: &corev1.Probe{PeriodSeconds: 1,
				ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "!", "-e", "/tmp/unready"}}}}}},
		}},
	}}, metav1.CreateOptions{})
	e.must(err)
	e.guardedReady(n)
}

// guardedReady waits for the pods, which on a busy machine may take a while to start.
func (e *env) guardedReady(n int32) {
	e.Helper()
	cluster.Eventually(e.T, 90*time.Second, func() error {
		set, err := e.kube.AppsV1().ReplicaSets(e.ns).Get(e.ctx, "guarded", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return same(set.Status.ReadyReplicas, n)
	})
}

func (e *env) guardedPods() []corev1.Pod {
	e.Helper()
	list, err := e.kube.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{LabelSelector: "app=guarded"})
	e.must(err)
	return list.Items
}

// budget makes one of the guarded pods.
func (e *env) budget(change func(*policyv1.PodDisruptionBudgetSpec)) *policyv1.PodDisruptionBudget {
	e.Helper()
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "budget", Labels: map[string]string{"of": e.ns}},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: guarded}}}
	change(&b.Spec)
	b, err := e.kube.PolicyV1().PodDisruptionBudgets(e.ns).Create(e.ctx, b, metav1.CreateOptions{})
	e.must(err)
	return b
}

func minimum(n string) func(*policyv1.PodDisruptionBudgetSpec) {
	return func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = ptr.To(intstr.Parse(n)) }
}

// allows waits until the budget has counted: expected, desired, healthy and allowed.
func (e *env) allows(expected, desired, healthy, allowed int32) *policyv1.PodDisruptionBudget {
	e.Helper()
	var b *policyv1.PodDisruptionBudget
	e.eventually(func() (err error) {
		if b, err = e.kube.PolicyV1().PodDisruptionBudgets(e.ns).Get(e.ctx, "budget", metav1.GetOptions{}); err != nil {
			return err
		}
		s := b.Status
		return same(fmt.Sprint(s.ObservedGeneration, s.ExpectedPods, s.DesiredHealthy, s.CurrentHealthy, s.DisruptionsAllowed),
			fmt.Sprint(b.Generation, expected, desired, healthy, allowed))
	})
	return b
}

func (e *env) evict(pod string) error {
	return e.kube.PolicyV1().Evictions(e.ns).Evict(e.ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: e.ns}})
}

// overBudget expects the refusal of an eviction for the budget's sake.
func (e *env) overBudget(err error, cause string) {
	e.Helper()
	var status apierrors.APIStatus
	if !apierrors.IsTooManyRequests(err) || !errors.As(err, &status) || len(status.Status().Details.Causes) != 1 {
		e.Fatalf("not refused: %v", err)
	}
	c := status.Status().Details.Causes[0]
	equal(e, "cause", c.Type, policyv1.DisruptionBudgetCause)
	equal(e, "cause", c.Message, cause)
}

func budgetsEverywhere(e *env) {
	other, err := e.kube.CoreV1().Namespaces().Create(e.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "conformance-"}}, metav1.CreateOptions{})
	e.must(err)
	defer func() { e.must(e.kube.CoreV1().Namespaces().Delete(e.ctx, other.Name, metav1.DeleteOptions{})) }()
	selector := metav1.ListOptions{LabelSelector: "of=" + e.ns}
	for _, ns := range []string{e.ns, e.ns, other.Name} {
		_, err := e.kube.PolicyV1().PodDisruptionBudgets(ns).Create(e.ctx, &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "budget-", Labels: map[string]string{"of": e.ns}},
			Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: guarded}},
		}, metav1.CreateOptions{})
		e.must(err)
	}
	count := func(ns string, want int) {
		e.Helper()
		list, err := e.kube.PolicyV1().PodDisruptionBudgets(ns).List(e.ctx, selector)
		e.must(err)
		equal(e, "budgets in "+ns, len(list.Items), want)
	}
	count("", 3)
	count(e.ns, 2)
	e.must(e.kube.PolicyV1().PodDisruptionBudgets(e.ns).DeleteCollection(e.ctx, metav1.DeleteOptions{}, selector))
	count(e.ns, 0)
	count("", 1)
	e.must(e.kube.PolicyV1().PodDisruptionBudgets(other.Name).DeleteCollection(e.ctx, metav1.DeleteOptions{}, selector))
	count("", 0)
}

func budgetBlocks(e *env) {
	e.guardedSet(3, "sleep", "3600")
	e.budget(minimum("3"))
	e.allows(3, 3, 3, 0)
	victim := e.guardedPods()[0]
	e.overBudget(e.evict(victim.Name), "The disruption budget budget needs 3 healthy pods and has 3 currently")

	b, err := e.kube.PolicyV1().PodDisruptionBudgets(e.ns).Get(e.ctx, "budget", metav1.GetOptions{})
	e.must(err)
	minimum("2")(&b.Spec)
	_, err = e.kube.PolicyV1().PodDisruptionBudgets(e.ns).Update(e.ctx, b, metav1.UpdateOptions{})
	e.must(err)
	e.allows(3, 2, 3, 1)
	e.must(e.evict(victim.Name))
	e.allows(3, 2, 3, 1) // another has come in its place

	_, err = e.kube.PolicyV1().PodDisruptionBudgets(e.ns).Patch(e.ctx, "budget", types.MergePatchType, []byte(`{"spec":{"minAvailable":null,"maxUnavailable":0}}`), metav1.PatchOptions{})
	e.must(err)
	e.allows(3, 3, 3, 0)
	victim = e.guardedPods()[0]
	e.overBudget(e.evict(victim.Name), "The disruption budget budget needs 3 healthy pods and has 3 currently")
	e.must(e.kube.PolicyV1().PodDisruptionBudgets(e.ns).Delete(e.ctx, "budget", metav1.DeleteOptions{}))
	e.must(e.evict(victim.Name))
}

func budgetStatus(e *env) {
	e.budget(minimum("1"))
	e.allows(0, 1, 0, 0)
	e.guardedSet(3, "sleep", "3600")
	b := e.allows(3, 1, 3, 2)
	c := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
	if c == nil || c.Status != metav1.ConditionTrue || c.Reason != policyv1.SufficientPodsReason || c.ObservedGeneration != b.Generation {
		e.Errorf("condition %+v", c)
	}
	e.cluster.Kubectl("-n", e.ns, "scale", "replicaset/guarded", "--replicas=1")
	b = e.allows(1, 1, 1, 0)
	c = meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
	if c == nil || c.Status != metav1.ConditionFalse || c.Reason != policyv1.InsufficientPodsReason {
		e.Errorf("condition %+v", c)
	}
	out := strings.Fields(e.cluster.Kubectl("-n", e.ns, "get", "pdb", "budget", "--no-headers"))
	equal(e, "kubectl get pdb", strings.Join(out[:4], " "), "budget 1 N/A 0")

	// The status is a resource of its own, which people with the right may write; it is then counted anew.
	_, err := e.kube.PolicyV1().PodDisruptionBudgets(e.ns).Patch(e.ctx, "budget", types.MergePatchType, []byte(`{"status":{"disruptionsAllowed":7}}`), metav1.PatchOptions{}, "status")
	e.must(err)
	e.allows(1, 1, 1, 0)
}

func budgetUnhealthy(e *env) {
	e.guardedSet(2, "sleep", "3600")
	e.budget(minimum("2"))
	e.allows(2, 2, 2, 0)
	sick := e.guardedPods()[0].Name
	e.cluster.Kubectl("-n", e.ns, "exec", sick, "--", "touch", "/tmp/unready")
	e.allows(2, 2, 1, 0)
	e.overBudget(e.evict(sick), "The disruption budget budget needs 2 healthy pods and has 1 currently")
	_, err := e.kube.PolicyV1().PodDisruptionBudgets(e.ns).Patch(e.ctx, "budget", types.MergePatchType, []byte(`{"spec":{"unhealthyPodEvictionPolicy":"AlwaysAllow"}}`), metav1.PatchOptions{})
	e.must(err)
	e.must(e.evict(sick))
	e.allows(2, 2, 2, 0)
}

func budgetDrain(e *env) {
	e.guardedSet(2, "sleep", "3600")
	e.budget(func(s *policyv1.PodDisruptionBudgetSpec) { s.MaxUnavailable = ptr.To(intstr.FromInt32(1)) })
	e.allows(2, 1, 2, 1)
	drain := []string{"drain", "node", "--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector=app=guarded", "--timeout=8s"}
	out, err := e.cluster.TryKubectl("", drain...)
	if err == nil || !strings.Contains(out, "Cannot evict pod as it would violate the pod's disruption budget.") {
		e.Errorf("drain: %v\n%s", err, out)
	}
	e.allows(2, 1, 1, 0) // one has gone, and there is no other node for its successor
	e.must(e.kube.PolicyV1().PodDisruptionBudgets(e.ns).Delete(e.ctx, "budget", metav1.DeleteOptions{}))
	e.cluster.Kubectl(drain...)
	e.cluster.Kubectl("uncordon", "node")
	e.guardedReady(2)
}
