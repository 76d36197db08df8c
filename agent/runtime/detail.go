package runtime

import (
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Detail is all that the kernel counts of a cgroup, and its limits.
type Detail struct {
	Usage
	// Cgroup is its path, as in a SandboxConfig.
	Cgroup            string
	UserCPU           time.Duration
	SystemCPU         time.Duration
	Periods           uint64 // in which it could be throttled
	ThrottledPeriods  uint64
	Throttled         time.Duration
	Cache, MappedFile uint64 // bytes
	Swap              uint64 // bytes
	Peak              uint64 // bytes of memory, the most it ever used
	Failures          uint64 // how often its limit of memory was reached
	PageFaults        uint64
	MajorFaults       uint64
	Shares            uint64
	Quota             int64  // microseconds a period; zero is unlimited
	Period            uint64 // microseconds
	MemoryLimit       uint64 // bytes; zero is unlimited
}

// Detail reads a running container's counters; its time is zero where the container does not run.
func (r *Runtime) Detail(id string) Detail {
	c := r.lookup(id)
	if c == nil || r.stateOf(c) != StateRunning {
		return Detail{}
	}
	return CgroupDetail(c.meta.Cgroup)
}

// PodDetail is Detail of a pod's cgroup; its time is zero where there is no sandbox.
func (r *Runtime) PodDetail(uid string) Detail {
	rec, err := readSandbox(r.sandboxDir(uid))
	if err != nil || rec.Config.CgroupParent == "" {
		return Detail{}
	}
	return CgroupDetail(rec.Config.CgroupParent)
}

// NodeDetail is Detail of all that runs on the machine.
func (r *Runtime) NodeDetail() Detail { return CgroupDetail("/") }

// CgroupDetail reads the counters of a cgroup, given by its path as in a SandboxConfig.
func CgroupDetail(path string) Detail { return machineCgroups().detail(path) }

// tick is the unit of cpuacct.stat: USER_HZ is 100 on every architecture that Go knows.
const tick = time.Second / 100

func (g cgroupsV1) detail(path string) Detail {
	cpu, memory := filepath.Join(g.root, "cpu", path), filepath.Join(g.root, "memory", path)
	times, throttling, stat := filepath.Join(g.root, "cpuacct", path, "cpuacct.stat"), filepath.Join(cpu, "cpu.stat"), filepath.Join(memory, "memory.stat")
	d := Detail{Usage: g.usage(path), Cgroup: path,
		UserCPU: time.Duration(readKey(times, "user")) * tick, SystemCPU: time.Duration(readKey(times, "system")) * tick,
		Periods: readKey(throttling, "nr_periods"), ThrottledPeriods: readKey(throttling, "nr_throttled"), Throttled: time.Duration(readKey(throttling, "throttled_time")),
		Cache: readKey(stat, "total_cache"), MappedFile: readKey(stat, "total_mapped_file"), Swap: readKey(stat, "total_swap"),
		PageFaults: readKey(stat, "total_pgfault"), MajorFaults: readKey(stat, "total_pgmajfault"),
		Peak: readNumber(filepath.Join(memory, "memory.max_usage_in_bytes")), Failures: readNumber(filepath.Join(memory, "memory.failcnt")),
		Shares: readNumber(filepath.Join(cpu, "cpu.shares")), Quota: int64(readNumber(filepath.Join(cpu, "cpu.cfs_quota_us"))), // -1 is none, and no number here
		Period: readNumber(filepath.Join(cpu, "cpu.cfs_period_us")), MemoryLimit: readNumber(filepath.Join(memory, "memory.limit_in_bytes")),
	}
	if d.MemoryLimit > math.MaxInt64/2 { // what the kernel says where there is none
		d.MemoryLimit = 0
	}
	return d
}

func (g cgroupsV2) detail(path string) Detail {
	dir := filepath.Join(g.root, path)
	cpu, stat := filepath.Join(dir, "cpu.stat"), filepath.Join(dir, "memory.stat")
	d := Detail{Usage: g.usage(path), Cgroup: path,
		UserCPU: time.Duration(readKey(cpu, "user_usec")) * time.Microsecond, SystemCPU: time.Duration(readKey(cpu, "system_usec")) * time.Microsecond,
		Periods: readKey(cpu, "nr_periods"), ThrottledPeriods: readKey(cpu, "nr_throttled"), Throttled: time.Duration(readKey(cpu, "throttled_usec")) * time.Microsecond,
		Cache: readKey(stat, "file"), MappedFile: readKey(stat, "file_mapped"), Swap: readNumber(filepath.Join(dir, "memory.swap.current")),
		PageFaults: readKey(stat, "pgfault"), MajorFaults: readKey(stat, "pgmajfault"),
		Peak: readNumber(filepath.Join(dir, "memory.peak")), Failures: readKey(filepath.Join(dir, "memory.events"), "max"),
		MemoryLimit: readNumber(filepath.Join(dir, "memory.max")),
	}
	if weight := readNumber(filepath.Join(dir, "cpu.weight")); weight > 0 {
		d.Shares = 2 + (weight-1)*262142/9999
	}
	quota, period, _ := strings.Cut(readLine(filepath.Join(dir, "cpu.max")), " ")
	d.Quota, _ = strconv.ParseInt(quota, 10, 64) // "max" is none, and no number
	d.Period, _ = strconv.ParseUint(period, 10, 64)
	return d
}
