package volumebinder

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/internal/volumes"
)

// volumePlan is what to do about a volume.
type volumePlan struct {
	// phase is the volume's; empty leaves it.
	phase   corev1.PersistentVolumePhase
	message string
	// event tells of a new phase.
	event *event
	// unbind sets the volume free, or leaves it reserved for the claim that a user named.
	unbind bool
	// recycle empties the volume and sets it free.
	recycle bool
	// mismatched are told to the volume and to its claim.
	mismatched [2]*event
}

// decideVolume decides what becomes of a volume. Holder is the claim that the volume refers to by UID; nil when that is gone. It is pure.
func decideVolume(v *corev1.PersistentVolume, holder *corev1.PersistentVolumeClaim) volumePlan {
	switch {
	case v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == "":
		return volumePlan{phase: corev1.VolumeAvailable}
	case holder == nil:
		return released(v)
	case holder.Spec.VolumeName == v.Name:
		return volumePlan{phase: corev1.VolumeBound}
	case holder.Spec.VolumeName == "" && !volumes.SameMode(v, holder):
		return volumePlan{mismatched: [2]*event{
			warning("VolumeMismatch", "Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", holder.Name),
			warning("VolumeMismatch", "Cannot bind PersistentVolume %q to requested PersistentVolumeClaim due to incompatible volumeMode.", v.Name),
		}}
	case holder.Spec.VolumeName == "":
		return volumePlan{} // the claim's own turn completes the binding
	case metav1.HasAnnotation(v.ObjectMeta, volumes.ProvisionedBy) && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return released(v) // made for a claim that has found another
	}
	return volumePlan{unbind: true}
}

// released is the plan for a volume whose claim is gone. A volume that failed stays so, for people to see.
func released(v *corev1.PersistentVolume) volumePlan {
	p := reclaim(v)
	if p.phase == "" && v.Status.Phase != corev1.VolumeFailed {
		p.phase = corev1.VolumeReleased
	}
	return p
}

// reclaim follows the volume's reclaim policy. Provisioners outside delete what they have made once it is released.
func reclaim(v *corev1.PersistentVolume) volumePlan {
	fail := func(e *event) volumePlan {
		return volumePlan{phase: corev1.VolumeFailed, message: e.message, event: e}
	}
	if v.Annotations[volumes.MigratedTo] != "" {
		return volumePlan{}
	}
	switch v.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimRetain:
		return volumePlan{}
	case corev1.PersistentVolumeReclaimRecycle:
		if !recyclable(v) {
			return fail(warning("VolumeFailedRecycle", "No recycler plugin found for the volume!"))
		}
		return volumePlan{recycle: true}
	case corev1.PersistentVolumeReclaimDelete:
		if why := undeletable(v); why != "" {
			return fail(warning("VolumeFailedDelete", "%s", why))
		}
		return volumePlan{}
	}
	return fail(warning("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy"))
}

// undeletable says why nobody will delete the volume's storage; empty when a provisioner outside does.
func undeletable(v *corev1.PersistentVolume) string {
	who := v.Annotations[volumes.ProvisionedBy]
	_, taken := drivers[who]
	switch s := v.Spec.PersistentVolumeSource; {
	case who != "" && (taken || !strings.HasPrefix(who, builtin)):
		return ""
	case who != "":
		return "no volume plugin matched name: " + who
	case s.HostPath != nil || s.NFS != nil || s.Local != nil:
		return `error getting deleter volume plugin for volume "` + v.Name + `": no deletable volume plugin matched`
	}
	return `error getting deleter volume plugin for volume "` + v.Name + `": no volume plugin matched`
}

// recyclable tells whether a pod can empty the volume.
func recyclable(v *corev1.PersistentVolume) bool { return v.Spec.HostPath != nil || v.Spec.NFS != nil }

// unbound is the volume set free; one that a user reserved stays reserved for a claim of that name.
func unbound(v *corev1.PersistentVolume) *corev1.PersistentVolume {
	v = v.DeepCopy()
	if !metav1.HasAnnotation(v.ObjectMeta, volumes.BoundByController) {
		v.Spec.ClaimRef.UID, v.Spec.ClaimRef.ResourceVersion = "", ""
		return v
	}
	v.Spec.ClaimRef = nil
	delete(v.Annotations, volumes.BoundByController)
	return v
}
