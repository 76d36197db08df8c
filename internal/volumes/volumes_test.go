package volumes

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func volume(name, size string, changes ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	for _, change := range changes {
		change(v)
	}
	return v
}

func claim(size string, changes ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c", UID: "u", ResourceVersion: "7"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
		},
	}
	for _, change := range changes {
		change(c)
	}
	return c
}

func forClaim(name, uid string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: name, UID: types.UID(uid)}
	}
}

func modes(m ...corev1.PersistentVolumeAccessMode) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) { v.Spec.AccessModes = m }
}

func phase(p corev1.PersistentVolumePhase) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) { v.Status.Phase = p }
}

func deleted(v *corev1.PersistentVolume)  { v.DeletionTimestamp = ptr.To(metav1.Now()) }
func block(v *corev1.PersistentVolume)    { v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }
func fast(v *corev1.PersistentVolume)     { v.Spec.StorageClassName = "fast" }
func gold(v *corev1.PersistentVolume)     { v.Spec.VolumeAttributesClassName = ptr.To("gold") }
func labelled(v *corev1.PersistentVolume) { v.Labels = map[string]string{"tier": "db"} }
func oldClass(v *corev1.PersistentVolume) {
	v.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: "fast"}
}
func wantFast(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr.To("fast") }
func wantOldFast(c *corev1.PersistentVolumeClaim) {
	c.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: "fast"}
	c.Spec.StorageClassName = ptr.To("slow")
}
func wantBlock(c *corev1.PersistentVolumeClaim) {
	c.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
}
func wantGold(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeAttributesClassName = ptr.To("gold") }
func wantMany(c *corev1.PersistentVolumeClaim) {
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
}
func wantLabel(c *corev1.PersistentVolumeClaim) {
	c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "db"}}
}
func wantNonsense(c *corev1.PersistentVolumeClaim) {
	c.Spec.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "k", Operator: "Near"}}}
}

func TestBest(t *testing.T) {
	rwo, rwx := corev1.ReadWriteOnce, corev1.ReadWriteMany
	type list = []*corev1.PersistentVolume
	tests := []struct {
		name    string
		claim   *corev1.PersistentVolumeClaim
		volumes list
		delayed bool
		want    string
	}{
		{"none", claim("1Gi"), nil, false, ""},
		{"smallest that is large enough", claim("2Gi"), list{volume("a", "5Gi"), volume("b", "1Gi"), volume("c", "2Gi"), volume("d", "3Gi")}, false, "c"},
		{"first by name", claim("1Gi"), list{volume("b", "1Gi"), volume("a", "1Gi")}, false, "a"},
		{"fewest access modes", claim("1Gi"), list{volume("a", "1Gi", modes(rwo, rwx)), volume("b", "9Gi")}, false, "b"},
		{"access modes", claim("1Gi", wantMany), list{volume("a", "1Gi"), volume("b", "9Gi", modes(rwo, rwx))}, false, "b"},
		{"class", claim("1Gi", wantFast), list{volume("a", "1Gi"), volume("b", "9Gi", fast)}, false, "b"},
		{"class by the old annotations", claim("1Gi", wantOldFast), list{volume("a", "1Gi"), volume("b", "9Gi", oldClass)}, false, "b"},
		{"no class", claim("1Gi"), list{volume("a", "1Gi", fast)}, false, ""},
		{"mode", claim("1Gi", wantBlock), list{volume("a", "1Gi"), volume("b", "9Gi", block)}, false, "b"},
		{"attributes class", claim("1Gi", wantGold), list{volume("a", "1Gi"), volume("b", "9Gi", gold)}, false, "b"},
		{"selector", claim("1Gi", wantLabel), list{volume("a", "1Gi"), volume("b", "9Gi", labelled)}, false, "b"},
		{"unreadable selector", claim("1Gi", wantNonsense), list{volume("a", "1Gi")}, false, ""},
		{"only available ones", claim("1Gi"), list{volume("a", "1Gi", phase(corev1.VolumeReleased)), volume("b", "1Gi", phase(corev1.VolumePending)), volume("c", "1Gi", deleted)}, false, ""},
		{"taken", claim("1Gi"), list{volume("a", "1Gi", forClaim("other", ""))}, false, ""},
		{"reserved by name, of any class and label", claim("1Gi", wantLabel), list{volume("a", "1Gi", labelled), volume("b", "9Gi", fast, forClaim("c", ""))}, false, "b"},
		{"reserved by UID", claim("1Gi"), list{volume("a", "1Gi"), volume("b", "9Gi", forClaim("c", "u"))}, false, "b"},
		{"reserved for a claim of that name that is gone", claim("1Gi"), list{volume("b", "9Gi", forClaim("c", "gone"))}, false, ""},
		{"reserved but too small", claim("2Gi"), list{volume("b", "1Gi", forClaim("c", ""))}, false, ""},
		{"reserved but of another mode", claim("1Gi"), list{volume("b", "1Gi", block, forClaim("c", ""))}, false, ""},
		{"delayed", claim("1Gi"), list{volume("a", "1Gi")}, true, ""},
		{"delayed and reserved", claim("1Gi"), list{volume("a", "1Gi", forClaim("c", ""))}, true, "a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if v := NewMatcher(tt.claim).Best(tt.volumes, tt.delayed); v != nil {
				got = v.Name
			}
			if got != tt.want {
				t.Fatalf("%q", got)
			}
		})
	}
}

