package kinds

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const oneVolumeType = "may not specify more than 1 volume type"

// validateVolumes checks the list of volumes and keeps the valid ones for the checks of mounts.
func (c *podSpecCheck) validateVolumes() field.ErrorList {
	c.volumes = make(map[string]*corev1.VolumeSource, len(c.spec.Volumes))
	created := c.createdClaims()
	var errs field.ErrorList
	for i := range c.spec.Volumes {
		v, at := &c.spec.Volumes[i], c.path.Child("volumes").Index(i)
		found := c.validateVolumeSource(v, at)
		if v.Name == "" {
			found = append(found, field.Required(at.Child("name"), ""))
		} else {
			found = append(found, dnsLabel(v.Name, at.Child("name"))...)
		}
		if _, taken := c.volumes[v.Name]; taken {
			found = append(found, field.Duplicate(at.Child("name"), v.Name))
		}
		if len(found) == 0 {
			c.volumes[v.Name] = &v.VolumeSource
		}
		errs = append(errs, found...)
		if claim := v.PersistentVolumeClaim; claim != nil && created.Has(claim.ClaimName) {
			errs = append(errs, field.Invalid(at.Child("persistentVolumeClaim", "claimName"), claim.ClaimName,
				"must not reference a PVC that gets created for an ephemeral volume"))
		}
	}
	return errs
}

// createdClaims names the claims that will be made for the pod's ephemeral volumes.
func (c *podSpecCheck) createdClaims() sets.Set[string] {
	names := sets.New[string]()
	if c.isPod() && c.meta.Name != "" {
		for i := range c.spec.Volumes {
			if c.spec.Volumes[i].Ephemeral != nil {
				names.Insert(c.meta.Name + "-" + c.spec.Volumes[i].Name)
			}
		}
	}
	return names
}

// sourceOf is one kind of volume among the fields of S.
type sourceOf[S any] struct {
	name  string
	check func(s *S, path *field.Path) (set bool, errs field.ErrorList)
}

// source makes an entry of a getter and a check. name is what a second source is refused by; at is the path of the faults in it,
// which upstream spells in its own way for some.
func source[S, T any](name, at string, get func(*S) *T, check func(*T, *field.Path) field.ErrorList) sourceOf[S] {
	return sourceOf[S]{name, func(s *S, path *field.Path) (bool, field.ErrorList) {
		v := get(s)
		if v == nil {
			return false, nil
		}
		if path == nil {
			return true, nil
		}
		return true, check(v, path.Child(at))
	}}
}

// oneSource checks that s has one source, and that source. The first one counts, in the order of all; of the others only that they are
// there is told.
func oneSource[S any](all []sourceOf[S], s *S, path *field.Path) (errs field.ErrorList, found bool) {
	for i := range all {
		at := path
		if found {
			at = nil
		}
		set, sourceErrs := all[i].check(s, at)
		if !set {
			continue
		}
		if found {
			errs = append(errs, field.Forbidden(path.Child(all[i].name), oneVolumeType))
		}
		found = true
		errs = append(errs, sourceErrs...)
	}
	if !found {
		errs = append(errs, field.Required(path, "must specify a volume type"))
	}
	return errs, found
}

// volumeSources are the kinds of volume, in the order in which the first of several is the one that counts.
var volumeSources = slices.Concat([]sourceOf[corev1.VolumeSource]{
	source("emptyDir", "emptyDir", func(s *corev1.VolumeSource) *corev1.EmptyDirVolumeSource { return s.EmptyDir }, validateEmptyDir),
	source("hostPath", "hostPath", func(s *corev1.VolumeSource) *corev1.HostPathVolumeSource { return s.HostPath }, validateHostPath),
	source("secret", "secret", func(s *corev1.VolumeSource) *corev1.SecretVolumeSource { return s.Secret }, validateSecretVolume),
	source("nfs", "nfs", func(s *corev1.VolumeSource) *corev1.NFSVolumeSource { return s.NFS }, validateNFS),
	source("persistentVolumeClaim", "persistentVolumeClaim", func(s *corev1.VolumeSource) *corev1.PersistentVolumeClaimVolumeSource {
		return s.PersistentVolumeClaim
	}, validateClaimVolume),
	source("downwarAPI", "downwardAPI", func(s *corev1.VolumeSource) *corev1.DownwardAPIVolumeSource { return s.DownwardAPI }, validateDownwardAPI),
	source("configMap", "configMap", func(s *corev1.VolumeSource) *corev1.ConfigMapVolumeSource { return s.ConfigMap }, validateConfigMapVolume),
	source("projected", "projected", func(s *corev1.VolumeSource) *corev1.ProjectedVolumeSource { return s.Projected }, validateProjected),
	source("csi", "csi", func(s *corev1.VolumeSource) *corev1.CSIVolumeSource { return s.CSI }, validateCSI),
	source("ephemeral", "ephemeral", func(s *corev1.VolumeSource) *corev1.EphemeralVolumeSource { return s.Ephemeral }, validateEphemeralVolume),
	source("image", "image", func(s *corev1.VolumeSource) *corev1.ImageVolumeSource { return s.Image }, validateImageVolume),
}, legacyVolumeSources)

