package controllers_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers"
)

// budget makes one for the pods of "web"; either number may be empty.
func (c *cluster) budget(minAvailable, maxUnavailable string) {
	c.Helper()
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "budget"}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: web}}}
	if minAvailable != "" {
		b.Spec.MinAvailable = ptr.To(intstr.Parse(minAvailable))
	}
	if maxUnavailable != "" {
		b.Spec.MaxUnavailable = ptr.To(intstr.Parse(maxUnavailable))
	}
	_, err := c.client.PolicyV1().PodDisruptionBudgets("default").Create(c.ctx, b, metav1.CreateOptions{})
	c.must(err)
}

// counted waits until the budget's status is expected/desired/healthy/allowed.
func (c *cluster) counted(expected, desired, healthy, allowed int32) {
	c.Helper()
	c.eventually("the budget", func() error {
		b, err := c.client.PolicyV1().PodDisruptionBudgets("default").Get(c.ctx, "budget", metav1.GetOptions{})
		c.must(err)
		s := b.Status
		if s.ObservedGeneration != b.Generation || s.ExpectedPods != expected || s.DesiredHealthy != desired || s.CurrentHealthy != healthy || s.DisruptionsAllowed != allowed {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

func (c *cluster) evict(pod string) error {
	return c.client.PolicyV1().Evictions("default").Evict(c.ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: "default"}})
}

func TestBudgetOfADeployment(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.budget("", "1")
	c.event("budget", "NoPods", "No matching pods found")
	c.deploy(deployment(3))
	c.counted(3, 2, 3, 1)
	c.must(c.evict(c.pods("")[0].Name))
	c.counted(3, 2, 3, 1) // it is replaced
	c.change("web", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](5) })
	c.counted(5, 4, 5, 1)

	_, err := c.client.PolicyV1().PodDisruptionBudgets("default").Patch(c.ctx, "budget", types.MergePatchType, []byte(`{"spec":{"maxUnavailable":0}}`), metav1.PatchOptions{})
	c.must(err)
	c.counted(5, 5, 5, 0)
	err = c.evict(c.pods("")[0].Name)
	if !apierrors.IsTooManyRequests(err) || !apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause) {
		t.Fatal(err)
	}
}

// TestEvictionsNeverBreakTheBudget evicts all pods at once, again and again, until each has been replaced.
func TestEvictionsNeverBreakTheBudget(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.deploy(deployment(6))
	c.budget("60%", "")
	c.counted(6, 4, 6, 2)
	first := map[string]bool{}
	for _, pod := range c.pods("") {
		first[pod.Name] = true
	}
	c.eventually("all to be replaced", func() error {
		left := 0
		list := c.pods("")
		ready := 0
		for _, pod := range list {
			if pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning {
				ready++
			}
			if !first[pod.Name] {
				continue
			}
			left++
			if err := c.evict(pod.Name); err != nil && !apierrors.IsTooManyRequests(err) && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				t.Fatal(err)
			}
		}
		if ready < 4 {
			t.Fatalf("only %d pods are ready", ready)
		}
		if left > 0 {
			return fmt.Errorf("%d left", left)
		}
		return nil
	})
	c.counted(6, 4, 6, 2)
}

func TestBudgetOfPodsWithoutController(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	for i := range 3 {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bare-%d", i), Labels: web}, Spec: template(web, "v1").Spec}
		_, err := c.client.CoreV1().Pods("default").Create(c.ctx, pod, metav1.CreateOptions{})
		c.must(err)
	}
	c.budget("2", "")
	c.counted(3, 2, 3, 1)
	c.must(c.evict("bare-0"))
	c.counted(2, 2, 2, 0)
	_, err := c.client.PolicyV1().PodDisruptionBudgets("default").Patch(c.ctx, "budget", types.MergePatchType, []byte(`{"spec":{"minAvailable":"50%"}}`), metav1.PatchOptions{})
	c.must(err)
	c.counted(0, 0, 2, 0)
	c.event("budget", "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:map[string]string{app: web,},MatchExpressions:[]LabelSelectorRequirement{},}) "+
		"were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
		"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.")
}

// TestBudgetOfOtherKinds counts by the scale subresource of a kind that is defined later, and says of another that it has none.
func TestBudgetOfOtherKinds(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.budget("", "1")
	c.define("boats", "Boat", true)
	c.define("rafts", "Raft", false)
	boat := c.custom("boats", "Boat", map[string]any{"replicas": int64(4)})
	var pods []string
	for i := range 4 {
		pods = append(pods, c.ownedPod(fmt.Sprintf("crew-%d", i), boat))
	}
	c.counted(4, 3, 4, 1)
	c.ownedPod("stowaway", c.custom("rafts", "Raft", map[string]any{}))
	c.eventually("failure", func() error {
		b, err := c.client.PolicyV1().PodDisruptionBudgets("default").Get(c.ctx, "budget", metav1.GetOptions{})
		c.must(err)
		if cond := b.Status.Conditions[0]; cond.Reason != policyv1.SyncFailedReason || cond.Message != "rafts.example.com does not implement the scale subresource" || b.Status.DisruptionsAllowed != 0 {
			return fmt.Errorf("%+v", b.Status)
		}
		return nil
	})
	c.event("budget", "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: rafts.example.com does not implement the scale subresource")
	var status apierrors.APIStatus
	err := c.evict(pods[0])
	if !apierrors.IsTooManyRequests(err) || !errors.As(err, &status) || len(status.Status().Details.Causes) != 1 {
		t.Fatal(err)
	}
	if cause := status.Status().Details.Causes[0].Message; cause != "The disruption budget budget does not allow evicting pods currently because it failed sync: rafts.example.com does not implement the scale subresource" {
		t.Fatal(cause)
	}
	c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, "stowaway", metav1.DeleteOptions{}))
	c.counted(4, 3, 4, 1)
}

// TestEvictionsThatCameToNothing takes back what was noted of pods that nobody deleted.
func TestEvictionsThatCameToNothing(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.deploy(deployment(2))
	c.budget("1", "")
	c.counted(2, 1, 2, 1)
	victim := c.pods("")[0].Name
	old := metav1.NewTime(time.Now().Add(-3 * time.Minute).Truncate(time.Second))
	c.eventually("the note", func() error {
		b, err := c.client.PolicyV1().PodDisruptionBudgets("default").Get(c.ctx, "budget", metav1.GetOptions{})
		c.must(err)
		b.Status.DisruptedPods, b.Status.DisruptionsAllowed = map[string]metav1.Time{victim: old}, 0
		_, err = c.client.PolicyV1().PodDisruptionBudgets("default").UpdateStatus(c.ctx, b, metav1.UpdateOptions{})
		return err
	})
	c.counted(2, 1, 2, 1)
	c.event(victim, "NotDeleted", "Pod was expected by PDB default/budget to be deleted but it wasn't")

	patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"DisruptionTarget","status":"True","reason":"EvictionByEvictionAPI","message":"Eviction API: evicting","lastTransitionTime":%q}]}}`,
		old.UTC().Format(time.RFC3339))
	_, err := c.client.CoreV1().Pods("default").Patch(c.ctx, victim, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	c.must(err)
	c.eventually("the mark to go", func() error {
		pod, err := c.client.CoreV1().Pods("default").Get(c.ctx, victim, metav1.GetOptions{})
		c.must(err)
		for _, cond := range pod.Status.Conditions {
			if cond.Type == corev1.DisruptionTarget && cond.Status == corev1.ConditionFalse && cond.Reason == "" && cond.Message == "" && cond.LastTransitionTime.After(old.Time) {
				return nil
			}
		}
		return fmt.Errorf("%+v", pod.Status.Conditions)
	})
}

func TestPodOfSeveralBudgets(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	for _, name := range []string{"one", "two"} {
		_, err := c.client.PolicyV1().PodDisruptionBudgets("default").Create(c.ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{}}}, metav1.CreateOptions{})
		c.must(err)
		c.event(name, "NoPods", "No matching pods found")
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bare", Labels: web}, Spec: template(web, "v1").Spec}
	_, err := c.client.CoreV1().Pods("default").Create(c.ctx, pod, metav1.CreateOptions{})
	c.must(err)
	c.eventually("the event", func() error {
		list, err := c.client.CoreV1().Events("default").List(c.ctx, metav1.ListOptions{})
		c.must(err)
		for _, e := range list.Items {
			if e.Reason == "MultiplePodDisruptionBudgets" && e.InvolvedObject.Name == "bare" && e.Source.Component == "controllermanager" &&
				strings.HasPrefix(e.Message, `Pod "default"/"bare" matches multiple PodDisruptionBudgets.  Chose "`) {
				return nil
			}
		}
		return fmt.Errorf("%d events", len(list.Items))
	})
}

// TestBudgetsAtRestAreSilent waits until nothing is asked any more, and then for a while.
func TestBudgetsAtRestAreSilent(t *testing.T) {
	requests := &counter{}
	c := start(t, func(cfg *controllers.Config) {
		cfg.RestConfig = rest.CopyConfig(cfg.RestConfig)
		cfg.RestConfig.Wrap(func(rt http.RoundTripper) http.RoundTripper { requests.next = rt; return requests })
	})
	c.node("n1")
	c.budget("", "50%")
	c.deploy(deployment(20))
	c.counted(20, 10, 20, 10)
	writes := 0
	for quiet := 0; quiet < 5; quiet++ {
		time.Sleep(100 * time.Millisecond)
		for _, r := range requests.take() {
			quiet = 0
			if strings.HasPrefix(r, "PUT ") && strings.Contains(r, "/poddisruptionbudgets/budget/status") {
				writes++
			}
		}
	}
	if writes == 0 || writes > 30 { // one or two in 50 ms of the rollout
		t.Errorf("the status was written %d times", writes)
	}
	time.Sleep(time.Second)
	if seen := requests.take(); len(seen) > 0 {
		t.Errorf("a budget at rest asks: %q", seen)
	}
}

// define makes a kind of example.com/v1.
func (c *cluster) define(plural, kind string, scaled bool) {
	c.Helper()
	version := map[string]any{
		"name": "v1", "served": true, "storage": true,
		"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
	}
	if scaled {
		version["subresources"] = map[string]any{"scale": map[string]any{
			"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}}
	}
	crd := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": plural + ".example.com"},
		"spec": map[string]any{"group": "example.com", "scope": "Namespaced", "versions": []any{version},
			"names": map[string]any{"plural": plural, "singular": strings.ToLower(kind), "kind": kind, "listKind": kind + "List"}},
	}}
	_, err := c.dynamic().Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).Create(c.ctx, crd, metav1.CreateOptions{})
	c.must(err)
	c.eventually("the kind", func() error {
		_, err := c.dynamic().Resource(customs(plural)).Namespace("default").List(c.ctx, metav1.ListOptions{})
		return err
	})
}

func customs(plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: plural}
}

func (c *cluster) dynamic() dynamic.Interface { return dynamic.NewForConfigOrDie(c.config) }

func (c *cluster) custom(plural, kind string, spec map[string]any) *unstructured.Unstructured {
	c.Helper()
	obj, err := c.dynamic().Resource(customs(plural)).Namespace("default").Create(c.ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": kind, "metadata": map[string]any{"name": "of-" + plural}, "spec": spec,
	}}, metav1.CreateOptions{})
	c.must(err)
	return obj
}

// ownedPod makes a pod of "web" that obj controls.
func (c *cluster) ownedPod(name string, obj *unstructured.Unstructured) string {
	c.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: web, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(obj, obj.GroupVersionKind())}},
		Spec: template(web, "v1").Spec}
	_, err := c.client.CoreV1().Pods("default").Create(c.ctx, pod, metav1.CreateOptions{})
	c.must(err)
	return name
}
