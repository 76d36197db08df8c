package kinds

import (
	"net"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// legacyVolumeSources are those of storage systems that once were part of Kubernetes itself. They are checked, so that a manifest
// is refused for the same faults everywhere; no node of ours mounts them.
var legacyVolumeSources = []sourceOf[corev1.VolumeSource]{
	source("gitRepo", "gitRepo", func(s *corev1.VolumeSource) *corev1.GitRepoVolumeSource { return s.GitRepo },
		func(s *corev1.GitRepoVolumeSource, path *field.Path) field.ErrorList {
			return append(required(path, namedValue{"repository", s.Repository}), descendingPath(s.Directory, path.Child("directory"))...)
		}),
	source("gcePersistentDisk", "persistentDisk", func(s *corev1.VolumeSource) *corev1.GCEPersistentDiskVolumeSource { return s.GCEPersistentDisk },
		func(s *corev1.GCEPersistentDiskVolumeSource, path *field.Path) field.ErrorList {
			return append(required(path, namedValue{"pdName", s.PDName}), validatePartition(s.Partition, path.Child("partition"))...)
		}),
	source("awsElasticBlockStore", "awsElasticBlockStore",
		func(s *corev1.VolumeSource) *corev1.AWSElasticBlockStoreVolumeSource { return s.AWSElasticBlockStore },
		func(s *corev1.AWSElasticBlockStoreVolumeSource, path *field.Path) field.ErrorList {
			return append(required(path, namedValue{"volumeID", s.VolumeID}), validatePartition(s.Partition, path.Child("partition"))...)
		}),
	source("iscsi", "iscsi", func(s *corev1.VolumeSource) *corev1.ISCSIVolumeSource { return s.ISCSI }, validateISCSI),
	source("glusterfs", "glusterfs", func(s *corev1.VolumeSource) *corev1.GlusterfsVolumeSource { return s.Glusterfs },
		func(s *corev1.GlusterfsVolumeSource, path *field.Path) field.ErrorList {
			return required(path, namedValue{"endpoints", s.EndpointsName}, namedValue{"path", s.Path})
		}),
	source("flocker", "flocker", func(s *corev1.VolumeSource) *corev1.FlockerVolumeSource { return s.Flocker }, validateFlocker),
	source("rbd", "rbd", func(s *corev1.VolumeSource) *corev1.RBDVolumeSource { return s.RBD },
		func(s *corev1.RBDVolumeSource, path *field.Path) field.ErrorList {
			return append(requiredList(len(s.CephMonitors), path.Child("monitors")), required(path, namedValue{"image", s.RBDImage})...)
		}),
	source("cinder", "cinder", func(s *corev1.VolumeSource) *corev1.CinderVolumeSource { return s.Cinder },
		func(s *corev1.CinderVolumeSource, path *field.Path) field.ErrorList {
			return append(required(path, namedValue{"volumeID", s.VolumeID}), validateSecretRef(s.SecretRef, path)...)
		}),
	source("cephFS", "cephfs", func(s *corev1.VolumeSource) *corev1.CephFSVolumeSource { return s.CephFS },
		func(s *corev1.CephFSVolumeSource, path *field.Path) field.ErrorList {
			return requiredList(len(s.Monitors), path.Child("monitors"))
		}),
	source("quobyte", "quobyte", func(s *corev1.VolumeSource) *corev1.QuobyteVolumeSource { return s.Quobyte }, validateQuobyte),
	source("fc", "fc", func(s *corev1.VolumeSource) *corev1.FCVolumeSource { return s.FC }, validateFC),
	source("flexVolume", "flexVolume", func(s *corev1.VolumeSource) *corev1.FlexVolumeSource { return s.FlexVolume }, validateFlex),
	source("azureFile", "azureFile", func(s *corev1.VolumeSource) *corev1.AzureFileVolumeSource { return s.AzureFile },
		func(s *corev1.AzureFileVolumeSource, path *field.Path) field.ErrorList {
			return required(path, namedValue{"secretName", s.SecretName}, namedValue{"shareName", s.ShareName})
		}),
	source("vsphereVolume", "vsphereVolume", func(s *corev1.VolumeSource) *corev1.VsphereVirtualDiskVolumeSource { return s.VsphereVolume },
		func(s *corev1.VsphereVirtualDiskVolumeSource, path *field.Path) field.ErrorList {
			return required(path, namedValue{"volumePath", s.VolumePath})
		}),
	source("photonPersistentDisk", "photonPersistentDisk",
		func(s *corev1.VolumeSource) *corev1.PhotonPersistentDiskVolumeSource { return s.PhotonPersistentDisk },
		func(s *corev1.PhotonPersistentDiskVolumeSource, path *field.Path) field.ErrorList {
			return required(path, namedValue{"pdID", s.PdID})
		}),
	source("portworxVolume", "portworxVolume", func(s *corev1.VolumeSource) *corev1.PortworxVolumeSource { return s.PortworxVolume },
		func(s *corev1.PortworxVolumeSource, path *field.Path) field.ErrorList {
			return required(path, namedValue{"volumeID", s.VolumeID})
		}),
	source("azureDisk", "azureDisk", func(s *corev1.VolumeSource) *corev1.AzureDiskVolumeSource { return s.AzureDisk }, validateAzureDisk),
	source("storageos", "storageos", func(s *corev1.VolumeSource) *corev1.StorageOSVolumeSource { return s.StorageOS }, validateStorageOS),
	source("scaleIO", "scaleIO", func(s *corev1.VolumeSource) *corev1.ScaleIOVolumeSource { return s.ScaleIO },
		func(s *corev1.ScaleIOVolumeSource, path *field.Path) field.ErrorList {
			return required(path, namedValue{"gateway", s.Gateway}, namedValue{"system", s.System}, namedValue{"volumeName", s.VolumeName})
		}),
}

func requiredList(length int, path *field.Path) field.ErrorList {
	if length == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	return nil
}

func validateSecretRef(ref *corev1.LocalObjectReference, path *field.Path) field.ErrorList {
	if ref != nil && ref.Name == "" {
		return field.ErrorList{field.Required(path.Child("secretRef", "name"), "")}
	}
	return nil
}

func validatePartition(partition int32, path *field.Path) field.ErrorList {
	if partition < 0 || partition > 255 {
		return field.ErrorList{field.Invalid(path, partition, validation.InclusiveRangeError(1, 255))}
	}
	return nil
}

func validateLun(lun int32, path *field.Path) field.ErrorList {
	if lun < 0 || lun > 255 {
		return field.ErrorList{field.Invalid(path, lun, validation.InclusiveRangeError(0, 255))}
	}
	return nil
}

// iscsiNames are the forms of a name, by how it starts.
var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

func validateISCSIName(name string, path *field.Path) field.ErrorList {
	form := iscsiNames[name[:min(3, len(name))]]
	if form == nil {
		return field.ErrorList{field.Invalid(path, name, "must be valid format starting with iqn, eui, or naa")}
	}
	if !form.MatchString(name) {
		return field.ErrorList{field.Invalid(path, name, "must be valid format")}
	}
	return nil
}

func validateISCSI(s *corev1.ISCSIVolumeSource, path *field.Path) field.ErrorList {
	errs := required(path, namedValue{"targetPortal", s.TargetPortal}, namedValue{"iqn", s.IQN})
	if s.IQN != "" {
		errs = append(errs, validateISCSIName(s.IQN, path.Child("iqn"))...)
	}
	errs = append(errs, validateLun(s.Lun, path.Child("lun"))...)
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		errs = append(errs, field.Required(path.Child("secretRef"), ""))
	}
	if s.InitiatorName != nil {
		errs = append(errs, validateISCSIName(*s.InitiatorName, path.Child("initiatorname"))...)
	}
	return errs
}

