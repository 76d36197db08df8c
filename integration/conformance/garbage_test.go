package conformance

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var garbageTests = map[string]func(*env){
	"background deletion takes the pods":                      func(e *env) { deleteController(e, metav1.DeletePropagationBackground) },
	"orphaning leaves the pods":                               func(e *env) { deleteController(e, metav1.DeletePropagationOrphan) },
	"foreground deletion waits for the pods":                  func(e *env) { deleteController(e, metav1.DeletePropagationForeground) },
	"a deployment's replica set and pods go with it":          func(e *env) { deleteDeployment(e, metav1.DeletePropagationBackground) },
	"a deployment's replica set is orphaned":                  func(e *env) { deleteDeployment(e, metav1.DeletePropagationOrphan) },
	"a circle of owners does not block":                       ownerCircle,
	"a dependent with another valid owner stays":              twoOwners,
	"preconditions and contradicting options are refused":     deleteOptions,
	"a collection is deleted by selector, and only what fits": deleteSelected,
}

const replicas = 4

// controller makes a ReplicationController and waits for its pods.
func (e *env) controller(name string) *corev1.ReplicationController {
	e.Helper()
	n := int32(replicas)
	labels := map[string]string{"rc": name}
	spec := pod("").Spec
	rc, err := e.kube.CoreV1().ReplicationControllers(e.ns).Create(e.ctx, &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ReplicationControllerSpec{Replicas: &n, Selector: labels, Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec,
		}},
	}, metav1.CreateOptions{})
	e.must(err)
	e.eventually(func() error { return e.pods("rc="+name, replicas) })
	return rc
}

// pods compares how many pods there are.
func (e *env) pods(selector string, want int) error {
	l, err := e.kube.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{LabelSelector: selector})
	if err == nil && len(l.Items) != want {
		err = fmt.Errorf("%d pods, want %d", len(l.Items), want)
	}
	return err
}

func deleteController(e *env, policy metav1.DeletionPropagation) {
	rc := e.controller("owner")
	rcs := e.kube.CoreV1().ReplicationControllers(e.ns)
	e.must(rcs.Delete(e.ctx, rc.Name, metav1.DeleteOptions{PropagationPolicy: &policy, Preconditions: metav1.NewUIDPreconditions(string(rc.UID))}))
	left := 0
	if policy == metav1.DeletePropagationOrphan {
		left = replicas
	}
	e.eventually(func() error {
		_, err := rcs.Get(e.ctx, rc.Name, metav1.GetOptions{})
		if policy == metav1.DeletePropagationForeground && apierrors.IsNotFound(err) {
			if err := e.pods("rc=owner", 0); err != nil {
				e.Fatalf("the controller went before its pods: %v", err)
			}
		}
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the controller: %v", err)
		}
		return e.pods("rc=owner", left)
	})
	l, err := e.kube.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{LabelSelector: "rc=owner"})
	e.must(err)
	for _, p := range l.Items {
		equal(e, "owners of an orphan", len(p.OwnerReferences), 0)
	}
}

func deleteDeployment(e *env, policy metav1.DeletionPropagation) {
	n, labels := int32(1), map[string]string{"app": "web"}
	d, err := e.kube.AppsV1().Deployments(e.ns).Create(e.ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("").Spec}},
	}, metav1.CreateOptions{})
	e.must(err)
	sets := func(want int) error {
		l, err := e.kube.AppsV1().ReplicaSets(e.ns).List(e.ctx, metav1.ListOptions{})
		if err == nil && len(l.Items) != want {
			err = fmt.Errorf("%d replica sets", len(l.Items))
		}
		return err
	}
	e.eventually(func() error { return sets(1) })
	e.eventually(func() error { return e.pods("app=web", 1) })
	e.must(e.kube.AppsV1().Deployments(e.ns).Delete(e.ctx, d.Name, metav1.DeleteOptions{PropagationPolicy: &policy}))
	if policy == metav1.DeletePropagationBackground {
		e.eventually(func() error { return sets(0) })
		e.eventually(func() error { return e.pods("app=web", 0) })
		return
	}
	e.eventually(func() error {
		_, err := e.kube.AppsV1().Deployments(e.ns).Get(e.ctx, d.Name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the deployment: %v", err)
		}
		return nil
	})
	l, err := e.kube.AppsV1().ReplicaSets(e.ns).List(e.ctx, metav1.ListOptions{})
	e.must(err)
	equal(e, "replica sets", len(l.Items), 1)
	equal(e, "owners of an orphan", len(l.Items[0].OwnerReferences), 0)
	e.must(e.pods("app=web", 1))
}

