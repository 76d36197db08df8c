package controllers_test

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func TestDeploymentLife(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.deploy(deployment(3))
	first := c.sets()[0]
	c.event("web", "ScalingReplicaSet", fmt.Sprintf("Scaled up replica set %s from 0 to 3", first.Name))
	c.event(first.Name, "SuccessfulCreate", "Created pod: "+c.pods("")[0].Name)

	c.change("web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v2" })
	c.rolledOut("web")
	c.podCount("", 3)
	for _, pod := range c.pods("") {
		if pod.Spec.Containers[0].Image != "v2" {
			t.Fatalf("%s runs %s", pod.Name, pod.Spec.Containers[0].Image)
		}
	}
	c.change("web", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](5) })
	c.rolledOut("web")
	c.podCount("", 5)

	c.change("web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v1" }) // as kubectl rollout undo does
	c.rolledOut("web")
	sets := c.sets()
	if len(sets) != 2 {
		t.Fatalf("%d sets", len(sets))
	}
	for _, set := range sets {
		if set.Name == first.Name && (set.Annotations["deployment.kubernetes.io/revision"] != "3" || set.Annotations["deployment.kubernetes.io/revision-history"] != "1") {
			t.Fatalf("%v", set.Annotations)
		}
	}
	c.must(c.client.AppsV1().Deployments("default").Delete(c.ctx, "web", metav1.DeleteOptions{}))
	c.podCount("", 0)
	if n := len(c.sets()); n != 0 {
		t.Fatalf("%d sets left", n)
	}
}

func TestRecreate(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	d := deployment(2)
	d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
	c.deploy(d)
	c.change("web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v2" })
	c.rolledOut("web")
	c.podCount("", 2)
}

func TestReplicationController(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	rcs := c.client.CoreV1().ReplicationControllers("default")
	_, err := rcs.Create(c.ctx, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "rc"}, Spec: corev1.ReplicationControllerSpec{
		Replicas: ptr.To[int32](3), Selector: web, Template: ptr.To(template(web, "v1")),
	}}, metav1.CreateOptions{})
	c.must(err)
	c.eventually("status", func() error {
		rc, err := rcs.Get(c.ctx, "rc", metav1.GetOptions{})
		c.must(err)
		if s := rc.Status; s.Replicas != 3 || s.ReadyReplicas != 3 || s.AvailableReplicas != 3 || s.ObservedGeneration != rc.Generation {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	victim := c.pods("")[0].Name
	c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, victim, metav1.DeleteOptions{}))
	c.eventually("replacement", func() error {
		for _, pod := range c.pods("") {
			if pod.Name == victim {
				return fmt.Errorf("%s is still there", victim)
			}
		}
		if n := len(c.pods("")); n != 3 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
}

func TestAdoptionAndRelease(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	bare := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bare", Labels: web}, Spec: template(web, "v1").Spec}
	_, err := c.client.CoreV1().Pods("default").Create(c.ctx, bare, metav1.CreateOptions{})
	c.must(err)
	sets := c.client.AppsV1().ReplicaSets("default")
	set, err := sets.Create(c.ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "set"}, Spec: appsv1.ReplicaSetSpec{
		Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: web}, Template: template(web, "v1"),
	}}, metav1.CreateOptions{})
	c.must(err)
	c.podCount("app=web", 2)
	owner := func(name string) types.UID {
		pod, err := c.client.CoreV1().Pods("default").Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		if ref := metav1.GetControllerOf(pod); ref != nil {
			return ref.UID
		}
		return ""
	}
	c.eventually("adoption", func() error {
		if uid := owner("bare"); uid != set.UID {
			return fmt.Errorf("owner %q", uid)
		}
		return nil
	})
	_, err = c.client.CoreV1().Pods("default").Patch(c.ctx, "bare", types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"other"}}}`), metav1.PatchOptions{})
	c.must(err)
	c.eventually("release", func() error {
		if uid := owner("bare"); uid != "" {
			return fmt.Errorf("owner %q", uid)
		}
		return nil
	})
	c.podCount("app=web", 2)
}

func TestDeletionPropagation(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	deployments := c.client.AppsV1().Deployments("default")
	c.deploy(deployment(2))
	c.must(deployments.Delete(c.ctx, "web", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationOrphan)}))
	c.eventually("orphaning", func() error {
		if _, err := deployments.Get(c.ctx, "web", metav1.GetOptions{}); err == nil {
			return fmt.Errorf("the deployment is still there")
		}
		return nil
	})
	sets := c.sets()
	if len(sets) != 1 || len(sets[0].OwnerReferences) != 0 || len(c.pods("")) != 2 {
		t.Fatalf("%d sets, owners %v, %d pods", len(sets), sets[0].OwnerReferences, len(c.pods("")))
	}
	c.deploy(deployment(2)) // adopts the set again
	if sets := c.sets(); len(sets) != 1 || len(sets[0].OwnerReferences) != 1 {
		t.Fatalf("not adopted: %d sets", len(sets))
	}
	c.must(deployments.Delete(c.ctx, "web", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}))
	c.eventually("foreground deletion", func() error {
		if _, err := deployments.Get(c.ctx, "web", metav1.GetOptions{}); err == nil {
			return fmt.Errorf("the deployment is still there")
		}
		return nil
	})
	if len(c.sets()) != 0 || len(c.pods("")) != 0 {
		t.Fatalf("the owner went before %d sets and %d pods", len(c.sets()), len(c.pods("")))
	}
}
