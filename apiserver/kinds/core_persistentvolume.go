//lint:file-ignore SA1019 the annotation of before there was spec.storageClassName still counts.

package kinds

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	// mountOptionAnnotation is what spec.mountOptions was before it was a field.
	mountOptionAnnotation = "volume.beta.kubernetes.io/mount-options"
	// cellUnset is shown where an optional value has none.
	cellUnset = "<unset>"
	// cellTerminating is shown as the phase of what is being deleted.
	cellTerminating = "Terminating"
)

func persistentVolumes() []Kind {
	spec, status := corev1.PersistentVolumeSpec{}.SwaggerDoc(), corev1.PersistentVolumeStatus{}.SwaggerDoc()
	return []Kind{{
		GVK:        corev1.SchemeGroupVersion.WithKind("PersistentVolume"),
		Resource:   "persistentvolumes",
		Singular:   "persistentvolume",
		ShortNames: []string{"pv"},
		Prefix:     "persistentvolumes",
		New:        func() runtime.Object { return &corev1.PersistentVolume{} },
		NewList:    func() runtime.Object { return &corev1.PersistentVolumeList{} },

		Default:             on(defaultPersistentVolume),
		PrepareCreate:       on(preparePersistentVolumeCreate),
		PrepareUpdate:       onUpdate(func(pv, old *corev1.PersistentVolume) { pv.Status = *old.Status.DeepCopy() }),
		Validate:            check(validatePersistentVolume),
		ValidateUpdate:      checkUpdate(validatePersistentVolumeUpdate),
		Warnings:            warn(persistentVolumeWarnings),
		NoGeneration:        true,
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Capacity", "string", spec["capacity"]),
			column("Access Modes", "string", spec["accessModes"]),
			column("Reclaim Policy", "string", spec["persistentVolumeReclaimPolicy"]),
			column("Status", "string", status["phase"]),
			column("Claim", "string", spec["claimRef"]),
			column("StorageClass", "string", "StorageClass of the pv"),
			column("VolumeAttributesClass", "string", "VolumeAttributesClass of the pv"),
			column("Reason", "string", status["reason"]),
			ageColumn(),
			wideColumn("VolumeMode", "string", spec["volumeMode"]),
		},
		Cells: cells(persistentVolumeCells),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(preparePersistentVolumeStatus),
			ValidateUpdate: checkUpdate(validatePersistentVolumeStatusUpdate),
		},
	}, persistentVolumeClaims()}
}

func defaultPersistentVolume(pv *corev1.PersistentVolume) {
	setDefault(&pv.Status.Phase, corev1.VolumePending)
	defaultVolumeSpec(&pv.Spec)
}

// defaultVolumeSpec covers also the volumes that a VolumeAttachment spells out.
func defaultVolumeSpec(s *corev1.PersistentVolumeSpec) {
	setDefault(&s.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	setDefaultPtr(&s.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundResources(s.Capacity)
	if h := s.HostPath; h != nil {
		setDefaultPtr(&h.Type, corev1.HostPathUnset)
	}
	if i := s.ISCSI; i != nil {
		setDefault(&i.ISCSIInterface, "default")
	}
	if r := s.RBD; r != nil {
		setDefault(&r.RBDPool, "rbd")
		setDefault(&r.RadosUser, "admin")
		setDefault(&r.Keyring, "/etc/ceph/keyring")
	}
	if a := s.AzureDisk; a != nil {
		defaultAzureDisk(a)
	}
	if i := s.ScaleIO; i != nil {
		setDefault(&i.StorageMode, "ThinProvisioned")
		setDefault(&i.FSType, "xfs")
	}
}

// preparePersistentVolumeCreate starts the volume's phases; the first began when the volume was made.
func preparePersistentVolumeCreate(pv *corev1.PersistentVolume) {
	pv.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending}
	if !pv.CreationTimestamp.IsZero() {
		since := pv.CreationTimestamp
		pv.Status.LastPhaseTransitionTime = &since
	}
}

// preparePersistentVolumeStatus keeps the time of the last change of phase where the phase stays. The time of a new phase is the
// clock's, which the server's own hook on volumes reads.
func preparePersistentVolumeStatus(pv, old *corev1.PersistentVolume) {
	pv.Spec = *old.Spec.DeepCopy()
	if pv.Status.Phase == old.Status.Phase && pv.Status.LastPhaseTransitionTime == nil {
		pv.Status.LastPhaseTransitionTime = old.Status.LastPhaseTransitionTime.DeepCopy()
	}
}

// PhaseChanged reports whether a new status has a new phase whose time nobody has said.
func PhaseChanged(pv, old *corev1.PersistentVolume) bool {
	told := pv.Status.LastPhaseTransitionTime
	return pv.Status.Phase != old.Status.Phase && (told == nil || told.Equal(old.Status.LastPhaseTransitionTime))
}

func persistentVolumeCells(pv *corev1.PersistentVolume, now metav1.Time) []any {
	claim := ""
	if ref := pv.Spec.ClaimRef; ref != nil {
		claim = ref.Namespace + "/" + ref.Name
	}
	phase := string(pv.Status.Phase)
	if pv.DeletionTimestamp != nil {
		phase = cellTerminating
	}
	capacity := pv.Spec.Capacity[corev1.ResourceStorage]
	return []any{
		pv.Name, capacity.String(), shortAccessModes(pv.Spec.AccessModes), string(pv.Spec.PersistentVolumeReclaimPolicy), phase, claim,
		annotatedClass(pv.Annotations, pv.Spec.StorageClassName), unsetOr(pv.Spec.VolumeAttributesClassName), pv.Status.Reason,
		age(now, pv.CreationTimestamp), unsetOr(pv.Spec.VolumeMode),
	}
}

// annotatedClass is the storage class that the old annotation names, else the field.
func annotatedClass(annotations map[string]string, class string) string {
	if old, ok := annotations[corev1.BetaStorageClassAnnotation]; ok {
		return old
	}
	return class
}

// unsetOr shows an optional value.
func unsetOr[T ~string](p *T) string {
	if p == nil {
		return cellUnset
	}
	return string(*p)
}

// accessModeNames are the modes' short names in the order in which they are shown.
var accessModeNames = []struct {
	mode corev1.PersistentVolumeAccessMode
	name string
}{
	{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
}

func shortAccessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var names []string
	for _, m := range accessModeNames {
		if slices.Contains(modes, m.mode) {
			names = append(names, m.name)
		}
	}
	return strings.Join(names, ",")
}
