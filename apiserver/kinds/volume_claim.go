package kinds

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateEphemeralVolume(s *corev1.EphemeralVolumeSource, path *field.Path) field.ErrorList {
	at := path.Child("volumeClaimTemplate")
	if s.VolumeClaimTemplate == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	return append(validateClaimMeta(&s.VolumeClaimTemplate.ObjectMeta, at.Child("metadata")),
		validateClaimSpec(&s.VolumeClaimTemplate.Spec, at.Child("spec"))...)
}

// validateClaimMeta checks the metadata in a template of claims, which has nothing but labels and annotations.
func validateClaimMeta(m *metav1.ObjectMeta, path *field.Path) field.ErrorList {
	return slices.Concat(
		apivalidation.ValidateAnnotations(m.Annotations, path.Child("annotations")),
		metavalidation.ValidateLabels(m.Labels, path.Child("labels")),
		refuseFields([]setField{
			{m.Name != "", path.Child("name")},
			{m.GenerateName != "", path.Child("generateName")},
			{m.Namespace != "", path.Child("namespace")},
			//lint:ignore SA1019 it may not be set here either
			{m.SelfLink != "", path.Child("selfLink")},
			{m.UID != "", path.Child("uID")},
			{m.ResourceVersion != "", path.Child("resourceVersion")},
			{m.Generation != 0, path.Child("generation")},
			{!m.CreationTimestamp.IsZero(), path.Child("creationTimestamp")},
			{m.DeletionTimestamp != nil, path.Child("deletionTimestamp")},
			{m.DeletionGracePeriodSeconds != nil, path.Child("deletionGracePeriodSeconds")},
			{m.OwnerReferences != nil, path.Child("ownerReferences")},
			{m.Finalizers != nil, path.Child("finalizers")},
			{m.ManagedFields != nil, path.Child("managedFields")},
		}, "cannot be set"),
	)
}

// validateClaimSpec checks the spec of a claim for storage.
func validateClaimSpec(s *corev1.PersistentVolumeClaimSpec, path *field.Path) field.ErrorList {
	errs := validateAccessModes(s.AccessModes, path.Child("accessModes"))
	if s.Selector != nil {
		errs = append(errs, validateSelector(s.Selector, path.Child("selector"))...)
	}
	at := path.Child("resources").Key(string(corev1.ResourceStorage))
	if size, set := s.Resources.Requests[corev1.ResourceStorage]; !set {
		errs = append(errs, field.Required(at, ""))
	} else if size.Sign() <= 0 {
		errs = append(errs, field.Invalid(at, size.String(), "must be greater than zero"))
	}
	for _, f := range []struct {
		name  *string
		child string
	}{{s.StorageClassName, "storageClassName"}, {s.VolumeAttributesClassName, "volumeAttributesClassName"}} {
		if f.name != nil && *f.name != "" {
			errs = append(errs, dnsSubdomain(*f.name, path.Child(f.child))...)
		}
	}
	errs = append(errs, amongPtr(s.VolumeMode, path.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	return append(errs, validateDataSources(s, path)...)
}

func validateAccessModes(modes []corev1.PersistentVolumeAccessMode, path *field.Path) field.ErrorList {
	if len(modes) == 0 {
		return field.ErrorList{field.Required(path, "at least 1 access mode is required")}
	}
	var errs field.ErrorList
	alone, others := false, false
	for _, mode := range modes {
		found := among(mode, path, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)
		errs = append(errs, found...)
		if mode == corev1.ReadWriteOncePod {
			alone = true
		} else if len(found) == 0 {
			others = true
		}
	}
	if alone && others {
		errs = append(errs, field.Forbidden(path, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

// validateDataSources checks what a claim's volume starts with; its older and its newer field must agree.
func validateDataSources(s *corev1.PersistentVolumeClaimSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if d := s.DataSource; d != nil {
		errs = append(errs, validateDataSource(d.APIGroup, d.Kind, d.Name, path.Child("dataSource"))...)
	}
	r := s.DataSourceRef
	if r == nil {
		return errs
	}
	errs = append(errs, validateDataSource(r.APIGroup, r.Kind, r.Name, path.Child("dataSourceRef"))...)
	elsewhere := r.Namespace != nil && *r.Namespace != ""
	if elsewhere {
		errs = append(errs, dnsLabel(*r.Namespace, path.Child("dataSourceRef", "namespace"))...)
	}
	switch d := s.DataSource; {
	case d == nil:
	case elsewhere:
		errs = append(errs, field.Invalid(path, path.Child("dataSource").String(), "may not be specified when dataSourceRef.namespace is specified"))
	case d.Kind != r.Kind || d.Name != r.Name || !equality.Semantic.DeepEqual(d.APIGroup, r.APIGroup):
		errs = append(errs, field.Invalid(path, path.Child("dataSource").String(), "must match dataSourceRef"))
	}
	return errs
}

func validateDataSource(group *string, kind, name string, path *field.Path) field.ErrorList {
	errs := required(path, namedValue{"name", name}, namedValue{"kind", kind})
	if group == nil || *group == "" {
		if kind != "PersistentVolumeClaim" {
			errs = append(errs, field.Invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
		}
		return errs
	}
	return append(errs, dnsSubdomain(*group, path.Child("apiGroup"))...)
}
