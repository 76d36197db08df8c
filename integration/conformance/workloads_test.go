package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/coracle-dev/coracle/integration/cluster"
)

var workloadTests = map[string]func(*env){
	"a deployment has a scale":                                      deploymentScale,
	"a rolling update replaces the pods of an adopted set":          rollingUpdate,
	"old sets go beyond the history limit":                          historyLimit,
	"a rollout under way is scaled in proportion":                   proportionalScaling,
	"a deployment's life":                                           deploymentLife,
	"a replica set is scaled and patched":                           replicaSetPatched,
	"a replica set has a scale":                                     replicaSetScale,
	"a replica set adopts and releases":                             replicaSetAdopts,
	"a replica set's pods all serve":                                replicaSetServes,
	"a replica set has a status":                                    replicaSetStatus,
	"a replication controller adopts":                               controllerAdopts,
	"a replication controller shows why it cannot create pods":      controllerFails,
	"a replication controller's life":                               controllerLife,
	"a rollout stays within its bounds, is paused, undone and late": rolloutRules,
	"the cheapest pods of a set go first":                           deletionOrder,
}

// TestWorkloads shows the behaviours of Deployments, ReplicaSets and ReplicationControllers on a whole cluster, with real containers where
// something must answer, and with simulated nodes beside the real one.
func TestWorkloads(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up()
	c.Start("simulate", "--config", "/dev/null", "--kubeconfig", c.Kubeconfig, "--nodes", "4", "--taints", simulated+"=true:NoSchedule")
	s := newSuite(t, c)
	t.Run("sets", func(t *testing.T) {
		for name, test := range workloadTests {
			t.Run(name, func(t *testing.T) { test(s.env(t)) })
		}
	})
}

// simulated is the label of simulated nodes, and the key of their taint.
const simulated = "simulate.coracle.dev/node"

// demoPod is a pod's template that serves HTTP on port 8080.
func demoPod(labels map[string]string) corev1.PodTemplateSpec {
	none := int64(0)
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: &none,
		Containers:                    []corev1.Container{{Name: "web", Image: "coracle/demo:v1", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}}},
	}}
}

// simulatedPod is one that runs on simulated nodes only.
func simulatedPod(labels map[string]string) corev1.PodTemplateSpec {
	t := demoPod(labels)
	t.Spec.Tolerations = []corev1.Toleration{{Key: simulated, Operator: corev1.TolerationOpExists}}
	t.Spec.NodeSelector = map[string]string{simulated: "true"}
	return t
}

var app = map[string]string{"app": "web"}

func (e *env) deploy(template corev1.PodTemplateSpec, replicas int32, change func(*appsv1.DeploymentSpec)) *appsv1.Deployment {
	e.Helper()
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: app},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template}}
	if change != nil {
		change(&d.Spec)
	}
	d, err := e.kube.AppsV1().Deployments(e.ns).Create(e.ctx, d, metav1.CreateOptions{})
	e.must(err)
	return d
}

func (e *env) replicaSet(template corev1.PodTemplateSpec, replicas int32) *appsv1.ReplicaSet {
	e.Helper()
	set, err := e.kube.AppsV1().ReplicaSets(e.ns).Create(e.ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: app},
		Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template}}, metav1.CreateOptions{})
	e.must(err)
	return set
}

func (e *env) getDeployment() (*appsv1.Deployment, error) {
	return e.kube.AppsV1().Deployments(e.ns).Get(e.ctx, "web", metav1.GetOptions{})
}

