package runtime

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	groupAnnotation = "io.containerd.runc.v2.group" // containers with the same value share one shim
	defaultPath     = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// defaultCaps are those that containerd and docker give a container that asks for none.
func defaultCaps() []string {
	return []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE",
		"CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
}

// maskedPaths tell of the machine what concerns no container.
func maskedPaths() []string {
	throttle, _ := filepath.Glob("/sys/devices/system/cpu/cpu*/thermal_throttle")
	return append(throttle,
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
		"/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap")
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// specInput is all that a container's OCI spec is made of.
type specInput struct {
	id      string
	cfg     ContainerConfig
	sandbox SandboxConfig
	dir     string // the sandbox's folder
	firstID uint32 // of the pod's user namespace; zero without
	image   Rootfs
	oomMin  int
	v2      bool     // cgroup v2
	allCaps []string // what a privileged container gets
	devices []specs.LinuxDevice
	// deviceRules allow those of the container's own.
	deviceRules []specs.LinuxDeviceCgroup
	// processes is the path of the PID namespace to join in place of one of its own, if set.
	processes string
}

// gather reads what of the machine goes into a spec.
func (in *specInput) gather() error {
	in.v2 = unified()
	if err := in.gatherDevices(); err != nil {
		return err
	}
	if !in.cfg.Security.Privileged && !hasAll(in.cfg.Security.AddCaps) {
		return nil
	}
	var err error
	if in.allCaps, err = cap.Current(); err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	if in.cfg.Security.Privileged {
		all, err := oci.HostDevices()
		if err != nil {
			return fmt.Errorf("list the machine's devices: %w", err)
		}
		in.devices = append(all, in.devices...)
	}
	return nil
}

// buildSpec makes the OCI spec: pure but for what gather read.
func buildSpec(in specInput) (*specs.Spec, error) {
	if err := verifyNonRoot(in.cfg, in.image); err != nil {
		return nil, err
	}
	args, err := commandOf(in.cfg, in.image)
	if err != nil {
		return nil, err
	}
	user, err := resolveUser(in.cfg.Security, in.image)
	if err != nil {
		return nil, err
	}
	cwd := in.cfg.WorkingDir
	if cwd == "" {
		cwd = in.image.Config.WorkingDir
	}
	if cwd == "" {
		cwd = "/"
	}
	sec := in.cfg.Security
	oom := max(in.cfg.Resources.OOMScoreAdj, in.oomMin)
	spec := &specs.Spec{
		Version:  "1.0.2",
		Root:     &specs.Root{Path: "rootfs", Readonly: sec.ReadOnlyRoot},
		Hostname: "", // the UTS namespace has it
		Process: &specs.Process{
			Terminal: in.cfg.TTY, Args: args, Env: environment(in), Cwd: cwd, User: user,
			NoNewPrivileges: sec.NoNewPrivs, OOMScoreAdj: &oom, Capabilities: capabilities(in), ApparmorProfile: sec.AppArmor,
		},
		Mounts:      mounts(in),
		Annotations: map[string]string{groupAnnotation: in.cfg.Pod.UID},
		Linux: &specs.Linux{
			CgroupsPath: filepath.Join("/", in.sandbox.CgroupParent, in.id),
			Namespaces:  joinedNamespaces(in),
			Resources:   resources(in),
		},
	}
	if in.firstID != 0 {
		ids := idMappings(in.firstID)
		spec.Linux.UIDMappings, spec.Linux.GIDMappings = ids, ids
	}
	protect(spec, in)
	return spec, nil
}

// commandOf applies Kubernetes' rules: command replaces entrypoint and cmd, args alone replace cmd.
func commandOf(cfg ContainerConfig, img Rootfs) ([]string, error) {
	command, args := cfg.Command, cfg.Args
	if len(command) == 0 {
		command = img.Config.Entrypoint
		if len(args) == 0 {
			args = img.Config.Cmd
		}
	}
	all := append(slices.Clone(command), args...)
	if len(all) == 0 {
		return nil, fmt.Errorf("no command specified")
	}
	return all, nil
}

// environment is the image's, HOSTNAME, then the container's, a later value in place of an earlier.
func environment(in specInput) []string {
	out := []string{}
	index := map[string]int{}
	set := func(kv string) {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := index[name]; ok {
			out[i] = kv
			return
		}
		index[name] = len(out)
		out = append(out, kv)
	}
	set("PATH=" + defaultPath)
	host := in.sandbox.Hostname
	if host == "" {
		host, _ = os.Hostname()
	}
	set("HOSTNAME=" + host)
	if in.cfg.TTY {
		set("TERM=xterm")
	}
	for _, kv := range in.image.Config.Env {
		set(kv)
	}
	for _, kv := range in.cfg.Env {
		set(kv)
	}
	return out
}

// capabilities applies add and then drop to the default set; ALL stands for every one, and goes first. A process that is not root's
// has none in effect but may regain those of the bounding set by a file that has them: no ambient ones are set.
func capabilities(in specInput) *specs.LinuxCapabilities {
	sec := in.cfg.Security
	list := defaultCaps()
	if sec.Privileged || hasAll(sec.AddCaps) {
		list = in.allCaps
	}
	set := map[string]bool{}
	if sec.Privileged || !hasAll(sec.DropCaps) {
		for _, c := range list {
			set[c] = true
		}
	}
	if !sec.Privileged {
		for _, c := range sec.AddCaps {
			set[capName(c)] = true
		}
		for _, c := range sec.DropCaps {
			delete(set, capName(c))
		}
		delete(set, capName(allCaps))
	}
	sorted := slices.Sorted(maps.Keys(set))
	return &specs.LinuxCapabilities{Bounding: sorted, Effective: sorted, Permitted: sorted}
}

// allCaps stands for every capability.
const allCaps = "ALL"

func hasAll(caps []string) bool {
	return slices.ContainsFunc(caps, func(c string) bool { return strings.EqualFold(c, allCaps) })
}

func capName(c string) string {
	c = strings.ToUpper(c)
	if !strings.HasPrefix(c, "CAP_") {
		c = "CAP_" + c
	}
	return c
}

// mounts are the kernel's file systems, then the pod's, shallow ones first so that none hides another.
func mounts(in specInput) []specs.Mount {
	ro := "ro"
	if in.cfg.Security.Privileged {
		ro = "rw"
	}
	shm := filepath.Join(in.dir, "shm")
	if in.sandbox.HostIPC {
		shm = "/dev/shm"
	}
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", ro}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", ro}},
		{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rw", "nosuid", "nodev", "noexec"}},
	}
	own := slices.Clone(in.cfg.Mounts)
	slices.SortStableFunc(own, func(a, b Mount) int { return depth(a.Destination) - depth(b.Destination) })
	for _, m := range own {
		dest := filepath.Clean(m.Destination)
		out = slices.DeleteFunc(out, func(o specs.Mount) bool { return o.Destination == dest })
		propagation := m.Propagation
		if propagation == "" {
			propagation = "rprivate"
		}
		mode := "rw"
		switch {
		case m.ReadOnly && m.Recursive:
			mode = "rro"
		case m.ReadOnly:
			mode = "ro"
		}
		out = append(out, specs.Mount{Destination: dest, Type: "bind", Source: m.Source, Options: append([]string{"rbind", propagation, mode}, m.Options...)})
	}
	return out
}

