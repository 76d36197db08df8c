package controllers_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/internal/volumes"
)

// csiClaim makes a claim bound to a volume of the driver.
func (c *cluster) csiClaim(name, driver string) {
	c.Helper()
	c.hostVolume(name, func(v *corev1.PersistentVolume) {
		v.Spec.HostPath, v.Spec.CSI = nil, &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: "handle-" + name}
	})
	c.newClaim(name, naming(name))
	c.volumeClaimIs(name, corev1.ClaimBound, name)
}

func (c *cluster) podWithClaim(name, node, claim string) {
	c.Helper()
	_, err := c.client.CoreV1().Pods("default").Create(c.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "broken"}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}},
	}}, metav1.CreateOptions{})
	c.must(err)
}

// attachment waits for the attachment of a claim's volume to a node.
func (c *cluster) attachment(claim, driver, node string) (a *storagev1.VolumeAttachment) {
	c.Helper()
	c.eventually("attachment of "+claim+" to "+node, func() (err error) {
		a, err = c.client.StorageV1().VolumeAttachments().Get(c.ctx, volumes.AttachmentName(driver, "handle-"+claim, node), metav1.GetOptions{})
		return err
	})
	return a
}

func (c *cluster) attachments() (list []string) {
	c.Helper()
	all, err := c.client.StorageV1().VolumeAttachments().List(c.ctx, metav1.ListOptions{})
	c.must(err)
	for _, a := range all.Items {
		list = append(list, *a.Spec.Source.PersistentVolumeName+" to "+a.Spec.NodeName)
	}
	slices.Sort(list)
	return list
}

// nodeStatus changes a node's status until the write is accepted.
func (c *cluster) nodeStatus(name string, change func(*corev1.NodeStatus)) {
	c.Helper()
	c.eventually("status of "+name, func() error {
		node, err := c.client.CoreV1().Nodes().Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		change(&node.Status)
		_, err = c.client.CoreV1().Nodes().UpdateStatus(c.ctx, node, metav1.UpdateOptions{})
		return err
	})
}

func (c *cluster) reports(node string, want ...corev1.UniqueVolumeName) {
	c.Helper()
	c.eventually("report of "+node, func() error {
		node, err := c.client.CoreV1().Nodes().Get(c.ctx, node, metav1.GetOptions{})
		c.must(err)
		var got []corev1.UniqueVolumeName
		for _, v := range node.Status.VolumesAttached {
			got = append(got, v.Name)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

func TestVolumesAreAttached(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.node("n2")
	_, err := c.client.StorageV1().CSIDrivers().Create(c.ctx, &storagev1.CSIDriver{
		ObjectMeta: metav1.ObjectMeta{Name: "local.example.com"}, Spec: storagev1.CSIDriverSpec{AttachRequired: ptr.To(false)},
	}, metav1.CreateOptions{})
	c.must(err)
	vas := c.client.StorageV1().VolumeAttachments()
	_, err = vas.Create(c.ctx, &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "by-hand"}, Spec: storagev1.VolumeAttachmentSpec{
		NodeName: "n2", Attacher: "a.example.com", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("other")},
	}}, metav1.CreateOptions{})
	c.must(err)
	c.csiClaim("disk", "disk.example.com")
	c.csiClaim("scratch", "local.example.com")
	c.podWithClaim("first", "n1", "disk")
	c.podWithClaim("second", "n1", "scratch")

	a := c.attachment("disk", "disk.example.com", "n1")
	if a.Spec.Attacher != "disk.example.com" || *a.Spec.Source.PersistentVolumeName != "disk" {
		t.Fatalf("%+v", a.Spec)
	}
	a.Status.AttachError = &storagev1.VolumeError{Message: "no disk today"}
	a, err = vas.UpdateStatus(c.ctx, a, metav1.UpdateOptions{})
	c.must(err)
	c.event("first", "FailedAttachVolume", `AttachVolume.Attach failed for volume "disk" : no disk today`)
	a.Status = storagev1.VolumeAttachmentStatus{Attached: true}
	_, err = vas.UpdateStatus(c.ctx, a, metav1.UpdateOptions{})
	c.must(err)
	c.event("first", "SuccessfulAttachVolume", `AttachVolume.Attach succeeded for volume "disk" `)
	unique := volumes.UniqueName("disk.example.com", "handle-disk")
	c.reports("n1", unique)
	c.nodeStatus("n1", func(s *corev1.NodeStatus) { s.VolumesInUse = []corev1.UniqueVolumeName{unique} })

	c.podWithClaim("rival", "n2", "disk")
	c.event("rival", "FailedAttachVolume", `Multi-Attach error for volume "disk" Volume is already used by pod(s) first`)
	c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, "first", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	time.Sleep(100 * time.Millisecond)
	if got := c.attachments(); !slices.Equal(got, []string{"disk to n1", "other to n2"}) {
		t.Fatalf("a volume in use: %v", got)
	}
	c.nodeStatus("n1", func(s *corev1.NodeStatus) { s.VolumesInUse = nil })
	c.attachment("disk", "disk.example.com", "n2")
	c.reports("n1")
	if got := c.attachments(); !slices.Equal(got, []string{"disk to n2", "other to n2"}) {
		t.Fatalf("%v", got)
	}
}

func TestVolumesOfANodeOutOfService(t *testing.T) {
	c := start(t, nil)
	node := c.node("n1")
	c.node("n2")
	c.csiClaim("disk", "disk.example.com")
	c.podWithClaim("first", "n1", "disk")
	a := c.attachment("disk", "disk.example.com", "n1")
	a.Status.Attached = true
	_, err := c.client.StorageV1().VolumeAttachments().UpdateStatus(c.ctx, a, metav1.UpdateOptions{})
	c.must(err)
	c.nodeStatus("n1", func(s *corev1.NodeStatus) {
		s.VolumesInUse = []corev1.UniqueVolumeName{volumes.UniqueName("disk.example.com", "handle-disk")}
		s.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse}}
	})
	c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, "first", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	c.podWithClaim("next", "n2", "disk")
	c.event("next", "FailedAttachVolume", `Multi-Attach error for volume "disk" Volume is already exclusively attached to one node and can't be attached to another`)
	_, err = c.client.CoreV1().Nodes().Patch(c.ctx, node.Name, "application/merge-patch+json",
		[]byte(`{"spec":{"taints":[{"key":"node.kubernetes.io/out-of-service","value":"nodeshutdown","effect":"NoExecute"}]}}`), metav1.PatchOptions{})
	c.must(err)
	c.attachment("disk", "disk.example.com", "n2")
}
