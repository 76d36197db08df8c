// Package volumes is what claims and persistent volumes say of each other: of which class they are, who is bound to whom, and which volume serves a
// claim. The controllers and the scheduler decide by it alike.
//
// Invariant: everything here is pure, and no object that is passed in is changed.
package volumes

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

// The annotations by which the parts that bind and provision volumes speak to each other. Their names are the API's.
const (
	// BindCompleted marks a claim whose binding has been completed once.
	BindCompleted = "pv.kubernetes.io/bind-completed"
	// BoundByController marks the side of a binding that a controller or the scheduler wrote, and no user.
	BoundByController = "pv.kubernetes.io/bound-by-controller"
	// ProvisionedBy names the provisioner that made a volume, and that deletes it.
	ProvisionedBy = "pv.kubernetes.io/provisioned-by"
	// MigratedTo names the CSI driver that stands in for a storage driver that was once built in.
	MigratedTo = "pv.kubernetes.io/migrated-to"
	// SelectedNode is the node that the scheduler chose for the first pod of a claim.
	SelectedNode = "volume.kubernetes.io/selected-node"
	// StorageProvisioner names the provisioner that is to make a volume for a claim.
	StorageProvisioner = "volume.kubernetes.io/storage-provisioner"
	// BetaStorageProvisioner is StorageProvisioner's older name; both are written.
	BetaStorageProvisioner = "volume.beta.kubernetes.io/storage-provisioner"
)

// NoProvisioner is the provisioner of classes whose volumes are all made by hand.
const NoProvisioner = "kubernetes.io/no-provisioner"

// ClassOfClaim is the class that a claim names, by the old annotation or by the field; an empty name is one too.
func ClassOfClaim(c *corev1.PersistentVolumeClaim) (name string, named bool) {
	if name, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name, true
	}
	return ptr.Deref(c.Spec.StorageClassName, ""), c.Spec.StorageClassName != nil
}

// ClassOf is the class that a volume is of; empty for none.
func ClassOf(v *corev1.PersistentVolume) string {
	if name, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	return v.Spec.StorageClassName
}

// IsDefaultClass tells whether claims without a class get this one.
func IsDefaultClass(c *storagev1.StorageClass) bool {
	return c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" || c.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true"
}

// DefaultClass is the class that a claim without one gets: the youngest of the default ones, then the first by name; nil when there is none.
func DefaultClass(classes []*storagev1.StorageClass) *storagev1.StorageClass {
	var def *storagev1.StorageClass
	for _, c := range classes {
		if !IsDefaultClass(c) {
			continue
		}
		same := def != nil && def.CreationTimestamp.Equal(&c.CreationTimestamp)
		if def == nil || same && c.Name < def.Name || !same && def.CreationTimestamp.Before(&c.CreationTimestamp) {
			def = c
		}
	}
	return def
}

