package controllers_test

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func (c *cluster) ephemeralPod(name string) *corev1.Pod {
	c.Helper()
	pod, err := c.client.CoreV1().Pods("default").Create(c.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
			VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"tier": "scratch"}, Annotations: map[string]string{"a": "b"}},
				Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To("fast"),
					Resources: corev1.VolumeResourceRequirements{Requests: gibibyte()},
				},
			},
		}}}},
	}}, metav1.CreateOptions{})
	c.must(err)
	return pod
}

func TestEphemeralVolumes(t *testing.T) {
	c := start(t, nil)
	pod := c.ephemeralPod("p")
	claims := c.client.CoreV1().PersistentVolumeClaims("default")
	made := func() *corev1.PersistentVolumeClaim {
		c.until("the claim is made", func() bool {
			claim, err := claims.Get(c.ctx, "p-scratch", metav1.GetOptions{})
			return err == nil && claim.DeletionTimestamp == nil
		})
		return c.getClaim("p-scratch")
	}
	claim := made()
	if !metav1.IsControlledBy(claim, pod) || claim.Labels["tier"] != "scratch" || claim.Annotations["a"] != "b" || *claim.Spec.StorageClassName != "fast" ||
		!slices.Equal(claim.Spec.AccessModes, []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}) {
		t.Fatalf("%+v", claim)
	}
	c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, "p", metav1.DeleteOptions{}))
	c.until("the claim goes with its pod", func() bool { return c.claimGone("p-scratch") })
}

func TestForeignClaimOfAnEphemeralVolume(t *testing.T) {
	c := start(t, nil)
	c.newClaim("p-scratch")
	c.ephemeralPod("p")
	c.event("p", "FailedBinding", "ephemeral volume scratch: PVC default/p-scratch was not created for pod default/p (pod is not owner)")
	time.Sleep(20 * time.Millisecond)
	if claim := c.getClaim("p-scratch"); len(claim.OwnerReferences) != 0 {
		t.Fatalf("a foreign claim was taken: %+v", claim.OwnerReferences)
	}
	c.must(c.client.CoreV1().PersistentVolumeClaims("default").Delete(c.ctx, "p-scratch", metav1.DeleteOptions{}))
	c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, "p", metav1.DeleteOptions{}))
	c.until("the foreign claim is free to go", func() bool { return c.claimGone("p-scratch") })
}
