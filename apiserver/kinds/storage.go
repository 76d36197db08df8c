package kinds

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func storageKinds() []Kind {
	return []Kind{
		storageClasses(), volumeAttachments(), csiNodes(), csiDrivers(), storageCapacities(), volumeAttributesClasses(),
	}
}

// defaultClassAnnotations mark the classes that claims without one get, today's first.
var defaultClassAnnotations = []string{"storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"}

// IsDefaultStorageClass reports whether the class is marked as one that claims without a class get.
func IsDefaultStorageClass(class *storagev1.StorageClass) bool {
	for _, a := range defaultClassAnnotations {
		if class.Annotations[a] == "true" {
			return true
		}
	}
	return false
}

func storageClasses() Kind {
	doc := storagev1.StorageClass{}.SwaggerDoc()
	return Kind{
		GVK:        storagev1.SchemeGroupVersion.WithKind("StorageClass"),
		Resource:   "storageclasses",
		Singular:   "storageclass",
		ShortNames: []string{"sc"},
		Prefix:     "storageclasses",
		New:        func() runtime.Object { return &storagev1.StorageClass{} },
		NewList:    func() runtime.Object { return &storagev1.StorageClassList{} },

		Default: on(func(c *storagev1.StorageClass) {
			setDefaultPtr(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
			setDefaultPtr(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
		}),
		Validate:            check(validateStorageClass),
		ValidateUpdate:      checkUpdate(validateStorageClassUpdate),
		Warnings:            warn(storageClassWarnings),
		NoGeneration:        true,
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Provisioner", "string", doc["provisioner"]),
			column("ReclaimPolicy", "string", doc["reclaimPolicy"]),
			column("VolumeBindingMode", "string", doc["volumeBindingMode"]),
			column("AllowVolumeExpansion", "string", doc["allowVolumeExpansion"]),
			ageColumn(),
		},
		Cells: cells(func(c *storagev1.StorageClass, now metav1.Time) []any {
			name := c.Name
			if IsDefaultStorageClass(c) {
				name += " (default)"
			}
			reclaim, binding := string(corev1.PersistentVolumeReclaimDelete), string(storagev1.VolumeBindingImmediate)
			if c.ReclaimPolicy != nil {
				reclaim = string(*c.ReclaimPolicy)
			}
			if c.VolumeBindingMode != nil {
				binding = string(*c.VolumeBindingMode)
			}
			return []any{name, c.Provisioner, reclaim, binding, *orZero(c.AllowVolumeExpansion), age(now, c.CreationTimestamp)}
		}),
	}
}

func volumeAttachments() Kind {
	spec, source, status := storagev1.VolumeAttachmentSpec{}.SwaggerDoc(), storagev1.VolumeAttachmentSource{}.SwaggerDoc(), storagev1.VolumeAttachmentStatus{}.SwaggerDoc()
	attacher := column("Attacher", "string", spec["attacher"])
	attacher.Format = "name"
	return Kind{
		GVK:      storagev1.SchemeGroupVersion.WithKind("VolumeAttachment"),
		Resource: "volumeattachments",
		Singular: "volumeattachment",
		Prefix:   "volumeattachments",
		New:      func() runtime.Object { return &storagev1.VolumeAttachment{} },
		NewList:  func() runtime.Object { return &storagev1.VolumeAttachmentList{} },

		Default: on(func(a *storagev1.VolumeAttachment) {
			if a.Spec.Source.InlineVolumeSpec != nil {
				defaultVolumeSpec(a.Spec.Source.InlineVolumeSpec)
			}
		}),
		PrepareCreate:  on(func(a *storagev1.VolumeAttachment) { a.Status = storagev1.VolumeAttachmentStatus{} }),
		PrepareUpdate:  onUpdate(func(a, old *storagev1.VolumeAttachment) { a.Status = *old.Status.DeepCopy() }),
		Validate:       check(validateVolumeAttachment),
		ValidateUpdate: checkUpdate(validateVolumeAttachmentUpdate),
		NoGeneration:   true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			attacher,
			column("PV", "string", source["persistentVolumeName"]),
			column("Node", "string", spec["nodeName"]),
			column("Attached", "boolean", status["attached"]),
			ageColumn(),
		},
		Cells: cells(func(a *storagev1.VolumeAttachment, now metav1.Time) []any {
			return []any{a.Name, a.Spec.Attacher, *orZero(a.Spec.Source.PersistentVolumeName), a.Spec.NodeName, a.Status.Attached, age(now, a.CreationTimestamp)}
		}),
		Status: &Subresource{
			PrepareUpdate: onUpdate(func(a, old *storagev1.VolumeAttachment) {
				a.Spec = *old.Spec.DeepCopy()
				a.Labels, a.Annotations, a.OwnerReferences, a.Finalizers = keptMeta(&old.ObjectMeta)
			}),
			ValidateUpdate: checkUpdate(validateVolumeAttachmentUpdate),
		},
	}
}

// keptMeta is what of metadata an update of some kinds' status leaves alone.
func keptMeta(old *metav1.ObjectMeta) (labels, annotations map[string]string, owners []metav1.OwnerReference, finalizers []string) {
	kept := old.DeepCopy()
	return kept.Labels, kept.Annotations, kept.OwnerReferences, kept.Finalizers
}

