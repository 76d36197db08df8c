package controllers_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/internal/volumes"
)

// localClass makes a class of local volumes, and node n that provides them.
func (c *cluster) localClass() {
	c.Helper()
	_, err := c.client.StorageV1().StorageClasses().Create(c.ctx, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local"},
		Provisioner: volumes.LocalProvisioner, VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer), AllowVolumeExpansion: ptr.To(true)}, metav1.CreateOptions{})
	c.must(err)
	_, err = c.client.CoreV1().Nodes().Create(c.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelHostname: "n"},
		Annotations: map[string]string{volumes.LocalFolders: "/data/volumes"}}}, metav1.CreateOptions{})
	c.must(err)
}

// ofLocal makes a claim of the class; the scheduler has chosen node n for it.
func ofLocal(claim *corev1.PersistentVolumeClaim) {
	claim.Spec.StorageClassName = ptr.To("local")
	claim.Annotations = map[string]string{volumes.SelectedNode: "n"}
}

func (c *cluster) boundLocal(name string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {
	c.Helper()
	c.newClaim(name, ofLocal)
	c.until("the claim is bound", func() bool { return c.getClaim(name).Status.Phase == corev1.ClaimBound })
	claim := c.getClaim(name)
	return claim, c.getVolume(claim.Spec.VolumeName)
}

func TestLocalVolumes(t *testing.T) {
	c := start(t, nil)
	c.localClass()
	claim, v := c.boundLocal("data")
	if v.Name != "pvc-"+string(claim.UID) || v.Spec.Local.Path != "/data/volumes/"+v.Name || !volumes.Local(v, "n") || v.Spec.Capacity.Storage().String() != "1Gi" ||
		v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete || !slices.Contains(v.Finalizers, volumes.LocalFinalizer) ||
		!slices.Equal(v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values, []string{"n"}) {
		t.Fatalf("%+v", v)
	}
	c.event("data", "ProvisioningSucceeded", "Successfully provisioned volume "+v.Name)

	claim.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("2Gi")
	_, err := c.client.CoreV1().PersistentVolumeClaims("default").Update(c.ctx, claim, metav1.UpdateOptions{})
	c.must(err)
	c.until("the volume has grown", func() bool {
		return c.getVolume(v.Name).Spec.Capacity.Storage().String() == "2Gi" && c.getClaim("data").Status.Capacity.Storage().String() == "2Gi"
	})
	c.event("data", "VolumeResizeSuccessful", "Resize volume succeeded")

	c.must(c.client.CoreV1().PersistentVolumeClaims("default").Delete(c.ctx, "data", metav1.DeleteOptions{}))
	c.until("only its node's data holds the volume", func() bool { return volumes.LocalLeaves(c.getVolume(v.Name)) })
	_, err = c.client.CoreV1().PersistentVolumes().Patch(c.ctx, v.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	c.must(err)
	c.until("the volume is gone", func() bool { return c.volumeGone(v.Name) })
}

func (c *cluster) volumeGone(name string) bool {
	_, err := c.client.CoreV1().PersistentVolumes().Get(c.ctx, name, metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}

func TestLocalVolumesGoWithTheirNode(t *testing.T) {
	c := start(t, nil)
	c.localClass()
	_, v := c.boundLocal("data")
	c.must(c.client.CoreV1().PersistentVolumeClaims("default").Delete(c.ctx, "data", metav1.DeleteOptions{}))
	c.until("only its node's data holds the volume", func() bool { return volumes.LocalLeaves(c.getVolume(v.Name)) })
	c.must(c.client.CoreV1().Nodes().Delete(c.ctx, "n", metav1.DeleteOptions{}))
	c.until("the volume is gone", func() bool { return c.volumeGone(v.Name) })
}

func TestLocalVolumesThatCannotBe(t *testing.T) {
	c := start(t, nil)
	c.localClass()
	refused := func(name, why string, change func(*corev1.PersistentVolumeClaim)) {
		t.Helper()
		c.newClaim(name, ofLocal, change)
		c.event(name, "ProvisioningFailed", `failed to provision volume with StorageClass "local": `+why)
	}
	refused("shared", "a volume that lies on one node has no access modes but ReadWriteOnce and ReadWriteOncePod", func(claim *corev1.PersistentVolumeClaim) {
		claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	})
	refused("raw", "it provides folders and no block devices", func(claim *corev1.PersistentVolumeClaim) {
		claim.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
	})
	refused("picky", "claim Selector is not supported", func(claim *corev1.PersistentVolumeClaim) { claim.Spec.Selector = &metav1.LabelSelector{} })
	c.node("bare")
	refused("elsewhere", `node "bare" provides no local volumes`, func(claim *corev1.PersistentVolumeClaim) { claim.Annotations[volumes.SelectedNode] = "bare" })
	c.until("another node may be chosen", func() bool { return !metav1.HasAnnotation(c.getClaim("elsewhere").ObjectMeta, volumes.SelectedNode) })
}
