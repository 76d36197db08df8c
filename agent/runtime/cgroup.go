package runtime

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cgroupMount = "/sys/fs/cgroup"
	cpuPeriod   = 100_000 // microseconds, the kernel's and the kubelet's default
)

// cgroups is a machine's control groups, of version 1 or 2. A path is absolute within each hierarchy, as in a SandboxConfig.
type cgroups interface {
	// set makes a cgroup with all above it, and sets those limits that are not zero. A controller that the machine lacks is passed over.
	set(path string, res Resources) error
	// remove removes a cgroup and all below it; it waits a little for processes that are just ending.
	remove(path string) error
	usage(path string) Usage
	detail(path string) Detail
	// oomKills counts the processes of a cgroup that the kernel killed for memory.
	oomKills(path string) int
}

// machineCgroups are those of this machine.
func machineCgroups() cgroups {
	if unified() {
		return cgroupsV2{cgroupMount}
	}
	return cgroupsV1{cgroupMount}
}

// unified says whether the machine has cgroup v2 only.
func unified() bool {
	var st unix.Statfs_t
	return unix.Statfs(cgroupMount, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// SetCgroup makes a cgroup, given by its path as in a SandboxConfig, and sets those of its limits that are not zero.
func SetCgroup(path string, res Resources) error { return machineCgroups().set(path, res) }

// RemoveCgroup removes a cgroup, in every hierarchy, and all below it; it waits a little for processes that are just ending.
func RemoveCgroup(path string) error { return machineCgroups().remove(path) }

// CgroupUsage reads the usage of a cgroup, given by its path as in a SandboxConfig.
func CgroupUsage(path string) Usage { return machineCgroups().usage(path) }

// writeLimit writes one file of a cgroup that exists; a controller that the machine lacks is passed over.
func writeLimit(dir, file, value string) error {
	err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil
	}
	return err
}

func periodOf(res Resources) uint64 {
	if res.CPUPeriod == 0 {
		return cpuPeriod
	}
	return res.CPUPeriod
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for try := 0; ; try++ {
		if err = unix.Rmdir(dir); err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || try == 20 {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// readKey reads "key value" lines, as of memory.stat; zero where file or key is missing.
func readKey(file, key string) uint64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		if k, v, ok := strings.Cut(lines.Text(), " "); ok && k == key {
			n, _ := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

func readNumber(file string) uint64 {
	n, _ := strconv.ParseUint(readLine(file), 10, 64)
	return n
}

// readLine reads a file of one line; empty where it is missing.
func readLine(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// Usage is what a cgroup has used.
type Usage struct {
	Time time.Time
	// CPU is the total of CPU time used, by all processors together.
	CPU time.Duration
	// Memory is the usage and WorkingSet that without the inactive page cache, as the kubelet counts; RSS is
	// anonymous memory. All in bytes.
	Memory, WorkingSet, RSS uint64
	Pids                    uint64
}

// lowestOOMScore is the lowest oom_score_adj that this process may give: any with CAP_SYS_RESOURCE, its own without.
func lowestOOMScore() int {
	const capSysResource = 24
	if data, err := os.ReadFile("/proc/self/status"); err == nil {
		for _, line := range strings.Split(string(data), "\n") {
			if hex, ok := strings.CutPrefix(line, "CapEff:\t"); ok {
				if caps, err := strconv.ParseUint(hex, 16, 64); err == nil && caps&(1<<capSysResource) != 0 {
					return -1000
				}
			}
		}
	}
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return n
}
