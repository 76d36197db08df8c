//lint:file-ignore SA1019 the annotation of before there was spec.storageClassName still counts.

package kinds

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func persistentVolumeClaims() Kind {
	spec, status := corev1.PersistentVolumeClaimSpec{}.SwaggerDoc(), corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()
	return Kind{
		GVK:        corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"),
		Resource:   "persistentvolumeclaims",
		Singular:   "persistentvolumeclaim",
		ShortNames: []string{"pvc"},
		Namespaced: true,
		Prefix:     "persistentvolumeclaims",
		New:        func() runtime.Object { return &corev1.PersistentVolumeClaim{} },
		NewList:    func() runtime.Object { return &corev1.PersistentVolumeClaimList{} },

		Default:             on(defaultClaim),
		PrepareCreate:       on(prepareClaimCreate),
		PrepareUpdate:       onUpdate(prepareClaimUpdate),
		Validate:            check(validateClaim),
		ValidateUpdate:      checkUpdate(validateClaimUpdate),
		Warnings:            warn(claimWarnings),
		NoGeneration:        true,
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Status", "string", status["phase"]),
			column("Volume", "string", spec["volumeName"]),
			column("Capacity", "string", status["capacity"]),
			column("Access Modes", "string", status["accessModes"]),
			column("StorageClass", "string", "StorageClass of the pvc"),
			column("VolumeAttributesClass", "string", "VolumeAttributesClass of the pvc"),
			ageColumn(),
			wideColumn("VolumeMode", "string", spec["volumeMode"]),
		},
		Cells: cells(claimCells),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(prepareClaimStatus),
			ValidateUpdate: checkUpdate(validateClaimStatusUpdate),
		},
	}
}

func defaultClaim(c *corev1.PersistentVolumeClaim) {
	setDefault(&c.Status.Phase, corev1.ClaimPending)
	defaultClaimSpec(&c.Spec)
	roundResources(c.Status.Capacity)
	roundResources(c.Status.AllocatedResources)
}

func prepareClaimCreate(c *corev1.PersistentVolumeClaim) {
	c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
	dropDataSources(&c.Spec, nil)
	agreeOnDataSource(&c.Spec)
}

func prepareClaimUpdate(c, old *corev1.PersistentVolumeClaim) {
	c.Status = *old.Status.DeepCopy()
	dropDataSources(&c.Spec, &old.Spec)
	// Of a client that knows only one of the two fields, that one counts.
	agreeOnDataSource(&c.Spec)
}

// prepareClaimStatus drops what only feature CSIVolumeHealth, which is off, reports.
func prepareClaimStatus(c, old *corev1.PersistentVolumeClaim) {
	c.Spec = *old.Spec.DeepCopy()
	if old.Status.HealthStatus == nil {
		c.Status.HealthStatus = nil
	}
}

// dropDataSources drops sources in other namespaces, a feature that is off, and what older servers dropped from dataSource: all but claims
// and snapshots. What the claim had stays.
func dropDataSources(s, old *corev1.PersistentVolumeClaimSpec) {
	hadRef := old != nil && old.DataSourceRef != nil
	if r := s.DataSourceRef; r != nil && r.Namespace != nil && *r.Namespace != "" && !hadRef {
		s.DataSourceRef = nil
	}
	if hadRef || old != nil && old.DataSource != nil || s.DataSourceRef != nil {
		return
	}
	if d := s.DataSource; d != nil && !isClaimOrSnapshot(d) {
		s.DataSource = nil
	}
}

func isClaimOrSnapshot(d *corev1.TypedLocalObjectReference) bool {
	group := ""
	if d.APIGroup != nil {
		group = *d.APIGroup
	}
	return d.Kind == "PersistentVolumeClaim" && group == "" || d.Kind == "VolumeSnapshot" && group == "snapshot.storage.k8s.io"
}

// agreeOnDataSource fills the older and the newer field for the source from each other.
func agreeOnDataSource(s *corev1.PersistentVolumeClaimSpec) {
	group := func(g *string) *string {
		if g == nil {
			return nil
		}
		value := *g
		return &value
	}
	switch d, r := s.DataSource, s.DataSourceRef; {
	case d != nil && r == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: group(d.APIGroup), Kind: d.Kind, Name: d.Name}
	case d == nil && r != nil && (r.Namespace == nil || *r.Namespace == ""):
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: group(r.APIGroup), Kind: r.Kind, Name: r.Name}
	}
}

func validateClaim(c *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := validateMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateClaimSpec(&c.Spec, field.NewPath("spec"))...)
}

