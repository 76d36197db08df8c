package podspec

import (
	"errors"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// SeccompLoader reads a profile of type Localhost by its name.
type SeccompLoader func(name string) (*specs.LinuxSeccomp, error)

// Support is what a node can give a pod beyond what every node can, and what its owner lets pods do.
type Support struct {
	// UserNamespaces says why a pod cannot have a user namespace; empty where it can.
	UserNamespaces string
	// RecursiveReadOnly: whatever is mounted below a read-only mount can be made read-only too.
	RecursiveReadOnly bool
	// AppArmor tells whether a profile is loaded; nil where the machine enforces none.
	AppArmor func(profile string) bool
	// Sysctls are those that pods may set.
	Sysctls Sysctls
	// SeccompDefault gives containers that ask for no seccomp profile the runtime's default one.
	SeccompDefault bool
}

// Security merges the security contexts of pod and container. SELinux options have no effect, as with a container runtime whose support for
// SELinux is off.
func Security(pod *v1.Pod, c *v1.Container, node Support, seccomp SeccompLoader) (runtime.Security, error) {
	p, s := pod.Spec.SecurityContext, c.SecurityContext
	if p == nil {
		p = &v1.PodSecurityContext{}
	}
	if s == nil {
		s = &v1.SecurityContext{}
	}
	out := runtime.Security{
		UID: either(s.RunAsUser, p.RunAsUser), GID: either(s.RunAsGroup, p.RunAsGroup),
		Privileged:   isTrue(s.Privileged),
		ReadOnlyRoot: isTrue(s.ReadOnlyRootFilesystem),
		NoNewPrivs:   s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation,
		RunAsNonRoot: isTrue(either(s.RunAsNonRoot, p.RunAsNonRoot)),
		Groups:       slices.Clone(p.SupplementalGroups),
	}
	out.StrictGroups = p.SupplementalGroupsPolicy != nil && *p.SupplementalGroupsPolicy == v1.SupplementalGroupsPolicyStrict
	if p.FSGroup != nil {
		out.Groups = append(out.Groups, *p.FSGroup)
	}
	if s.Capabilities != nil {
		for _, cp := range s.Capabilities.Add {
			out.AddCaps = append(out.AddCaps, string(cp))
		}
		for _, cp := range s.Capabilities.Drop {
			out.DropCaps = append(out.DropCaps, string(cp))
		}
	}
	if s.ProcMount != nil && *s.ProcMount == v1.UnmaskedProcMount {
		out.MaskedPathsUnmasked = true
	}
	if node.AppArmor != nil {
		out.AppArmor = appArmorProfile(either(s.AppArmorProfile, p.AppArmorProfile), out.Privileged)
	}
	profile := either(s.SeccompProfile, p.SeccompProfile)
	if profile == nil && node.SeccompDefault {
		profile = &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}
	}
	err := addSeccomp(&out, profile, seccomp)
	return out, err
}

// appArmorProfile names the profile of a container on a machine that enforces them; empty is none. The default is not for privileged ones.
func appArmorProfile(p *v1.AppArmorProfile, privileged bool) string {
	switch {
	case p != nil && p.Type == v1.AppArmorProfileTypeUnconfined:
		return ""
	case p != nil && p.Type == v1.AppArmorProfileTypeLocalhost && p.LocalhostProfile != nil:
		return *p.LocalhostProfile
	case privileged:
		return ""
	}
	return runtime.DefaultAppArmor
}

// addSeccomp resolves the profile; a privileged container runs unconfined.
func addSeccomp(out *runtime.Security, profile *v1.SeccompProfile, load SeccompLoader) (err error) {
	if profile == nil || out.Privileged {
		return nil
	}
	switch profile.Type {
	case v1.SeccompProfileTypeRuntimeDefault:
		out.SeccompDefault = true
	case v1.SeccompProfileTypeLocalhost:
		if profile.LocalhostProfile == nil || load == nil {
			return errors.New("localhostProfile must be set if seccompProfile type is Localhost")
		}
		out.Seccomp, err = load(*profile.LocalhostProfile)
	}
	return err
}

func either[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

func isTrue(b *bool) bool { return b != nil && *b }
