package stats

import (
	"encoding/json"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// The documents of /stats/summary have the field names of the kubelet's stats/v1alpha1. Of its optional fields those are here
// that can be known without walking over file systems.
type (
	summary struct {
		Node nodeStats  `json:"node"`
		Pods []podStats `json:"pods"`
	}
	nodeStats struct {
		NodeName  string        `json:"nodeName"`
		StartTime metav1.Time   `json:"startTime"`
		CPU       *cpuStats     `json:"cpu,omitempty"`
		Memory    *memoryStats  `json:"memory,omitempty"`
		Network   *networkStats `json:"network,omitempty"`
		FS        *fsStats      `json:"fs,omitempty"`
		Runtime   *runtimeStats `json:"runtime,omitempty"`
		Rlimit    *rlimitStats  `json:"rlimit,omitempty"`
	}
	runtimeStats struct {
		ImageFS *fsStats `json:"imageFs,omitempty"`
	}
	rlimitStats struct {
		Time   metav1.Time `json:"time"`
		MaxPID *int64      `json:"maxpid,omitempty"`
		Procs  *int64      `json:"curproc,omitempty"`
	}
	podStats struct {
		PodRef     podReference     `json:"podRef"`
		StartTime  metav1.Time      `json:"startTime"`
		Containers []containerStats `json:"containers"`
		CPU        *cpuStats        `json:"cpu,omitempty"`
		Memory     *memoryStats     `json:"memory,omitempty"`
		Network    *networkStats    `json:"network,omitempty"`
		Processes  *processStats    `json:"process_stats,omitempty"`
	}
	podReference struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		UID       string `json:"uid"`
	}
	processStats struct {
		Count *uint64 `json:"process_count,omitempty"`
	}
	containerStats struct {
		Name      string       `json:"name"`
		StartTime metav1.Time  `json:"startTime"`
		CPU       *cpuStats    `json:"cpu,omitempty"`
		Memory    *memoryStats `json:"memory,omitempty"`
		Logs      *fsStats     `json:"logs,omitempty"`
	}
	cpuStats struct {
		Time metav1.Time `json:"time"`
		// NanoCores is the rate since somebody asked before; missing when nobody did of late.
		NanoCores       *uint64 `json:"usageNanoCores,omitempty"`
		CoreNanoSeconds *uint64 `json:"usageCoreNanoSeconds,omitempty"`
	}
	memoryStats struct {
		Time            metav1.Time `json:"time"`
		AvailableBytes  *uint64     `json:"availableBytes,omitempty"`
		UsageBytes      *uint64     `json:"usageBytes,omitempty"`
		WorkingSetBytes *uint64     `json:"workingSetBytes,omitempty"`
		RSSBytes        *uint64     `json:"rssBytes,omitempty"`
	}
	fsStats struct {
		Time           metav1.Time `json:"time"`
		AvailableBytes *uint64     `json:"availableBytes,omitempty"`
		CapacityBytes  *uint64     `json:"capacityBytes,omitempty"`
		UsedBytes      *uint64     `json:"usedBytes,omitempty"`
		InodesFree     *uint64     `json:"inodesFree,omitempty"`
		Inodes         *uint64     `json:"inodes,omitempty"`
		InodesUsed     *uint64     `json:"inodesUsed,omitempty"`
	}
	networkStats struct {
		Time metav1.Time `json:"time"`
		interfaceStats
		Interfaces []interfaceStats `json:"interfaces,omitempty"`
	}
	interfaceStats struct {
		Name     string  `json:"name"`
		RxBytes  *uint64 `json:"rxBytes,omitempty"`
		RxErrors *uint64 `json:"rxErrors,omitempty"`
		TxBytes  *uint64 `json:"txBytes,omitempty"`
		TxErrors *uint64 `json:"txErrors,omitempty"`
	}
)

