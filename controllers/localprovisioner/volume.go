package localprovisioner

import (
	"fmt"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/internal/volumes"
)

var everything = labels.Everything()

// request is what a volume is made from.
type request struct {
	claim *corev1.PersistentVolumeClaim
	class *storagev1.StorageClass
	// selected: the scheduler has chosen a node, which is nil where there is none of that name.
	selected bool
	node     *corev1.Node
}

// refusal is why there can be no such volume; elsewhere there may.
type refusal struct {
	message   string
	elsewhere bool
}

func volumeName(c *corev1.PersistentVolumeClaim) string { return "pvc-" + string(c.UID) }

// volume is the volume for the claim, or why there is none. It is pure.
func (r request) volume() (*corev1.PersistentVolume, *refusal) {
	if why := r.refused(); why != nil {
		return nil, why
	}
	name := volumeName(r.claim)
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{volumes.LocalNode: volumes.NodeLabel(r.node.Name)},
			Annotations: map[string]string{volumes.ProvisionedBy: volumes.LocalProvisioner}, Finalizers: []string{volumes.LocalFinalizer},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: r.claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   r.claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: ptr.Deref(r.class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			StorageClassName:              r.class.Name,
			MountOptions:                  r.class.MountOptions,
			VolumeMode:                    ptr.To(corev1.PersistentVolumeFilesystem),
			ClaimRef: &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: r.claim.Namespace, Name: r.claim.Name,
				UID: r.claim.UID, ResourceVersion: r.claim.ResourceVersion},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path.Join(r.node.Annotations[volumes.LocalFolders], name)}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn,
					Values: []string{r.node.Labels[corev1.LabelHostname]}}}}}}},
		},
	}, nil
}

func (r request) refused() *refusal {
	never := func(format string, args ...any) *refusal { return &refusal{message: fmt.Sprintf(format, args...)} }
	spec := r.claim.Spec
	for name := range r.class.Parameters {
		return never("the class has a parameter %q; there are none", name)
	}
	shared := func(m corev1.PersistentVolumeAccessMode) bool {
		return m != corev1.ReadWriteOnce && m != corev1.ReadWriteOncePod
	}
	switch {
	case slices.ContainsFunc(spec.AccessModes, shared):
		return never("a volume that lies on one node has no access modes but ReadWriteOnce and ReadWriteOncePod")
	case ptr.Deref(spec.VolumeMode, corev1.PersistentVolumeFilesystem) == corev1.PersistentVolumeBlock:
		return never("it provides folders and no block devices")
	case spec.Selector != nil:
		return never("claim Selector is not supported")
	case spec.DataSource != nil || spec.DataSourceRef != nil:
		return never("data sources are not supported")
	case !r.selected:
		return never("the class must have the volumeBindingMode WaitForFirstConsumer: the volume is made on the node of its first pod")
	case r.node == nil:
		return &refusal{"the node that was selected is gone", true}
	case !path.IsAbs(r.node.Annotations[volumes.LocalFolders]) || r.node.Labels[corev1.LabelHostname] == "":
		return &refusal{fmt.Sprintf("node %q provides no local volumes", r.node.Name), true}
	}
	return nil
}
