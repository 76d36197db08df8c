package kinds

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The limits of storage objects.
const (
	maxParameters         = 512
	maxParametersSize     = 256 << 10
	maxVolumeErrorMessage = 1024
	maxCSINodeID          = 256
	// minAllocatablePeriod is how often a node may count its volumes anew, in seconds.
	minAllocatablePeriod = 10
)

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	return slices.Concat(
		validateMeta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain),
		validateProvisioner(c.Provisioner, field.NewPath("provisioner")),
		validateParameters(c.Parameters, true, field.NewPath("parameters")),
		amongPtr(emptyIsNil(c.ReclaimPolicy), field.NewPath("reclaimPolicy"), corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain),
		validateBindingMode(c.VolumeBindingMode, field.NewPath("volumeBindingMode")),
		validateTopologies(c.AllowedTopologies, field.NewPath("allowedTopologies")),
	)
}

// emptyIsNil makes an empty value an absent one.
func emptyIsNil[T ~string](p *T) *T {
	if p == nil || *p == "" {
		return nil
	}
	return p
}

func validateProvisioner(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return qualifiedName(strings.ToLower(name), path)
}

func validateParameters(params map[string]string, mayBeEmpty bool, path *field.Path) field.ErrorList {
	if len(params) > maxParameters {
		return field.ErrorList{field.TooLong(path, "", maxParameters)}
	}
	var errs field.ErrorList
	size := 0
	for k, v := range params {
		if k == "" {
			errs = append(errs, field.Invalid(path, k, "field can not be empty."))
		}
		size += len(k) + len(v)
	}
	if size > maxParametersSize {
		errs = append(errs, field.TooLong(path, "", maxParametersSize))
	}
	if !mayBeEmpty && len(params) == 0 {
		errs = append(errs, field.Required(path, "must contain at least one key/value pair"))
	}
	return errs
}

func validateBindingMode(mode *storagev1.VolumeBindingMode, path *field.Path) field.ErrorList {
	if mode == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	return among(*mode, path, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)
}

// validateTopologies checks where a class's volumes may be: no two terms may say the same.
func validateTopologies(terms []corev1.TopologySelectorTerm, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	var seen []map[string][]string
	for i := range terms {
		at := path.Index(i)
		term, found := validateTopologyTerm(&terms[i], at.Child("matchLabelExpressions"))
		errs = append(errs, found...)
		for _, other := range seen {
			if maps.EqualFunc(term, other, slices.Equal) {
				errs = append(errs, field.Duplicate(at.Child("matchLabelExpressions"), ""))
			}
		}
		seen = append(seen, term)
	}
	return errs
}

// validateTopologyTerm gives also the sorted values by their keys.
func validateTopologyTerm(t *corev1.TopologySelectorTerm, path *field.Path) (map[string][]string, field.ErrorList) {
	var errs field.ErrorList
	term := map[string][]string{}
	for i := range t.MatchLabelExpressions {
		r, at := &t.MatchLabelExpressions[i], path.Index(i)
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(at.Child("values"), ""))
		}
		for j, value := range r.Values {
			if slices.Contains(r.Values[:j], value) {
				errs = append(errs, field.Duplicate(at.Child("values").Index(j), value))
			}
			errs = append(errs, invalid(at.Child("values").Index(j), value, validation.IsValidLabelValue(value))...)
		}
		errs = append(errs, metavalidation.ValidateLabelName(r.Key, at.Child("key"))...)
		if _, twice := term[r.Key]; twice {
			errs = append(errs, field.Duplicate(at.Child("key"), r.Key))
		}
		term[r.Key] = slices.Sorted(slices.Values(r.Values))
	}
	return term, errs
}

func validateStorageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	errs := validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	for _, f := range []struct {
		name    string
		changed bool
	}{
		{"parameters", !maps.Equal(c.Parameters, old.Parameters)},
		{"provisioner", c.Provisioner != old.Provisioner},
		{"reclaimPolicy", *orZero(c.ReclaimPolicy) != *orZero(old.ReclaimPolicy)},
	} {
		if f.changed {
			errs = append(errs, field.Forbidden(field.NewPath(f.name), "updates to "+f.name+" are forbidden."))
		}
	}
	errs = append(errs, immutable(c.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode"))...)
	topologies := field.NewPath("allowedTopologies")
	return append(errs, inherited(validateTopologies(c.AllowedTopologies, topologies), func() field.ErrorList {
		return validateTopologies(old.AllowedTopologies, topologies)
	})...)
}

func storageClassWarnings(c, _ *storagev1.StorageClass) []string {
	w := &warnings{}
	for i, term := range c.AllowedTopologies {
		for j, r := range term.MatchLabelExpressions {
			if msg := deprecatedNodeLabels[r.Key]; msg != "" {
				w.add(field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j), "%s is %s", r.Key, msg)
			}
		}
	}
	return w.found
}

func validateVolumeAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	errs := validateMeta(&a.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateAttachmentState(a)...)
	errs = append(errs, validateDriverName(a.Spec.Attacher, field.NewPath("spec.attacher"))...)
	if name := a.Spec.Source.PersistentVolumeName; name != nil {
		errs = append(errs, dnsSubdomain(*name, field.NewPath("spec.source.persistentVolumeName"))...)
	}
	return errs
}

// validateAttachmentState checks spec and status, but for what objects of before v1 may lack.
func validateAttachmentState(a *storagev1.VolumeAttachment) field.ErrorList {
	spec, status := field.NewPath("spec"), field.NewPath("status")
	errs := required(spec, namedValue{"attacher", a.Spec.Attacher})
	errs = append(errs, validateAttachmentSource(&a.Spec.Source, spec.Child("source"))...)
	errs = append(errs, dnsSubdomain(a.Spec.NodeName, spec.Child("nodeName"))...)
	size := 0
	for k, v := range a.Status.AttachmentMetadata {
		size += len(k) + len(v)
	}
	if size > maxParametersSize {
		errs = append(errs, field.TooLong(status.Child("attachmentMetadata"), "", maxParametersSize))
	}
	errs = append(errs, validateVolumeError(a.Status.AttachError, status.Child("attachError"))...)
	return append(errs, validateVolumeError(a.Status.DetachError, status.Child("detachError"))...)
}

func validateAttachmentSource(s *storagev1.VolumeAttachmentSource, path *field.Path) field.ErrorList {
	const one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch inline, name := s.InlineVolumeSpec, s.PersistentVolumeName; {
	case inline == nil && name == nil:
		return field.ErrorList{field.Required(path, one)}
	case inline != nil && name != nil:
		return field.ErrorList{field.Forbidden(path, one)}
	case name != nil && *name == "":
		return field.ErrorList{field.Required(path.Child("persistentVolumeName"), "must specify non empty persistentVolumeName")}
	case inline != nil:
		return validateInlineVolume(inline, path.Child("inlineVolumeSpec"))
	}
	return nil
}

// validateInlineVolume checks a volume that only an attachment knows: one of a CSI driver, which a pod spelled out.
func validateInlineVolume(s *corev1.PersistentVolumeSpec, path *field.Path) field.ErrorList {
	const inline = "may not be specified in the context of inline volumes"
	errs := refuseFields([]setField{
		{s.ClaimRef != nil, path.Child("claimRef")},
		{len(s.Capacity) != 0, path.Child("capacity")},
		{s.NodeAffinity != nil, path.Child("nodeAffinity")},
		{s.StorageClassName != "", path.Child("storageClassName")},
	}, inline)
	if s.CSI == nil {
		errs = append(errs, field.Required(path.Child("csi"), "has to be specified in the context of inline volumes"))
	}
	errs = append(errs, validateVolumeModes(s.AccessModes, path.Child("accessModes"))...)
	if p := s.PersistentVolumeReclaimPolicy; p != "" && p != corev1.PersistentVolumeReclaimRetain {
		errs = append(errs, field.Forbidden(path.Child("persistentVolumeReclaimPolicy"), "may only be Retain in the context of inline volumes"))
	}
	errs = append(errs, validatePersistentSource(s, "", path)...)
	if s.VolumeMode != nil && *s.VolumeMode != corev1.PersistentVolumeFilesystem {
		errs = append(errs, field.Forbidden(path.Child("volumeMode"), "may not specify volumeMode other than Filesystem in the context of inline volumes"))
	}
	return append(errs, validateVolumeAttributes(s, path)...)
}

