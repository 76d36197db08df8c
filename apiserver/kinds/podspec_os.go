package kinds

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// No node of ours runs Windows; a pod for one is checked all the same and waits for a node that does.

// validatePodOS checks spec.os and refuses the fields that its system has no use for.
func validatePodOS(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	if s.OS == nil {
		return nil
	}
	switch s.OS.Name {
	case "":
		return field.ErrorList{field.Required(path.Child("os", "name"), "cannot be empty")}
	case corev1.Linux:
		return refuseFields(windowsFields(s, path), "windows options cannot be set for a linux pod")
	case corev1.Windows:
		return refuseFields(linuxFields(s, path), "cannot be set for a windows pod")
	}
	return field.ErrorList{field.NotSupported(path.Child("os"), s.OS.Name, []corev1.OSName{corev1.Linux, corev1.Windows})}
}

// setField is a field and whether the user set it.
type setField struct {
	set  bool
	path *field.Path
}

func refuseFields(fields []setField, message string) field.ErrorList {
	var errs field.ErrorList
	for _, f := range fields {
		if f.set {
			errs = append(errs, field.Forbidden(f.path, message))
		}
	}
	return errs
}

func windowsFields(s *corev1.PodSpec, path *field.Path) []setField {
	const name = "windowsOptions"
	fields := []setField{{s.SecurityContext != nil && s.SecurityContext.WindowsOptions != nil, path.Child("securityContext", name)}}
	visitContainers(s, path, func(c *corev1.Container, at *field.Path) {
		fields = append(fields, setField{c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil, at.Child("securityContext", name)})
	})
	return fields
}

func linuxFields(s *corev1.PodSpec, path *field.Path) []setField {
	fields := []setField{
		{s.HostUsers != nil, path.Child("hostUsers")},
		{s.HostPID, path.Child("hostPID")},
		{s.HostIPC, path.Child("hostIPC")},
		{s.ShareProcessNamespace != nil, path.Child("shareProcessNamespace")},
	}
	if sc, at := s.SecurityContext, path.Child("securityContext"); sc != nil {
		fields = append(fields,
			setField{sc.AppArmorProfile != nil, at.Child("appArmorProfile")},
			setField{sc.SELinuxOptions != nil, at.Child("seLinuxOptions")},
			setField{sc.SeccompProfile != nil, at.Child("seccompProfile")},
			setField{sc.FSGroup != nil, at.Child("fsGroup")},
			setField{sc.FSGroupChangePolicy != nil, at.Child("fsGroupChangePolicy")},
			setField{len(sc.Sysctls) > 0, at.Child("sysctls")},
			setField{sc.RunAsUser != nil, at.Child("runAsUser")},
			setField{sc.RunAsGroup != nil, at.Child("runAsGroup")},
			setField{sc.SupplementalGroups != nil, at.Child("supplementalGroups")},
			setField{sc.SupplementalGroupsPolicy != nil, at.Child("supplementalGroupsPolicy")},
			setField{sc.SELinuxChangePolicy != nil, at.Child("seLinuxChangePolicy")},
		)
	}
	visitContainers(s, path, func(c *corev1.Container, at *field.Path) {
		fields = append(fields, linuxContainerFields(c.SecurityContext, at.Child("securityContext"))...)
	})
	return fields
}

func linuxContainerFields(sc *corev1.SecurityContext, path *field.Path) []setField {
	if sc == nil {
		return nil
	}
	return []setField{
		{sc.AppArmorProfile != nil, path.Child("appArmorProfile")},
		{sc.SELinuxOptions != nil, path.Child("seLinuxOptions")},
		{sc.SeccompProfile != nil, path.Child("seccompProfile")},
		{sc.Capabilities != nil, path.Child("capabilities")},
		{sc.ReadOnlyRootFilesystem != nil, path.Child("readOnlyRootFilesystem")},
		{sc.Privileged != nil, path.Child("privileged")},
		{sc.AllowPrivilegeEscalation != nil, path.Child("allowPrivilegeEscalation")},
		{sc.ProcMount != nil, path.Child("procMount")},
		{sc.RunAsUser != nil, path.Child("runAsUser")},
		{sc.RunAsGroup != nil, path.Child("runAsGroup")},
	}
}

