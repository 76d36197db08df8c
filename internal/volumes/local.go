package volumes

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// What the built-in provisioner of local volumes is known by. The controller makes the volume's object, the agent of the node that was
// chosen its folder; when the volume goes, the agent removes the data and then the finalizer.
const (
	// LocalProvisioner is named by storage classes, and LocalClass is the one that every cluster starts with.
	LocalProvisioner = "coracle.dev/local"
	LocalClass       = "local"
	// LocalFolders annotates a node that provides such volumes with the folder they lie in.
	LocalFolders = "coracle.dev/local-volumes"
	// LocalNode labels a volume with the node that has its data, as NodeLabel writes it.
	LocalNode = "coracle.dev/local-volume-of"
	// LocalFinalizer holds a volume until its node has removed the data.
	LocalFinalizer = "coracle.dev/local-volume"
)

// NodeLabel is a node's name as the value of a label: longer ones are shortened, and stay apart.
func NodeLabel(node string) string {
	const longest = 63
	if len(node) <= longest {
		return node
	}
	sum := sha256.Sum256([]byte(node))
	return node[:longest-17] + "x" + hex.EncodeToString(sum[:8])
}

// Local tells whether the volume was made by the provisioner of local volumes, for the node of that name.
func Local(v *corev1.PersistentVolume, node string) bool {
	return v.Annotations[ProvisionedBy] == LocalProvisioner && v.Spec.Local != nil && v.Labels[LocalNode] == NodeLabel(node)
}

// LocalLeaves tells whether nothing but the node's data holds the volume any more.
func LocalLeaves(v *corev1.PersistentVolume) bool {
	return v.DeletionTimestamp != nil && slices.Equal(v.Finalizers, []string{LocalFinalizer})
}