func TestMismatch(t *testing.T) {
	tests := []struct {
		volume *corev1.PersistentVolume
		claim  *corev1.PersistentVolumeClaim
		want   string
	}{
		{volume("v", "1Gi"), claim("1Gi"), ""},
		{volume("v", "1Gi"), claim("1Gi", wantLabel), ""},
		{volume("v", "1Gi", deleted), claim("1Gi"), `the volume is marked for deletion "v"`},
		{volume("v", "1Gi"), claim("2Gi"), "requested PV is too small"},
		{volume("v", "1Gi"), claim("1Gi", wantFast), "storageClassName does not match"},
		{volume("v", "1Gi"), claim("1Gi", wantGold), "volumeAttributesClassName does not match"},
		{volume("v", "1Gi"), claim("1Gi", wantBlock), "incompatible volumeMode"},
		{volume("v", "1Gi"), claim("1Gi", wantMany), "incompatible accessMode"},
	}
	for _, tt := range tests {
		if got := Mismatch(tt.volume, tt.claim); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

func TestClaimed(t *testing.T) {
	marked := func(v *corev1.PersistentVolume) { v.Annotations = map[string]string{BoundByController: "yes"} }
	tests := []struct {
		name    string
		volume  *corev1.PersistentVolume
		changed bool
		marked  bool
	}{
		{"free", volume("v", "1Gi"), true, true},
		{"reserved by a user", volume("v", "1Gi", forClaim("c", "")), true, false},
		{"bound by a user", volume("v", "1Gi", forClaim("c", "u")), false, false},
		{"bound by a controller", volume("v", "1Gi", forClaim("c", "u"), marked), false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := tt.volume.DeepCopy()
			got, changed := Claimed(tt.volume, claim("1Gi"))
			if ref := got.Spec.ClaimRef; changed != tt.changed || ref.UID != "u" || ref.Name != "c" || ref.Namespace != "ns" {
				t.Fatalf("%v %+v", changed, ref)
			}
			if _, has := got.Annotations[BoundByController]; has != tt.marked {
				t.Fatalf("marked: %v", has)
			}
			if (before.Spec.ClaimRef == nil) != (tt.volume.Spec.ClaimRef == nil) || len(before.Annotations) != len(tt.volume.Annotations) {
				t.Fatal("what was passed in changed")
			}
		})
	}
}

func TestDefaultClass(t *testing.T) {
	class := func(name string, age time.Duration, def bool) *storagev1.StorageClass {
		c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(100000, 0).Add(-age))}}
		if def {
			c.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
		}
		return c
	}
	if DefaultClass([]*storagev1.StorageClass{class("a", 0, false)}) != nil {
		t.Fatal("a default out of none")
	}
	list := []*storagev1.StorageClass{class("old", time.Hour, true), class("z", time.Minute, true), class("b", time.Minute, true), class("new", 0, false)}
	if c := DefaultClass(list); c.Name != "b" {
		t.Fatal(c.Name)
	}
}