func validateFlocker(s *corev1.FlockerVolumeSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.DatasetName == "" && s.DatasetUUID == "" {
		errs = append(errs, field.Required(path, "one of datasetName and datasetUUID is required"))
	}
	if s.DatasetName != "" && s.DatasetUUID != "" {
		errs = append(errs, field.Invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously"))
	}
	if strings.Contains(s.DatasetName, "/") {
		errs = append(errs, field.Invalid(path.Child("datasetName"), s.DatasetName, "must not contain '/'"))
	}
	return errs
}

func validateQuobyte(s *corev1.QuobyteVolumeSource, path *field.Path) field.ErrorList {
	const hostPorts = "must be a host:port pair or multiple pairs separated by commas"
	const maxTenant = 64
	var errs field.ErrorList
	switch {
	case s.Registry == "":
		errs = append(errs, field.Required(path.Child("registry"), hostPorts))
	case len(s.Tenant) > maxTenant:
		errs = append(errs, field.Required(path.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	default:
		for pair := range strings.SplitSeq(s.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				errs = append(errs, field.Invalid(path.Child("registry"), s.Registry, hostPorts))
			}
		}
	}
	return append(errs, required(path, namedValue{"volume", s.Volume})...)
}

func validateFC(s *corev1.FCVolumeSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := path.Child("targetWWNs")
	if len(s.TargetWWNs) == 0 && len(s.WWIDs) == 0 {
		errs = append(errs, field.Required(names, "must specify either targetWWNs or wwids, but not both"))
	}
	if len(s.TargetWWNs) > 0 && len(s.WWIDs) > 0 {
		errs = append(errs, field.Invalid(names, s.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	}
	if len(s.TargetWWNs) > 0 {
		if s.Lun == nil {
			return append(errs, field.Required(path.Child("lun"), "lun is required if targetWWNs is specified"))
		}
		errs = append(errs, validateLun(*s.Lun, path.Child("lun"))...)
	}
	return errs
}

func validateFlex(s *corev1.FlexVolumeSource, path *field.Path) field.ErrorList {
	errs := required(path, namedValue{"driver", s.Driver})
	for key := range s.Options {
		domain, _, _ := strings.Cut(key, "/")
		domain = "." + strings.ToLower(domain)
		if strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			errs = append(errs, field.Invalid(path.Child("options").Key(key), key, "kubernetes.io and k8s.io namespaces are reserved"))
		}
	}
	return errs
}

func validateAzureDisk(s *corev1.AzureDiskVolumeSource, path *field.Path) field.ErrorList {
	errs := required(path, namedValue{"diskName", s.DiskName}, namedValue{"diskURI", s.DataDiskURI})
	errs = append(errs, amongPtr(s.CachingMode, path.Child("cachingMode"),
		corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)...)
	errs = append(errs, amongPtr(s.Kind, path.Child("kind"),
		corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)...)
	if s.Kind == nil {
		return errs
	}
	if managed := *s.Kind == corev1.AzureManagedDisk; managed && !strings.HasPrefix(s.DataDiskURI, "/subscriptions/") {
		errs = append(errs, field.NotSupported(path.Child("diskURI"), s.DataDiskURI,
			[]string{"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"}))
	} else if !managed && !strings.HasPrefix(s.DataDiskURI, "https://") {
		errs = append(errs, field.NotSupported(path.Child("diskURI"), s.DataDiskURI,
			[]string{"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"}))
	}
	return errs
}

func validateStorageOS(s *corev1.StorageOSVolumeSource, path *field.Path) field.ErrorList {
	errs := required(path, namedValue{"volumeName", s.VolumeName})
	if s.VolumeName != "" {
		errs = append(errs, dnsLabel(s.VolumeName, path.Child("volumeName"))...)
	}
	if s.VolumeNamespace != "" {
		errs = append(errs, dnsLabel(s.VolumeNamespace, path.Child("volumeNamespace"))...)
	}
	return append(errs, validateSecretRef(s.SecretRef, path)...)
}