// validateHostProcess: containers on the host itself go together only with their like, and with the host's network.
func validateHostProcess(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	var ofPod *bool
	if s.SecurityContext != nil && s.SecurityContext.WindowsOptions != nil {
		ofPod = s.SecurityContext.WindowsOptions.HostProcess
	}
	var errs field.ErrorList
	containers, onHost := 0, 0
	visitContainers(s, path, func(c *corev1.Container, at *field.Path) {
		containers++
		var own *bool
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil {
			own = c.SecurityContext.WindowsOptions.HostProcess
		}
		if ofPod != nil && own != nil && *ofPod != *own {
			errs = append(errs, field.Invalid(at.Child("securityContext", "windowsOptions", "hostProcess"), *own,
				fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *ofPod)))
		}
		if own == nil {
			own = ofPod
		}
		if own != nil && *own {
			onHost++
		}
	})
	if onHost > 0 && onHost != containers {
		errs = append(errs, field.Invalid(path, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))
	}
	if onHost > 0 && !s.HostNetwork {
		errs = append(errs, field.Invalid(path.Child("hostNetwork"), s.HostNetwork, "hostNetwork must be true if pod contains any hostProcess containers"))
	}
	return errs
}

const (
	maxCredentialSpecKiB = 64
	maxWindowsDomain     = 256
	maxWindowsUser       = 104
)

var (
	controlCharacters = regexp.MustCompile(`[[:cntrl:]]+`)
	netBIOSName       = regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	windowsDNSName    = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$`)
	windowsUserBad    = regexp.MustCompile(`["/\\:;|=,\+\*\?<>@\[\]]`)
	dotsAndSpaces     = regexp.MustCompile(`^[\. ]+$`)
)

func validateWindowsOptions(o *corev1.WindowsSecurityContextOptions, path *field.Path) field.ErrorList {
	if o == nil {
		return nil
	}
	var errs field.ErrorList
	if name := o.GMSACredentialSpecName; name != nil {
		errs = append(errs, dnsSubdomain(*name, path.Child("gmsaCredentialSpecName"))...)
	}
	if spec := o.GMSACredentialSpec; spec != nil {
		if len(*spec) == 0 {
			errs = append(errs, field.Invalid(path.Child("gmsaCredentialSpec"), *spec, "gmsaCredentialSpec cannot be an empty string"))
		} else if len(*spec) > maxCredentialSpecKiB*1024 {
			errs = append(errs, field.Invalid(path.Child("gmsaCredentialSpec"), *spec,
				fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", maxCredentialSpecKiB)))
		}
	}
	if o.RunAsUserName != nil {
		errs = append(errs, invalid(path.Child("runAsUserName"), *o.RunAsUserName, windowsUserName(*o.RunAsUserName))...)
	}
	return errs
}

// windowsUserName says what is wrong with a name of the form DOMAIN\USER, where the domain may be left out.
func windowsUserName(name string) []string {
	parts := strings.Split(name, `\`)
	switch {
	case name == "":
		return []string{"runAsUserName cannot be an empty string"}
	case controlCharacters.MatchString(name):
		return []string{"runAsUserName cannot contain control characters"}
	case len(parts) > 2:
		return []string{"runAsUserName cannot contain more than one backslash"}
	}
	var msgs []string
	user := parts[len(parts)-1]
	if len(parts) == 2 {
		if len(parts[0]) >= maxWindowsDomain {
			msgs = append(msgs, fmt.Sprintf("runAsUserName's Domain length must be under %d characters", maxWindowsDomain))
		}
		if !netBIOSName.MatchString(parts[0]) && !windowsDNSName.MatchString(parts[0]) {
			msgs = append(msgs, "runAsUserName's Domain doesn't match the NetBios nor the DNS format")
		}
	}
	if user == "" {
		msgs = append(msgs, "runAsUserName's User cannot be empty")
	} else if len(user) > maxWindowsUser {
		msgs = append(msgs, fmt.Sprintf("runAsUserName's User length must not be longer than %d characters", maxWindowsUser))
	}
	if dotsAndSpaces.MatchString(user) {
		msgs = append(msgs, "runAsUserName's User cannot contain only periods or spaces")
	}
	if windowsUserBad.MatchString(user) {
		msgs = append(msgs, `runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
	return msgs
}