// Delayed tells whether claims of the class are bound only once a pod needs them.
func Delayed(c *storagev1.StorageClass) bool {
	return c != nil && c.VolumeBindingMode != nil && *c.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// Completed tells whether the claim has been bound once.
func Completed(c *corev1.PersistentVolumeClaim) bool {
	return metav1.HasAnnotation(c.ObjectMeta, BindCompleted)
}

// Refers tells whether the volume is reserved for the claim or bound to it: by name, and by UID where the reference has one.
func Refers(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	ref := v.Spec.ClaimRef
	return ref != nil && ref.Name == c.Name && ref.Namespace == c.Namespace && (ref.UID == "" || ref.UID == c.UID)
}

// SameMode tells whether both are file systems or both raw blocks.
func SameMode(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	return ptr.Deref(v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) == ptr.Deref(c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
}

// Why a volume cannot serve a claim, in the words of the event that tells so.
const (
	tooSmall        = "requested PV is too small"
	otherClass      = "storageClassName does not match"
	otherAttributes = "volumeAttributesClassName does not match"
	otherMode       = "incompatible volumeMode"
	otherAccess     = "incompatible accessMode"
)

// Mismatch says why the volume, which the claim names, cannot serve it; empty when it can. The claim's selector does not count: who names a
// volume has selected it.
func Mismatch(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) string {
	class, _ := ClassOfClaim(c)
	switch {
	case v.DeletionTimestamp != nil:
		return "the volume is marked for deletion " + quote(v.Name)
	case !large(v, c):
		return tooSmall
	case ClassOf(v) != class:
		return otherClass
	case !sameAttributes(v, c):
		return otherAttributes
	case !SameMode(v, c):
		return otherMode
	case !allows(v, c):
		return otherAccess
	}
	return ""
}

func quote(s string) string { return `"` + s + `"` }

func large(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	have, want := v.Spec.Capacity[corev1.ResourceStorage], c.Spec.Resources.Requests[corev1.ResourceStorage]
	return have.Cmp(want) >= 0
}

func sameAttributes(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	return ptr.Deref(v.Spec.VolumeAttributesClassName, "") == ptr.Deref(c.Spec.VolumeAttributesClassName, "")
}

// allows tells whether the volume has all access modes that the claim asks for.
func allows(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	for _, mode := range c.Spec.AccessModes {
		if !hasAccess(v.Spec.AccessModes, mode) {
			return false
		}
	}
	return true
}

func hasAccess(modes []corev1.PersistentVolumeAccessMode, mode corev1.PersistentVolumeAccessMode) bool {
	for _, m := range modes {
		if m == mode {
			return true
		}
	}
	return false
}

// Matcher finds volumes for one claim.
type Matcher struct {
	claim    *corev1.PersistentVolumeClaim
	class    string
	selector labels.Selector
}

// NewMatcher prepares the search for a claim's volume. A selector that cannot be read selects nothing.
func NewMatcher(claim *corev1.PersistentVolumeClaim) Matcher {
	m := Matcher{claim: claim}
	m.class, _ = ClassOfClaim(claim)
	if claim.Spec.Selector != nil {
		selector, err := metav1.LabelSelectorAsSelector(claim.Spec.Selector)
		if err != nil {
			selector = labels.Nothing()
		}
		m.selector = selector
	}
	return m
}

// Reserved tells whether the volume was reserved or made for the claim, and can serve it.
func (m Matcher) Reserved(v *corev1.PersistentVolume) bool {
	return Refers(v, m.claim) && v.DeletionTimestamp == nil && large(v, m.claim) && SameMode(v, m.claim) && sameAttributes(v, m.claim) && allows(v, m.claim)
}

// Suits tells whether the volume, which nobody has, can serve the claim.
func (m Matcher) Suits(v *corev1.PersistentVolume) bool {
	return v.Spec.ClaimRef == nil && v.Status.Phase == corev1.VolumeAvailable && ClassOf(v) == m.class && Mismatch(v, m.claim) == "" &&
		(m.selector == nil || m.selector.Matches(labels.Set(v.Labels)))
}

// Best is the one of the volumes that serves the claim best: the one reserved for it, else that with the fewest access modes, of these the smallest, of
// these the first by name. Nil when none serves it. Where delayed is set only a reserved one counts: the scheduler binds the others.
func (m Matcher) Best(volumes []*corev1.PersistentVolume, delayed bool) *corev1.PersistentVolume {
	var best *corev1.PersistentVolume
	for _, v := range volumes {
		if m.Reserved(v) {
			return v
		}
		if !delayed && m.Suits(v) && (best == nil || Closer(v, best) < 0) {
			best = v
		}
	}
	return best
}

// Closer orders volumes that serve a claim alike, the better first: the one with fewer access modes, then the smaller, then by name.
func Closer(a, b *corev1.PersistentVolume) int {
	return cmp.Or(
		cmp.Compare(len(a.Spec.AccessModes), len(b.Spec.AccessModes)),
		a.Spec.Capacity.Storage().Cmp(*b.Spec.Capacity.Storage()),
		cmp.Compare(a.Name, b.Name),
	)
}

// Claimed is the volume bound to the claim: it refers to it by UID, and shows whether a controller or a user chose it. Changed is false where it is so already.
func Claimed(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) (bound *corev1.PersistentVolume, changed bool) {
	ref := v.Spec.ClaimRef
	chosen := !Refers(v, c) && !metav1.HasAnnotation(v.ObjectMeta, BoundByController)
	complete := ref != nil && ref.Name == c.Name && ref.Namespace == c.Namespace && ref.UID == c.UID
	if complete && !chosen {
		return v, false
	}
	bound = v.DeepCopy()
	if !complete {
		bound.Spec.ClaimRef = &corev1.ObjectReference{
			APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion,
		}
	}
	if chosen {
		metav1.SetMetaDataAnnotation(&bound.ObjectMeta, BoundByController, "yes")
	}
	return bound, true
}

// ClaimName is the claim that a volume of the pod stands for, by name or made for the pod; empty for other volumes.
func ClaimName(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	}
	return ""
}
