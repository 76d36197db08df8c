package kinds

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/node/util/sysctl"
)

// validatePodSecurityContext checks spec.securityContext, and the namespaces that a pod may share.
func validatePodSecurityContext(s *corev1.PodSpec, specPath *field.Path) field.ErrorList {
	sc, path := s.SecurityContext, specPath.Child("securityContext")
	var errs field.ErrorList
	if s.ShareProcessNamespace != nil && *s.ShareProcessNamespace && s.HostPID {
		errs = append(errs, field.Invalid(path.Child("shareProcessNamespace"), *s.ShareProcessNamespace,
			"ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if sc == nil {
		return errs
	}
	errs = append(errs, slices.Concat(
		validateID(sc.FSGroup, path.Child("fsGroup"), validation.IsValidGroupID),
		validateID(sc.RunAsUser, path.Child("runAsUser"), validation.IsValidUserID),
		validateID(sc.RunAsGroup, path.Child("runAsGroup"), validation.IsValidGroupID),
	)...)
	for i := range sc.SupplementalGroups {
		errs = append(errs, validateID(&sc.SupplementalGroups[i], path.Child("supplementalGroups").Index(i), validation.IsValidGroupID)...)
	}
	return slices.Concat(errs,
		validateSysctls(s, path.Child("sysctls")),
		amongPtr(sc.FSGroupChangePolicy, path.Child("fsGroupChangePolicy"), corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch),
		validateSeccompProfile(sc.SeccompProfile, path.Child("seccompProfile")),
		validateWindowsOptions(sc.WindowsOptions, path.Child("windowsOptions")),
		validateAppArmorProfile(sc.AppArmorProfile, path.Child("appArmorProfile")),
		amongPtr(sc.SupplementalGroupsPolicy, path.Child("supplementalGroupsPolicy"),
			corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict),
		amongPtr(sc.SELinuxChangePolicy, path.Child("seLinuxChangePolicy"),
			corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive),
	)
}

// validateSecurityContext checks a container's. hostUsers: the pod has no user namespace of its own.
func validateSecurityContext(sc *corev1.SecurityContext, hostUsers bool, path *field.Path) field.ErrorList {
	if sc == nil {
		return nil
	}
	errs := slices.Concat(
		validateID(sc.RunAsUser, path.Child("runAsUser"), validation.IsValidUserID),
		validateID(sc.RunAsGroup, path.Child("runAsGroup"), validation.IsValidGroupID),
		amongPtr(sc.ProcMount, path.Child("procMount"), corev1.DefaultProcMount, corev1.UnmaskedProcMount),
	)
	if hostUsers && sc.ProcMount != nil && *sc.ProcMount == corev1.UnmaskedProcMount {
		errs = append(errs, field.Invalid(path.Child("procMount"), *sc.ProcMount, "`hostUsers` must be false to use `Unmasked`"))
	}
	errs = append(errs, validateSeccompProfile(sc.SeccompProfile, path.Child("seccompProfile"))...)
	if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation {
		if sc.Privileged != nil && *sc.Privileged {
			errs = append(errs, field.Invalid(path, sc, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if sc.Capabilities != nil && slices.Contains(sc.Capabilities.Add, "CAP_SYS_ADMIN") {
			errs = append(errs, field.Invalid(path, sc, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
		}
	}
	return slices.Concat(errs,
		validateWindowsOptions(sc.WindowsOptions, path.Child("windowsOptions")),
		validateAppArmorProfile(sc.AppArmorProfile, path.Child("appArmorProfile")),
	)
}

func validateID(id *int64, path *field.Path, check func(int64) []string) field.ErrorList {
	if id == nil {
		return nil
	}
	return invalid(path, *id, check(*id))
}

const maxSysctlName = 253

var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

func validateSysctls(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, setting := range s.SecurityContext.Sysctls {
		at := path.Index(i).Child("name")
		switch {
		case setting.Name == "":
			errs = append(errs, field.Required(at, ""))
		case len(setting.Name) > maxSysctlName || !sysctlName.MatchString(setting.Name):
			errs = append(errs, field.Invalid(at, setting.Name, fmt.Sprintf("must have at most %d characters and match regex %s", maxSysctlName, sysctlName)))
		case seen.Has(setting.Name):
			errs = append(errs, field.Duplicate(at, setting.Name))
		}
		seen.Insert(setting.Name)
		switch namespace, _, _ := sysctl.GetNamespace(setting.Name); {
		case s.HostNetwork && namespace == sysctl.NetNamespace:
			errs = append(errs, field.Invalid(at, setting.Name, "may not be specified when 'hostNetwork' is true"))
		case s.HostIPC && namespace == sysctl.IPCNamespace:
			errs = append(errs, field.Invalid(at, setting.Name, "may not be specified when 'hostIPC' is true"))
		}
	}
	return errs
}

func validateSeccompProfile(p *corev1.SeccompProfile, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	if p.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "type is required when seccompProfile is set"))
	} else {
		errs = among(p.Type, path.Child("type"),
			corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	}
	local := path.Child("localhostProfile")
	switch {
	case p.Type != corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil:
		errs = append(errs, field.Invalid(local, p, "can only be set when seccomp type is Localhost"))
	case p.Type == corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile == nil:
		errs = append(errs, field.Required(local, "must be set when seccomp type is Localhost"))
	case p.LocalhostProfile != nil:
		errs = append(errs, descendingPath(*p.LocalhostProfile, local)...)
	}
	return errs
}

func validateAppArmorProfile(p *corev1.AppArmorProfile, path *field.Path) field.ErrorList {
	const maxProfile = 4095 // PATH_MAX without the terminating zero
	if p == nil {
		return nil
	}
	local := path.Child("localhostProfile")
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		if p.LocalhostProfile == nil {
			return field.ErrorList{field.Required(local, "must be set when AppArmor type is Localhost")}
		}
		var errs field.ErrorList
		if trimmed := strings.TrimSpace(*p.LocalhostProfile); trimmed != *p.LocalhostProfile {
			errs = append(errs, field.Invalid(local, *p.LocalhostProfile, "must not be padded with whitespace"))
		} else if trimmed == "" {
			errs = append(errs, field.Required(local, "must be set when AppArmor type is Localhost"))
		}
		if len(*p.LocalhostProfile) > maxProfile {
			errs = append(errs, field.TooLong(local, "", maxProfile))
		}
		return errs
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			return field.ErrorList{field.Invalid(local, *p.LocalhostProfile, "can only be set when AppArmor type is Localhost")}
		}
		return nil
	case "":
		return field.ErrorList{field.Required(path.Child("type"), "type is required when appArmorProfile is set")}
	}
	return among(p.Type, path.Child("type"),
		corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
}

// validateHostUsers: a user namespace of the pod's own goes with no other namespace of the host.
func (c *podSpecCheck) validateHostUsers() field.ErrorList {
	if c.hostUsers() {
		return nil
	}
	const without = "when `hostUsers` is false"
	var errs field.ErrorList
	if c.spec.HostNetwork {
		errs = append(errs, field.Forbidden(c.path.Child("hostNetwork"), without))
	}
	if c.spec.HostPID {
		errs = append(errs, field.Forbidden(c.path.Child("HostPID"), without))
	}
	if c.spec.HostIPC {
		errs = append(errs, field.Forbidden(c.path.Child("HostIPC"), without))
	}
	visitContainers(c.spec, c.path, func(container *corev1.Container, path *field.Path) {
		if len(container.VolumeDevices) > 0 {
			errs = append(errs, field.Forbidden(path.Child("volumeDevices"), without))
		}
	})
	return errs
}