func depth(path string) int { return strings.Count(filepath.Clean(path), "/") }

// joinedNamespaces: a mount namespace of its own, a PID namespace unless it is shared, the others by path.
func joinedNamespaces(in specInput) []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	join := func(kind specs.LinuxNamespaceType, file string) {
		out = append(out, specs.LinuxNamespace{Type: kind, Path: filepath.Join(in.dir, file)})
	}
	if !in.sandbox.HostNetwork {
		join(specs.NetworkNamespace, "net")
		join(specs.UTSNamespace, "uts")
	}
	if !in.sandbox.HostIPC {
		join(specs.IPCNamespace, "ipc")
	}
	if in.sandbox.UserNamespace {
		join(specs.UserNamespace, "user")
	}
	if in.v2 && !in.cfg.Security.Privileged {
		// Else the whole machine's groups would show in /sys/fs/cgroup.
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	switch {
	case in.processes != "":
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: in.processes})
	case in.sandbox.HostPID:
	case in.sandbox.ShareProcess:
		join(specs.PIDNamespace, "pid")
	default:
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	return out
}

func resources(in specInput) *specs.LinuxResources {
	res := in.cfg.Resources
	out := &specs.LinuxResources{
		Devices: append([]specs.LinuxDeviceCgroup{{Allow: in.cfg.Security.Privileged, Access: "rwm"}}, in.deviceRules...),
		CPU:     &specs.LinuxCPU{},
	}
	if res.CPUShares > 0 {
		out.CPU.Shares = &res.CPUShares
	}
	if res.CPUQuota > 0 {
		period := periodOf(res)
		out.CPU.Quota, out.CPU.Period = &res.CPUQuota, &period
	}
	if res.MemoryLimit > 0 {
		out.Memory = &specs.LinuxMemory{Limit: &res.MemoryLimit}
		if in.v2 {
			out.Memory.Swap = &res.MemoryLimit // memory and swap together: no swap
		}
	}
	if in.v2 {
		// A container is killed as one, as the kubelet has it on cgroup v2.
		out.Unified = map[string]string{"memory.oom.group": "1"}
	}
	if res.PidsLimit > 0 {
		out.Pids = &specs.LinuxPids{Limit: &res.PidsLimit}
	}
	for _, size := range slices.Sorted(maps.Keys(res.HugePages)) {
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: uint64(res.HugePages[size])})
	}
	return out
}

// protect hides the kernel's files, mounts propagation and system calls as the security context says.
func protect(spec *specs.Spec, in specInput) {
	sec := in.cfg.Security
	for _, m := range in.cfg.Mounts {
		if m.Propagation == "rshared" || (m.Propagation == "rslave" && spec.Linux.RootfsPropagation == "") {
			spec.Linux.RootfsPropagation = m.Propagation
		}
	}
	spec.Linux.Devices = in.devices
	if sec.Privileged {
		return
	}
	if !sec.MaskedPathsUnmasked {
		spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = maskedPaths(), readonlyPaths()
	}
	switch {
	case sec.Seccomp != nil:
		spec.Linux.Seccomp = sec.Seccomp
	case sec.SeccompDefault:
		spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
	}
}
