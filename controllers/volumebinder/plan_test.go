package volumebinder

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/internal/volumes"
)

func quantity(size string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
}

// newVolume is available and has 1Gi.
func newVolume(name string, changes ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: quantity("1Gi"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	for _, change := range changes {
		change(v)
	}
	return v
}

// newClaim is ns/name with the UID u-name.
func newClaim(name string, changes ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("u-" + name)},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: quantity("1Gi")},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	for _, change := range changes {
		change(c)
	}
	return c
}

func refersTo(name, uid string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: name, UID: types.UID(uid), ResourceVersion: "3"}
	}
}

func policy(p corev1.PersistentVolumeReclaimPolicy) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = p }
}

func inPhase(p corev1.PersistentVolumePhase) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) { v.Status.Phase = p }
}

func annotated(name, value string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) { metav1.SetMetaDataAnnotation(&v.ObjectMeta, name, value) }
}

func host(v *corev1.PersistentVolume) { v.Spec.HostPath = &corev1.HostPathVolumeSource{Path: "/d"} }

func names(volume string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = volume }
}

func completed(c *corev1.PersistentVolumeClaim) {
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, volumes.BindCompleted, "yes")
}

func selected(c *corev1.PersistentVolumeClaim) {
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, volumes.SelectedNode, "n")
}

func growing(c *corev1.PersistentVolumeClaim) {
	c.Status.Phase, c.Status.Capacity, c.Spec.Resources.Requests = corev1.ClaimBound, quantity("1Gi"), quantity("2Gi")
}

func inClass(name string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = &name }
}

func class(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

func TestDecideClaim(t *testing.T) {
	now, later := class("c", "d.io", storagev1.VolumeBindingImmediate), class("c", "d.io", storagev1.VolumeBindingWaitForFirstConsumer)
	tests := []struct {
		name  string
		view  claimView
		want  claimPlan // without its event
		event string
	}{
		{"a volume is there", claimView{claim: newClaim("a"), volume: newVolume("v")}, claimPlan{bind: true}, ""},
		{"nothing is there", claimView{claim: newClaim("a")}, claimPlan{phase: corev1.ClaimPending}, "FailedBinding"},
		{"no class, a default one", claimView{claim: newClaim("a"), fallback: now}, claimPlan{class: "c"}, ""},
		{"the empty class", claimView{claim: newClaim("a", inClass("")), fallback: now}, claimPlan{phase: corev1.ClaimPending}, "FailedBinding"},
		{"unknown class", claimView{claim: newClaim("a", inClass("c"))}, claimPlan{}, "ProvisioningFailed"},
		{"provisioned", claimView{claim: newClaim("a", inClass("c")), class: now}, claimPlan{provisioner: "d.io"}, "ExternalProvisioning"},
		{"delayed", claimView{claim: newClaim("a", inClass("c")), class: later}, claimPlan{phase: corev1.ClaimPending}, "WaitForFirstConsumer"},
		{"delayed, a pod waits", claimView{claim: newClaim("a", inClass("c")), class: later, waiting: []string{"p"}}, claimPlan{phase: corev1.ClaimPending}, "WaitForPodScheduled"},
		{"delayed, a node is chosen", claimView{claim: newClaim("a", inClass("c"), selected), class: later}, claimPlan{provisioner: "d.io"}, "ExternalProvisioning"},
		{"names a volume that is not there", claimView{claim: newClaim("a", names("v"))}, claimPlan{phase: corev1.ClaimPending}, ""},
		{"names a free volume", claimView{claim: newClaim("a", names("v")), volume: newVolume("v")}, claimPlan{bind: true}, ""},
		{"names a volume of another class", claimView{claim: newClaim("a", names("v"), inClass("c")), volume: newVolume("v")}, claimPlan{phase: corev1.ClaimPending}, "VolumeMismatch"},
		{"names its own volume, of another class", claimView{claim: newClaim("a", names("v"), inClass("c")), volume: newVolume("v", refersTo("a", ""))}, claimPlan{bind: true}, ""},
		{"names another's volume", claimView{claim: newClaim("a", names("v")), volume: newVolume("v", refersTo("b", "u-b"))}, claimPlan{phase: corev1.ClaimPending}, "FailedBinding"},
		{"names the volume of its predecessor", claimView{claim: newClaim("a", names("v")), volume: newVolume("v", refersTo("a", "old"))}, claimPlan{phase: corev1.ClaimPending}, "FailedBinding"},
		{"bound", claimView{claim: newClaim("a", completed, names("v")), volume: newVolume("v", refersTo("a", "u-a"))}, claimPlan{bind: true}, ""},
		{"bound and to grow", claimView{claim: newClaim("a", completed, names("v"), growing), volume: newVolume("v", refersTo("a", "u-a"))}, claimPlan{bind: true}, "ExternalExpanding"},
		{"bound, the volume was set free", claimView{claim: newClaim("a", completed, names("v")), volume: newVolume("v")}, claimPlan{bind: true}, ""},
		{"bound, the volume is gone", claimView{claim: newClaim("a", completed, names("v"))}, claimPlan{phase: corev1.ClaimLost}, "ClaimLost"},
		{"bound, the name is gone", claimView{claim: newClaim("a", completed)}, claimPlan{phase: corev1.ClaimLost}, "ClaimLost"},
		{"bound, another has the volume", claimView{claim: newClaim("a", completed, names("v")), volume: newVolume("v", refersTo("b", "u-b"))}, claimPlan{phase: corev1.ClaimLost}, "ClaimMisbound"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := decideClaim(tt.view)
			reason := ""
			if got.event != nil {
				reason = got.event.reason
			}
			if got.event = nil; got != tt.want || reason != tt.event {
				t.Fatalf("%+v, event %q", got, reason)
			}
		})
	}
}

