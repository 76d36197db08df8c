package stats

import (
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// series is one metric of /metrics/cadvisor that every cgroup has.
type series struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*runtime.Detail) (float64, bool)
}

// cadvisorLabels are those of every series; of a pod's own cgroup container, image and name are empty, and of the machine's all but id.
var cadvisorLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

func gauge(name, help string, value func(*runtime.Detail) uint64) series {
	return series{desc(name, help, cadvisorLabels...), prometheus.GaugeValue, func(d *runtime.Detail) (float64, bool) { return float64(value(d)), true }}
}

func counter(name, help string, value func(*runtime.Detail) float64) series {
	return series{desc(name, help, cadvisorLabels...), prometheus.CounterValue, func(d *runtime.Detail) (float64, bool) { return value(d), true }}
}

// where leaves a series out of cgroups that it says nothing of.
func (s series) where(has func(*runtime.Detail) bool) series {
	value := s.value
	s.value = func(d *runtime.Detail) (float64, bool) {
		v, _ := value(d)
		return v, has(d)
	}
	return s
}

// cgroupSeries have cadvisor's names.
var cgroupSeries = []series{
	counter("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", func(d *runtime.Detail) float64 { return d.UserCPU.Seconds() }),
	counter("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", func(d *runtime.Detail) float64 { return d.SystemCPU.Seconds() }),
	counter("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", func(d *runtime.Detail) float64 { return float64(d.Periods) }).where(limitedCPU),
	counter("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", func(d *runtime.Detail) float64 { return float64(d.ThrottledPeriods) }).where(limitedCPU),
	counter("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", func(d *runtime.Detail) float64 { return d.Throttled.Seconds() }).where(limitedCPU),
	gauge("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", func(d *runtime.Detail) uint64 { return d.Memory }),
	gauge("container_memory_working_set_bytes", "Current working set in bytes.", func(d *runtime.Detail) uint64 { return d.WorkingSet }),
	gauge("container_memory_rss", "Size of RSS in bytes.", func(d *runtime.Detail) uint64 { return d.RSS }),
	gauge("container_memory_cache", "Number of bytes of page cache memory.", func(d *runtime.Detail) uint64 { return d.Cache }),
	gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.", func(d *runtime.Detail) uint64 { return d.MappedFile }),
	gauge("container_memory_swap", "Container swap usage in bytes.", func(d *runtime.Detail) uint64 { return d.Swap }),
	gauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", func(d *runtime.Detail) uint64 { return d.Peak }),
	counter("container_memory_failcnt", "Number of memory usage hits limits", func(d *runtime.Detail) float64 { return float64(d.Failures) }),
	gauge("container_processes", "Number of processes running inside the container.", func(d *runtime.Detail) uint64 { return d.Pids }),
	gauge("container_spec_cpu_period", "CPU period of the container.", func(d *runtime.Detail) uint64 { return d.Period }).where(func(d *runtime.Detail) bool { return d.Period > 0 }),
	gauge("container_spec_cpu_quota", "CPU quota of the container.", func(d *runtime.Detail) uint64 { return uint64(d.Quota) }).where(limitedCPU),
	gauge("container_spec_cpu_shares", "CPU share of the container.", func(d *runtime.Detail) uint64 { return d.Shares }).where(func(d *runtime.Detail) bool { return d.Shares > 0 }),
	gauge("container_spec_memory_limit_bytes", "Memory limit for the container.", func(d *runtime.Detail) uint64 { return d.MemoryLimit }),
}

func limitedCPU(d *runtime.Detail) bool { return d.Quota > 0 }

var (
	cadvisorCPU   = desc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", append([]string{"cpu"}, cadvisorLabels...)...)
	cadvisorFault = desc("container_memory_failures_total", "Cumulative count of memory allocation failures.", append([]string{"failure_type", "scope"}, cadvisorLabels...)...)
	cadvisorStart = desc("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", cadvisorLabels...)
	cadvisorSeen  = desc("container_last_seen", "Last time a container was seen by the exporter", cadvisorLabels...)
	cadvisorError = desc("container_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise")
	fsUsage       = desc("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", append([]string{"device"}, cadvisorLabels...)...)
	fsLimit       = desc("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", append([]string{"device"}, cadvisorLabels...)...)
	machineCores  = desc("machine_cpu_cores", "Number of logical CPU cores.", "boot_id", "machine_id", "system_uuid")
	machineMemory = desc("machine_memory_bytes", "Amount of memory installed on the machine.", "boot_id", "machine_id", "system_uuid")
)

// networkSeries are those of a pod's interfaces, by the columns of /proc/PID/net/dev.
var networkSeries = []struct {
	column int
	desc   *prometheus.Desc
}{
	{0, networkDesc("container_network_receive_bytes_total", "Cumulative count of bytes received")},
	{1, networkDesc("container_network_receive_packets_total", "Cumulative count of packets received")},
	{2, networkDesc("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving")},
	{3, networkDesc("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving")},
	{8, networkDesc("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted")},
	{9, networkDesc("container_network_transmit_packets_total", "Cumulative count of packets transmitted")},
	{10, networkDesc("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting")},
	{11, networkDesc("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting")},
}

func networkDesc(name, help string) *prometheus.Desc {
	return desc(name, help, append([]string{"interface"}, cadvisorLabels...)...)
}