// rolledOut waits until all replicas are of the present template and available.
func (e *env) rolledOut(replicas int32) *appsv1.Deployment {
	e.Helper()
	var d *appsv1.Deployment
	e.eventually(func() (err error) {
		if d, err = e.getDeployment(); err != nil {
			return err
		}
		s := d.Status
		if s.ObservedGeneration < d.Generation || s.UpdatedReplicas != replicas || s.AvailableReplicas != replicas || s.Replicas != replicas {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	return d
}

// setReady waits until a ReplicaSet's replicas are available.
func (e *env) setReady(replicas int32) *appsv1.ReplicaSet {
	e.Helper()
	var set *appsv1.ReplicaSet
	e.eventually(func() (err error) {
		if set, err = e.kube.AppsV1().ReplicaSets(e.ns).Get(e.ctx, "web", metav1.GetOptions{}); err != nil {
			return err
		}
		if s := set.Status; s.ObservedGeneration < set.Generation || s.AvailableReplicas != replicas || s.Replicas != replicas {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	return set
}

// sets gives the ReplicaSets of the namespace.
func (e *env) sets() []appsv1.ReplicaSet {
	e.Helper()
	l, err := e.kube.AppsV1().ReplicaSets(e.ns).List(e.ctx, metav1.ListOptions{})
	e.must(err)
	return l.Items
}

// scales reads, updates and patches a scale, each as deployments and replica sets have them.
func scales(e *env, get func() (*autoscalingv1.Scale, error), update func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error),
	patch func([]byte) (*autoscalingv1.Scale, error), ready func(int32)) {
	e.Helper()
	scale, err := get()
	e.must(err)
	equal(e, "replicas", scale.Spec.Replicas, 1)
	equal(e, "replicas there are", scale.Status.Replicas, 1)
	equal(e, "selector", scale.Status.Selector, "app=web")
	scale.ResourceVersion, scale.Spec.Replicas = "", 2
	scale, err = update(scale)
	e.must(err)
	equal(e, "replicas updated", scale.Spec.Replicas, 2)
	ready(2)
	scale, err = patch([]byte(`{"spec":{"replicas":4}}`))
	e.must(err)
	equal(e, "replicas patched", scale.Spec.Replicas, 4)
	ready(4)
}

func deploymentScale(e *env) {
	e.deploy(demoPod(app), 1, nil)
	e.rolledOut(1)
	all := e.kube.AppsV1().Deployments(e.ns)
	scales(e, func() (*autoscalingv1.Scale, error) { return all.GetScale(e.ctx, "web", metav1.GetOptions{}) },
		func(s *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
			return all.UpdateScale(e.ctx, "web", s, metav1.UpdateOptions{})
		},
		func(patch []byte) (*autoscalingv1.Scale, error) {
			out := &autoscalingv1.Scale{}
			return out, e.kube.AppsV1().RESTClient().Patch(types.MergePatchType).Namespace(e.ns).Resource("deployments").Name("web").SubResource("scale").Body(patch).Do(e.ctx).Into(out)
		}, func(n int32) { e.rolledOut(n) })
}

func replicaSetScale(e *env) {
	e.replicaSet(demoPod(app), 1)
	e.setReady(1)
	all := e.kube.AppsV1().ReplicaSets(e.ns)
	scales(e, func() (*autoscalingv1.Scale, error) { return all.GetScale(e.ctx, "web", metav1.GetOptions{}) },
		func(s *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
			return all.UpdateScale(e.ctx, "web", s, metav1.UpdateOptions{})
		},
		func(patch []byte) (*autoscalingv1.Scale, error) {
			out := &autoscalingv1.Scale{}
			return out, e.kube.AppsV1().RESTClient().Patch(types.MergePatchType).Namespace(e.ns).Resource("replicasets").Name("web").SubResource("scale").Body(patch).Do(e.ctx).Into(out)
		}, func(n int32) { e.setReady(n) })
}

func deploymentLife(e *env) {
	all := e.kube.AppsV1().Deployments(e.ns)
	w, err := all.Watch(e.ctx, metav1.ListOptions{LabelSelector: "app=web"})
	e.must(err)
	defer w.Stop()
	e.deploy(demoPod(app), 2, nil)
	e.sees(w, watch.Added)
	e.rolledOut(2)
	e.patchDeployment(`{"metadata":{"labels":{"stage":"patched"}},"spec":{"replicas":1}}`)
	d := e.rolledOut(1)
	equal(e, "label", d.Labels["stage"], "patched")
	l, err := e.kube.AppsV1().Deployments("").List(e.ctx, metav1.ListOptions{LabelSelector: "stage=patched"})
	e.must(err)
	equal(e, "found by label", len(l.Items), 1)
	patched, err := all.Patch(e.ctx, "web", types.MergePatchType,
		[]byte(`{"status":{"conditions":[{"type":"Tested","status":"True","reason":"E","message":"m"}]}}`), metav1.PatchOptions{}, "status")
	e.must(err)
	equal(e, "condition", patched.Status.Conditions[0].Type, "Tested")
	if read, err := e.kube.AppsV1().RESTClient().Get().Namespace(e.ns).Resource("deployments").Name("web").SubResource("status").Do(e.ctx).Get(); err != nil {
		e.Errorf("%v: %v", read, err)
	}
	e.must(all.DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "stage=patched"}))
	for ev := e.next(w); ev.Type != watch.Deleted; ev = e.next(w) {
		equal(e, "event", ev.Type, watch.Modified)
	}
	e.eventually(func() error { return errors.Join(same(len(e.sets()), 0), e.pods("", 0)) })
}

func replicaSetPatched(e *env) {
	e.replicaSet(demoPod(app), 1)
	e.setReady(1)
	all := e.kube.AppsV1().ReplicaSets(e.ns)
	e.eventually(func() error { // its status is written at any time
		set, err := all.Get(e.ctx, "web", metav1.GetOptions{})
		e.must(err)
		*set.Spec.Replicas = 2
		_, err = all.Update(e.ctx, set, metav1.UpdateOptions{})
		return err
	})
	e.setReady(2)
	set, err := all.Patch(e.ctx, "web", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"patched":"yes"}},"spec":{"replicas":3,
		"template":{"spec":{"terminationGracePeriodSeconds":1}}}}`), metav1.PatchOptions{})
	e.must(err)
	equal(e, "label", set.Labels["patched"], "yes")
	equal(e, "grace", *set.Spec.Template.Spec.TerminationGracePeriodSeconds, 1)
	e.setReady(3)
}

// orphanPod makes a pod that matches app and has no owner.
func (e *env) orphanPod(name string) *corev1.Pod {
	e.Helper()
	template := demoPod(app)
	p, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: app}, Spec: template.Spec}, metav1.CreateOptions{})
	e.must(err)
	return p
}

// ownedBy waits until a pod's controller is the one of the UID; none where that is empty.
func (e *env) ownedBy(pod string, uid types.UID) {
	e.Helper()
	e.eventually(func() error {
		p, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, pod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if ref := metav1.GetControllerOf(p); ref != nil {
			return same(ref.UID, uid)
		}
		return same("", uid)
	})
}

func replicaSetAdopts(e *env) {
	e.orphanPod("early")
	set := e.replicaSet(demoPod(app), 1)
	e.ownedBy("early", set.UID)
	e.must(e.pods("", 1))
	_, err := e.kube.CoreV1().Pods(e.ns).Patch(e.ctx, "early", types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"other"}}}`), metav1.PatchOptions{})
	e.must(err)
	e.ownedBy("early", "")
	e.eventually(func() error { return errors.Join(e.pods("app=web", 1), e.pods("", 2)) })
}

