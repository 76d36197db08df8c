package controllers_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var oneDevice = resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
	Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}}}}}

// claimTemplate makes a template of claims.
func (c *cluster) deviceTemplate(name string) {
	c.Helper()
	_, err := c.client.ResourceV1().ResourceClaimTemplates("default").Create(c.ctx, &resourcev1.ResourceClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       resourcev1.ResourceClaimTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"from": name}}, Spec: oneDevice},
	}, metav1.CreateOptions{})
	c.must(err)
}

// claimingPod makes a pod that uses a claim by name, and one by template.
func (c *cluster) claimingPod(name, claim, template string) *corev1.Pod {
	c.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}}
	if claim != "" {
		pod.Spec.ResourceClaims = append(pod.Spec.ResourceClaims, corev1.PodResourceClaim{Name: "named", ResourceClaimName: &claim})
	}
	if template != "" {
		pod.Spec.ResourceClaims = append(pod.Spec.ResourceClaims, corev1.PodResourceClaim{Name: "gpu", ResourceClaimTemplateName: &template})
	}
	made, err := c.client.CoreV1().Pods("default").Create(c.ctx, pod, metav1.CreateOptions{})
	c.must(err)
	return made
}

// generatedClaim waits for the claim of a pod's template.
func (c *cluster) generatedClaim(pod string) *resourcev1.ResourceClaim {
	c.Helper()
	var claim *resourcev1.ResourceClaim
	c.eventually("the claim of "+pod, func() error {
		p, err := c.client.CoreV1().Pods("default").Get(c.ctx, pod, metav1.GetOptions{})
		c.must(err)
		if len(p.Status.ResourceClaimStatuses) != 1 || p.Status.ResourceClaimStatuses[0].Name != "gpu" {
			return fmt.Errorf("%+v", p.Status.ResourceClaimStatuses)
		}
		claim, err = c.client.ResourceV1().ResourceClaims("default").Get(c.ctx, *p.Status.ResourceClaimStatuses[0].ResourceClaimName, metav1.GetOptions{})
		if err == nil && !metav1.IsControlledBy(claim, p) {
			return errors.New("it is another's")
		}
		return err
	})
	return claim
}

// allocate does as the scheduler: it protects a claim, allocates it, and reserves it for pods.
func (c *cluster) allocate(name string, users ...*corev1.Pod) {
	c.Helper()
	claims := c.client.ResourceV1().ResourceClaims("default")
	c.eventually("allocation of "+name, func() error {
		claim, err := claims.Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		claim.Finalizers = append(claim.Finalizers, resourcev1.Finalizer)
		if claim, err = claims.Update(c.ctx, claim, metav1.UpdateOptions{}); err != nil {
			return err
		}
		claim.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Request: "r", Driver: "gpu.example.org", Pool: "n1", Device: "d0"}}}}
		for _, pod := range users {
			claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
		}
		_, err = claims.UpdateStatus(c.ctx, claim, metav1.UpdateOptions{})
		return err
	})
}

// claimIs waits until a claim's users, allocation and protection are as told.
func (c *cluster) deviceClaimIs(name, want string) {
	c.Helper()
	c.eventually("claim "+name, func() error {
		claim, err := c.client.ResourceV1().ResourceClaims("default").Get(c.ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			if want == "gone" {
				return nil
			}
			return err
		}
		c.must(err)
		var users []string
		for _, r := range claim.Status.ReservedFor {
			users = append(users, r.Name)
		}
		if got := fmt.Sprint(users, " allocated ", claim.Status.Allocation != nil, " finalizers ", len(claim.Finalizers)); got != want {
			return fmt.Errorf("it is %s, want %s", got, want)
		}
		return nil
	})
}

func (c *cluster) podEnds(name string) {
	c.Helper()
	_, err := c.client.CoreV1().Pods("default").Patch(c.ctx, name, "application/merge-patch+json", []byte(`{"status":{"phase":"Succeeded"}}`), metav1.PatchOptions{}, "status")
	c.must(err)
}

func TestClaimsFromTemplates(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.claimingPod("web", "", "late")
	c.event("web", "FailedResourceClaimCreation", `PodResourceClaim gpu: resource claim template "late": resourceclaimtemplate.resource.k8s.io "late" not found`)
	c.deviceTemplate("late")
	claim := c.generatedClaim("web")
	if !strings.HasPrefix(claim.Name, "web-gpu-") || len(claim.Name) != len("web-gpu-")+5 || claim.Labels["from"] != "late" || claim.Annotations["resource.kubernetes.io/pod-claim-name"] != "gpu" {
		t.Errorf("%+v", claim.ObjectMeta)
	}
	if list, err := c.client.ResourceV1().ResourceClaims("default").List(c.ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 1 {
		t.Errorf("%d claims, %v", len(list.Items), err)
	}
	// One that was deleted by mistake is made again.
	c.must(c.client.ResourceV1().ResourceClaims("default").Delete(c.ctx, claim.Name, metav1.DeleteOptions{}))
	c.eventually("another claim", func() error {
		if again := c.generatedClaim("web"); again.UID == claim.UID {
			return errors.New("the old one")
		}
		return nil
	})
	// The pod's node was chosen by somebody who reserves nothing.
	c.allocate(c.generatedClaim("web").Name)
	c.deviceClaimIs(claim.Name, "[web] allocated true finalizers 1")
	c.podEnds("web")
	c.deviceClaimIs(claim.Name, "gone")
}

func TestClaimsAreGivenBack(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	_, err := c.client.ResourceV1().ResourceClaims("default").Create(c.ctx, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "shared"}, Spec: oneDevice}, metav1.CreateOptions{})
	c.must(err)
	first, second := c.claimingPod("first", "shared", ""), c.claimingPod("second", "shared", "")
	c.allocate("shared", first, second, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "never", UID: "none"}})
	c.deviceClaimIs("shared", "[first second] allocated true finalizers 1")
	c.podEnds("first")
	c.deviceClaimIs("shared", "[second] allocated true finalizers 1")
	c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, "second", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	c.deviceClaimIs("shared", "[] allocated false finalizers 0")

	third := c.claimingPod("third", "shared", "")
	c.allocate("shared", third)
	c.must(c.client.ResourceV1().ResourceClaims("default").Delete(c.ctx, "shared", metav1.DeleteOptions{}))
	c.deviceClaimIs("shared", "[third] allocated true finalizers 1")
	c.podEnds("third")
	c.deviceClaimIs("shared", "gone")
}
