package stats

import (
	"encoding/json"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// The documents of /stats/summary have the field names of the kubelet's stats/v1alpha1. What containers have written to their
// own root file systems is not counted.
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
		Swap      *swapStats    `json:"swap,omitempty"`
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
		Volumes    []volumeStats    `json:"volume,omitempty"`
		Ephemeral  *fsStats         `json:"ephemeral-storage,omitempty"`
		Processes  *processStats    `json:"process_stats,omitempty"`
		Swap       *swapStats       `json:"swap,omitempty"`
	}
	swapStats struct {
		Time           metav1.Time `json:"time"`
		AvailableBytes *uint64     `json:"swapAvailableBytes,omitempty"`
		UsageBytes     *uint64     `json:"swapUsageBytes,omitempty"`
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
		Swap      *swapStats   `json:"swap,omitempty"`
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
		PageFaults      *uint64     `json:"pageFaults,omitempty"`
		MajorPageFaults *uint64     `json:"majorPageFaults,omitempty"`
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
	specs := map[string]*corev1.Pod{}
	if whole {
		out.Node.Swap = s.nodeSwap(now)
		for _, pod := range s.cfg.Pods.Pods() {
			specs[string(pod.UID)] = pod
		}
	}
	for _, p := range s.pods() {
		out.Pods = append(out.Pods, s.podSummary(p, specs[p.ref.UID], measured, whole))
	}
	s.mu.Lock()
	s.last = measured
	s.mu.Unlock()
	return out
}

// podSummary measures one pod; what is counted goes into measured, for the rates of the next time. spec is nil where it is not known.
func (s *Stats) podSummary(p podUsage, spec *corev1.Pod, measured map[string]runtime.Usage, whole bool) podStats {
	now := metav1.Now()
	one := podStats{PodRef: podReference{p.ref.Name, p.ref.Namespace, p.ref.UID}, Containers: []containerStats{}}
	sandbox := s.cfg.Runtime.Pod(p.ref.UID).Sandbox
	if sandbox != nil {
		one.StartTime = metav1.NewTime(sandbox.CreatedAt)
	}
	if !p.total.Time.IsZero() {
		measured[p.ref.UID] = p.total
		one.CPU, one.Memory = s.cpu(p.ref.UID, p.total), memory(p.total, 0)
		one.Processes = &processStats{&p.total.Pids}
		if whole {
			one.Swap = detailed(one.Memory, s.cfg.Runtime.PodDetail(p.ref.UID))
		}
	}
	for _, c := range p.containers {
		measured[c.ID] = c.usage
		stats := containerStats{Name: c.Name, StartTime: metav1.NewTime(c.StartedAt), CPU: s.cpu(c.ID, c.usage), Memory: memory(c.usage, 0)}
		if whole {
			stats.Logs = logs(now, c.LogPath)
			stats.Swap = detailed(stats.Memory, s.cfg.Runtime.Detail(c.ID))
		}
		one.Containers = append(one.Containers, stats)
	}
	if !whole {
		return one
	}
	if sandbox != nil && sandbox.NetNS != "" && len(p.containers) > 0 {
		one.Network = s.network(now, strconv.Itoa(p.containers[0].Pid))
	}
	if spec != nil {
		one.Volumes = s.volumes(spec, true)
	}
	one.Ephemeral = s.ephemeral(now, spec, one)
	return one
}

// detailed adds the page faults to what is said of memory, and tells what is swapped out.
func detailed(m *memoryStats, d runtime.Detail) *swapStats {
	if d.Time.IsZero() {
		return nil
	}
	m.PageFaults, m.MajorPageFaults = &d.PageFaults, &d.MajorFaults
	return &swapStats{Time: metav1.NewTime(d.Time), UsageBytes: &d.Swap}
}

func (s *Stats) nodeSwap(now metav1.Time) *swapStats {
	mem := keyed(filepath.Join(s.cfg.Root, "proc/meminfo"))
	free, used := 1024*mem["SwapFree"], 1024*(mem["SwapTotal"]-min(mem["SwapTotal"], mem["SwapFree"]))
	return &swapStats{Time: now, AvailableBytes: &free, UsageBytes: &used}
}

// ephemeral is what the pod takes of the node's own storage: logs, and volumes that are on its disk and end with the pod.
func (s *Stats) ephemeral(now metav1.Time, spec *corev1.Pod, pod podStats) *fsStats {
	out := fileSystem(now, s.cfg.Data)
	if out == nil {
		return nil
	}
	var used, inodes uint64
	add := func(f *fsStats) {
		if f != nil && f.UsedBytes != nil && f.InodesUsed != nil {
			used, inodes = used+*f.UsedBytes, inodes+*f.InodesUsed
		}
	}
	for i := range pod.Containers {
		add(pod.Containers[i].Logs)
	}
	for i := range pod.Volumes {
		onDisk := slices.ContainsFunc(spec.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == pod.Volumes[i].Name && v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault
		})
		if onDisk {
			add(&pod.Volumes[i].fsStats)
		}
	}
	out.UsedBytes, out.InodesUsed = &used, &inodes
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
	faces := s.interfaces(pid)
	if faces == nil {
		return nil
	}
	out := &networkStats{Time: now}
	for _, f := range faces {
		if len(f.counters) < 11 {
			continue
		}
		out.Interfaces = append(out.Interfaces, interfaceStats{Name: f.name, RxBytes: &f.counters[0], RxErrors: &f.counters[2], TxBytes: &f.counters[8], TxErrors: &f.counters[10]})
	}
	if len(out.Interfaces) > 0 {
		out.interfaceStats = out.Interfaces[0]
	}
	return out
}

type face struct {
	name     string
	counters []uint64 // the columns of /proc/PID/net/dev
}

// interfaces are those that a process sees, without the loopback; nil where that cannot be known.
func (s *Stats) interfaces(pid string) []face {
	data, err := os.ReadFile(filepath.Join(s.cfg.Root, "proc", pid, "net/dev"))
	if err != nil {
		return nil
	}
	faces := []face{}
	for line := range strings.Lines(string(data)) {
		name, columns, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); !ok || name == "lo" {
			continue
		}
		one := face{name: name}
		for _, column := range strings.Fields(columns) {
			n, _ := strconv.ParseUint(column, 10, 64)
			one.counters = append(one.counters, n)
		}
		faces = append(faces, one)
	}
	return faces
}