func csiNodes() Kind {
	return Kind{
		GVK:      storagev1.SchemeGroupVersion.WithKind("CSINode"),
		Resource: "csinodes",
		Singular: "csinode",
		Prefix:   "csinodes",
		New:      func() runtime.Object { return &storagev1.CSINode{} },
		NewList:  func() runtime.Object { return &storagev1.CSINodeList{} },

		// The status is that of feature CSIVolumeHealth, which is off.
		PrepareCreate: on(func(n *storagev1.CSINode) { n.Status = storagev1.CSINodeStatus{} }),
		PrepareUpdate: onUpdate(func(n, old *storagev1.CSINode) { n.Status = *old.Status.DeepCopy() }),
		Validate:      check(func(n *storagev1.CSINode) field.ErrorList { return validateCSINode(n, nil) }),
		ValidateUpdate: checkUpdate(func(n, old *storagev1.CSINode) field.ErrorList {
			return append(validateMetaUpdate(&n.ObjectMeta, &old.ObjectMeta), validateCSINode(n, old)...)
		}),
		NoGeneration: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Drivers", "integer", "Drivers indicates the number of CSI drivers registered on the node"), ageColumn(),
		},
		Cells: cells(func(n *storagev1.CSINode, now metav1.Time) []any {
			return []any{n.Name, int64(len(n.Spec.Drivers)), age(now, n.CreationTimestamp)}
		}),
	}
}

func csiDrivers() Kind {
	doc := storagev1.CSIDriverSpec{}.SwaggerDoc()
	return Kind{
		GVK:      storagev1.SchemeGroupVersion.WithKind("CSIDriver"),
		Resource: "csidrivers",
		Singular: "csidriver",
		Prefix:   "csidrivers",
		New:      func() runtime.Object { return &storagev1.CSIDriver{} },
		NewList:  func() runtime.Object { return &storagev1.CSIDriverList{} },

		Default:        on(defaultCSIDriver),
		Validate:       check(validateCSIDriver),
		ValidateUpdate: checkUpdate(validateCSIDriverUpdate),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("AttachRequired", "boolean", doc["attachRequired"]),
			column("PodInfoOnMount", "boolean", doc["podInfoOnMount"]),
			column("StorageCapacity", "boolean", doc["storageCapacity"]),
			column("TokenRequests", "string", doc["tokenRequests"]),
			column("RequiresRepublish", "boolean", doc["requiresRepublish"]),
			column("Modes", "string", doc["volumeLifecycleModes"]),
			ageColumn(),
		},
		Cells: cells(csiDriverCells),
	}
}

func defaultCSIDriver(d *storagev1.CSIDriver) {
	setDefaultPtr(&d.Spec.AttachRequired, true)
	setDefaultPtr(&d.Spec.PodInfoOnMount, false)
	setDefaultPtr(&d.Spec.StorageCapacity, false)
	setDefaultPtr(&d.Spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	if len(d.Spec.VolumeLifecycleModes) == 0 {
		d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
	setDefaultPtr(&d.Spec.RequiresRepublish, false)
	setDefaultPtr(&d.Spec.SELinuxMount, false)
}

func csiDriverCells(d *storagev1.CSIDriver, now metav1.Time) []any {
	tokens := cellUnset
	if d.Spec.TokenRequests != nil {
		var audiences []string
		for _, r := range d.Spec.TokenRequests {
			audiences = append(audiences, r.Audience)
		}
		tokens = strings.Join(audiences, ",")
	}
	var modes []string
	for _, m := range d.Spec.VolumeLifecycleModes {
		modes = append(modes, string(m))
	}
	attach := d.Spec.AttachRequired == nil || *d.Spec.AttachRequired
	return []any{
		d.Name, attach, *orZero(d.Spec.PodInfoOnMount), *orZero(d.Spec.StorageCapacity), tokens, *orZero(d.Spec.RequiresRepublish),
		orNone(strings.Join(modes, ",")), age(now, d.CreationTimestamp),
	}
}

func storageCapacities() Kind {
	doc := storagev1.CSIStorageCapacity{}.SwaggerDoc()
	return Kind{
		GVK:        storagev1.SchemeGroupVersion.WithKind("CSIStorageCapacity"),
		Resource:   "csistoragecapacities",
		Singular:   "csistoragecapacity",
		Namespaced: true,
		Prefix:     "csistoragecapacities",
		New:        func() runtime.Object { return &storagev1.CSIStorageCapacity{} },
		NewList:    func() runtime.Object { return &storagev1.CSIStorageCapacityList{} },

		Validate:            check(validateStorageCapacity),
		ValidateUpdate:      checkUpdate(validateStorageCapacityUpdate),
		Warnings:            warn(storageCapacityWarnings),
		NoGeneration:        true,
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("StorageClassName", "string", doc["storageClassName"]), column("Capacity", "string", doc["capacity"]),
		},
		Cells: cells(func(c *storagev1.CSIStorageCapacity, _ metav1.Time) []any {
			capacity := cellUnset
			if c.Capacity != nil {
				size := c.Capacity.DeepCopy()
				capacity = size.String()
			}
			return []any{c.Name, c.StorageClassName, capacity}
		}),
	}
}

func volumeAttributesClasses() Kind {
	doc := storagev1.VolumeAttributesClass{}.SwaggerDoc()
	return Kind{
		GVK:        storagev1.SchemeGroupVersion.WithKind("VolumeAttributesClass"),
		Resource:   "volumeattributesclasses",
		Singular:   "volumeattributesclass",
		ShortNames: []string{"vac"},
		Prefix:     "volumeattributesclasses",
		New:        func() runtime.Object { return &storagev1.VolumeAttributesClass{} },
		NewList:    func() runtime.Object { return &storagev1.VolumeAttributesClassList{} },

		Validate:            check(validateVolumeAttributesClass),
		ValidateUpdate:      checkUpdate(validateVolumeAttributesClassUpdate),
		NoGeneration:        true,
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("DriverName", "string", doc["driverName"]), ageColumn(),
		},
		Cells: cells(func(c *storagev1.VolumeAttributesClass, now metav1.Time) []any {
			return []any{c.Name, c.DriverName, age(now, c.CreationTimestamp)}
		}),
	}
}
