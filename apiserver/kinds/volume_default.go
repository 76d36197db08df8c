package kinds

import (
	corev1 "k8s.io/api/core/v1"
)

// defaultVolume fills in one volume; one without a source is an empty directory.
func defaultVolume(v *corev1.Volume) {
	if v.VolumeSource == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
		return
	}
	if s := v.HostPath; s != nil {
		setDefaultPtr(&s.Type, corev1.HostPathUnset)
	}
	if s := v.Secret; s != nil {
		setDefaultPtr(&s.DefaultMode, fileModeDefault)
	}
	if s := v.ConfigMap; s != nil {
		setDefaultPtr(&s.DefaultMode, fileModeDefault)
	}
	if s := v.DownwardAPI; s != nil {
		setDefaultPtr(&s.DefaultMode, fileModeDefault)
		defaultDownwardItems(s.Items)
	}
	if s := v.Projected; s != nil {
		defaultProjected(s)
	}
	if s := v.Ephemeral; s != nil && s.VolumeClaimTemplate != nil {
		defaultClaimSpec(&s.VolumeClaimTemplate.Spec)
	}
	if s := v.Image; s != nil && s.PullPolicy == "" {
		s.PullPolicy = pullPolicyOf(s.Reference)
	}
	defaultLegacyVolume(v)
}

// defaultLegacyVolume covers the sources of storage systems that once were part of Kubernetes itself.
func defaultLegacyVolume(v *corev1.Volume) {
	if s := v.ISCSI; s != nil {
		setDefault(&s.ISCSIInterface, "default")
	}
	if s := v.RBD; s != nil {
		setDefault(&s.RBDPool, "rbd")
		setDefault(&s.RadosUser, "admin")
		setDefault(&s.Keyring, "/etc/ceph/keyring")
	}
	if s := v.AzureDisk; s != nil {
		defaultAzureDisk(s)
	}
	if s := v.ScaleIO; s != nil {
		setDefault(&s.StorageMode, "ThinProvisioned")
		setDefault(&s.FSType, "xfs")
	}
}

func defaultAzureDisk(s *corev1.AzureDiskVolumeSource) {
	setDefaultPtr(&s.CachingMode, corev1.AzureDataDiskCachingReadWrite)
	setDefaultPtr(&s.Kind, corev1.AzureSharedBlobDisk)
	setDefaultPtr(&s.FSType, "ext4")
	setDefaultPtr(&s.ReadOnly, false)
}

func defaultProjected(s *corev1.ProjectedVolumeSource) {
	setDefaultPtr(&s.DefaultMode, fileModeDefault)
	for i := range s.Sources {
		if d := s.Sources[i].DownwardAPI; d != nil {
			defaultDownwardItems(d.Items)
		}
		if t := s.Sources[i].ServiceAccountToken; t != nil {
			setDefaultPtr(&t.ExpirationSeconds, tokenSecondsDefault)
		}
	}
}

func defaultDownwardItems(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		defaultFieldRef(items[i].FieldRef)
	}
}

func defaultClaimSpec(s *corev1.PersistentVolumeClaimSpec) {
	setDefaultPtr(&s.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundResources(s.Resources.Limits)
	roundResources(s.Resources.Requests)
}
