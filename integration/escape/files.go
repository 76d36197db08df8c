package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func fileAttempts(hostPaths []string) []attempt {
	var out []attempt
	for _, path := range hostPaths {
		out = append(out,
			attempt{"read the host's " + path, func() error { _, err := os.Stat(path); return err }},
			attempt{"read it by process 1's root", func() error { _, err := os.Stat("/proc/1/root" + path); return err }},
			attempt{"read it by a chroot left open", func() error { return leaveChroot(path) }})
	}
	for _, path := range []string{"/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/panic_on_oom",
		"/proc/sys/net/ipv4/ip_forward", "/proc/sys/fs/binfmt_misc/register", "/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper",
		"/sys/power/state", "/sys/kernel/mm/transparent_hugepage/enabled"} {
		out = append(out, attempt{"write " + path, func() error { return write(path, "") }})
	}
	for _, path := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/latency_stats", "/proc/interrupts", "/proc/sched_debug"} {
		out = append(out, attempt{"read " + path, func() error { return read(path) }})
	}
	for _, path := range []string{"/sys/firmware", "/proc/acpi", "/proc/scsi", "/proc/asound", "/sys/devices/virtual/powercap"} {
		out = append(out, attempt{"list " + path, func() error { return list(path) }})
	}
	return append(out,
		attempt{"open by a file handle what lies outside", openByHandle},
		attempt{"write a file of a control group", writeCgroup},
		attempt{"find a file left open by the runtime", leftOpen},
		attempt{"write the program of process 1", func() error { return write("/proc/1/exe", "") }})
}

// leaveChroot is the old way out of a root folder that is no more than that.
func leaveChroot(path string) error {
	root, err := os.Open("/")
	if err != nil {
		return err
	}
	defer func() { _, _ = root.Chdir(), unix.Chroot("."); root.Close() }()
	if err := os.MkdirAll("/tmp/jail", 0o700); err != nil {
		return err
	}
	if err := unix.Chroot("/tmp/jail"); err != nil {
		return err
	}
	for range 32 {
		if err := unix.Chdir(".."); err != nil {
			return err
		}
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	_, err = os.Stat(path)
	return err
}

// openByHandle asks for the root inode of the file system that the container's files lie on, whose number is well known.
func openByHandle() error {
	mount, err := unix.Open("/etc/hosts", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mount)
	const inode32 = 1
	handle := unix.NewFileHandle(inode32, []byte{2, 0, 0, 0, 0, 0, 0, 0})
	fd, err := unix.OpenByHandleAt(mount, handle, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// writeCgroup looks for a folder in which groups can be made, or limits be changed.
func writeCgroup() error {
	last := errors.New("no groups are shown")
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil || st.Type != unix.CGROUP_SUPER_MAGIC && st.Type != unix.CGROUP2_SUPER_MAGIC {
			return nil // the folder in which the hierarchies lie is the container's own
		}
		if d.IsDir() {
			last = os.Mkdir(filepath.Join(path, "escape"), 0o755)
		} else if name := d.Name(); name == "release_agent" || name == "devices.allow" || strings.HasSuffix(name, "limit_in_bytes") || name == "memory.max" || name == "cgroup.procs" {
			last = write(path, "")
		}
		if last == nil {
			return fmt.Errorf("managed: %s", path)
		}
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return nil
	}
	return last
}

// leftOpen looks for files that this process was started with and that are no pipe, terminal or null device.
func leftOpen() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		n, _ := strconv.Atoi(e.Name())
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || n <= 2 || strings.HasPrefix(target, "anon_inode:") || strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "/sys/fs/cgroup/") {
			continue // the Go runtime's own, and this folder
		}
		fmt.Printf("left open: %d %s\n", n, target)
		return nil
	}
	return errors.New("none")
}

func deviceAttempts() []attempt {
	const character, block = unix.S_IFCHR, unix.S_IFBLK
	out := []attempt{
		{"open /dev/mem", func() error { return openDevice(character, 1, 1, unix.O_RDONLY) }},
		{"open /dev/port", func() error { return openDevice(character, 1, 4, unix.O_RDWR) }},
		{"open /dev/kmsg", func() error { return openDevice(character, 1, 11, unix.O_RDONLY) }},
		{"open /dev/kvm", func() error { return openDevice(character, 10, 232, unix.O_RDWR) }},
		{"open /dev/fuse", func() error { return openDevice(character, 10, 229, unix.O_RDWR) }},
		{"open /dev/loop-control", func() error { return openDevice(character, 10, 237, unix.O_RDWR) }},
		{"open the first terminal of the machine", func() error { return openDevice(character, 4, 0, unix.O_RDWR) }},
	}
	disks := 0
	f, err := os.Open("/proc/partitions")
	if err != nil {
		return out
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var major, minor, blocks uint32
		var name string
		if _, err := fmt.Sscan(lines.Text(), &major, &minor, &blocks, &name); err == nil && disks < 4 {
			disks++
			out = append(out, attempt{"open the disk " + name, func() error { return openDevice(block, major, minor, unix.O_RDONLY) }})
		}
	}
	return out
}

func networkAttempts() []attempt {
	return []attempt{
		{"see another pod's packets", sniff},
		{"set an interface down", func() error { return setInterface("eth0", 0) }},
		{"make a tunnel", tunnel},
		{"list the packet filters", nfnetlink},
	}
}

// tunnel makes an interface of the container's own. Opening the device for it is nothing yet.
func tunnel() error {
	const path = "/tmp/tun"
	if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))); err != nil {
		return err
	}
	defer os.Remove(path)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("tunnel0")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TUN)
	return call(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(req)))
}

// sniff listens on all interfaces for a while, for a packet between others.
func sniff() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_IP)))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return err
	}
	own := ownAddress()
	b := make([]byte, 2048)
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return err
		}
		from, to := fmt.Sprint(b[12:16]), fmt.Sprint(b[16:20])
		if n >= 20 && from != own && to != own && b[12] != 127 {
			return nil
		}
	}
	return errors.New("nothing heard but its own")
}

// setInterface sets an interface's flags.
func setInterface(name string, flags uint16) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(flags)
	return call(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(req)))
}

// nfnetlink asks for the list of packet filters.
func nfnetlink() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// nlmsghdr: NFT_MSG_GETTABLE as a dump; nfgenmsg: any family.
	msg := []byte{20, 0, 0, 0, 1, 10, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return err
	}
	if n >= 20 && b[4] == unix.NLMSG_ERROR {
		if errno := -int32(uint32(b[16]) | uint32(b[17])<<8 | uint32(b[18])<<16 | uint32(b[19])<<24); errno != 0 {
			return unix.Errno(errno)
		}
	}
	return nil
}
