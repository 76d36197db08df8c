package controllers_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// TestHashCollision gives the name that a deployment's set would have to somebody else's.
func TestHashCollision(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.deploy(deployment(1))
	taken := c.sets()[0].Name
	c.must(c.client.AppsV1().Deployments("default").Delete(c.ctx, "web", metav1.DeleteOptions{}))
	c.eventually("the set's end", func() error {
		if n := len(c.sets()); n != 0 {
			return fmt.Errorf("%d sets", n)
		}
		return nil
	})
	foreign := map[string]string{"app": "foreign"}
	_, err := c.client.AppsV1().ReplicaSets("default").Create(c.ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: taken, Labels: foreign}, Spec: appsv1.ReplicaSetSpec{
		Replicas: ptr.To[int32](0), Selector: &metav1.LabelSelector{MatchLabels: foreign}, Template: template(foreign, "other")}}, metav1.CreateOptions{})
	c.must(err)
	c.deploy(deployment(1))
	d, err := c.client.AppsV1().Deployments("default").Get(c.ctx, "web", metav1.GetOptions{})
	c.must(err)
	if n := ptr.Deref(d.Status.CollisionCount, 0); n != 1 {
		t.Errorf("%d collisions", n)
	}
	for _, set := range c.sets() {
		owner := metav1.GetControllerOf(&set)
		if (set.Name == taken) != (owner == nil) {
			t.Errorf("%s has owner %v", set.Name, owner)
		}
	}
	c.change("web", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](2) })
	c.rolledOut("web")
	if n := len(c.sets()); n != 2 {
		t.Errorf("%d sets: the count of collisions does not last", n)
	}
}

// TestMinReadySeconds: a pod counts as available once it has been ready for long enough, and a rollout waits for that.
func TestMinReadySeconds(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	d := deployment(2)
	d.Spec.MinReadySeconds = 2
	begun := time.Now()
	_, err := c.client.AppsV1().Deployments("default").Create(c.ctx, d, metav1.CreateOptions{})
	c.must(err)
	c.eventually("ready pods", func() error {
		d, err := c.client.AppsV1().Deployments("default").Get(c.ctx, "web", metav1.GetOptions{})
		if err == nil && d.Status.ReadyReplicas != 2 {
			err = fmt.Errorf("%d ready", d.Status.ReadyReplicas)
		}
		if err == nil && d.Status.AvailableReplicas != 0 && time.Since(begun) < time.Second {
			t.Errorf("available after %v", time.Since(begun))
		}
		return err
	})
	c.rolledOut("web")
	if took := time.Since(begun); took < time.Second { // times in the API are whole seconds
		t.Errorf("available after %v", took)
	}
	begun = time.Now()
	c.change("web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v2" })
	c.rolledOut("web")
	if took := time.Since(begun); took < 2*time.Second { // with 25% one pod at a time
		t.Errorf("rolled out after %v", took)
	}
	c.change("web", func(d *appsv1.Deployment) { d.Spec.MinReadySeconds = 0 })
	c.eventually("the newest set's minReadySeconds", func() error {
		for _, set := range c.sets() {
			if set.Spec.Template.Spec.Containers[0].Image == "v2" && set.Spec.MinReadySeconds != 0 {
				return fmt.Errorf("is %d", set.Spec.MinReadySeconds)
			}
		}
		return nil
	})
}

// TestOrphansAreTakenBack deletes a deployment without its pods, and makes it anew: nothing restarts.
func TestOrphansAreTakenBack(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.deploy(deployment(3))
	uids := func() []string {
		var list []string
		for _, pod := range c.pods("") {
			list = append(list, string(pod.UID))
		}
		slices.Sort(list)
		return list
	}
	before := uids()
	c.must(c.client.AppsV1().Deployments("default").Delete(c.ctx, "web", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationOrphan)}))
	c.eventually("the set is let go", func() error {
		_, err := c.client.AppsV1().Deployments("default").Get(c.ctx, "web", metav1.GetOptions{})
		if err == nil || len(c.sets()[0].OwnerReferences) > 0 {
			return fmt.Errorf("deployment: %v, owners %v", err, c.sets()[0].OwnerReferences)
		}
		return nil
	})
	c.deploy(deployment(3))
	if after := uids(); !slices.Equal(before, after) {
		t.Errorf("pods %v, before %v", after, before)
	}
	if n := len(c.sets()); n != 1 {
		t.Errorf("%d sets", n)
	}
}