func TestDecideVolume(t *testing.T) {
	provisioned := annotated(volumes.ProvisionedBy, "d.io")
	del, recycle := corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle
	tests := []struct {
		name   string
		volume *corev1.PersistentVolume
		holder *corev1.PersistentVolumeClaim
		want   volumePlan // without event and message
	}{
		{"free", newVolume("v"), nil, volumePlan{phase: corev1.VolumeAvailable}},
		{"reserved", newVolume("v", refersTo("a", "")), nil, volumePlan{phase: corev1.VolumeAvailable}},
		{"bound", newVolume("v", refersTo("a", "u-a")), newClaim("a", names("v")), volumePlan{phase: corev1.VolumeBound}},
		{"half bound", newVolume("v", refersTo("a", "u-a")), newClaim("a"), volumePlan{}},
		{"bound, the claim went elsewhere", newVolume("v", refersTo("a", "u-a")), newClaim("a", names("w")), volumePlan{unbind: true}},
		{"made for a claim that went elsewhere", newVolume("v", refersTo("a", "u-a"), provisioned, policy(del)), newClaim("a", names("w")), volumePlan{phase: corev1.VolumeReleased}},
		{"made for it and kept", newVolume("v", refersTo("a", "u-a"), provisioned), newClaim("a", names("w")), volumePlan{unbind: true}},
		{"retained", newVolume("v", refersTo("a", "u-a")), nil, volumePlan{phase: corev1.VolumeReleased}},
		{"failed stays so", newVolume("v", refersTo("a", "u-a"), inPhase(corev1.VolumeFailed)), nil, volumePlan{}},
		{"deleted outside", newVolume("v", refersTo("a", "u-a"), provisioned, policy(del)), nil, volumePlan{phase: corev1.VolumeReleased}},
		{"deleted by a driver that took over", newVolume("v", refersTo("a", "u-a"), annotated(volumes.ProvisionedBy, "kubernetes.io/gce-pd"), policy(del)), nil, volumePlan{phase: corev1.VolumeReleased}},
		{"deleted by nobody", newVolume("v", refersTo("a", "u-a"), policy(del)), nil, volumePlan{phase: corev1.VolumeFailed}},
		{"recycled", newVolume("v", refersTo("a", "u-a"), host, policy(recycle)), nil, volumePlan{phase: corev1.VolumeReleased, recycle: true}},
		{"not recycled", newVolume("v", refersTo("a", "u-a"), policy(recycle)), nil, volumePlan{phase: corev1.VolumeFailed}},
		{"unknown policy", newVolume("v", refersTo("a", "u-a"), policy("Burn")), nil, volumePlan{phase: corev1.VolumeFailed}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := decideVolume(tt.volume, tt.holder)
			if (got.event != nil) != (got.phase == corev1.VolumeFailed) {
				t.Fatalf("event %v", got.event)
			}
			if got.event, got.message = nil, ""; got != tt.want {
				t.Fatalf("%+v", got)
			}
		})
	}
}

