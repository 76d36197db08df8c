package podspec

import (
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// SeccompLoader reads a profile of type Localhost by its name.
type SeccompLoader func(name string) (*specs.LinuxSeccomp, error)

// Security merges the security contexts of pod and container, and refuses an image that contradicts them.
func Security(pod *v1.Pod, c *v1.Container, image runtime.Image, seccomp SeccompLoader) (runtime.Security, error) {
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
	if err := checkNonRoot(pod, c, out, image); err != nil {
		return out, err
	}
	err := addSeccomp(&out, either(s.SeccompProfile, p.SeccompProfile), seccomp)
	return out, err
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

func checkNonRoot(pod *v1.Pod, c *v1.Container, s runtime.Security, image runtime.Image) error {
	if !s.RunAsNonRoot {
		return nil
	}
	at := fmt.Sprintf("(pod: %q, container: %s)", pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", c.Name)
	switch {
	case s.UID != nil && *s.UID == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy %s", at)
	case s.UID != nil:
		return nil
	case image.UID != nil && *image.UID == 0, image.UID == nil && image.User == "":
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", at)
	case image.UID == nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", image.User, at)
	}
	return nil
}
