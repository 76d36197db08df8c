package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// cgroupsV1 has a hierarchy for each controller, in a folder of its name below root. A cgroup is made in those hierarchies alone in
// which it has limits.
type cgroupsV1 struct{ root string }

func (g cgroupsV1) set(path string, res Resources) error {
	type limit struct {
		controller, file string
		value            int64
	}
	limits := []limit{
		{"cpu", "cpu.shares", int64(res.CPUShares)},
		{"cpu", "cpu.cfs_period_us", int64(res.CPUPeriod)}, // before the quota, which is checked against it
		{"cpu", "cpu.cfs_quota_us", res.CPUQuota},
		{"memory", "memory.limit_in_bytes", res.MemoryLimit},
		{"pids", "pids.max", res.PidsLimit},
	}
	for size, bytes := range res.HugePages {
		limits = append(limits, limit{"hugetlb", "hugetlb." + size + ".limit_in_bytes", bytes})
	}
	for _, l := range limits {
		// No huge pages at all is a limit, not the lack of one.
		if l.value < 0 || l.value == 0 && l.controller != "hugetlb" {
			continue
		}
		if _, err := os.Stat(filepath.Join(g.root, l.controller)); err != nil {
			continue
		}
		dir := filepath.Join(g.root, l.controller, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := writeLimit(dir, l.file, strconv.FormatInt(l.value, 10)); err != nil {
			return err
		}
	}
	return nil
}

func (g cgroupsV1) remove(path string) error {
	entries, err := os.ReadDir(g.root)
	if err != nil {
		return nil
	}
	var errs []error
	for _, e := range entries { // cpu and cpuacct may be one, by symlinks
		if e.IsDir() {
			errs = append(errs, removeTree(filepath.Join(g.root, e.Name(), path)))
		}
	}
	return errors.Join(errs...)
}

func (g cgroupsV1) usage(path string) Usage {
	dir := filepath.Join(g.root, "memory", path)
	u := Usage{Time: time.Now(),
		CPU:    time.Duration(readNumber(filepath.Join(g.root, "cpuacct", path, "cpuacct.usage"))),
		Memory: readNumber(filepath.Join(dir, "memory.usage_in_bytes")),
		RSS:    readKey(filepath.Join(dir, "memory.stat"), "total_rss"),
		Pids:   readNumber(filepath.Join(g.root, "pids", path, "pids.current")),
	}
	u.WorkingSet = u.Memory - min(readKey(filepath.Join(dir, "memory.stat"), "total_inactive_file"), u.Memory)
	return u
}

func (g cgroupsV1) oomKills(path string) int {
	return int(readKey(filepath.Join(g.root, "memory", path, "memory.oom_control"), "oom_kill"))
}