func replicaSetServes(e *env) {
	e.replicaSet(demoPod(app), 2)
	e.setReady(2)
	l, err := e.kube.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{})
	e.must(err)
	for _, p := range l.Items {
		e.eventually(func() error {
			_, err := e.raw("GET", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:8080/proxy/", e.ns, p.Name), "", "")
			return err
		})
	}
}

func replicaSetStatus(e *env) {
	e.replicaSet(demoPod(app), 1)
	e.setReady(1)
	all := e.kube.AppsV1().ReplicaSets(e.ns)
	condition := appsv1.ReplicaSetCondition{Type: "StatusUpdate", Status: corev1.ConditionTrue, Reason: "E2E", Message: "Set from e2e test"}
	e.eventually(func() error {
		set, err := all.Get(e.ctx, "web", metav1.GetOptions{})
		e.must(err)
		set.Status.Conditions = append(set.Status.Conditions, condition)
		updated, err := all.UpdateStatus(e.ctx, set, metav1.UpdateOptions{})
		if err == nil {
			equal(e, "updated", updated.Status.Conditions[0].Type, condition.Type)
		}
		return err
	})
	patched, err := all.Patch(e.ctx, "web", types.MergePatchType, []byte(`{"status":{"conditions":[{"type":"StatusPatched","status":"True"}]}}`), metav1.PatchOptions{}, "status")
	e.must(err)
	equal(e, "patched", patched.Status.Conditions[0].Type, "StatusPatched")
	read := &appsv1.ReplicaSet{}
	e.must(e.kube.AppsV1().RESTClient().Get().Namespace(e.ns).Resource("replicasets").Name("web").SubResource("status").Do(e.ctx).Into(read))
	equal(e, "read", read.Status.Conditions[0].Type, "StatusPatched")
}

func (e *env) replicationController(replicas int32) *corev1.ReplicationController {
	e.Helper()
	template := demoPod(app)
	rc, err := e.kube.CoreV1().ReplicationControllers(e.ns).Create(e.ctx, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: app},
		Spec: corev1.ReplicationControllerSpec{Replicas: &replicas, Selector: app, Template: &template}}, metav1.CreateOptions{})
	e.must(err)
	return rc
}

