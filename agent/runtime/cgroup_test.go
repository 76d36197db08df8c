package runtime

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tree is what the files below dir hold, by their paths.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir+"/")] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func put(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for path, text := range files {
		file := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func limits() Resources {
	return Resources{CPUShares: 1024, CPUQuota: 50_000, MemoryLimit: 64 << 20, PidsLimit: 100, CPUPeriod: 100_000,
		HugePages: map[string]int64{"2MB": 4 << 20, "1GB": 0}}
}

func TestCgroupsV1(t *testing.T) {
	// This machine has no controller for huge pages.
	root := put(t, map[string]string{"cpu/.keep": "", "memory/.keep": "", "pids/.keep": ""})
	g := cgroupsV1{root}
	if err := g.set("/kubepods/podA", limits()); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"cpu/.keep": "", "memory/.keep": "", "pids/.keep": "",
		"cpu/kubepods/podA/cpu.shares": "1024", "cpu/kubepods/podA/cpu.cfs_period_us": "100000", "cpu/kubepods/podA/cpu.cfs_quota_us": "50000",
		"memory/kubepods/podA/memory.limit_in_bytes": "67108864", "pids/kubepods/podA/pids.max": "100"}
	if got := tree(t, root); !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestCgroupsV1HugePages(t *testing.T) {
	root := put(t, map[string]string{"hugetlb/.keep": ""})
	if err := (cgroupsV1{root}).set("/p", limits()); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"hugetlb/.keep": "", "hugetlb/p/hugetlb.2MB.limit_in_bytes": "4194304", "hugetlb/p/hugetlb.1GB.limit_in_bytes": "0"}
	if got := tree(t, root); !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestCgroupsV2(t *testing.T) {
	root := t.TempDir()
	if err := (cgroupsV2{root}).set("/kubepods/podA", limits()); err != nil {
		t.Fatal(err)
	}
	// A fake file system keeps of the controllers only the last that was asked for.
	want := map[string]string{"cgroup.subtree_control": "+hugetlb", "kubepods/cgroup.subtree_control": "+hugetlb",
		"kubepods/podA/cpu.weight": "39", "kubepods/podA/cpu.max": "50000 100000", "kubepods/podA/memory.max": "67108864",
		"kubepods/podA/pids.max": "100", "kubepods/podA/hugetlb.2MB.max": "4194304", "kubepods/podA/hugetlb.1GB.max": "0"}
	if got := tree(t, root); !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if err := (cgroupsV2{root}).set("/kubepods/podB", Resources{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "kubepods/podB")); err != nil {
		t.Errorf("without limits: %v", err)
	}
}

func TestCgroupUsage(t *testing.T) {
	v1 := cgroupsV1{put(t, map[string]string{
		"cpuacct/p/cpuacct.usage": "1500000000\n", "memory/p/memory.usage_in_bytes": "1000\n", "pids/p/pids.current": "7\n",
		"memory/p/memory.stat":        "cache 1\ntotal_rss 300\ntotal_inactive_file 250\n",
		"memory/p/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"})}
	v2 := cgroupsV2{put(t, map[string]string{
		"p/cpu.stat": "usage_usec 1500000\nuser_usec 1\n", "p/memory.current": "1000\n", "p/pids.current": "7\n",
		"p/memory.stat": "anon 300\nfile 1\ninactive_file 250\n", "p/memory.events": "low 0\noom 3\noom_kill 2\n"})}
	for name, g := range map[string]cgroups{"v1": v1, "v2": v2} {
		u := g.usage("/p")
		u.Time = time.Time{}
		if want := (Usage{CPU: 1500 * time.Millisecond, Memory: 1000, WorkingSet: 750, RSS: 300, Pids: 7}); u != want {
			t.Errorf("%s: %+v", name, u)
		}
		if n := g.oomKills("/p"); n != 2 {
			t.Errorf("%s: %d were killed", name, n)
		}
		if err := g.remove("/other"); err != nil {
			t.Errorf("%s: removing what is not there: %v", name, err)
		}
	}
}