// cadvisor measures for /metrics/cadvisor when Prometheus asks.
type cadvisor struct{ s *Stats }

// Describe implements prometheus.Collector: what there is depends on what runs.
func (c *cadvisor) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *cadvisor) Collect(out chan<- prometheus.Metric) {
	now := time.Now()
	root := c.s.cfg.Runtime.NodeDetail()
	root.Usage = c.s.cfg.Node()
	send(out, &root, "", "/", "", "", "", "")
	c.network(out, "self", "", "/", "", "", "", "")
	c.machine(out)
	for _, p := range c.s.pods() {
		pod := c.s.cfg.Runtime.PodDetail(p.ref.UID)
		labels := []string{"", pod.Cgroup, "", "", p.ref.Namespace, p.ref.Name}
		if !pod.Time.IsZero() {
			send(out, &pod, labels...)
		}
		sandbox := c.s.cfg.Runtime.Pod(p.ref.UID).Sandbox
		if sandbox != nil && sandbox.NetNS != "" && len(p.containers) > 0 {
			c.network(out, strconv.Itoa(p.containers[0].Pid), labels...)
		}
		for _, one := range p.containers {
			d := c.s.cfg.Runtime.Detail(one.ID)
			if d.Time.IsZero() {
				continue
			}
			labels := []string{one.Name, d.Cgroup, one.ImageRef, one.ID, p.ref.Namespace, p.ref.Name}
			send(out, &d, labels...)
			out <- prometheus.MustNewConstMetric(cadvisorStart, prometheus.GaugeValue, float64(one.StartedAt.Unix()), labels...)
			out <- prometheus.MustNewConstMetric(cadvisorSeen, prometheus.GaugeValue, float64(now.Unix()), labels...)
		}
	}
	out <- prometheus.MustNewConstMetric(cadvisorError, prometheus.GaugeValue, 0)
}

func send(out chan<- prometheus.Metric, d *runtime.Detail, labels ...string) {
	one := func(desc *prometheus.Desc, kind prometheus.ValueType, v float64, before ...string) {
		out <- prometheus.NewMetricWithTimestamp(d.Time, prometheus.MustNewConstMetric(desc, kind, v, append(before, labels...)...))
	}
	one(cadvisorCPU, prometheus.CounterValue, d.CPU.Seconds(), "total")
	one(cadvisorFault, prometheus.CounterValue, float64(d.PageFaults), "pgfault", "hierarchy")
	one(cadvisorFault, prometheus.CounterValue, float64(d.MajorFaults), "pgmajfault", "hierarchy")
	for i := range cgroupSeries {
		if v, ok := cgroupSeries[i].value(d); ok {
			one(cgroupSeries[i].desc, cgroupSeries[i].kind, v)
		}
	}
}

func (c *cadvisor) network(out chan<- prometheus.Metric, pid string, labels ...string) {
	for _, face := range c.s.interfaces(pid) {
		for _, s := range networkSeries {
			if s.column < len(face.counters) {
				out <- prometheus.MustNewConstMetric(s.desc, prometheus.CounterValue, float64(face.counters[s.column]), append([]string{face.name}, labels...)...)
			}
		}
	}
}

// machine tells of the whole machine, and of the file system that counts as the node's.
func (c *cadvisor) machine(out chan<- prometheus.Metric) {
	line := func(path string) string {
		data, _ := os.ReadFile(filepath.Join(c.s.cfg.Root, path))
		return strings.TrimSpace(string(data))
	}
	ids := []string{line("proc/sys/kernel/random/boot_id"), line("etc/machine-id"), line("sys/class/dmi/id/product_uuid")}
	out <- prometheus.MustNewConstMetric(machineCores, prometheus.GaugeValue, float64(goruntime.NumCPU()), ids...)
	out <- prometheus.MustNewConstMetric(machineMemory, prometheus.GaugeValue, 1024*float64(keyed(filepath.Join(c.s.cfg.Root, "proc/meminfo"))["MemTotal"]), ids...)
	var st unix.Statfs_t
	if unix.Statfs(c.s.cfg.Data, &st) == nil {
		labels := []string{device(filepath.Join(c.s.cfg.Root, "proc/self/mountinfo"), c.s.cfg.Data), "", "/", "", "", "", ""}
		out <- prometheus.MustNewConstMetric(fsUsage, prometheus.GaugeValue, float64((st.Blocks-st.Bfree)*uint64(st.Bsize)), labels...)
		out <- prometheus.MustNewConstMetric(fsLimit, prometheus.GaugeValue, float64(st.Blocks*uint64(st.Bsize)), labels...)
	}
}

// device is what is mounted where a path lies.
func device(mountinfo, path string) string {
	data, err := os.ReadFile(mountinfo)
	if err != nil {
		return ""
	}
	longest, found := -1, ""
	for line := range strings.Lines(string(data)) {
		before, after, ok := strings.Cut(line, " - ")
		at, of := strings.Fields(before), strings.Fields(after)
		if !ok || len(at) < 5 || len(of) < 2 {
			continue
		}
		point := strings.TrimSuffix(at[4], "/")
		if (path == point || strings.HasPrefix(path, point+"/")) && len(point) >= longest {
			longest, found = len(point), of[1]
		}
	}
	return found
}