// validateVolumeSource checks that a volume has one source, and that source.
func (c *podSpecCheck) validateVolumeSource(v *corev1.Volume, path *field.Path) field.ErrorList {
	errs, found := oneSource(volumeSources, &v.VolumeSource, path)
	if !found {
		return errs
	}
	return append(errs, c.volumeOfPod(v, path)...)
}

// volumeOfPod checks what depends on the volume's name and on the pod.
func (c *podSpecCheck) volumeOfPod(v *corev1.Volume, path *field.Path) field.ErrorList {
	const maxISCSIName = 64
	var errs field.ErrorList
	if v.ISCSI != nil && v.ISCSI.InitiatorName != nil && len(v.Name+":"+v.ISCSI.TargetPortal) > maxISCSIName {
		errs = append(errs, field.Invalid(path.Child("name"), v.Name,
			"Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."))
	}
	if v.Ephemeral != nil && c.isPod() && c.meta.Name != "" && v.Name != "" {
		claim := c.meta.Name + "-" + v.Name
		for _, err := range dnsSubdomain(claim, path) {
			errs = append(errs, field.Invalid(path.Child("name"), v.Name, fmt.Sprintf("PVC name %q: %v", claim, err.Detail)))
		}
	}
	if v.Image != nil && v.Image.Reference == "" && c.isPod() {
		errs = append(errs, field.Required(path.Child("image", "reference"), ""))
	}
	if v.Projected != nil && c.isPod() && c.spec.ServiceAccountName == "" {
		for i := range v.Projected.Sources {
			if v.Projected.Sources[i].ServiceAccountToken != nil {
				errs = append(errs, field.Forbidden(path.Child("projected", "sources").Index(i).Child("serviceAccountToken"),
					"must not be specified when serviceAccountName is not set"))
			}
		}
	}
	return errs
}

