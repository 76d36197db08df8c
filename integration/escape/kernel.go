package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func namespaceAttempts() []attempt {
	var out []attempt
	for name, flag := range map[string]int{"mount": unix.CLONE_NEWNS, "network": unix.CLONE_NEWNET, "UTS": unix.CLONE_NEWUTS, "IPC": unix.CLONE_NEWIPC,
		"PID": unix.CLONE_NEWPID, "cgroup": unix.CLONE_NEWCGROUP} {
		out = append(out, attempt{"make a " + name + " namespace", func() error { return unix.Unshare(flag) }})
	}
	for _, name := range []string{"mnt", "net", "uts", "ipc", "pid"} {
		out = append(out, attempt{"enter process 1's namespace " + name, func() error {
			fd, err := unix.Open("/proc/1/ns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Setns(fd, 0)
		}})
	}
	return append(out,
		attempt{"mount a tmpfs", func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") }},
		attempt{"change the host's name", func() error { return unix.Sethostname([]byte("escaped")) }},
		attempt{"change the domain's name", func() error { return unix.Setdomainname([]byte("escaped")) }})
}

// mountAttempts uncover what is hidden from a container; one of them may be made in a mount namespace of its own.
func mountAttempts() []attempt {
	fresh := func(kind string) func() error {
		return func() error {
			dir := "/tmp/fresh-" + kind
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if err := unix.Mount(kind, dir, kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
				return err
			}
			return unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
	writable := func(path string) func() error {
		return func() error { return unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND, "") }
	}
	return []attempt{
		{"mount /proc anew", fresh("proc")},
		{"mount /sys anew", fresh("sysfs")},
		{"mount a disk", func() error { return unix.Mount("/dev/vda", "/tmp", "ext4", 0, "") }},
		{"make /proc/sys writable", writable("/proc/sys")},
		{"make /sys writable", writable("/sys")},
		{"make /proc/sysrq-trigger writable", writable("/proc/sysrq-trigger")},
		{"uncover /proc/kcore", func() error { return unix.Unmount("/proc/kcore", unix.MNT_DETACH) }},
		{"uncover /sys/firmware", func() error { return unix.Unmount("/sys/firmware", unix.MNT_DETACH) }},
		{"unmount /etc/hosts", func() error { return unix.Unmount("/etc/hosts", unix.MNT_DETACH) }},
		{"mount a cgroup hierarchy to set its release agent", func() error {
			dir := "/tmp/groups"
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if err := unix.Mount("cgroup", dir, "cgroup", 0, "memory"); err != nil {
				return err
			}
			defer unix.Unmount(dir, unix.MNT_DETACH)
			return write(dir+"/release_agent", "/tmp/escape")
		}},
	}
}

func processAttempts() []attempt {
	return []attempt{
		{"see processes of others", seeOthers},
		{"trace a process of others", func() error { return unix.PtraceAttach(2) }},
		{"read the memory of a process of others", func() error {
			b := make([]byte, 8)
			local := []unix.Iovec{{Base: &b[0], Len: 8}}
			_, err := unix.ProcessVMReadv(2, local, []unix.RemoteIovec{{Base: 4096, Len: 8}}, 0)
			return err
		}},
		{"signal a process of others", func() error { return unix.Kill(2, 0) }},
		{"take precedence over others", func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -10) }},
		{"run in real time", func() error {
			param := int32(1)
			return call(unix.SYS_SCHED_SETSCHEDULER, 0, 1, uintptr(unsafe.Pointer(&param)))
		}},
		{"set what the three-finger salute does", func() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) }},
		{"be spared when memory runs out", func() error { return write("/proc/self/oom_score_adj", "-1000") }},
	}
}

// seeOthers: the first process here is this program, or the shell that runs it; there is none else.
func seeOthers() error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			name, _ := os.ReadFile("/proc/" + e.Name() + "/comm")
			names = append(names, strings.TrimSpace(string(name)))
		}
	}
	for _, name := range names {
		if name != "escape" && name != "sh" && name != "sleep" {
			fmt.Println("seen:", names)
			return nil
		}
	}
	return fmt.Errorf("only %v", names)
}

