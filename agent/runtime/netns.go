package runtime

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"k8s.io/component-helpers/node/util/sysctl"

	"github.com/coracle-dev/coracle/internal/thread"
)

// namespace is one that a pod's containers join by path.
type namespace struct {
	file string // below the sandbox's folder, and the name below /proc/PID/ns
	flag int    // of unshare(2)
}

// namespaces are those that a sandbox keeps; with the host's network the host's name is used too.
func (cfg SandboxConfig) namespaces() []namespace {
	var out []namespace
	if !cfg.HostNetwork {
		out = append(out, namespace{"net", unix.CLONE_NEWNET}, namespace{"uts", unix.CLONE_NEWUTS})
	}
	if !cfg.HostIPC {
		out = append(out, namespace{"ipc", unix.CLONE_NEWIPC})
	}
	if cfg.UserNamespace {
		out = append(out, namespace{"user", unix.CLONE_NEWUSER})
	}
	return out
}

// makeNamespaces creates a sandbox's namespaces on a thread of its own, sets host name, loopback and sysctls
// in them and keeps each alive by a bind mount.
func makeNamespaces(dir string, cfg SandboxConfig) error {
	list := cfg.namespaces()
	if len(list) == 0 {
		return setSysctls(cfg, nil, 0)
	}
	return thread.Do(func() error { return unshareHere(dir, cfg, list) })
}

func unshareHere(dir string, cfg SandboxConfig, list []namespace) error {
	flags := 0
	for _, ns := range list {
		flags |= ns.flag
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := prepareNamespaces(cfg, list, 0); err != nil {
		return err
	}
	for _, ns := range list {
		target := filepath.Join(dir, ns.file)
		if err := bindNamespace(fmt.Sprintf("/proc/thread-self/ns/%s", ns.file), target); err != nil {
			return err
		}
	}
	return nil
}

// prepareNamespaces sets host name, loopback and sysctls in the calling thread's namespaces, which are the listed ones. owner is the ID of
// their root where that is not the machine's.
func prepareNamespaces(cfg SandboxConfig, list []namespace, owner uint32) error {
	for _, ns := range list {
		switch {
		case ns.flag == unix.CLONE_NEWUTS && cfg.Hostname != "":
			if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
				return fmt.Errorf("set host name %q: %w", cfg.Hostname, err)
			}
		case ns.flag == unix.CLONE_NEWNET:
			if err := loopbackUp(); err != nil {
				return fmt.Errorf("loopback: %w", err)
			}
		}
	}
	return setSysctls(cfg, list, owner)
}

func bindNamespace(source, target string) error {
	f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("keep %s: %w", source, err)
	}
	return nil
}

// isNamespace says whether a path is a bind-mounted namespace.
func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// loopbackUp sets the interface lo up in the calling thread's network namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(req))); errno != 0 {
		return errno
	}
	return nil
}

// setSysctls writes the pod's sysctls in the calling thread's namespaces. A new network namespace lets
// processes without privileges bind low ports and ping, as containerd's CRI plugin does by default.
func setSysctls(cfg SandboxConfig, list []namespace, owner uint32) error {
	all := map[string]string{}
	for _, ns := range list {
		if ns.flag == unix.CLONE_NEWNET {
			all["net.ipv4.ip_unprivileged_port_start"] = "0"
			all["net.ipv4.ping_group_range"] = "0 2147483647"
		}
	}
	if owner != 0 { // groups that the user namespace does not have cannot be named
		all["net.ipv4.ping_group_range"] = fmt.Sprintf("0 %d", idsPerPod-1)
	}
	asked := map[string]bool{}
	for k, v := range cfg.Sysctls {
		k = sysctl.NormalizeName(k)
		all[k], asked[k] = v, true
	}
	// Only their owner may change what the kernel keeps for IPC namespaces; the thread has no way back from being that.
	names := slices.SortedFunc(maps.Keys(all), func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	for _, k := range names {
		if owner != 0 && rank(k) > 0 {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(owner), ^uintptr(0)); errno != 0 {
				return fmt.Errorf("become user %d: %w", owner, errno)
			}
		}
		path := filepath.Join("/proc/sys", strings.NewReplacer(".", "/", "/", ".").Replace(k))
		if err := os.WriteFile(path, []byte(all[k]), 0); err != nil && asked[k] {
			return fmt.Errorf("sysctl %s=%s: %w", k, all[k], err)
		}
	}
	return nil
}

// rank puts the network's parameters first.
func rank(name string) int {
	if strings.HasPrefix(name, "net.") {
		return 0
	}
	return 1
}

// startPause starts the process that holds and is the init of a pod's shared PID namespace. It has a session
// of its own and outlives the agent, like the shims.
func (r *Runtime) startPause(dir string, rec *sandboxRecord) error {
	cmd := exec.Command(r.cfg.Shim, "pause")
	cmd.Dir = "/"
	cmd.Env = pauseEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID}
	return rec.hold(dir, cmd)
}

// hold starts the holder of a PID namespace and keeps that. The holder ends by itself unless rec.held is called: an agent that is killed in between leaves none.
func (rec *sandboxRecord) hold(dir string, cmd *exec.Cmd) error {
	stdin, confirm, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdin = stdin
	err = cmd.Start()
	stdin.Close()
	if err != nil {
		confirm.Close()
		return fmt.Errorf("start the holder of the PID namespace: %w", err)
	}
	rec.Pause, rec.PauseStart, rec.confirm = cmd.Process.Pid, startTime(cmd.Process.Pid), confirm
	go func() { _ = cmd.Wait() }()
	return bindNamespace(fmt.Sprintf("/proc/%d/ns/pid", rec.Pause), filepath.Join(dir, "pid"))
}

// held tells the holder of the PID namespace, if there is one, whether it was recorded.
func (rec *sandboxRecord) held(recorded bool) {
	if rec.confirm == nil {
		return
	}
	if recorded {
		_, _ = rec.confirm.Write([]byte{1}) // if it died meanwhile, that is seen elsewhere
	}
	rec.confirm.Close()
}

func pauseEnv() []string { return []string{"GOGC=20", "GOMAXPROCS=1"} }

// startTime tells two processes with one PID apart: field 22 of /proc/PID/stat, empty without such a process.
func startTime(pid int) string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	// The second field, a name in parentheses, may hold anything.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return fields[19]
}
