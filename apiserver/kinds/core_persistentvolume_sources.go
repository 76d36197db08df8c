//lint:file-ignore SA1019 sources of storage systems that are gone are checked.

package kinds

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// persistentSources are the kinds of volume, in the order in which the first of several is the one that counts.
var persistentSources = []sourceOf[corev1.PersistentVolumeSource]{
	source("hostPath", "hostPath", func(s *corev1.PersistentVolumeSource) *corev1.HostPathVolumeSource { return s.HostPath }, validateHostPath),
	source("gcePersistentDisk", "persistentDisk", func(s *corev1.PersistentVolumeSource) *corev1.GCEPersistentDiskVolumeSource {
		return s.GCEPersistentDisk
	},
		func(s *corev1.GCEPersistentDiskVolumeSource, path *field.Path) field.ErrorList {
			return append(required(path, namedValue{"pdName", s.PDName}), validatePartition(s.Partition, path.Child("partition"))...)
		}),
	source("awsElasticBlockStore", "awsElasticBlockStore",
		func(s *corev1.PersistentVolumeSource) *corev1.AWSElasticBlockStoreVolumeSource {
			return s.AWSElasticBlockStore
		},
		func(s *corev1.AWSElasticBlockStoreVolumeSource, path *field.Path) field.ErrorList {
			return append(required(path, namedValue{"volumeID", s.VolumeID}), validatePartition(s.Partition, path.Child("partition"))...)
		}),
	source("glusterfs", "glusterfs", func(s *corev1.PersistentVolumeSource) *corev1.GlusterfsPersistentVolumeSource { return s.Glusterfs },
		validateGlusterfsVolume),
	source("flocker", "flocker", func(s *corev1.PersistentVolumeSource) *corev1.FlockerVolumeSource { return s.Flocker }, validateFlocker),
	source("nfs", "nfs", func(s *corev1.PersistentVolumeSource) *corev1.NFSVolumeSource { return s.NFS }, validateNFS),
	source("rbd", "rbd", func(s *corev1.PersistentVolumeSource) *corev1.RBDPersistentVolumeSource { return s.RBD },
		func(s *corev1.RBDPersistentVolumeSource, path *field.Path) field.ErrorList {
			return append(requiredList(len(s.CephMonitors), path.Child("monitors")), required(path, namedValue{"image", s.RBDImage})...)
		}),
	source("quobyte", "quobyte", func(s *corev1.PersistentVolumeSource) *corev1.QuobyteVolumeSource { return s.Quobyte }, validateQuobyte),
	source("cephFS", "cephfs", func(s *corev1.PersistentVolumeSource) *corev1.CephFSPersistentVolumeSource { return s.CephFS },
		func(s *corev1.CephFSPersistentVolumeSource, path *field.Path) field.ErrorList {
			return requiredList(len(s.Monitors), path.Child("monitors"))
		}),
	source("iscsi", "iscsi", func(s *corev1.PersistentVolumeSource) *corev1.ISCSIPersistentVolumeSource { return s.ISCSI }, validateISCSIVolume),
	source("cinder", "cinder", func(s *corev1.PersistentVolumeSource) *corev1.CinderPersistentVolumeSource { return s.Cinder },
		func(s *corev1.CinderPersistentVolumeSource, path *field.Path) field.ErrorList {
			errs := required(path, namedValue{"volumeID", s.VolumeID})
			if ref := s.SecretRef; ref != nil {
				errs = append(errs, required(path.Child("secretRef"), namedValue{"name", ref.Name}, namedValue{"namespace", ref.Namespace})...)
			}
			return errs
		}),
	source("fc", "fc", func(s *corev1.PersistentVolumeSource) *corev1.FCVolumeSource { return s.FC }, validateFC),
	source("flexVolume", "flexVolume", func(s *corev1.PersistentVolumeSource) *corev1.FlexPersistentVolumeSource { return s.FlexVolume },
		func(s *corev1.FlexPersistentVolumeSource, path *field.Path) field.ErrorList {
			return validateFlex(&corev1.FlexVolumeSource{Driver: s.Driver, Options: s.Options}, path)
		}),
	source("azureFile", "azureFile", func(s *corev1.PersistentVolumeSource) *corev1.AzureFilePersistentVolumeSource { return s.AzureFile },
		func(s *corev1.AzureFilePersistentVolumeSource, path *field.Path) field.ErrorList {
			errs := required(path, namedValue{"secretName", s.SecretName}, namedValue{"shareName", s.ShareName})
			if s.SecretNamespace != nil && *s.SecretNamespace == "" {
				errs = append(errs, field.Required(path.Child("secretNamespace"), ""))
			}
			return errs
		}),
	source("vsphereVolume", "vsphereVolume", func(s *corev1.PersistentVolumeSource) *corev1.VsphereVirtualDiskVolumeSource { return s.VsphereVolume },
		func(s *corev1.VsphereVirtualDiskVolumeSource, path *field.Path) field.ErrorList {
			return required(path, namedValue{"volumePath", s.VolumePath})
		}),
	source("photonPersistentDisk", "photonPersistentDisk",
		func(s *corev1.PersistentVolumeSource) *corev1.PhotonPersistentDiskVolumeSource {
			return s.PhotonPersistentDisk
		},
		func(s *corev1.PhotonPersistentDiskVolumeSource, path *field.Path) field.ErrorList {
			return required(path, namedValue{"pdID", s.PdID})
		}),
	source("portworxVolume", "portworxVolume", func(s *corev1.PersistentVolumeSource) *corev1.PortworxVolumeSource { return s.PortworxVolume },
		func(s *corev1.PortworxVolumeSource, path *field.Path) field.ErrorList {
			return required(path, namedValue{"volumeID", s.VolumeID})
		}),
	source("azureDisk", "azureDisk", func(s *corev1.PersistentVolumeSource) *corev1.AzureDiskVolumeSource { return s.AzureDisk }, validateAzureDisk),
	source("scaleIO", "scaleIO", func(s *corev1.PersistentVolumeSource) *corev1.ScaleIOPersistentVolumeSource { return s.ScaleIO },
		func(s *corev1.ScaleIOPersistentVolumeSource, path *field.Path) field.ErrorList {
			return required(path, namedValue{"gateway", s.Gateway}, namedValue{"system", s.System}, namedValue{"volumeName", s.VolumeName})
		}),
	source("local", "local", func(s *corev1.PersistentVolumeSource) *corev1.LocalVolumeSource { return s.Local },
		func(s *corev1.LocalVolumeSource, path *field.Path) field.ErrorList {
			if s.Path == "" {
				return field.ErrorList{field.Required(path.Child("path"), "")}
			}
			return noBacksteps(s.Path, path.Child("path"))
		}),
	source("storageos", "storageos", func(s *corev1.PersistentVolumeSource) *corev1.StorageOSPersistentVolumeSource { return s.StorageOS },
		validateStorageOSVolume),
	source("csi", "csi", func(s *corev1.PersistentVolumeSource) *corev1.CSIPersistentVolumeSource { return s.CSI }, validateCSIVolume),
}