// kernelAttempts change the machine as a whole. None does harm where it is managed.
func kernelAttempts() []attempt {
	empty, _ := unix.BytePtrFromString("")
	none := uintptr(unsafe.Pointer(empty))
	page := make([]byte, 4096)
	buffer := uintptr(unsafe.Pointer(&page[0]))
	list := []attempt{
		{"load a module", func() error { return unix.InitModule([]byte("\x7fELF nothing"), "") }},
		{"load a module by file", func() error { return unix.FinitModule(0, "", 0) }},
		{"remove a module", func() error { return unix.DeleteModule("none", unix.O_NONBLOCK) }},
		{"load another kernel", func() error { return call(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0) }},
		{"set the clock", func() error {
			var now unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
				return err
			}
			return call(unix.SYS_CLOCK_SETTIME, unix.CLOCK_REALTIME, uintptr(unsafe.Pointer(&now)))
		}},
		{"slew the clock", func() error { _, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_STATUS}); return err }},
		{"swap on", func() error { return call(unix.SYS_SWAPON, none, 0) }},
		{"swap off", func() error { return call(unix.SYS_SWAPOFF, none) }},
		{"account for processes", func() error { return call(unix.SYS_ACCT, 0) }},
		{"read the kernel's log", func() error { _, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, page); return err }},
		{"load a program into the kernel", func() error { return call(unix.SYS_BPF, 5, buffer, 48) }},
		{"watch a processor", func() error {
			_, err := unix.PerfEventOpen(&unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: unix.PERF_ATTR_SIZE_VER0}, -1, 0, -1, 0)
			return err
		}},
		{"use the processor's ports", func() error { return ports() }},
		{"write core_pattern", func() error { return write("/proc/sys/kernel/core_pattern", "") }},
		{"press a key of sysrq", func() error { return write("/proc/sysrq-trigger", "") }},
		{"open a disk", func() error { return openDevice(unix.S_IFBLK, 254, 0, unix.O_RDONLY) }},
		{"raise a limit", func() error {
			const most = 1 << 30
			return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most})
		}},
	}
	for i, a := range list {
		list[i].do = func() error { return denied(a.do()) }
	}
	return list
}

// denied: what failed for another reason than the lack of a right would not fail for everybody.
func denied(err error) error {
	for _, why := range []error{unix.EPERM, unix.EACCES, unix.EROFS, unix.ENOSYS, unix.ENOENT} {
		if errors.Is(err, why) {
			return err
		}
	}
	if err != nil {
		fmt.Println("not denied:", err)
	}
	return nil
}

// send sends datagrams, through the packet filter as any packet that a process makes up itself.
func send(from, to, port string, texts []string) error {
	a, err := netip.ParseAddr(from)
	if err != nil {
		return err
	}
	b, err := netip.ParseAddr(to)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	own, err := sourceFor(to, port)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, text := range texts {
		source := own
		if strings.HasPrefix(text, "forged") {
			source = a
		}
		if err := unix.Sendto(fd, datagram(source, b, uint16(n), text+"\n"), 0, &unix.SockaddrInet4{Addr: b.As4()}); err != nil {
			return err
		}
	}
	return nil
}

// hear prints what comes, until it is killed.
func hear(port string) error {
	c, err := net.ListenPacket("udp4", ":"+port)
	if err != nil {
		return err
	}
	for b := make([]byte, 2048); ; {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return err
		}
		fmt.Print(string(b[:n]))
	}
}

// sourceFor is the address that this container sends from.
func sourceFor(to, port string) (netip.Addr, error) {
	c, err := net.Dial("udp4", net.JoinHostPort(to, port))
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	addr, ok := c.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}, errors.New("no address")
	}
	return addr.AddrPort().Addr().Unmap(), nil
}

func ownAddress() string {
	addr, err := sourceFor("10.0.0.1", "9")
	if err != nil {
		return ""
	}
	return fmt.Sprint(addr.AsSlice())
}

// datagram is an IPv4 packet with a UDP datagram; the kernel fills in the checksum of the header.
func datagram(from, to netip.Addr, port uint16, text string) []byte {
	b := make([]byte, 28, 28+len(text))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	b[21], b[22], b[23] = 9, byte(port>>8), byte(port)
	size := 8 + len(text)
	b[24], b[25] = byte(size>>8), byte(size)
	return append(b, text...)
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }
