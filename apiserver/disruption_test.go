package apiserver_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// running creates a pod that runs on a node.
func running(t *testing.T, client kubernetes.Interface, name string, ready corev1.ConditionStatus, resources *corev1.ResourceRequirements) *corev1.Pod {
	t.Helper()
	p := podOf(name, cpu("100m", "200m"))
	p.Labels = map[string]string{"app": "web"}
	p.Spec.NodeName = "node"
	pod, err := client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{})
	if err == nil {
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", Image: "i", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, Resources: resources}}
		pod, err = client.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// TestEviction: a budget counts evictions, holds back what is beyond it, and lets go what disrupts nothing.
func TestEviction(t *testing.T) {
	client, _ := admitting(t)
	ctx := t.Context()
	budgets := client.PolicyV1().PodDisruptionBudgets("default")
	budget := func(name string, status policyv1.PodDisruptionBudgetStatus) {
		t.Helper()
		b, err := budgets.Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		}}, metav1.CreateOptions{})
		if err == nil {
			b.Status = status
			_, err = budgets.UpdateStatus(ctx, b, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	evict := func(name string, opts *metav1.DeleteOptions) error {
		e := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, DeleteOptions: opts}
		return client.CoreV1().RESTClient().Post().MaxRetries(0).Namespace("default").Resource("pods").Name(name).SubResource("eviction").Body(e).Do(ctx).Error()
	}
	refused := func(name, cause string) {
		t.Helper()
		err := evict(name, nil)
		status := apierrors.APIStatus(nil)
		if s, ok := err.(apierrors.APIStatus); ok { //nolint:errorlint // as the client gives it
			status = s
		}
		if !apierrors.IsTooManyRequests(err) || err.Error() != "Cannot evict pod as it would violate the pod's disruption budget." ||
			len(status.Status().Details.Causes) != 1 || status.Status().Details.Causes[0] != (metav1.StatusCause{Type: "DisruptionBudget", Message: cause}) {
			t.Errorf("%s: %v %+v", name, err, status)
		}
	}
	running(t, client, "a", corev1.ConditionTrue, nil)
	running(t, client, "b", corev1.ConditionTrue, nil)
	running(t, client, "sick", corev1.ConditionFalse, nil)
	budget("budget", policyv1.PodDisruptionBudgetStatus{})
	refused("a", "The disruption budget budget is still being processed by the server.")
	if err := budgets.Delete(ctx, "budget", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	budget("budget", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1, CurrentHealthy: 2, DesiredHealthy: 1, ExpectedPods: 3})
	if err := evict("a", &metav1.DeleteOptions{DryRun: []string{"All"}}); err != nil {
		t.Error(err)
	}
	if err := evict("a", &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: ptr.To(types.UID("another"))}}); !apierrors.IsConflict(err) {
		t.Errorf("another's uid: %v", err)
	}
	if err := evict("a", nil); err != nil {
		t.Fatal(err)
	}
	b, err := budgets.Get(ctx, "budget", metav1.GetOptions{})
	if err != nil || b.Status.DisruptionsAllowed != 0 || len(b.Status.DisruptedPods) != 1 {
		t.Errorf("%v %+v", err, b.Status)
	}
	a, err := client.CoreV1().Pods("default").Get(ctx, "a", metav1.GetOptions{})
	if err != nil || a.DeletionTimestamp == nil || a.Status.Conditions[1].Type != corev1.DisruptionTarget || a.Status.Conditions[1].Reason != "EvictionByEvictionAPI" {
		t.Errorf("%v %+v", err, a.Status.Conditions)
	}
	refused("b", "The disruption budget budget needs 1 healthy pods and has 2 currently")
	if err := evict("sick", nil); err != nil {
		t.Errorf("a pod that is not ready, with enough that are: %v", err)
	}
	if err := evict("none", nil); !apierrors.IsNotFound(err) {
		t.Errorf("no pod: %v", err)
	}
	budget("second", policyv1.PodDisruptionBudgetStatus{})
	if err := evict("b", nil); err == nil || !strings.Contains(err.Error(), "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.") {
		t.Errorf("two budgets: %v", err)
	}
}

// TestEphemeralContainers: they are added by their own path, and then they stay.
func TestEphemeralContainers(t *testing.T) {
	client, _ := admitting(t)
	ctx := t.Context()
	pods := client.CoreV1().Pods("default")
	pod := running(t, client, "p", corev1.ConditionTrue, nil)
	add := func(change func(*corev1.Pod)) (*corev1.Pod, error) {
		p, err := pods.Get(ctx, "p", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		change(p)
		return pods.UpdateEphemeralContainers(ctx, "p", p, metav1.UpdateOptions{})
	}
	debugger := func(name string) corev1.EphemeralContainer {
		return corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: "busybox"}}
	}
	made, err := add(func(p *corev1.Pod) {
		p.Labels["x"] = "ignored"
		p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, debugger("d"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(made.Spec.EphemeralContainers) != 1 || made.Spec.EphemeralContainers[0].ImagePullPolicy != corev1.PullAlways || made.Labels["x"] != "" || made.Generation != pod.Generation+1 {
		t.Errorf("%+v", made)
	}
	for want, change := range map[string]func(*corev1.Pod){
		`existing ephemeral containers "d" may not be removed`: func(p *corev1.Pod) { p.Spec.EphemeralContainers = nil },
		`existing ephemeral containers "d" may not be changed`: func(p *corev1.Pod) { p.Spec.EphemeralContainers[0].Image = "other" },
		`spec.ephemeralContainers[1].name: Duplicate value: "c"`: func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, debugger("c"))
		},
	} {
		if _, err := add(change); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
	patch := []byte(`{"spec":{"ephemeralContainers":[{"name":"e","image":"busybox"}]}}`)
	if made, err = pods.Patch(ctx, "p", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "ephemeralcontainers"); err != nil || len(made.Spec.EphemeralContainers) != 2 {
		t.Errorf("%v %+v", err, made.Spec.EphemeralContainers)
	}
	if _, err := pods.Patch(ctx, "p", types.StrategicMergePatchType, []byte(`{"spec":{"ephemeralContainers":[{"name":"f","image":"busybox"}]}}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("by the main path: %v", err)
	}
}

// TestResize: CPU and memory change by their own path, and nothing else does.
func TestResize(t *testing.T) {
	client, _ := admitting(t)
	ctx := t.Context()
	pods := client.CoreV1().Pods("default")
	room := corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi")}
	if _, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"},
		Status: corev1.NodeStatus{Capacity: room, Allocatable: room}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := running(t, client, "p", corev1.ConditionTrue, &corev1.ResourceRequirements{})
	running(t, client, "old-node", corev1.ConditionTrue, nil)
	resize := func(name, patch string) (*corev1.Pod, error) {
		return pods.Patch(ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize")
	}
	made, err := resize("p", `{"metadata":{"labels":{"x":"ignored"}},"spec":{"containers":[{"name":"c","image":"ignored","resources":{"requests":{"cpu":"150m"}}}]}}`)
	if err != nil {
		t.Fatal(err)
	}
	if got := made.Spec.Containers[0]; got.Resources.Requests.Cpu().String() != "150m" || got.Image != "i" || made.Labels["x"] != "" || made.Generation != pod.Generation+1 {
		t.Errorf("%+v", made)
	}
	for patch, want := range map[string]string{
		`{"spec":{"containers":[{"name":"c","resources":{"requests":{"memory":"1Gi"},"limits":{"cpu":"150m","memory":"1Gi"}}}]}}`: "Pod QOS Class may not change as a result of resizing",
		`{"spec":{"containers":[{"name":"c","resources":{"requests":{"ephemeral-storage":"1Gi"}}}]}}`:                             "only cpu and memory resources are mutable",
		`{"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":null}}}]}}`:                                              "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
		`{"spec":{"containers":[{"name":"new","image":"i"}]}}`:                                                                    "spec.containers: Forbidden: containers may not be added or removed on resize",
		`{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"5"}}}]}}`:                                             "must be less than or equal to cpu limit",
	} {
		if _, err := resize("p", patch); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", patch, err, want)
		}
	}
	if _, err := resize("old-node", `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"150m"}}}]}}`); err == nil || !strings.Contains(err.Error(), "Pod running on node without support for resize") {
		t.Errorf("on a node that does not tell: %v", err)
	}
	if _, err := pods.Patch(ctx, "p", types.StrategicMergePatchType, []byte(`{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"160m"}}}]}}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("by the main path: %v", err)
	}
}

// TestComponentStatuses: the store is asked, and clients hear that the kind is old.
func TestComponentStatuses(t *testing.T) {
	client, warnings := admitting(t)
	all, err := client.CoreV1().ComponentStatuses().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(all.Items) != 1 || all.Items[0].Name != "etcd-0" || all.Items[0].Conditions[0].Status != corev1.ConditionTrue {
		t.Errorf("%v %+v", err, all)
	}
	if text := warnings.take(); text != "v1 ComponentStatus is deprecated in v1.19+" {
		t.Errorf("warned %q", text)
	}
	if _, err := client.CoreV1().ComponentStatuses().Get(t.Context(), "etcd-0", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := client.CoreV1().ComponentStatuses().Get(t.Context(), "none", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
	warnings.take()
	if _, err := client.CoreV1().Endpoints("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	if text := warnings.take(); text != "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice" {
		t.Errorf("warned %q", text)
	}
}
