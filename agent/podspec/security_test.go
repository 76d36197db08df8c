package podspec

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/agent/runtime"
)

func mustAllow(t *testing.T, patterns ...string) Sysctls {
	t.Helper()
	s, err := AllowSysctls(patterns)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestUnsupported(t *testing.T) {
	loaded := Support{AppArmor: func(name string) bool { return name == "loaded" }}
	set := func(name string) func(*v1.PodSpec) {
		return func(s *v1.PodSpec) {
			s.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: name, Value: "1"}}}
		}
	}
	profile := func(kind v1.AppArmorProfileType, name string) func(*v1.PodSpec) {
		return func(s *v1.PodSpec) {
			s.Containers[0].SecurityContext = &v1.SecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: kind, LocalhostProfile: &name}}
		}
	}
	noUsers := func(s *v1.PodSpec) { s.HostUsers = new(false) }
	for _, c := range []struct {
		name            string
		node            Support
		change          func(*v1.PodSpec)
		reason, message string
	}{
		{"a plain pod", Support{UserNamespaces: "no"}, func(*v1.PodSpec) {}, "", ""},
		{"a safe sysctl", Support{}, set("kernel.shm_rmid_forced"), "", ""},
		{"with slashes", Support{}, set("net/ipv4/tcp_syncookies"), "", ""},
		{"an unsafe one", Support{}, set("kernel.msgmax"), "SysctlForbidden", `forbidden sysctl: "kernel.msgmax" not allowlisted`},
		{"an allowed one", Support{Sysctls: mustAllow(t, "kernel.msgmax")}, set("kernel.msgmax"), "", ""},
		{"one of a pattern", Support{Sysctls: mustAllow(t, "net.core.*")}, set("net.core.somaxconn"), "", ""},
		{"one beside it", Support{Sysctls: mustAllow(t, "net.core.*")}, set("net.ipv4.tcp_mem"), "SysctlForbidden", `forbidden sysctl: "net.ipv4.tcp_mem" not allowlisted`},
		{"the host's network", Support{}, func(s *v1.PodSpec) { set("net.ipv4.tcp_syncookies")(s); s.HostNetwork = true },
			"SysctlForbidden", `forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host Net enabled`},
		{"the host's IPC", Support{}, func(s *v1.PodSpec) { set("kernel.shm_rmid_forced")(s); s.HostIPC = true },
			"SysctlForbidden", `forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host IPC enabled`},
		{"no AppArmor", Support{}, profile(v1.AppArmorProfileTypeRuntimeDefault, ""), "AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"},
		{"none asked for", Support{}, profile(v1.AppArmorProfileTypeUnconfined, ""), "", ""},
		{"the default profile", loaded, profile(v1.AppArmorProfileTypeRuntimeDefault, ""), "", ""},
		{"a loaded profile", loaded, profile(v1.AppArmorProfileTypeLocalhost, "loaded"), "", ""},
		{"another profile", loaded, profile(v1.AppArmorProfileTypeLocalhost, "other"), "AppArmor", `Cannot enforce AppArmor: profile "other" is not loaded`},
		{"user namespaces", Support{}, noUsers, "", ""},
		{"no user namespaces", Support{UserNamespaces: "the kernel is too old"}, noUsers,
			"UnsupportedPod", "can't set `spec.hostUsers: false`, runtime does not support user namespaces: the kernel is too old"},
	} {
		pod := testPod()
		c.change(&pod.Spec)
		r := Unsupported(pod, c.node)
		switch {
		case r == nil && c.reason != "":
			t.Errorf("%s: not refused", c.name)
		case r != nil && (r.Reason != c.reason || r.Message != c.message):
			t.Errorf("%s: %+v", c.name, r)
		}
	}
	for _, pattern := range []string{"kernel.panic", "vm.*", "net.Core", "*"} {
		if _, err := AllowSysctls([]string{pattern}); err == nil {
			t.Errorf("sysctl %q may be allowed", pattern)
		}
	}
}