func validateEmptyDir(s *corev1.EmptyDirVolumeSource, path *field.Path) field.ErrorList {
	if s.SizeLimit != nil && s.SizeLimit.Sign() < 0 {
		return field.ErrorList{field.Forbidden(path.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")}
	}
	return nil
}

func validateHostPath(s *corev1.HostPathVolumeSource, path *field.Path) field.ErrorList {
	if s.Path == "" {
		return field.ErrorList{field.Required(path.Child("path"), "")}
	}
	return append(noBacksteps(s.Path, path.Child("path")), amongPtr(s.Type, path.Child("type"),
		corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
		corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
}

func validateSecretVolume(s *corev1.SecretVolumeSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.SecretName == "" {
		errs = append(errs, field.Required(path.Child("secretName"), ""))
	}
	return slices.Concat(errs, validateFileMode(s.DefaultMode, path.Child("defaultMode")), validateKeyPaths(s.Items, path.Child("items")))
}

func validateConfigMapVolume(s *corev1.ConfigMapVolumeSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	return slices.Concat(errs, validateFileMode(s.DefaultMode, path.Child("defaultMode")), validateKeyPaths(s.Items, path.Child("items")))
}

func validateDownwardAPI(s *corev1.DownwardAPIVolumeSource, path *field.Path) field.ErrorList {
	errs := validateFileMode(s.DefaultMode, path.Child("defaultMode"))
	for i := range s.Items {
		errs = append(errs, validateDownwardFile(&s.Items[i], path)...)
	}
	return errs
}

func validateDownwardFile(f *corev1.DownwardAPIVolumeFile, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if f.Path == "" {
		errs = append(errs, field.Required(path.Child("path"), ""))
	}
	errs = append(errs, localPath(f.Path, path.Child("path"))...)
	switch {
	case f.FieldRef != nil:
		errs = append(errs, validateFieldRef(f.FieldRef, volumeFields, path.Child("fieldRef"))...)
		if f.ResourceFieldRef != nil {
			errs = append(errs, field.Invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		}
	case f.ResourceFieldRef != nil:
		errs = append(errs, validateResourceFieldRef(f.ResourceFieldRef, true, path.Child("resourceFieldRef"))...)
	default:
		errs = append(errs, field.Required(path, "one of fieldRef and resourceFieldRef is required"))
	}
	return append(errs, validateFileMode(f.Mode, path.Child("mode"))...)
}

func validateFileMode(mode *int32, path *field.Path) field.ErrorList {
	if mode == nil || *mode >= 0 && *mode <= 0o777 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, *mode, "must be a number between 0 and 0777 (octal), both inclusive")}
}

func validateKeyPaths(items []corev1.KeyToPath, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range items {
		item, at := &items[i], path.Index(i)
		if item.Key == "" {
			errs = append(errs, field.Required(at.Child("key"), ""))
		}
		if item.Path == "" {
			errs = append(errs, field.Required(at.Child("path"), ""))
		}
		errs = append(errs, localPath(item.Path, at.Child("path"))...)
		errs = append(errs, validateFileMode(item.Mode, at.Child("mode"))...)
	}
	return errs
}

func validateNFS(s *corev1.NFSVolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Server == "" {
		errs = append(errs, field.Required(at.Child("server"), ""))
	}
	if s.Path == "" {
		errs = append(errs, field.Required(at.Child("path"), ""))
	}
	if !path.IsAbs(s.Path) {
		errs = append(errs, field.Invalid(at.Child("path"), s.Path, "must be an absolute path"))
	}
	return errs
}

func validateClaimVolume(s *corev1.PersistentVolumeClaimVolumeSource, path *field.Path) field.ErrorList {
	return required(path, namedValue{"claimName", s.ClaimName})
}

func validateCSI(s *corev1.CSIVolumeSource, path *field.Path) field.ErrorList {
	errs := validateDriverName(s.Driver, path.Child("driver"))
	if ref := s.NodePublishSecretRef; ref != nil {
		if ref.Name == "" {
			errs = append(errs, field.Required(path.Child("nodePublishSecretRef", "name"), ""))
		} else {
			errs = append(errs, dnsSubdomain(ref.Name, path.Child("name"))...)
		}
	}
	return errs
}

func validateDriverName(name string, path *field.Path) field.ErrorList {
	const maxDriverName = 63
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > maxDriverName {
		errs = append(errs, field.TooLong(path, "", maxDriverName))
	}
	for _, err := range dnsSubdomain(strings.ToLower(name), path) {
		errs = append(errs, field.Invalid(path, name, err.Detail))
	}
	return errs
}

func validateImageVolume(s *corev1.ImageVolumeSource, path *field.Path) field.ErrorList {
	return validatePullPolicy(s.PullPolicy, path.Child("pullPolicy"))
}

// namedValue is the value of a field.
type namedValue struct{ name, value string }

// required refuses fields without a value.
func required(path *field.Path, fields ...namedValue) field.ErrorList {
	var errs field.ErrorList
	for _, f := range fields {
		if f.value == "" {
			errs = append(errs, field.Required(path.Child(f.name), ""))
		}
	}
	return errs
}

// noBacksteps refuses a path with an element "..".
func noBacksteps(p string, path *field.Path) field.ErrorList {
	if slices.Contains(strings.Split(p, "/"), "..") {
		return field.ErrorList{field.Invalid(path, p, "must not contain '..'")}
	}
	return nil
}

// descendingPath refuses a path that leads out of where it starts.
func descendingPath(p string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if path.IsAbs(p) {
		errs = append(errs, field.Invalid(at, p, "must be a relative path"))
	}
	return append(errs, noBacksteps(p, at)...)
}

// localPath is descendingPath for files in volumes, where names that start with ".." are those of the volume's own links.
func localPath(p string, at *field.Path) field.ErrorList {
	errs := descendingPath(p, at)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		errs = append(errs, field.Invalid(at, p, "must not start with '..'"))
	}
	return errs
}
