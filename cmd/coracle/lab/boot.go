package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/internal/paths"
)

// bootSpec is all that a machine's first process is told.
type bootSpec struct {
	Node    string
	Root    string // the folder that becomes /
	Self    string // the coracle program
	Cgroup  string
	Address netip.Prefix
	// Gateway is where the default route leads; invalid where the machine below has none itself.
	Gateway       netip.Addr
	Hosts, Resolv string // files
	MachineID     string
	BootID        string
	// Command is what the machine runs, the path as seen from inside.
	Command []string
}

// bootErrors is the descriptor on which Boot tells why it failed. It closes when the machine runs.
const bootErrors = 3

// Boot is what the first process of a machine does, in namespaces of its own for processes, mounts, network, names and IPC: it reads a
// bootSpec, enters the machine's cgroup, makes its file system and network, and becomes its supervisor. It returns only if that fails.
func Boot(in io.Reader) error {
	unix.CloseOnExec(bootErrors)
	err := boot(in)
	_, _ = os.NewFile(bootErrors, "errors").WriteString(err.Error())
	return err
}

func boot(in io.Reader) error {
	var s bootSpec
	if err := json.NewDecoder(in).Decode(&s); err != nil {
		return fmt.Errorf("nobody said what to boot: %w", err)
	}
	runtime.LockOSThread() // the cgroup namespace is this thread's, which then executes the supervisor
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"cgroups", s.enter}, {"file system", s.mounts}, {"network", s.network},
		{"hostname", func() error { return unix.Sethostname([]byte(s.Node)) }},
		{"root", s.pivot},
		{s.Command[0], func() error { return unix.Exec(s.Command[0], s.Command, os.Environ()) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// enter makes the machine's cgroup the root of what it sees, and puts this process into its own part of it.
func (s *bootSpec) enter() error {
	if err := enterCgroups(s.Cgroup); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	return enterCgroups(filepath.Join(s.Cgroup, ownCgroup))
}

func (s *bootSpec) network() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(eth0, &netlink.Addr{IPNet: ipNet(s.Address.Addr(), s.Address.Bits())}); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(eth0); err != nil || !s.Gateway.IsValid() {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: s.Gateway.AsSlice()})
}

// shared are the folders of the machine below that a lab's machine sees too, but cannot change. All others are its own.
var shared = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "opt", "nix", "gnu"}

// own are folders that every machine has, with their modes.
var own = []struct {
	path string
	mode os.FileMode
}{
	{"proc", 0o555}, {"sys", 0o555}, {"dev", 0o755}, {"run", 0o755}, {"root", 0o700}, {"home", 0o755}, {"mnt", 0o755}, {"media", 0o755}, {"srv", 0o755},
	{"tmp", 0o777 | os.ModeSticky}, {"var", 0o755}, {"var/lib", 0o755}, {"var/cache", 0o755}, {"var/log", 0o755}, {"var/tmp", 0o777 | os.ModeSticky},
}

func (s *bootSpec) inside(path string) string { return filepath.Join(s.Root, path) }

// mounts makes the machine's file system below Root.
func (s *bootSpec) mounts() error {
	// What is unmounted below is unmounted here too, so that nothing is kept busy; nothing of here is seen there.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	if err := bind(s.Root, s.Root, unix.MS_BIND); err != nil {
		return err
	}
	for _, step := range []func() error{s.folders, s.bindShared, s.kernelMounts, s.mountCgroups, s.files} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func bind(from, to string, flags uintptr) error {
	if err := unix.Mount(from, to, "", flags, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", from, to, err)
	}
	return nil
}

