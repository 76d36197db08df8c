package podspec

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// Refusal is why a node will not run a pod at all.
type Refusal struct{ Reason, Message string }

// Unsupported finds the first thing a pod asks for that this node cannot give; nil is none. Volumes have their own check.
func Unsupported(pod *v1.Pod) *Refusal {
	spec := &pod.Spec
	switch {
	case spec.OS != nil && spec.OS.Name != v1.Linux:
		return &Refusal{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	case spec.RuntimeClassName != nil && *spec.RuntimeClassName != "":
		return refuse("RuntimeClass %q not found", *spec.RuntimeClassName)
	case spec.HostUsers != nil && !*spec.HostUsers:
		return refuse("user namespaces (hostUsers: false) are not supported on this node")
	case len(spec.ResourceClaims) > 0:
		return refuse("resourceClaims are not supported on this node")
	}
	if s := spec.SecurityContext; s != nil {
		if r := appArmor(s.AppArmorProfile); r != nil {
			return r
		}
	}
	if r := sysctls(spec); r != nil {
		return r
	}
	for _, list := range [][]v1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			if r := UnsupportedContainer(&list[i]); r != nil {
				return r
			}
		}
	}
	return nil
}

func refuse(format string, args ...any) *Refusal {
	return &Refusal{"UnsupportedPod", fmt.Sprintf(format, args...)}
}

func appArmor(p *v1.AppArmorProfile) *Refusal {
	if p == nil || p.Type == v1.AppArmorProfileTypeUnconfined {
		return nil
	}
	return &Refusal{"AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"}
}

// UnsupportedContainer finds the first thing that one container asks for and this node cannot give.
func UnsupportedContainer(c *v1.Container) *Refusal {
	for _, p := range c.Ports {
		if p.HostPort > 0 && p.HostIP != "" && p.HostIP != "0.0.0.0" && p.HostIP != "::" {
			return refuse("container %s: hostIP %s of port %d is not supported on this node", c.Name, p.HostIP, p.ContainerPort)
		}
	}
	if len(c.VolumeDevices) > 0 {
		return refuse("container %s: volumeDevices are not supported on this node", c.Name)
	}
	for _, m := range c.VolumeMounts {
		if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly == v1.RecursiveReadOnlyEnabled {
			return refuse("container %s: recursiveReadOnly: Enabled is not supported on this node", c.Name)
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.FileKeyRef != nil {
			return refuse("container %s: environment variable %s: fileKeyRef is not supported on this node", c.Name, e.Name)
		}
	}
	if len(c.Resources.Claims) > 0 {
		return refuse("container %s: resource claims are not supported on this node", c.Name)
	}
	if c.SecurityContext != nil {
		return appArmor(c.SecurityContext.AppArmorProfile)
	}
	return nil
}

// safeSysctls are namespaced and harm no other pod; the rest is refused, as by a kubelet without --allowed-unsafe-sysctls.
var safeSysctls = map[string]bool{
	"kernel.shm_rmid_forced": true, "net.ipv4.ip_local_port_range": true, "net.ipv4.tcp_syncookies": true,
	"net.ipv4.ping_group_range": true, "net.ipv4.ip_unprivileged_port_start": true, "net.ipv4.ip_local_reserved_ports": true,
	"net.ipv4.tcp_keepalive_time": true, "net.ipv4.tcp_fin_timeout": true, "net.ipv4.tcp_keepalive_intvl": true,
	"net.ipv4.tcp_keepalive_probes": true, "net.ipv4.tcp_rmem": true, "net.ipv4.tcp_wmem": true,
}

func sysctls(spec *v1.PodSpec) *Refusal {
	if spec.SecurityContext == nil {
		return nil
	}
	for _, s := range spec.SecurityContext.Sysctls {
		if !safeSysctls[s.Name] {
			return &Refusal{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", s.Name)}
		}
	}
	return nil
}