func validateVolumeError(e *storagev1.VolumeError, path *field.Path) field.ErrorList {
	if e == nil {
		return nil
	}
	var errs field.ErrorList
	if len(e.Message) > maxVolumeErrorMessage {
		errs = append(errs, field.TooLong(path.Child("message"), "", maxVolumeErrorMessage))
	}
	if e.ErrorCode != nil && *e.ErrorCode < 0 {
		errs = append(errs, field.Invalid(path.Child("errorCode"), *e.ErrorCode, validation.InclusiveRangeError(0, math.MaxInt32)))
	}
	return errs
}

func validateVolumeAttachmentUpdate(a, old *storagev1.VolumeAttachment) field.ErrorList {
	errs := append(validateMetaUpdate(&a.ObjectMeta, &old.ObjectMeta), validateAttachmentState(a)...)
	if !equality.Semantic.DeepEqual(a.Spec, old.Spec) {
		errs = append(errs, field.Invalid(field.NewPath("spec"), a.Spec, apivalidation.FieldImmutableErrorMsg))
	}
	return errs
}

// validateCSINode checks what a node's agent knows of its drivers; old is nil on create.
func validateCSINode(n, old *storagev1.CSINode) field.ErrorList {
	errs := validateMeta(&n.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	drivers := field.NewPath("spec", "drivers")
	for i := range n.Spec.Drivers {
		d, at := &n.Spec.Drivers[i], drivers.Index(i)
		errs = append(errs, validateCSINodeDriver(d, at)...)
		if slices.ContainsFunc(n.Spec.Drivers[:i], func(o storagev1.CSINodeDriver) bool { return o.Name == d.Name }) {
			errs = append(errs, field.Duplicate(at.Child("name"), d.Name))
		}
	}
	if old == nil {
		return errs
	}
	for i := range old.Spec.Drivers {
		for j := range n.Spec.Drivers {
			if old.Spec.Drivers[i].Name == n.Spec.Drivers[j].Name {
				was, is := old.Spec.Drivers[i].DeepCopy(), n.Spec.Drivers[j].DeepCopy()
				was.Allocatable, is.Allocatable = nil, nil // alone may change
				errs = append(errs, immutable(is, was, drivers)...)
			}
		}
	}
	return errs
}

func validateCSINodeDriver(d *storagev1.CSINodeDriver, path *field.Path) field.ErrorList {
	errs := append(validateDriverName(d.Name, path.Child("name")), required(path, namedValue{"nodeID", d.NodeID})...)
	if len(d.NodeID) > maxCSINodeID {
		errs = append(errs, field.Invalid(path.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", maxCSINodeID)))
	}
	if d.Allocatable != nil && d.Allocatable.Count != nil {
		errs = append(errs, nonnegative(*d.Allocatable.Count, path.Child("allocatable", "count"))...)
	}
	for i, key := range d.TopologyKeys {
		if key == "" {
			errs = append(errs, field.Required(path, key))
		}
		if slices.Contains(d.TopologyKeys[:i], key) {
			errs = append(errs, field.Duplicate(path, key))
		}
		errs = append(errs, qualifiedName(key, path)...)
	}
	return errs
}

func validateCSIDriver(d *storagev1.CSIDriver) field.ErrorList {
	return append(validateMeta(&d.ObjectMeta, false, apivalidation.NameIsDNSSubdomain), validateCSIDriverSpec(&d.Spec, field.NewPath("spec"))...)
}

func validateCSIDriverSpec(s *storagev1.CSIDriverSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, f := range []struct {
		name  string
		value *bool
	}{
		{"attachedRequired", s.AttachRequired}, {"podInfoOnMount", s.PodInfoOnMount},
		{"storageCapacity", s.StorageCapacity}, {"seLinuxMount", s.SELinuxMount},
	} {
		if f.value == nil {
			errs = append(errs, field.Required(path.Child(f.name), ""))
		}
	}
	errs = append(errs, amongPtr(s.FSGroupPolicy, path.Child("fsGroupPolicy"),
		storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)...)
	errs = append(errs, validateTokenRequests(s, path)...)
	for _, mode := range s.VolumeLifecycleModes {
		errs = append(errs, among(mode, path.Child("volumeLifecycleModes"), storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)...)
	}
	if p := s.NodeAllocatableUpdatePeriodSeconds; p != nil && *p < minAllocatablePeriod {
		errs = append(errs, field.Invalid(path.Child("nodeAllocatableUpdatePeriodSeconds"), *p, "must be greater than or equal to 10 seconds"))
	}
	return errs
}

func validateTokenRequests(s *storagev1.CSIDriverSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.ServiceAccountTokenInSecrets != nil && len(s.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(path.Child("serviceAccountTokenInSecrets"), *s.ServiceAccountTokenInSecrets, "must be unset when tokenRequests is empty"))
	}
	for i := range s.TokenRequests {
		r, at := &s.TokenRequests[i], path.Child("tokenRequests").Index(i)
		same := func(o storagev1.TokenRequest) bool { return o.Audience == r.Audience }
		if slices.ContainsFunc(s.TokenRequests[:i], same) {
			errs = append(errs, field.Duplicate(at.Child("audience"), r.Audience))
			continue
		}
		switch seconds := r.ExpirationSeconds; {
		case seconds == nil:
		case *seconds < minTokenSeconds:
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *seconds, "may not specify a duration less than 10 minutes"))
		case *seconds > maxTokenSeconds:
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *seconds, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return errs
}

func validateCSIDriverUpdate(d, old *storagev1.CSIDriver) field.ErrorList {
	path := field.NewPath("spec")
	errs := append(validateMetaUpdate(&d.ObjectMeta, &old.ObjectMeta), validateCSIDriverSpec(&d.Spec, path)...)
	errs = append(errs, immutable(d.Spec.AttachRequired, old.Spec.AttachRequired, path.Child("attachedRequired"))...)
	return append(errs, immutable(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, path.Child("volumeLifecycleModes"))...)
}

func validateStorageCapacity(c *storagev1.CSIStorageCapacity) field.ErrorList {
	errs := validateMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateSelector(c.NodeTopology, field.NewPath("nodeTopology"))...)
	errs = append(errs, dnsSubdomain(c.StorageClassName, field.NewPath("storageClassName"))...)
	if c.Capacity != nil && c.Capacity.Sign() < 0 {
		errs = append(errs, field.Invalid(field.NewPath("capacity"), c.Capacity.String(), apivalidation.IsNegativeErrorMsg))
	}
	return errs
}

func validateStorageCapacityUpdate(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
	errs := validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, immutable(c.NodeTopology, old.NodeTopology, field.NewPath("nodeTopology"))...)
	return append(errs, immutable(c.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
}

func storageCapacityWarnings(c, _ *storagev1.CSIStorageCapacity) []string {
	w := &warnings{}
	if c.NodeTopology == nil {
		return nil
	}
	path := field.NewPath("nodeTopology")
	for i, r := range c.NodeTopology.MatchExpressions {
		if msg := deprecatedNodeLabels[r.Key]; msg != "" {
			w.add(path.Child("matchExpressions").Index(i).Child("key"), "%s is %s", r.Key, msg)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.NodeTopology.MatchLabels)) {
		if msg := deprecatedNodeLabels[key]; msg != "" {
			w.add(path.Child("matchLabels").Child(key), "%s", msg)
		}
	}
	return w.found
}

func validateVolumeAttributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	return slices.Concat(
		validateMeta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain),
		validateProvisioner(c.DriverName, field.NewPath("driverName")),
		validateParameters(c.Parameters, false, field.NewPath("parameters")),
	)
}

func validateVolumeAttributesClassUpdate(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
	errs := validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	if c.DriverName != old.DriverName {
		errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
	}
	if !maps.Equal(c.Parameters, old.Parameters) {
		errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
	}
	return append(errs, validateVolumeAttributesClass(c)...)
}
