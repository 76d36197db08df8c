package controllers_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/volumeprotection"
)

// until waits for a condition.
func (c *cluster) until(what string, ok func() bool) {
	c.Helper()
	c.eventually(what, func() error {
		if !ok() {
			return errors.New("not yet")
		}
		return nil
	})
}

func gibibyte() corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
}

func (c *cluster) claim(name string, class *string) {
	c.Helper()
	claims := c.client.CoreV1().PersistentVolumeClaims("default")
	_, err := claims.Create(c.ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, VolumeAttributesClassName: class,
		Resources: corev1.VolumeResourceRequirements{Requests: gibibyte()},
	}}, metav1.CreateOptions{})
	c.must(err)
	c.until(name+" is protected", func() bool {
		o, err := claims.Get(c.ctx, name, metav1.GetOptions{})
		return err == nil && slices.Contains(o.Finalizers, volumeprotection.ClaimFinalizer)
	})
}

func (c *cluster) claimGone(name string) bool {
	_, err := c.client.CoreV1().PersistentVolumeClaims("default").Get(c.ctx, name, metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}

func TestClaimStaysWhileAPodUsesIt(t *testing.T) {
	c := start(t, nil)
	claims, pods := c.client.CoreV1().PersistentVolumeClaims("default"), c.client.CoreV1().Pods("default")
	c.claim("unused", nil)
	c.must(claims.Delete(c.ctx, "unused", metav1.DeleteOptions{}))
	c.until("the unused claim goes", func() bool { return c.claimGone("unused") })

	c.claim("used", nil)
	_, err := pods.Create(c.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "user"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "used"}}}},
	}}, metav1.CreateOptions{})
	c.must(err)
	c.until("the pod has a node", func() bool {
		p, err := pods.Get(c.ctx, "user", metav1.GetOptions{})
		return err == nil && p.Spec.NodeName != ""
	})
	c.must(claims.Delete(c.ctx, "used", metav1.DeleteOptions{}))
	c.claim("later", nil) // the controller has come past the deletion once this has its finalizer
	time.Sleep(50 * time.Millisecond)
	if o, err := claims.Get(c.ctx, "used", metav1.GetOptions{}); err != nil || o.DeletionTimestamp == nil {
		t.Fatalf("the claim of a pod: %v, %v", o, err)
	}
	c.must(pods.Delete(c.ctx, "user", metav1.DeleteOptions{}))
	c.until("the claim goes after its pod", func() bool { return c.claimGone("used") })
}

func TestVolumeStaysWhileBound(t *testing.T) {
	c := start(t, nil)
	volumes := c.client.CoreV1().PersistentVolumes()
	c.hostVolume("v")
	c.claim("user", nil)
	c.volumeClaimIs("user", corev1.ClaimBound, "v")
	c.until("the volume is protected", func() bool {
		return slices.Contains(c.volumeIs("v", corev1.VolumeBound).Finalizers, volumeprotection.VolumeFinalizer)
	})
	c.must(volumes.Delete(c.ctx, "v", metav1.DeleteOptions{}))
	time.Sleep(50 * time.Millisecond)
	if pv, err := volumes.Get(c.ctx, "v", metav1.GetOptions{}); err != nil || pv.DeletionTimestamp == nil {
		t.Fatalf("the bound volume: %v, %v", pv, err)
	}
	c.deleteClaim("user")
	c.until("the released volume goes", func() bool {
		_, err := volumes.Get(c.ctx, "v", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

func TestAttributesClassStaysWhileNamed(t *testing.T) {
	c := start(t, nil)
	classes := c.client.StorageV1().VolumeAttributesClasses()
	_, err := classes.Create(c.ctx, &storagev1.VolumeAttributesClass{
		ObjectMeta: metav1.ObjectMeta{Name: "fast"}, DriverName: "d.example.com", Parameters: map[string]string{"iops": "1"},
	}, metav1.CreateOptions{})
	c.must(err)
	c.claim("user", ptr.To("fast"))
	c.until("the class is protected", func() bool {
		o, err := classes.Get(c.ctx, "fast", metav1.GetOptions{})
		return err == nil && slices.Contains(o.Finalizers, volumeprotection.ClassFinalizer)
	})
	c.must(classes.Delete(c.ctx, "fast", metav1.DeleteOptions{}))
	time.Sleep(50 * time.Millisecond)
	if o, err := classes.Get(c.ctx, "fast", metav1.GetOptions{}); err != nil || o.DeletionTimestamp == nil {
		t.Fatalf("the class of a claim: %v, %v", o, err)
	}
	c.must(c.client.CoreV1().PersistentVolumeClaims("default").Delete(c.ctx, "user", metav1.DeleteOptions{}))
	c.until("the class goes after its claim", func() bool {
		_, err := classes.Get(c.ctx, "fast", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}
