package podspec

import (
	"fmt"
	"regexp"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"
)

// safeSysctls are namespaced and harm no other pod: every pod may set them.
func safeSysctls() []string {
	return []string{
		"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
		"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout",
		"net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
	}
}

// Sysctls are the kernel parameters that pods may set: the safe ones, and what the node's owner allows beyond. The zero value is the
// safe ones.
type Sysctls struct {
	names, prefixes map[string]sysctl.Namespace
}

var sysctlPattern = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]$`)

// maxSysctlName is the longest name of a kernel parameter that the API takes.
const maxSysctlName = 253

// AllowSysctls are the safe parameters and those named, each a name or a beginning followed by *. What the kernel does not keep apart
// for each pod cannot be allowed.
func AllowSysctls(unsafe []string) (Sysctls, error) {
	s := Sysctls{names: map[string]sysctl.Namespace{}, prefixes: map[string]sysctl.Namespace{}}
	for _, pattern := range append(safeSysctls(), unsafe...) {
		if len(pattern) > maxSysctlName || !sysctlPattern.MatchString(pattern) {
			return s, fmt.Errorf("sysctl %q must have at most %d characters and match regex %s", pattern, maxSysctlName, sysctlPattern)
		}
		namespace, name, _ := sysctl.GetNamespace(pattern)
		if namespace == sysctl.UnknownNamespace {
			return s, fmt.Errorf("the sysctl %q is not known to be namespaced", pattern)
		}
		if strings.HasSuffix(pattern, "*") {
			s.prefixes[name] = namespace
		} else {
			s.names[name] = namespace
		}
	}
	return s, nil
}

// check refuses a pod that sets a parameter which it may not, or one of a namespace that it shares with the host.
func (s Sysctls) check(spec *v1.PodSpec) *Refusal {
	if spec.SecurityContext == nil || len(spec.SecurityContext.Sysctls) == 0 {
		return nil
	}
	if s.names == nil {
		s, _ = AllowSysctls(nil)
	}
	for _, kv := range spec.SecurityContext.Sysctls {
		name := sysctl.NormalizeName(kv.Name)
		namespace, allowed := s.find(name)
		host := namespace == sysctl.IPCNamespace && spec.HostIPC || namespace == sysctl.NetNamespace && spec.HostNetwork
		switch {
		case !allowed:
			return &Refusal{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", name)}
		case host:
			return &Refusal{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowed with host %s enabled", name, namespace)}
		}
	}
	return nil
}

func (s Sysctls) find(name string) (sysctl.Namespace, bool) {
	if namespace, ok := s.names[name]; ok {
		return namespace, true
	}
	for prefix, namespace := range s.prefixes {
		if strings.HasPrefix(name, prefix) {
			return namespace, true
		}
	}
	return sysctl.UnknownNamespace, false
}