// controllerIs waits until the ReplicationController is as ok wants it.
func (e *env) controllerIs(ok func(*corev1.ReplicationController) error) {
	e.Helper()
	e.eventually(func() error {
		rc, err := e.kube.CoreV1().ReplicationControllers(e.ns).Get(e.ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return ok(rc)
	})
}

func controllerAdopts(e *env) {
	e.orphanPod("early")
	rc := e.replicationController(1)
	e.ownedBy("early", rc.UID)
	e.must(e.pods("", 1))
}

func controllerFails(e *env) {
	_, err := e.kube.CoreV1().ResourceQuotas(e.ns).Create(e.ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "two"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("2")}}}, metav1.CreateOptions{})
	e.must(err)
	e.eventually(func() error {
		q, err := e.kube.CoreV1().ResourceQuotas(e.ns).Get(e.ctx, "two", metav1.GetOptions{})
		if err == nil && q.Status.Hard == nil {
			err = errors.New("not counted yet")
		}
		return err
	})
	e.replicationController(3)
	failure := func(rc *corev1.ReplicationController) string {
		for _, c := range rc.Status.Conditions {
			if c.Type == corev1.ReplicationControllerReplicaFailure && c.Status == corev1.ConditionTrue {
				return c.Reason + ": " + c.Message
			}
		}
		return ""
	}
	e.controllerIs(func(rc *corev1.ReplicationController) error {
		if text := failure(rc); !strings.HasPrefix(text, "FailedCreate: ") || !strings.Contains(text, "exceeded quota") || rc.Status.Replicas != 2 {
			return fmt.Errorf("%d replicas, %q", rc.Status.Replicas, text)
		}
		return nil
	})
	_, err = e.kube.CoreV1().ReplicationControllers(e.ns).Patch(e.ctx, "web", types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{})
	e.must(err)
	e.controllerIs(func(rc *corev1.ReplicationController) error { return same(failure(rc), "") })
}

func controllerLife(e *env) {
	all := e.kube.CoreV1().ReplicationControllers(e.ns)
	w, err := all.Watch(e.ctx, metav1.ListOptions{LabelSelector: "app=web"})
	e.must(err)
	defer w.Stop()
	e.replicationController(1)
	e.sees(w, watch.Added)
	available := func(n int32) func(*corev1.ReplicationController) error {
		return func(rc *corev1.ReplicationController) error { return same(rc.Status.AvailableReplicas, n) }
	}
	e.controllerIs(available(1))
	rc, err := all.Patch(e.ctx, "web", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"stage":"patched"}}}`), metav1.PatchOptions{})
	e.must(err)
	equal(e, "label", rc.Labels["stage"], "patched")
	read := &corev1.ReplicationController{}
	e.must(e.kube.CoreV1().RESTClient().Get().Namespace(e.ns).Resource("replicationcontrollers").Name("web").SubResource("status").Do(e.ctx).Into(read))
	rc, err = all.Patch(e.ctx, "web", types.MergePatchType, []byte(`{"status":{"readyReplicas":0,"availableReplicas":0}}`), metav1.PatchOptions{}, "status")
	e.must(err)
	equal(e, "status patched", rc.Status.ReadyReplicas, 0)
	e.controllerIs(available(1))
	scale := &autoscalingv1.Scale{}
	e.must(e.kube.CoreV1().RESTClient().Patch(types.MergePatchType).Namespace(e.ns).Resource("replicationcontrollers").Name("web").SubResource("scale").
		Body([]byte(`{"spec":{"replicas":2}}`)).Do(e.ctx).Into(scale))
	equal(e, "scale", scale.Spec.Replicas, 2)
	e.controllerIs(available(2))
	l, err := e.kube.CoreV1().ReplicationControllers("").List(e.ctx, metav1.ListOptions{LabelSelector: "stage=patched"})
	e.must(err)
	equal(e, "found by label", len(l.Items), 1)
	e.must(all.DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "stage=patched"}))
	for ev := e.next(w); ev.Type != watch.Deleted; ev = e.next(w) {
		equal(e, "event", ev.Type, watch.Modified)
	}
}

// deletionOrder gives pods costs, and takes them away one by one.
func deletionOrder(e *env) {
	e.replicaSet(simulatedPod(app), 4)
	e.setReady(4)
	l, err := e.kube.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{})
	e.must(err)
	for i, cost := range []string{"10", "-5", "", "100"} {
		annotations := map[string]string{}
		if cost != "" {
			annotations[corev1.PodDeletionCost] = cost
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
		e.must(err)
		_, err = e.kube.CoreV1().Pods(e.ns).Patch(e.ctx, l.Items[i].Name, types.MergePatchType, patch, metav1.PatchOptions{})
		e.must(err)
	}
	for i, next := range []int{1, 2, 0} {
		_, err := e.kube.AppsV1().ReplicaSets(e.ns).Patch(e.ctx, "web", types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, 3-i), metav1.PatchOptions{})
		e.must(err)
		e.setReady(int32(3 - i))
		e.eventually(func() error {
			_, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, l.Items[next].Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("pod %d is there still: %v", next, err)
		})
	}
}