func (s *bootSpec) folders() error {
	for _, d := range own {
		path := s.inside(d.path)
		if err := os.Mkdir(path, d.mode); err == nil {
			err = os.Chmod(path, d.mode) // whatever the umask is
			if err != nil {
				return err
			}
		} else if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for link, to := range map[string]string{"var/run": "../run", "var/lock": "../run/lock"} {
		if err := os.Symlink(to, s.inside(link)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// bindShared shows the programs and settings of the machine below, read-only.
func (s *bootSpec) bindShared() error {
	for _, name := range shared {
		from, to := "/"+name, s.inside(name)
		info, err := os.Lstat(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if info.Mode()&os.ModeSymlink != 0 {
			if err := copyLink(from, to); err != nil {
				return err
			}
			continue
		}
		if err := os.Mkdir(to, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := bind(from, to, unix.MS_BIND|unix.MS_REC); err != nil {
			return err
		}
		if err := readOnly(to); err != nil {
			return err
		}
	}
	return nil
}

func copyLink(from, to string) error {
	target, err := os.Readlink(from)
	if err != nil {
		return err
	}
	if err := os.Symlink(target, to); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// readOnly makes a bind mount and all below it read-only; before Linux 5.12 only the mount itself.
func readOnly(path string) error {
	err := unix.MountSetattr(unix.AT_FDCWD, path, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if errors.Is(err, unix.ENOSYS) {
		err = unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	if err != nil {
		return fmt.Errorf("make %s read-only: %w", path, err)
	}
	return nil
}

func (s *bootSpec) kernelMounts() error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := bind("/dev", s.inside("dev"), unix.MS_BIND|unix.MS_REC); err != nil {
		return err
	}
	for _, m := range []struct {
		kind, at, data string
		flags          uintptr
	}{
		{"proc", "proc", "", safe}, {"sysfs", "sys", "", safe},
		{"tmpfs", "run", "mode=755", unix.MS_NOSUID | unix.MS_NODEV}, {"tmpfs", "dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	} {
		err := unix.Mount(m.kind, s.inside(m.at), m.kind, m.flags, m.data)
		if m.at == "dev/shm" && errors.Is(err, unix.ENOENT) {
			continue // where the machine below has none
		}
		if err != nil {
			return fmt.Errorf("mount %s at /%s: %w", m.kind, m.at, err)
		}
	}
	return errors.Join(os.Mkdir(s.inside("run/lock"), 0o755), os.Mkdir(s.inside(paths.DefaultRun), 0o711))
}

// mountCgroups mounts every hierarchy anew: what is mounted in a cgroup namespace shows only what is below its root.
func (s *bootSpec) mountCgroups() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if slices.IndexFunc(all, func(h hierarchy) bool { return h.dir == cgroupMount }) < 0 {
		if err := unix.Mount("tmpfs", s.inside(cgroupMount), "tmpfs", safe, "mode=755"); err != nil {
			return err
		}
	}
	for _, h := range all {
		to, kind := s.inside(h.dir), "cgroup"
		if h.v2 {
			kind = "cgroup2"
		}
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(kind, to, kind, safe, h.options); err != nil {
			return fmt.Errorf("mount %s (%s): %w", h.dir, h.options, err)
		}
	}
	links, err := os.ReadDir(cgroupMount)
	if err != nil {
		return err
	}
	for _, l := range links { // as cpu, where the hierarchy is cpu,cpuacct
		if l.Type()&os.ModeSymlink == 0 {
			continue
		}
		if err := copyLink(filepath.Join(cgroupMount, l.Name()), s.inside(filepath.Join(cgroupMount, l.Name()))); err != nil {
			return err
		}
	}
	return nil
}

// files gives the machine the files that tell it from others.
func (s *bootSpec) files() error {
	if err := os.Mkdir(s.inside("run/lab"), 0o755); err != nil {
		return err
	}
	if err := s.bindFile(s.Self, nodeSelf); err != nil {
		return err
	}
	if err := os.Symlink(filepath.Base(nodeSelf), s.inside("run/lab/kubectl")); err != nil {
		return err
	}
	for path, content := range map[string]string{"/etc/machine-id": s.MachineID, "/etc/hostname": s.Node, "/proc/sys/kernel/random/boot_id": s.BootID} {
		from := s.inside("run/lab/" + filepath.Base(path))
		if err := os.WriteFile(from, []byte(content+"\n"), 0o444); err != nil {
			return err
		}
		if err := s.replace(from, path); err != nil {
			return err
		}
	}
	if err := s.replace(s.Hosts, "/etc/hosts"); err != nil {
		return err
	}
	return s.replace(s.Resolv, "/etc/resolv.conf")
}

// bindFile shows a file at a new place.
func (s *bootSpec) bindFile(from, at string) error {
	f, err := os.OpenFile(s.inside(at), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	f.Close()
	return bind(from, s.inside(at), unix.MS_BIND)
}

// replace shows a file in place of another of the machine below, which may be a link to somewhere else. What is not there, and cannot be
// made, is left out.
func (s *bootSpec) replace(from, path string) error {
	for range 8 { // links of links
		target, err := os.Readlink(s.inside(path))
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = filepath.Clean("/" + target)
	}
	if strings.HasPrefix(path, "/run/") {
		if err := os.MkdirAll(filepath.Dir(s.inside(path)), 0o755); err != nil {
			return err
		}
		return s.bindFile(from, path)
	}
	if _, err := os.Stat(s.inside(path)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return bind(from, s.inside(path), unix.MS_BIND)
}

// pivot leaves the file system of the machine below.
func (s *bootSpec) pivot() error {
	if err := unix.Chdir(s.Root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Chdir("/")
}