// validatePersistentSource checks that a volume has one source, and that source.
func validatePersistentSource(s *corev1.PersistentVolumeSpec, name string, path *field.Path) field.ErrorList {
	errs, _ := oneSource(persistentSources, &s.PersistentVolumeSource, path)
	if s.Local != nil && s.NodeAffinity == nil {
		errs = append(errs, field.Required(path.Child("nodeAffinity"), "Local volume requires node affinity"))
	}
	if i := s.ISCSI; i != nil && i.InitiatorName != nil && len(name+":"+i.TargetPortal) > maxISCSIName {
		errs = append(errs, field.Invalid(path.Child("iscsi", "targetportal"), i.TargetPortal,
			"Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."))
	}
	return errs
}

// maxISCSIName is how long a volume's name and its portal may be together.
const maxISCSIName = 64

func validateGlusterfsVolume(s *corev1.GlusterfsPersistentVolumeSource, path *field.Path) field.ErrorList {
	errs := required(path, namedValue{"endpoints", s.EndpointsName}, namedValue{"path", s.Path})
	ns := s.EndpointsNamespace
	if ns == nil {
		return errs
	}
	at := path.Child("endpointsNamespace")
	if *ns == "" {
		errs = append(errs, field.Invalid(at, *ns, "if the endpointnamespace is set, it must be a valid namespace name"))
	}
	return append(errs, invalid(at, *ns, apivalidation.ValidateNamespaceName(*ns, false))...)
}

func validateISCSIVolume(s *corev1.ISCSIPersistentVolumeSource, path *field.Path) field.ErrorList {
	errs := required(path, namedValue{"targetPortal", s.TargetPortal}, namedValue{"iqn", s.IQN})
	if s.IQN != "" {
		errs = append(errs, validateISCSIName(s.IQN, path.Child("iqn"))...)
	}
	errs = append(errs, validateLun(s.Lun, path.Child("lun"))...)
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		errs = append(errs, field.Required(path.Child("secretRef"), ""))
	}
	if s.SecretRef != nil {
		errs = append(errs, required(path.Child("secretRef"), namedValue{"name", s.SecretRef.Name})...)
	}
	if s.InitiatorName != nil {
		errs = append(errs, validateISCSIName(*s.InitiatorName, path.Child("initiatorname"))...)
	}
	return errs
}

func validateStorageOSVolume(s *corev1.StorageOSPersistentVolumeSource, path *field.Path) field.ErrorList {
	errs := required(path, namedValue{"volumeName", s.VolumeName})
	if s.VolumeName != "" {
		errs = append(errs, dnsLabel(s.VolumeName, path.Child("volumeName"))...)
	}
	if s.VolumeNamespace != "" {
		errs = append(errs, dnsLabel(s.VolumeNamespace, path.Child("volumeNamespace"))...)
	}
	if ref := s.SecretRef; ref != nil {
		errs = append(errs, required(path.Child("secretRef"), namedValue{"name", ref.Name}, namedValue{"namespace", ref.Namespace})...)
	}
	return errs
}

func validateCSIVolume(s *corev1.CSIPersistentVolumeSource, path *field.Path) field.ErrorList {
	return slices.Concat(
		validateDriverName(s.Driver, path.Child("driver")),
		required(path, namedValue{"volumeHandle", s.VolumeHandle}),
		validateSecretReference(s.ControllerPublishSecretRef, path.Child("controllerPublishSecretRef")),
		validateSecretReference(s.ControllerExpandSecretRef, path.Child("controllerExpandSecretRef")),
		validateSecretReference(s.NodePublishSecretRef, path.Child("nodePublishSecretRef")),
		validateSecretReference(s.NodeExpandSecretRef, path.Child("nodeExpandSecretRef")),
	)
}

func validateSecretReference(ref *corev1.SecretReference, path *field.Path) field.ErrorList {
	if ref == nil {
		return nil
	}
	errs := required(path, namedValue{"name", ref.Name}, namedValue{"namespace", ref.Namespace})
	if ref.Name != "" {
		errs = append(errs, dnsSubdomain(ref.Name, path.Child("name"))...)
	}
	if ref.Namespace != "" {
		errs = append(errs, dnsLabel(ref.Namespace, path.Child("namespace"))...)
	}
	return errs
}
