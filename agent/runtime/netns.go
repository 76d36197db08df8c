package runtime

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

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
	return out
}

// makeNamespaces creates a sandbox's namespaces on a thread of its own, sets host name, loopback and sysctls
// in them and keeps each alive by a bind mount.
func makeNamespaces(dir string, cfg SandboxConfig) error {
	list := cfg.namespaces()
	if len(list) == 0 {
		return setSysctls(cfg, nil)
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
	if flags&unix.CLONE_NEWUTS != 0 && cfg.Hostname != "" {
		if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
			return fmt.Errorf("set host name %q: %w", cfg.Hostname, err)
		}
	}
	if flags&unix.CLONE_NEWNET != 0 {
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
	}
	if err := setSysctls(cfg, list); err != nil {
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
func setSysctls(cfg SandboxConfig, list []namespace) error {
	all := map[string]string{}
	for _, ns := range list {
		if ns.flag == unix.CLONE_NEWNET {
			all["net.ipv4.ip_unprivileged_port_start"] = "0"
			all["net.ipv4.ping_group_range"] = "0 2147483647"
		}
	}
	defaults := len(all)
	for k, v := range cfg.Sysctls {
		all[strings.ReplaceAll(k, "/", ".")] = v
	}
	for k, v := range all {
		path := filepath.Join("/proc/sys", strings.ReplaceAll(k, ".", "/"))
		err := os.WriteFile(path, []byte(v), 0)
		if _, asked := cfg.Sysctls[k]; err != nil && (asked || defaults == 0) {
			return fmt.Errorf("sysctl %s=%s: %w", k, v, err)
		}
	}
	return nil
}

// startPause starts the process that holds and is the init of a pod's shared PID namespace. It has a session
// of its own and outlives the agent, like the shims.
func (r *Runtime) startPause(dir string, cfg SandboxConfig) (pid int, started string, err error) {
	cmd := exec.Command(r.cfg.Shim, "pause")
	cmd.Dir = "/"
	cmd.Env = []string{"GOGC=20", "GOMAXPROCS=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		return 0, "", fmt.Errorf("start the holder of the PID namespace: %w", err)
	}
	pid = cmd.Process.Pid
	go func() { _ = cmd.Wait() }()
	if err := bindNamespace(fmt.Sprintf("/proc/%d/ns/pid", pid), filepath.Join(dir, "pid")); err != nil {
		return 0, "", errors.Join(err, unix.Kill(pid, unix.SIGKILL))
	}
	return pid, startTime(pid), nil
}

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
