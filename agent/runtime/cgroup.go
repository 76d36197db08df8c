package runtime

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	cpuPeriod  = 100_000 // microseconds, the kernel's and the kubelet's default
)

// unified says whether the machine has cgroup v2 only.
func unified() bool {
	var st unix.Statfs_t
	return unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// controllerDirs are the folders of the v1 hierarchies, each once (cpu and cpuacct may be one).
func controllerDirs() []string {
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() && e.Name() != "unified" {
			dirs = append(dirs, filepath.Join(cgroupRoot, e.Name()))
		}
	}
	return dirs
}

// makeCgroup creates a pod's cgroup with its limits. Containers' own cgroups below it are the OCI runtime's.
func makeCgroup(path string, res *Resources) error {
	if unified() {
		return makeCgroup2(path, res)
	}
	if res == nil {
		return nil
	}
	for _, f := range []struct {
		controller, file string
		value            int64
	}{
		{"cpu", "cpu.shares", int64(res.CPUShares)},
		{"cpu", "cpu.cfs_period_us", int64(res.CPUPeriod)}, // before the quota, which is checked against it
		{"cpu", "cpu.cfs_quota_us", res.CPUQuota},
		{"memory", "memory.limit_in_bytes", res.MemoryLimit},
		{"pids", "pids.max", res.PidsLimit},
	} {
		if f.value <= 0 {
			continue
		}
		if err := writeCgroup(filepath.Join(cgroupRoot, f.controller, path), f.file, strconv.FormatInt(f.value, 10)); err != nil {
			return err
		}
	}
	return nil
}

func makeCgroup2(path string, res *Resources) error {
	dir := cgroupRoot
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		// A parent passes on the controllers that it has; those that it lacks are the machine's choice.
		for _, c := range []string{"cpu", "memory", "pids", "io", "cpuset"} {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if res == nil {
		return nil
	}
	set := map[string]string{}
	if res.CPUShares > 0 {
		set["cpu.weight"] = strconv.FormatUint(weightOf(res.CPUShares), 10)
	}
	if res.CPUQuota > 0 {
		set["cpu.max"] = fmt.Sprintf("%d %d", res.CPUQuota, periodOf(*res))
	}
	if res.MemoryLimit > 0 {
		set["memory.max"] = strconv.FormatInt(res.MemoryLimit, 10)
	}
	if res.PidsLimit > 0 {
		set["pids.max"] = strconv.FormatInt(res.PidsLimit, 10)
	}
	for file, value := range set {
		if err := writeCgroup(dir, file, value); err != nil {
			return err
		}
	}
	return nil
}

func periodOf(res Resources) uint64 {
	if res.CPUPeriod == 0 {
		return cpuPeriod
	}
	return res.CPUPeriod
}

// weightOf converts v1 shares [2, 262144] to a v2 weight [1, 10000] as runc does.
func weightOf(shares uint64) uint64 {
	return 1 + ((min(max(shares, 2), 262144)-2)*9999)/262142
}

// writeCgroup writes one file of a cgroup; a controller that the machine lacks is skipped.
func writeCgroup(dir, file, value string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil
	}
	return err
}

// RemoveCgroup removes a cgroup, in every hierarchy, and all below it; it waits a little for processes that are
// just ending.
func RemoveCgroup(path string) error {
	dirs := []string{cgroupRoot}
	if !unified() {
		dirs = append(controllerDirs(), filepath.Join(cgroupRoot, "unified"))
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, removeTree(filepath.Join(dir, path)))
	}
	return errors.Join(errs...)
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

// oomKills counts the processes of a container's cgroup that the kernel killed for memory.
func oomKills(path string) int {
	file := filepath.Join(cgroupRoot, "memory", path, "memory.oom_control")
	if unified() {
		file = filepath.Join(cgroupRoot, path, "memory.events")
	}
	return int(readKey(file, "oom_kill"))
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
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	return n
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

// CgroupUsage reads the usage of a cgroup, given by its path as in a SandboxConfig.
func CgroupUsage(path string) Usage {
	u := Usage{Time: time.Now()}
	var inactive uint64
	if unified() {
		dir := filepath.Join(cgroupRoot, path)
		u.CPU = time.Duration(readKey(filepath.Join(dir, "cpu.stat"), "usage_usec")) * time.Microsecond
		u.Memory = readNumber(filepath.Join(dir, "memory.current"))
		u.RSS = readKey(filepath.Join(dir, "memory.stat"), "anon")
		inactive = readKey(filepath.Join(dir, "memory.stat"), "inactive_file")
		u.Pids = readNumber(filepath.Join(dir, "pids.current"))
	} else {
		u.CPU = time.Duration(readNumber(filepath.Join(cgroupRoot, "cpuacct", path, "cpuacct.usage")))
		dir := filepath.Join(cgroupRoot, "memory", path)
		u.Memory = readNumber(filepath.Join(dir, "memory.usage_in_bytes"))
		u.RSS = readKey(filepath.Join(dir, "memory.stat"), "total_rss")
		inactive = readKey(filepath.Join(dir, "memory.stat"), "total_inactive_file")
		u.Pids = readNumber(filepath.Join(cgroupRoot, "pids", path, "pids.current"))
	}
	u.WorkingSet = u.Memory - min(inactive, u.Memory)
	return u
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