func ownerOf(name string, uid types.UID, block bool) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: name, UID: uid, Controller: &block, BlockOwnerDeletion: &block}
}

func ownerCircle(e *env) {
	pods := e.kube.CoreV1().Pods(e.ns)
	made := map[string]*corev1.Pod{}
	for _, name := range []string{"one", "two", "three"} {
		p, err := pods.Create(e.ctx, pod(name), metav1.CreateOptions{})
		e.must(err)
		made[name] = p
	}
	for name, owner := range map[string]string{"one": "three", "two": "one", "three": "two"} {
		p := made[name]
		p.OwnerReferences = []metav1.OwnerReference{ownerOf(owner, made[owner].UID, true)}
		_, err := pods.Update(e.ctx, p, metav1.UpdateOptions{})
		e.must(err)
	}
	foreground := metav1.DeletePropagationForeground
	e.must(pods.Delete(e.ctx, "one", metav1.DeleteOptions{PropagationPolicy: &foreground}))
	e.eventually(func() error { return e.pods("", 0) })
}

func twoOwners(e *env) {
	doomed, valid := e.controller("doomed"), e.controller("valid")
	pods := e.kube.CoreV1().Pods(e.ns)
	l, err := pods.List(e.ctx, metav1.ListOptions{LabelSelector: "rc=doomed"})
	e.must(err)
	shared := l.Items[:replicas/2]
	for _, p := range shared {
		patch := fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ReplicationController","name":"valid","uid":%q}]}}`, valid.UID)
		_, err := pods.Patch(e.ctx, p.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
		e.must(err)
	}
	foreground := metav1.DeletePropagationForeground
	e.must(e.kube.CoreV1().ReplicationControllers(e.ns).Delete(e.ctx, doomed.Name, metav1.DeleteOptions{PropagationPolicy: &foreground}))
	e.eventually(func() error {
		if _, err := e.kube.CoreV1().ReplicationControllers(e.ns).Get(e.ctx, doomed.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the controller: %v", err)
		}
		return e.pods("rc=doomed", len(shared))
	})
	for _, p := range shared {
		p, err := pods.Get(e.ctx, p.Name, metav1.GetOptions{})
		e.must(err)
		if len(p.OwnerReferences) != 1 || p.OwnerReferences[0].Name != "valid" || p.DeletionTimestamp != nil {
			e.Errorf("shared pod's owners are %v", p.OwnerReferences)
		}
	}
}

func deleteOptions(e *env) {
	e.configMap("one", nil)
	maps := e.kube.CoreV1().ConfigMaps(e.ns)
	e.refused(maps.Delete(e.ctx, "one", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("other")}), "the UID in the precondition (other) does not match the UID in record")
	orphan, background := true, metav1.DeletePropagationBackground
	//lint:ignore SA1019 clients still send it
	e.refused(maps.Delete(e.ctx, "one", metav1.DeleteOptions{OrphanDependents: &orphan, PropagationPolicy: &background}), "orphanDependents and deletionPropagation cannot be both set")
	bad := metav1.DeletionPropagation("Sideways")
	e.refused(maps.Delete(e.ctx, "one", metav1.DeleteOptions{PropagationPolicy: &bad}), "propagationPolicy")
	e.must(maps.Delete(e.ctx, "one", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}))
	_, err := maps.Get(e.ctx, "one", metav1.GetOptions{})
	e.must(err)
}

func deleteSelected(e *env) {
	for i := range 6 {
		e.configMap(fmt.Sprint("m", i), map[string]string{"odd": fmt.Sprint(i%2 == 1)})
	}
	maps := e.kube.CoreV1().ConfigMaps(e.ns)
	e.must(maps.DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "odd=true"}))
	l, err := maps.List(e.ctx, metav1.ListOptions{LabelSelector: "odd"})
	e.must(err)
	equal(e, "left", len(l.Items), 3)
	for _, m := range l.Items {
		equal(e, "label", m.Labels["odd"], "false")
	}
}
