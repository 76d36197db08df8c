package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// cgroupsV2 is the one hierarchy of version 2, mounted at root.
type cgroupsV2 struct{ root string }

func (g cgroupsV2) set(path string, res Resources) error {
	dir := g.root
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		// A parent passes on the controllers that it has; those that it lacks are the machine's choice.
		for _, c := range []string{"cpu", "memory", "pids", "io", "cpuset", "hugetlb"} {
			_ = writeLimit(dir, "cgroup.subtree_control", "+"+c)
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	limits := map[string]string{}
	if res.CPUShares > 0 {
		limits["cpu.weight"] = strconv.FormatUint(weightOf(res.CPUShares), 10)
	}
	if res.CPUQuota > 0 {
		limits["cpu.max"] = fmt.Sprintf("%d %d", res.CPUQuota, periodOf(res))
	}
	if res.MemoryLimit > 0 {
		limits["memory.max"] = strconv.FormatInt(res.MemoryLimit, 10)
	}
	if res.PidsLimit > 0 {
		limits["pids.max"] = strconv.FormatInt(res.PidsLimit, 10)
	}
	for size, bytes := range res.HugePages {
		limits["hugetlb."+size+".max"] = strconv.FormatInt(bytes, 10)
	}
	for file, value := range limits {
		if err := writeLimit(dir, file, value); err != nil {
			return err
		}
	}
	return nil
}

// weightOf converts v1 shares [2, 262144] to a v2 weight [1, 10000] as runc does.
func weightOf(shares uint64) uint64 {
	return 1 + ((min(max(shares, 2), 262144)-2)*9999)/262142
}

func (g cgroupsV2) remove(path string) error { return removeTree(filepath.Join(g.root, path)) }

func (g cgroupsV2) usage(path string) Usage {
	dir := filepath.Join(g.root, path)
	stat := filepath.Join(dir, "memory.stat")
	u := Usage{Time: time.Now(),
		CPU:    time.Duration(readKey(filepath.Join(dir, "cpu.stat"), "usage_usec")) * time.Microsecond,
		Memory: readNumber(filepath.Join(dir, "memory.current")),
		RSS:    readKey(stat, "anon"),
		Pids:   readNumber(filepath.Join(dir, "pids.current")),
	}
	u.WorkingSet = u.Memory - min(readKey(stat, "inactive_file"), u.Memory)
	return u
}

func (g cgroupsV2) oomKills(path string) int {
	return int(readKey(filepath.Join(g.root, path, "memory.events"), "oom_kill"))
}
