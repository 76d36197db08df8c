package conformance

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/agent/csi/csitest"
	"github.com/coracle-dev/coracle/integration/cluster"
)

// driverTests are of the volumes that CSI drivers provide; each starts a driver on the node.
var driverTests = map[string]func(*env){
	"a driver's volume outlives its pods":                     drivenVolume,
	"a driver's volume is attached before its pod runs":       drivenAttached,
	"a driver's ephemeral volume comes and goes with its pod": drivenEphemeral,
}

// drive starts a driver of that name, which the cluster knows by an object, and waits until the node has announced it.
func (e *env) drive(name string, spec storagev1.CSIDriverSpec) *csitest.Driver {
	e.Helper()
	object := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
	_, err := e.kube.StorageV1().CSIDrivers().Create(e.ctx, object, metav1.CreateOptions{})
	e.must(err)
	e.Cleanup(func() { _ = e.kube.StorageV1().CSIDrivers().Delete(e.ctx, name, metav1.DeleteOptions{}) })
	d := csitest.Start(e.T, e.cluster.Layout.Kubelet(), name)
	e.patiently(func() error {
		node, err := e.kube.StorageV1().CSINodes().Get(e.ctx, e.node().Name, metav1.GetOptions{})
		if err == nil && !slices.ContainsFunc(node.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == name }) {
			err = fmt.Errorf("the drivers are %v", node.Spec.Drivers)
		}
		return err
	})
	return d
}

// drivenClaim makes a volume of a driver, and the claim that is bound to it.
func (e *env) drivenClaim(driver, handle string) {
	e.Helper()
	room := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: handle}, Spec: corev1.PersistentVolumeSpec{
		Capacity: room, AccessModes: modes, StorageClassName: "by-hand", PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		ClaimRef: &corev1.ObjectReference{Namespace: e.ns, Name: "data"}, PersistentVolumeSource: corev1.PersistentVolumeSource{
			CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: handle, VolumeAttributes: map[string]string{"color": "blue"}}},
	}}
	_, err := e.kube.CoreV1().PersistentVolumes().Create(e.ctx, pv, metav1.CreateOptions{})
	e.must(err)
	e.Cleanup(func() { _ = e.kube.CoreV1().PersistentVolumes().Delete(e.ctx, handle, metav1.DeleteOptions{}) })
	class := "by-hand"
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, AccessModes: modes, Resources: corev1.VolumeResourceRequirements{Requests: room}}}
	_, err = e.kube.CoreV1().PersistentVolumeClaims(e.ns).Create(e.ctx, claim, metav1.CreateOptions{})
	e.must(err)
}

// withVolume gives the pod's containers a volume at /data.
func withVolume(pod *corev1.Pod, source corev1.VolumeSource) *corev1.Pod {
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "data", VolumeSource: source})
	for i := range pod.Spec.Containers {
		pod.Spec.Containers[i].VolumeMounts = append(pod.Spec.Containers[i].VolumeMounts, corev1.VolumeMount{Name: "data", MountPath: "/data"})
	}
	return pod
}

var ofClaim = corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}

// goes deletes a pod and waits until it is gone.
func (e *env) goes(name string) {
	e.Helper()
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, name, metav1.DeleteOptions{}))
	e.patiently(func() error {
		if _, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, name, metav1.GetOptions{}); err == nil {
			return errors.New("the pod is still there")
		}
		return nil
	})
}

func drivenVolume(e *env) {
	d := e.drive("shelf.example.com", storagev1.CSIDriverSpec{AttachRequired: new(bool), PodInfoOnMount: new(true)})
	e.drivenClaim(d.Name, "shelf-1")
	if log := e.finish(withVolume(onePod("writer", shell("c", "echo kept > /data/file; stat -f -c %T /data >/dev/null; echo done")), ofClaim)); log != "done\n" {
		e.Errorf("the writer printed %q", log)
	}
	told := d.Told("shelf-1")
	if told["color"] != "blue" || told["csi.storage.k8s.io/pod.name"] != "writer" || told["csi.storage.k8s.io/pod.namespace"] != e.ns {
		e.Errorf("the driver was told %v", told)
	}
	e.goes("writer")
	e.patiently(func() error { // the pod had no grace: it went at once
		return cluster.Want("calls", strings.Join(d.Calls(), ","), "stage shelf-1,publish shelf-1,unpublish shelf-1,unstage shelf-1")
	})
	if log := e.finish(withVolume(onePod("reader", shell("c", "cat /data/file")), ofClaim)); log != "kept\n" {
		e.Errorf("the reader printed %q", log)
	}
}

func drivenAttached(e *env) {
	d := e.drive("remote.example.com", storagev1.CSIDriverSpec{})
	e.drivenClaim(d.Name, "remote-1")
	e.create(withVolume(onePod("waits", shell("c", "touch /data/x; sleep 1000")), ofClaim))
	var name string
	attachments := e.kube.StorageV1().VolumeAttachments()
	e.patiently(func() error {
		list, err := attachments.List(e.ctx, metav1.ListOptions{})
		e.must(err)
		for _, a := range list.Items {
			if a.Spec.Attacher == d.Name {
				name = a.Name
				return nil
			}
		}
		return errors.New("nobody asks for the volume to be attached")
	})
	e.patiently(func() error {
		events, err := e.kube.CoreV1().Events(e.ns).List(e.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=waits,reason=FailedMount"})
		if err == nil && !slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return strings.Contains(e.Message, "not attached") }) {
			err = fmt.Errorf("the events are %v", events.Items)
		}
		return err
	})
	if calls := d.Calls(); len(calls) > 0 {
		e.Errorf("called before it was attached: %v", calls)
	}
	_, err := attachments.Patch(e.ctx, name, types.MergePatchType, []byte(`{"status":{"attached":true,"attachmentMetadata":{"device":"/dev/r1"}}}`), metav1.PatchOptions{}, "status")
	e.must(err)
	e.running("waits")
	if told := d.PublishContext("remote-1"); told["device"] != "/dev/r1" {
		e.Errorf("the attacher's words came as %v", told)
	}
	unique := corev1.UniqueVolumeName("kubernetes.io/csi/remote.example.com^remote-1")
	e.patiently(func() error {
		if used := e.node().Status.VolumesInUse; !slices.Contains(used, unique) {
			return fmt.Errorf("in use: %v", used)
		}
		return nil
	})
	e.goes("waits")
	cluster.Eventually(e.T, time.Minute, func() error {
		if _, err := attachments.Get(e.ctx, name, metav1.GetOptions{}); err == nil {
			return errors.New("the volume stays attached")
		}
		return nil
	})
}

func drivenEphemeral(e *env) {
	d := e.drive("scratch.example.com", storagev1.CSIDriverSpec{AttachRequired: new(bool), VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}})
	inline := corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: d.Name, VolumeAttributes: map[string]string{"size": "10"}}}
	if log := e.finish(withVolume(onePod("own", shell("c", "echo 1 > /data/x; cat /data/x")), inline)); log != "1\n" {
		e.Errorf("printed %q", log)
	}
	e.goes("own")
	e.patiently(func() error {
		if calls := d.Calls(); len(calls) != 2 || !strings.HasPrefix(calls[0], "publish csi-") || !strings.HasPrefix(calls[1], "unpublish csi-") {
			return fmt.Errorf("the driver was called %v", calls)
		}
		return nil
	})
}
