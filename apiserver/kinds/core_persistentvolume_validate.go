//lint:file-ignore SA1019 sources of storage systems that are gone are checked, and so is the old annotation.

package kinds

import (
	"fmt"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatePersistentVolume(pv *corev1.PersistentVolume) field.ErrorList {
	errs := validateMeta(&pv.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateVolumeSpec(&pv.Spec, pv.Name, field.NewPath("spec"))...)
}

// validateVolumeSpec checks the volume of that name.
func validateVolumeSpec(s *corev1.PersistentVolumeSpec, name string, at *field.Path) field.ErrorList {
	errs := slices.Concat(
		validateVolumeModes(s.AccessModes, at.Child("accessModes")),
		validateVolumeCapacity(s.Capacity, at.Child("capacity")),
	)
	if s.PersistentVolumeReclaimPolicy != "" {
		errs = append(errs, among(s.PersistentVolumeReclaimPolicy, at.Child("persistentVolumeReclaimPolicy"),
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	}
	errs = append(errs, validateVolumeAffinity(s.NodeAffinity, at.Child("nodeAffinity"))...)
	errs = append(errs, validatePersistentSource(s, name, at)...)
	if s.HostPath != nil && path.Clean(s.HostPath.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
	}
	if s.StorageClassName != "" {
		errs = append(errs, dnsSubdomain(s.StorageClassName, at.Child("storageClassName"))...)
	}
	errs = append(errs, amongPtr(s.VolumeMode, at.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	return append(errs, validateVolumeAttributes(s, at)...)
}

func validateVolumeAttributes(s *corev1.PersistentVolumeSpec, at *field.Path) field.ErrorList {
	class := s.VolumeAttributesClassName
	if class == nil {
		return nil
	}
	var errs field.ErrorList
	if *class == "" {
		errs = append(errs, field.Required(at.Child("volumeAttributesClassName"), "an empty string is disallowed"))
	} else {
		errs = append(errs, dnsSubdomain(*class, at.Child("volumeAttributesClassName"))...)
	}
	if s.CSI == nil {
		errs = append(errs, field.Required(at.Child("csi"), "has to be specified when using volumeAttributesClassName"))
	}
	return errs
}

func validateVolumeModes(modes []corev1.PersistentVolumeAccessMode, at *field.Path) field.ErrorList {
	if len(modes) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	return validateAccessModes(modes, at)
}

func validateVolumeCapacity(capacity corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(capacity) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	if _, ok := capacity[corev1.ResourceStorage]; !ok || len(capacity) > 1 {
		errs = append(errs, field.NotSupported(at, capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, name := range sortedResources(capacity) {
		q := capacity[name]
		key := at.Key(string(name))
		errs = append(errs, notNegative(q, key)...)
		if q.Sign() <= 0 {
			errs = append(errs, field.Invalid(key, q.String(), "must be greater than zero"))
		}
	}
	return errs
}

func validateVolumeAffinity(a *corev1.VolumeNodeAffinity, at *field.Path) field.ErrorList {
	if a == nil {
		return nil
	}
	if a.Required == nil {
		return field.ErrorList{field.Required(at.Child("required"), "must specify required node constraints")}
	}
	return validateNodeSelector(a.Required, at.Child("required"))
}

// validateNodeSelector checks a selector of nodes that must match.
func validateNodeSelector(s *corev1.NodeSelector, at *field.Path) field.ErrorList {
	terms := at.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		return field.ErrorList{field.Required(terms, "must have at least one node selector term")}
	}
	var errs field.ErrorList
	for i := range s.NodeSelectorTerms {
		errs = append(errs, validateNodeTerm(&s.NodeSelectorTerms[i], true, terms.Index(i))...)
	}
	return errs
}

func validatePersistentVolumeUpdate(pv, old *corev1.PersistentVolume) field.ErrorList {
	errs := validateMetaUpdate(&pv.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, validateVolumeSpec(&pv.Spec, pv.Name, field.NewPath("spec"))...)
	source := pv.Spec.PersistentVolumeSource.DeepCopy()
	if csi := source.CSI; csi != nil && old.Spec.CSI != nil && old.Spec.CSI.ControllerExpandSecretRef == nil {
		csi.ControllerExpandSecretRef = nil // may be set once
	}
	if was := old.Spec.PersistentVolumeSource; !equality.Semantic.DeepEqual(*source, was) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "persistentvolumesource"),
			fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", diff.Diff(was, *source))))
	}
	errs = append(errs, immutable(pv.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if old.Spec.NodeAffinity != nil && !equality.Semantic.DeepEqual(todaysAffinity(pv.Spec.NodeAffinity), todaysAffinity(old.Spec.NodeAffinity)) {
		errs = append(errs, immutable(pv.Spec.NodeAffinity, old.Spec.NodeAffinity, field.NewPath("nodeAffinity"))...)
	}
	if old.Spec.VolumeAttributesClassName != nil && pv.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

// todaysLabels are the labels of nodes that had other names before.
var todaysLabels = map[string]string{
	corev1.LabelFailureDomainBetaZone:   corev1.LabelTopologyZone,
	corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
	corev1.LabelInstanceType:            corev1.LabelInstanceTypeStable,
	"beta.kubernetes.io/os":             corev1.LabelOSStable,
	"beta.kubernetes.io/arch":           corev1.LabelArchStable,
}

// todaysAffinity renames the old labels, as an update may.
func todaysAffinity(a *corev1.VolumeNodeAffinity) *corev1.VolumeNodeAffinity {
	if a == nil || a.Required == nil {
		return a
	}
	renamed := a.DeepCopy()
	for i := range renamed.Required.NodeSelectorTerms {
		expressions := renamed.Required.NodeSelectorTerms[i].MatchExpressions
		for j := range expressions {
			if name, old := todaysLabels[expressions[j].Key]; old {
				expressions[j].Key = name
			}
		}
	}
	return renamed
}

func validatePersistentVolumeStatusUpdate(pv, old *corev1.PersistentVolume) field.ErrorList {
	return validateMetaUpdate(&pv.ObjectMeta, &old.ObjectMeta)
}

// goneVolumeSources say since when nothing mounts a source.
var goneVolumeSources = []struct {
	name, since string
	set         func(*corev1.PersistentVolumeSource) bool
}{
	{"cephFS", "deprecated in v1.28, non-functional in v1.31+", func(s *corev1.PersistentVolumeSource) bool { return s.CephFS != nil }},
	{"glusterfs", "deprecated in v1.25, non-functional in v1.26+", func(s *corev1.PersistentVolumeSource) bool { return s.Glusterfs != nil }},
	{"photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+", func(s *corev1.PersistentVolumeSource) bool { return s.PhotonPersistentDisk != nil }},
	{"rbd", "deprecated in v1.28, non-functional in v1.31+", func(s *corev1.PersistentVolumeSource) bool { return s.RBD != nil }},
	{"scaleIO", "deprecated in v1.16, non-functional in v1.22+", func(s *corev1.PersistentVolumeSource) bool { return s.ScaleIO != nil }},
	{"storageOS", "deprecated in v1.22, non-functional in v1.25+", func(s *corev1.PersistentVolumeSource) bool { return s.StorageOS != nil }},
}

func persistentVolumeWarnings(pv, _ *corev1.PersistentVolume) []string {
	w := &warnings{}
	annotations, spec := metadata().Child("annotations"), field.NewPath("spec")
	w.classAnnotation(pv.Annotations)
	if _, ok := pv.Annotations[mountOptionAnnotation]; ok {
		w.add(annotations.Key(mountOptionAnnotation), `deprecated since v1.31; use "mountOptions" attribute instead`)
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		w.add(spec.Child("persistentVolumeReclaimPolicy"),
			"The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if a := pv.Spec.NodeAffinity; a != nil && a.Required != nil {
		for i := range a.Required.NodeSelectorTerms {
			w.nodeTerm(&a.Required.NodeSelectorTerms[i], spec.Child("nodeAffinity", "required", "nodeSelectorTerms").Index(i))
		}
	}
	for _, gone := range goneVolumeSources {
		if gone.set(&pv.Spec.PersistentVolumeSource) {
			w.add(spec.Child(gone.name), "%s", gone.since)
		}
	}
	return w.found
}

// classAnnotation tells that the storage class is a field now.
func (w *warnings) classAnnotation(annotations map[string]string) {
	if _, ok := annotations[corev1.BetaStorageClassAnnotation]; ok {
		w.add(metadata().Child("annotations").Key(corev1.BetaStorageClassAnnotation), `deprecated since v1.8; use "storageClassName" attribute instead`)
	}
}