// ServeSummary answers /stats/summary; with ?only_cpu_and_memory=true it tells nothing else.
func (s *Stats) ServeSummary(w http.ResponseWriter, r *http.Request) {
	short, _ := strconv.ParseBool(r.FormValue("only_cpu_and_memory"))
	body, err := json.MarshalIndent(s.summary(!short), "", " ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

func (s *Stats) summary(whole bool) summary {
	now, node := metav1.Now(), s.cfg.Node()
	measured := map[string]runtime.Usage{"": node}
	out := summary{Pods: []podStats{}, Node: nodeStats{
		NodeName: s.cfg.NodeName, StartTime: s.bootTime(), CPU: s.cpu("", node), Memory: memory(node, 1024*keyed(filepath.Join(s.cfg.Root, "proc/meminfo"))["MemTotal"]),
	}}
	if whole {
		out.Node.Network, out.Node.FS, out.Node.Rlimit = s.network(now, "self"), fileSystem(now, s.cfg.Data), s.rlimit(now)
		out.Node.Runtime = &runtimeStats{ImageFS: out.Node.FS}
	}
	for _, p := range s.pods() {
		one := podStats{PodRef: podReference{p.ref.Name, p.ref.Namespace, p.ref.UID}, Containers: []containerStats{}}
		sandbox := s.cfg.Runtime.Pod(p.ref.UID).Sandbox
		if sandbox != nil {
			one.StartTime = metav1.NewTime(sandbox.CreatedAt)
		}
		if !p.total.Time.IsZero() {
			measured[p.ref.UID] = p.total
			one.CPU, one.Memory = s.cpu(p.ref.UID, p.total), memory(p.total, 0)
			one.Processes = &processStats{&p.total.Pids}
		}
		for _, c := range p.containers {
			measured[c.ID] = c.usage
			stats := containerStats{Name: c.Name, StartTime: metav1.NewTime(c.StartedAt), CPU: s.cpu(c.ID, c.usage), Memory: memory(c.usage, 0)}
			if whole {
				stats.Logs = logs(now, c.LogPath)
			}
			one.Containers = append(one.Containers, stats)
		}
		if whole && sandbox != nil && sandbox.NetNS != "" && len(p.containers) > 0 {
			one.Network = s.network(now, strconv.Itoa(p.containers[0].Pid))
		}
		out.Pods = append(out.Pods, one)
	}
	s.mu.Lock()
	s.last = measured
	s.mu.Unlock()
	return out
}

// maxWindow is how long ago the last question may be for a rate to say anything of now.
const maxWindow = 5 * time.Minute

// cpu is the usage with its rate since it was asked for last.
func (s *Stats) cpu(key string, u runtime.Usage) *cpuStats {
	total := uint64(u.CPU)
	out := &cpuStats{Time: metav1.NewTime(u.Time), CoreNanoSeconds: &total}
	s.mu.Lock()
	before, known := s.last[key]
	s.mu.Unlock()
	if window := u.Time.Sub(before.Time); known && window > 0 && window < maxWindow && u.CPU >= before.CPU {
		rate := uint64(math.Round(float64(u.CPU-before.CPU) / window.Seconds()))
		out.NanoCores = &rate
	}
	return out
}

// memory is the usage; with a capacity, also what that leaves.
func memory(u runtime.Usage, capacity uint64) *memoryStats {
	out := &memoryStats{Time: metav1.NewTime(u.Time), UsageBytes: &u.Memory, WorkingSetBytes: &u.WorkingSet, RSSBytes: &u.RSS}
	if capacity > 0 {
		left := capacity - min(capacity, u.WorkingSet)
		out.AvailableBytes = &left
	}
	return out
}

func (s *Stats) bootTime() metav1.Time {
	data, err := os.ReadFile(filepath.Join(s.cfg.Root, "proc/stat"))
	if err != nil {
		return metav1.Time{}
	}
	for line := range strings.Lines(string(data)) {
		if at, ok := strings.CutPrefix(line, "btime "); ok {
			if n, err := strconv.ParseInt(strings.TrimSpace(at), 10, 64); err == nil {
				return metav1.Unix(n, 0)
			}
		}
	}
	return metav1.Time{}
}

func fileSystem(now metav1.Time, path string) *fsStats {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return nil
	}
	size := uint64(st.Bsize)
	available, capacity, used, inodesUsed := st.Bavail*size, st.Blocks*size, (st.Blocks-st.Bfree)*size, st.Files-st.Ffree
	return &fsStats{Time: now, AvailableBytes: &available, CapacityBytes: &capacity, UsedBytes: &used, InodesFree: &st.Ffree, Inodes: &st.Files, InodesUsed: &inodesUsed}
}

// logs is what a container's log takes on disk, rotated parts included.
func logs(now metav1.Time, path string) *fsStats {
	if path == "" {
		return nil
	}
	files, err := filepath.Glob(path + "*")
	if err != nil {
		return nil
	}
	var used, count uint64
	for _, file := range files {
		var st unix.Stat_t
		if unix.Lstat(file, &st) == nil {
			used, count = used+uint64(st.Blocks)*512, count+1
		}
	}
	return &fsStats{Time: now, UsedBytes: &used, InodesUsed: &count}
}

func (s *Stats) rlimit(now metav1.Time) *rlimitStats {
	out := &rlimitStats{Time: now}
	if data, err := os.ReadFile(filepath.Join(s.cfg.Root, "proc/sys/kernel/pid_max")); err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil {
			out.MaxPID = &n
		}
	}
	if data, err := os.ReadFile(filepath.Join(s.cfg.Root, "proc/loadavg")); err == nil {
		if f := strings.Fields(string(data)); len(f) > 3 {
			_, all, _ := strings.Cut(f[3], "/")
			if n, err := strconv.ParseInt(all, 10, 64); err == nil {
				out.Procs = &n
			}
		}
	}
	return out
}

// network counts the traffic of the interfaces that a process sees; the first that is not the loopback speaks for all.
func (s *Stats) network(now metav1.Time, pid string) *networkStats {
	data, err := os.ReadFile(filepath.Join(s.cfg.Root, "proc", pid, "net/dev"))
	if err != nil {
		return nil
	}
	out := &networkStats{Time: now}
	for line := range strings.Lines(string(data)) {
		name, counters, ok := strings.Cut(line, ":")
		f := strings.Fields(counters)
		if name = strings.TrimSpace(name); !ok || name == "lo" || len(f) < 11 {
			continue
		}
		one := interfaceStats{Name: name}
		for at, field := range map[int]**uint64{0: &one.RxBytes, 2: &one.RxErrors, 8: &one.TxBytes, 10: &one.TxErrors} {
			if n, err := strconv.ParseUint(f[at], 10, 64); err == nil {
				*field = &n
			}
		}
		if out.Interfaces = append(out.Interfaces, one); len(out.Interfaces) == 1 {
			out.interfaceStats = one
		}
	}
	return out
}