func TestUnbound(t *testing.T) {
	chosen := unbound(newVolume("v", refersTo("a", "u-a"), annotated(volumes.BoundByController, "yes")))
	if chosen.Spec.ClaimRef != nil || len(chosen.Annotations) != 0 {
		t.Fatalf("%+v %v", chosen.Spec.ClaimRef, chosen.Annotations)
	}
	reserved := unbound(newVolume("v", refersTo("a", "u-a"))).Spec.ClaimRef
	if reserved == nil || reserved.Name != "a" || reserved.UID != "" {
		t.Fatalf("%+v", reserved)
	}
}

func TestClaimStatus(t *testing.T) {
	v := newVolume("v", func(v *corev1.PersistentVolume) { v.Spec.VolumeAttributesClassName = ptr.To("gold") })
	c, changed := claimStatus(newClaim("a"), corev1.ClaimBound, v)
	if !changed || c.Status.Phase != corev1.ClaimBound || c.Status.Capacity.Storage().String() != "1Gi" || *c.Status.CurrentVolumeAttributesClassName != "gold" || len(c.Status.AccessModes) != 1 {
		t.Fatalf("%+v", c.Status)
	}
	if _, changed := claimStatus(c, corev1.ClaimBound, v); changed {
		t.Fatal("written twice")
	}
	v.Spec.Capacity = quantity("2Gi") // grown: the file system follows later
	if again, changed := claimStatus(c, corev1.ClaimBound, v); changed || again.Status.Capacity.Storage().String() != "1Gi" {
		t.Fatalf("the resizer's capacity was taken: %+v", again.Status)
	}
	if lost, changed := claimStatus(c, corev1.ClaimLost, nil); !changed || lost.Status.Capacity != nil || lost.Status.AccessModes != nil || lost.Status.CurrentVolumeAttributesClassName != nil {
		t.Fatalf("%+v", lost.Status)
	}
	grown, _ := claimStatus(newClaim("b"), corev1.ClaimBound, newVolume("w", annotated(resizedFrom, "512Mi")))
	if got := grown.Status.Capacity.Storage().String(); got != "512Mi" {
		t.Fatal(got)
	}
}

func TestRecycler(t *testing.T) {
	v := newVolume("v", host, refersTo("a", "u-a"), func(v *corev1.PersistentVolume) { v.Spec.Capacity = quantity("10Gi") })
	pod := recycler(v)
	if name, ok := recycled(pod); !ok || name != "v" || *pod.Spec.ActiveDeadlineSeconds != 300 || pod.Spec.Volumes[0].HostPath.Path != "/d" || pod.Annotations[recyclesFor] != "u-a" {
		t.Fatalf("%+v", pod)
	}
	if pod := recycler(newVolume("v", host, refersTo("a", "u-a"))); *pod.Spec.ActiveDeadlineSeconds != 60 {
		t.Fatalf("%d s", *pod.Spec.ActiveDeadlineSeconds)
	}
}
