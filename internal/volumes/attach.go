package volumes

import (
	"crypto/sha256"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// csiPrefix starts the names by which nodes and controllers speak of CSI volumes.
const csiPrefix = "kubernetes.io/csi/"

// UniqueName is the name of a CSI volume in a node's status.
func UniqueName(driver, handle string) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName(csiPrefix + driver + "^" + handle)
}

// ParseUniqueName is UniqueName's inverse; ok is false for the names of other volumes.
func ParseUniqueName(name corev1.UniqueVolumeName) (driver, handle string, ok bool) {
	rest, isCSI := strings.CutPrefix(string(name), csiPrefix)
	driver, handle, ok = strings.Cut(rest, "^")
	return driver, handle, ok && isCSI
}

// AttachmentName is the name of the VolumeAttachment of a CSI volume to a node, by which drivers, nodes and controllers find it.
func AttachmentName(driver, handle, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(handle+driver+node)))
}

// Shareable tells whether several nodes may have the volume at the same time.
func Shareable(v *corev1.PersistentVolume) bool {
	return len(v.Spec.AccessModes) == 0 || hasAccess(v.Spec.AccessModes, corev1.ReadWriteMany) || hasAccess(v.Spec.AccessModes, corev1.ReadOnlyMany)
}