func TestSeccompAndAppArmor(t *testing.T) {
	own := &specs.LinuxSeccomp{DefaultAction: specs.ActKill}
	load := func(name string) (*specs.LinuxSeccomp, error) {
		if name == "own.json" {
			return own, nil
		}
		return nil, errors.New("no such profile")
	}
	enforced := func(string) bool { return true }
	localhost := func(name string) *v1.SeccompProfile {
		return &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: &name}
	}
	for _, c := range []struct {
		name string
		node Support
		pod  v1.PodSecurityContext
		own  v1.SecurityContext
		want runtime.Security
		err  string
	}{
		{name: "nothing"},
		{name: "by the node", node: Support{SeccompDefault: true}, want: runtime.Security{SeccompDefault: true}},
		{name: "unconfined beats the node", node: Support{SeccompDefault: true}, pod: v1.PodSecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeUnconfined}}},
		{name: "by the pod", pod: v1.PodSecurityContext{SeccompProfile: localhost("own.json")}, want: runtime.Security{Seccomp: own}},
		{name: "the container's beats the pod's", pod: v1.PodSecurityContext{SeccompProfile: localhost("none.json")},
			own:  v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}},
			want: runtime.Security{SeccompDefault: true}},
		{name: "no file", own: v1.SecurityContext{SeccompProfile: localhost("none.json")}, err: "no such profile"},
		{name: "privileged", node: Support{SeccompDefault: true, AppArmor: enforced}, own: v1.SecurityContext{Privileged: new(true), SeccompProfile: localhost("none.json")},
			want: runtime.Security{Privileged: true}},
		{name: "AppArmor by default", node: Support{AppArmor: enforced}, want: runtime.Security{AppArmor: runtime.DefaultAppArmor}},
		{name: "AppArmor of the pod", node: Support{AppArmor: enforced},
			pod:  v1.PodSecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeLocalhost, LocalhostProfile: new("mine")}},
			want: runtime.Security{AppArmor: "mine"}},
		{name: "AppArmor off", node: Support{AppArmor: enforced},
			own: v1.SecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeUnconfined}}},
	} {
		pod := testPod()
		pod.Spec.SecurityContext, pod.Spec.Containers[0].SecurityContext = &c.pod, &c.own
		got, err := Security(pod, &pod.Spec.Containers[0], c.node, load)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || got.Seccomp != c.want.Seccomp || got.SeccompDefault != c.want.SeccompDefault || got.AppArmor != c.want.AppArmor || got.Privileged != c.want.Privileged {
			t.Errorf("%s: %+v %v", c.name, got, err)
		}
	}
}

func TestRecursiveReadOnly(t *testing.T) {
	mode := func(m v1.RecursiveReadOnlyMode) *v1.RecursiveReadOnlyMode { return &m }
	enabled, possible := mode(v1.RecursiveReadOnlyEnabled), mode(v1.RecursiveReadOnlyIfPossible)
	for _, c := range []struct {
		mount v1.VolumeMount
		can   bool
		want  bool
		err   string
	}{
		{mount: v1.VolumeMount{ReadOnly: true}, can: true},
		{mount: v1.VolumeMount{ReadOnly: true, RecursiveReadOnly: mode(v1.RecursiveReadOnlyDisabled)}, can: true},
		{mount: v1.VolumeMount{ReadOnly: true, RecursiveReadOnly: possible}, can: true, want: true},
		{mount: v1.VolumeMount{ReadOnly: true, RecursiveReadOnly: possible}},
		{mount: v1.VolumeMount{ReadOnly: true, RecursiveReadOnly: enabled}, can: true, want: true},
		{mount: v1.VolumeMount{ReadOnly: true, RecursiveReadOnly: enabled}, err: "it is not supported by the runtime"},
		{mount: v1.VolumeMount{RecursiveReadOnly: enabled}, can: true, err: "it is not read-only"},
	} {
		c.mount.Name, c.mount.MountPath = "mnt", "/mnt/"
		got, err := RecursiveReadOnly(&v1.Container{VolumeMounts: []v1.VolumeMount{c.mount}}, Support{RecursiveReadOnly: c.can})
		if got["/mnt"] != c.want || (err == nil) != (c.err == "") || err != nil && !strings.HasSuffix(err.Error(), `volume "mnt" requested recursive read-only mode, but `+c.err) {
			t.Errorf("%+v: %v %v", c.mount, got, err)
		}
	}
}
