package csi

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	v1 "k8s.io/api/core/v1"
)

// Volume is one volume of a driver, as a pod or a PersistentVolume asks for it.
type Volume struct {
	// Name is the PersistentVolume's, or that of the pod's own volume.
	Name           string
	Driver, Handle string
	FSType         string
	Attributes     map[string]string
	MountOptions   []string
	AccessModes    []v1.PersistentVolumeAccessMode
	ReadOnly       bool
	// Block: the pod gets a device in place of a folder.
	Block bool
	// Ephemeral: the volume is written into the pod's spec and lives as long as the pod.
	Ephemeral                  bool
	StageSecret, PublishSecret *v1.SecretReference
}

// OfPersistentVolume describes a PersistentVolume whose source is CSI; readOnly is the claim's, as the pod mounts it.
func OfPersistentVolume(pv *v1.PersistentVolume, readOnly bool) Volume {
	source := pv.Spec.CSI
	return Volume{
		Name: pv.Name, Driver: source.Driver, Handle: source.VolumeHandle, FSType: source.FSType, Attributes: source.VolumeAttributes,
		MountOptions: pv.Spec.MountOptions, AccessModes: pv.Spec.AccessModes, ReadOnly: readOnly || source.ReadOnly,
		Block:       pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == v1.PersistentVolumeBlock,
		StageSecret: source.NodeStageSecretRef, PublishSecret: source.NodePublishSecretRef,
	}
}

// OfPod describes a volume of type csi in a pod's spec.
func OfPod(pod *v1.Pod, volume *v1.Volume) Volume {
	source := volume.CSI
	out := Volume{Name: volume.Name, Driver: source.Driver, Handle: inlineHandle(pod, volume.Name), Attributes: source.VolumeAttributes, Ephemeral: true,
		AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}}
	if source.FSType != nil {
		out.FSType = *source.FSType
	}
	if source.ReadOnly != nil {
		out.ReadOnly = *source.ReadOnly
	}
	if source.NodePublishSecretRef != nil {
		out.PublishSecret = &v1.SecretReference{Namespace: pod.Namespace, Name: source.NodePublishSecretRef.Name}
	}
	return out
}

// inlineHandle names a volume that has no other name, the same for every call about it.
func inlineHandle(pod *v1.Pod, volume string) string {
	sum := sha256.Sum256([]byte(pod.Namespace + string(pod.UID) + volume))
	return "csi-" + hex.EncodeToString(sum[:])
}

// attachment is the name of the VolumeAttachment of a volume on a node: everybody who knows the three knows it.
func attachment(handle, driver, node string) string {
	sum := sha256.Sum256([]byte(handle + driver + node))
	return "csi-" + hex.EncodeToString(sum[:])
}

// capability says how the volume is to be used. group is the pod's fsGroup, for drivers that see to it themselves.
func (v Volume) capability(drv *driver, group *int64) *spec.VolumeCapability {
	out := &spec.VolumeCapability{AccessMode: &spec.VolumeCapability_AccessMode{Mode: v.accessMode(drv.singleWriter)}}
	if v.Block {
		out.AccessType = &spec.VolumeCapability_Block{Block: &spec.VolumeCapability_BlockVolume{}}
		return out
	}
	mount := &spec.VolumeCapability_MountVolume{FsType: v.FSType, MountFlags: v.MountOptions}
	if drv.mountsGroup && group != nil {
		mount.VolumeMountGroup = fmt.Sprint(*group)
	}
	out.AccessType = &spec.VolumeCapability_Mount{Mount: mount}
	return out
}

// accessMode is the widest that the volume allows. A driver that tells single writers apart gets the newer modes.
func (v Volume) accessMode(singleWriter bool) spec.VolumeCapability_AccessMode_Mode {
	has := func(m v1.PersistentVolumeAccessMode) bool { return slices.Contains(v.AccessModes, m) }
	switch {
	case has(v1.ReadWriteMany):
		return spec.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	case has(v1.ReadOnlyMany) && has(v1.ReadWriteOnce):
		return spec.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER
	case has(v1.ReadOnlyMany):
		return spec.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case has(v1.ReadWriteOncePod) && singleWriter:
		return spec.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	case has(v1.ReadWriteOnce) && singleWriter:
		return spec.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	}
	return spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
}
