package podspec

import (
	"fmt"
	"net/netip"

	v1 "k8s.io/api/core/v1"
)

// Refusal is why a node will not run a pod at all.
type Refusal struct{ Reason, Message string }

// Unsupported finds the first thing a pod asks for that this node cannot give; nil is none. Volumes have their own check.
func Unsupported(pod *v1.Pod, node Support) *Refusal {
	spec := &pod.Spec
	switch {
	case spec.OS != nil && spec.OS.Name != v1.Linux:
		return &Refusal{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	case spec.HostUsers != nil && !*spec.HostUsers && node.UserNamespaces != "":
		return refuse("can't set `spec.hostUsers: false`, runtime does not support user namespaces: %s", node.UserNamespaces)
	case len(spec.ResourceClaims) > 0:
		return refuse("resourceClaims are not supported on this node")
	}
	if s := spec.SecurityContext; s != nil {
		if r := node.appArmor(s.AppArmorProfile); r != nil {
			return r
		}
	}
	if r := node.Sysctls.check(spec); r != nil {
		return r
	}
	for _, list := range [][]v1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			if r := UnsupportedContainer(&list[i], node); r != nil {
				return r
			}
		}
	}
	return nil
}

func refuse(format string, args ...any) *Refusal {
	return &Refusal{"UnsupportedPod", fmt.Sprintf(format, args...)}
}

// appArmor refuses what the machine cannot enforce.
func (node Support) appArmor(p *v1.AppArmorProfile) *Refusal {
	if p == nil || p.Type == v1.AppArmorProfileTypeUnconfined {
		return nil
	}
	why := ""
	switch {
	case node.AppArmor == nil:
		why = "AppArmor is not enabled on the host"
	case p.Type == v1.AppArmorProfileTypeLocalhost && p.LocalhostProfile != nil && !node.AppArmor(*p.LocalhostProfile):
		why = fmt.Sprintf("profile %q is not loaded", *p.LocalhostProfile)
	default:
		return nil
	}
	return &Refusal{"AppArmor", "Cannot enforce AppArmor: " + why}
}

// UnsupportedContainer finds the first thing that one container asks for and this node cannot give.
func UnsupportedContainer(c *v1.Container, node Support) *Refusal {
	for _, p := range c.Ports {
		if ip, err := netip.ParseAddr(p.HostIP); err == nil && ip.Is6() && !ip.IsUnspecified() && p.HostPort > 0 {
			return refuse("container %s: hostIP %s of port %d: pods have no IPv6 address on this node", c.Name, p.HostIP, p.ContainerPort)
		}
	}
	if len(c.Resources.Claims) > 0 {
		return refuse("container %s: resource claims are not supported on this node", c.Name)
	}
	if c.SecurityContext != nil {
		return node.appArmor(c.SecurityContext.AppArmorProfile)
	}
	return nil
}
