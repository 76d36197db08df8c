package admission

import (
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// The finalizers that keep storage until nobody uses it. Controllers take them off.
const (
	claimProtection  = "kubernetes.io/pvc-protection"
	volumeProtection = "kubernetes.io/pv-protection"
	classProtection  = "kubernetes.io/vac-protection"
)

var storageClasses = schema.GroupResource{Group: storagev1.GroupName, Resource: "storageclasses"}

// defaultStorageClass gives a new claim without a class the default one.
type defaultStorageClass struct{ reader Reader }

func (defaultStorageClass) Name() string { return "DefaultStorageClass" }

func (defaultStorageClass) Validate(context.Context, *Request) error { return nil }

func (p defaultStorageClass) Mutate(ctx context.Context, r *Request) error {
	claim, ok := r.Object.(*corev1.PersistentVolumeClaim)
	if !ok || r.Operation != Create || !r.is("", "persistentvolumeclaims", "") {
		return nil
	}
	if _, named := className(claim); named {
		return nil
	}
	classes, err := list[*storagev1.StorageClass](ctx, p.reader, storageClasses, "")
	if err != nil {
		return r.forbid(err)
	}
	var def *storagev1.StorageClass
	for _, c := range classes {
		if kinds.IsDefaultStorageClass(c) && (def == nil || youngerClass(c, def)) {
			def = c
		}
	}
	if def != nil {
		claim.Spec.StorageClassName = ptr.To(def.Name)
	}
	return nil
}

// youngerClass orders default classes: the youngest counts, then the first by name.
func youngerClass(a, b *storagev1.StorageClass) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return b.CreationTimestamp.Before(&a.CreationTimestamp)
	}
	return a.Name < b.Name
}

// className is the class that a claim names, by the old annotation or by the field; an empty name is one too.
func className(c *corev1.PersistentVolumeClaim) (name string, named bool) {
	if name, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name, true
	}
	return ptr.Deref(c.Spec.StorageClassName, ""), c.Spec.StorageClassName != nil
}

// storageInUseProtection keeps claims that pods use, volumes that claims have, and classes that either names, until they do no more.
type storageInUseProtection struct{}

func (storageInUseProtection) Name() string { return "StorageObjectInUseProtection" }

func (storageInUseProtection) Validate(context.Context, *Request) error { return nil }

func (storageInUseProtection) Mutate(_ context.Context, r *Request) error {
	if r.Operation != Create || r.Subresource != "" {
		return nil
	}
	switch obj := r.Object.(type) {
	case *corev1.PersistentVolumeClaim:
		protect(&obj.ObjectMeta, claimProtection)
	case *corev1.PersistentVolume:
		protect(&obj.ObjectMeta, volumeProtection)
	case *storagev1.VolumeAttributesClass:
		protect(&obj.ObjectMeta, classProtection)
	}
	return nil
}

func protect(m *metav1.ObjectMeta, finalizer string) {
	if !slices.Contains(m.Finalizers, finalizer) {
		m.Finalizers = append(m.Finalizers, finalizer)
	}
}

// claimResize lets bound claims grow whose class allows it.
type claimResize struct{ reader Reader }

func (claimResize) Name() string { return "PersistentVolumeClaimResize" }

func (claimResize) Mutate(context.Context, *Request) error { return nil }

func (p claimResize) Validate(ctx context.Context, r *Request) error {
	claim, isNew := r.Object.(*corev1.PersistentVolumeClaim)
	old, isOld := r.Old.(*corev1.PersistentVolumeClaim)
	if !isNew || !isOld || r.Operation != Update || !r.is("", "persistentvolumeclaims", "") {
		return nil
	}
	size, was := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if size.Cmp(was) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		//lint:ignore ST1005 the API's words
		return r.forbid(errors.New("Only bound persistent volume claims can be expanded"))
	}
	name, _ := className(claim)
	if before, _ := className(old); name != "" && before == name {
		if class, err := get[*storagev1.StorageClass](ctx, p.reader, storageClasses, "", name); err == nil && ptr.Deref(class.AllowVolumeExpansion, false) {
			return nil
		}
	}
	return r.forbid(errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
}