func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, inherited(validateClaimSpec(&c.Spec, spec), func() field.ErrorList { return validateClaimSpec(&old.Spec, spec) })...)
	errs = append(errs, validateClaimChange(c, old)...)
	size, was, has := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage], old.Status.Capacity[corev1.ResourceStorage]
	if size.Cmp(was) < 0 && size.Cmp(has) <= 0 {
		// A request may be taken back as far as the volume has not grown.
		errs = append(errs, field.Forbidden(spec.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, immutable(c.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	return append(errs, validateAttributesChange(c.Spec.VolumeAttributesClassName, old.Spec.VolumeAttributesClassName, spec.Child("volumeAttributesClassName"))...)
}

// validateClaimChange refuses changes but of the size of a bound claim, of its volume's attributes, of a volume's name and class that it had not.
func validateClaimChange(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	var errs field.ErrorList
	rest, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" {
		was.VolumeName = rest.VolumeName
	}
	annotated, hasAnnotation := old.Annotations[corev1.BetaStorageClassAnnotation]
	named, isNamed := c.Annotations[corev1.BetaStorageClassAnnotation]
	moved := hasAnnotation && was.StorageClassName == nil && rest.StorageClassName != nil && *rest.StorageClassName == annotated && (!isNamed || named == annotated)
	if !moved {
		if named != annotated {
			errs = append(errs, field.Invalid(metadata().Child("annotations", corev1.BetaStorageClassAnnotation), named, apivalidation.FieldImmutableErrorMsg))
		}
		moved = was.StorageClassName == nil && rest.StorageClassName != nil && (!hasAnnotation || *rest.StorageClassName == annotated)
	}
	if moved {
		rest.StorageClassName = was.StorageClassName
	}
	if c.Status.Phase == corev1.ClaimBound && rest.Resources.Requests != nil {
		rest.Resources.Requests[corev1.ResourceStorage] = was.Resources.Requests[corev1.ResourceStorage]
	}
	rest.VolumeAttributesClassName = was.VolumeAttributesClassName
	if !equality.Semantic.DeepEqual(rest, was) {
		errs = append(errs, field.Forbidden(field.NewPath("spec"), fmt.Sprintf(
			"spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", diff.Diff(was, rest))))
	}
	return errs
}

func validateAttributesChange(class, old *string, path *field.Path) field.ErrorList {
	switch {
	case old == nil || class != nil && *class == *old:
	case class == nil:
		return field.ErrorList{field.Forbidden(path, "update from non-nil value to nil is forbidden")}
	case *class == "":
		return field.ErrorList{field.Forbidden(path, "update from non-nil value to an empty string is forbidden")}
	}
	return nil
}

func validateClaimStatusUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	if len(c.Spec.AccessModes) == 0 {
		errs = append(errs, field.Required(field.NewPath("Spec", "accessModes"), ""))
	}
	status := field.NewPath("status")
	for _, name := range slices.Sorted(maps.Keys(c.Status.Capacity)) {
		errs = append(errs, notNegative(c.Status.Capacity[name], status.Child("capacity").Key(string(name)))...)
	}
	statuses := status.Child("allocatedResourceStatus")
	for _, name := range slices.Sorted(maps.Keys(c.Status.AllocatedResourceStatuses)) {
		errs = append(errs, claimResource(name, statuses)...)
		state := c.Status.AllocatedResourceStatuses[name]
		if !slices.Contains(resizeStates, state) {
			errs = append(errs, field.NotSupported(statuses, name, resizeStates))
		}
	}
	allocated := status.Child("allocatedResources")
	for _, name := range slices.Sorted(maps.Keys(c.Status.AllocatedResources)) {
		if found := claimResource(name, allocated); len(found) > 0 {
			errs = append(errs, found...)
			continue
		}
		errs = append(errs, notNegative(c.Status.AllocatedResources[name], allocated.Key(string(name)))...)
	}
	return errs
}

// resizeStates are how far a claim's growth may be.
var resizeStates = []corev1.ClaimResourceStatus{
	corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
	corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible,
}

// claimResource checks the name of a resource that a claim has: storage, or one with a domain.
func claimResource(name corev1.ResourceName, path *field.Path) field.ErrorList {
	if errs := qualifiedName(string(name), path); len(errs) > 0 {
		return errs
	}
	native := !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
	if native && name != corev1.ResourceStorage {
		return field.ErrorList{field.NotSupported(path, string(name), []corev1.ResourceName{corev1.ResourceStorage})}
	}
	return nil
}

// notNegative refuses what is less than nothing.
func notNegative(q resource.Quantity, path *field.Path) field.ErrorList {
	if q.Value() < 0 {
		return field.ErrorList{field.Invalid(path, q.Value(), "must be a valid resource quantity")}
	}
	return nil
}

func claimWarnings(c, _ *corev1.PersistentVolumeClaim) []string {
	w := &warnings{}
	w.classAnnotation(c.Annotations)
	resources := field.NewPath("spec", "resources")
	for _, l := range []struct {
		list corev1.ResourceList
		path *field.Path
	}{{c.Spec.Resources.Requests, resources.Child("requests")}, {c.Spec.Resources.Limits, resources.Child("limits")}} {
		if q := l.list[corev1.ResourceStorage]; q.MilliValue()%1000 != 0 {
			w.add(l.path.Key(string(corev1.ResourceStorage)), "fractional byte value %q is invalid, must be an integer", q.String())
		}
	}
	return w.found
}

func claimCells(c *corev1.PersistentVolumeClaim, now metav1.Time) []any {
	phase, capacity, modes, class := string(c.Status.Phase), "", "", ""
	if c.DeletionTimestamp != nil {
		phase = cellTerminating
	}
	if c.Spec.VolumeName != "" {
		size := c.Status.Capacity[corev1.ResourceStorage]
		capacity, modes = size.String(), shortAccessModes(c.Status.AccessModes)
	}
	if c.Spec.StorageClassName != nil {
		class = *c.Spec.StorageClassName
	}
	return []any{
		c.Name, phase, c.Spec.VolumeName, capacity, modes, annotatedClass(c.Annotations, class),
		unsetOr(c.Spec.VolumeAttributesClassName), age(now, c.CreationTimestamp), unsetOr(c.Spec.VolumeMode),
	}
}
