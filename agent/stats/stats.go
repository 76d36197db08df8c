// Package stats tells what the node, its pods and their containers use, in the kubelet's two forms: metrics for Prometheus
// (/metrics, /metrics/resource, /metrics/cadvisor) and the summary (/stats/summary).
//
// Invariant: nothing is measured but while somebody asks; figures are the kernel's own counters, read from the cgroups.
package stats

import (
	"bufio"
	"bytes"
	"cmp"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// Runtime is what is asked of the container runtime.
type Runtime interface {
	// Running lists the containers that run now, of all pods.
	Running() []runtime.Container
	// Usage is what a container uses, PodUsage what a pod's cgroup does; a zero time says that there is none.
	Usage(id string) runtime.Usage
	PodUsage(uid string) runtime.Usage
	// Detail is all that is counted of a container, PodDetail of a pod's cgroup and NodeDetail of the machine's.
	Detail(id string) runtime.Detail
	PodDetail(uid string) runtime.Detail
	NodeDetail() runtime.Detail
	// Pod tells what is known of a pod.
	Pod(uid string) runtime.Pod
}

// Pods are the node's pods.
type Pods interface {
	Pods() []*corev1.Pod
	// VolumePaths tells where a pod's volumes are, by name.
	VolumePaths(uid string) map[string]string
	// ProbeCounts tells how often each running container was probed, by the probe's kind and outcome.
	ProbeCounts(tell func(pod *corev1.Pod, container, kind, outcome string, count uint64))
}

// Config is what New needs.
type Config struct {
	NodeName string
	Runtime  Runtime
	Pods     Pods
	// Data is the folder whose file system counts as the node's.
	Data string
	// Root is where /proc is found; empty is /.
	Root string
	// Node is what the whole machine uses; nil reads its root cgroup.
	Node func() runtime.Usage
	// Also are the metrics of the node's other parts, shown at /metrics.
	Also []prometheus.Collector
}

// Stats serves the node's figures.
type Stats struct {
	cfg                                Config
	resource, cadvisor, itself, probes http.Handler

	mu sync.Mutex
	// last is what was measured when somebody asked last, by container or pod: rates are over the time since then.
	last map[string]runtime.Usage
}

// New makes the handlers.
func New(cfg Config) *Stats {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	s := &Stats{cfg: cfg, last: map[string]runtime.Usage{}}
	if s.cfg.Node == nil {
		s.cfg.Node = s.machine
	}
	s.resource, s.cadvisor, s.probes = handler(&collector{s}), handler(&cadvisor{s}), handler(&probeCounts{s})
	s.itself = handler(append([]prometheus.Collector{&kubelet{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})}, cfg.Also...)...)
	return s
}

func handler(all ...prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(all...)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// ServeResource answers /metrics/resource.
func (s *Stats) ServeResource(w http.ResponseWriter, r *http.Request) { s.resource.ServeHTTP(w, r) }

// ServeCadvisor answers /metrics/cadvisor.
func (s *Stats) ServeCadvisor(w http.ResponseWriter, r *http.Request) { s.cadvisor.ServeHTTP(w, r) }

// ServeProbes answers /metrics/probes.
func (s *Stats) ServeProbes(w http.ResponseWriter, r *http.Request) { s.probes.ServeHTTP(w, r) }

// ServeMetrics answers /metrics: what the agent tells of itself.
func (s *Stats) ServeMetrics(w http.ResponseWriter, r *http.Request) { s.itself.ServeHTTP(w, r) }

// podUsage is what one pod uses.
type podUsage struct {
	ref        runtime.PodRef
	total      runtime.Usage
	containers []containerUsage
}

type containerUsage struct {
	runtime.Container
	usage runtime.Usage
}

// pods measures all pods that run, sorted.
func (s *Stats) pods() []podUsage {
	running := s.cfg.Runtime.Running()
	slices.SortFunc(running, func(a, b runtime.Container) int {
		return cmp.Or(cmp.Compare(a.Pod.Namespace, b.Pod.Namespace), cmp.Compare(a.Pod.Name, b.Pod.Name), cmp.Compare(a.Pod.UID, b.Pod.UID),
			cmp.Compare(a.Name, b.Name), cmp.Compare(b.Attempt, a.Attempt))
	})
	var list []podUsage
	for _, c := range running {
		if len(list) == 0 || list[len(list)-1].ref.UID != c.Pod.UID {
			list = append(list, podUsage{ref: c.Pod, total: s.cfg.Runtime.PodUsage(c.Pod.UID)})
		}
		p := &list[len(list)-1]
		if n := len(p.containers); n > 0 && p.containers[n-1].Name == c.Name {
			continue // an earlier attempt that is just ending
		}
		if u := s.cfg.Runtime.Usage(c.ID); !u.Time.IsZero() {
			p.containers = append(p.containers, containerUsage{c, u})
		}
	}
	return newestPods(list)
}

// newestPods leaves one pod of each name: of two, the one whose containers started last. Their series would be the same.
func newestPods(list []podUsage) []podUsage {
	started := func(p podUsage) (at time.Time) {
		for _, c := range p.containers {
			if c.StartedAt.After(at) {
				at = c.StartedAt
			}
		}
		return at
	}
	var kept []podUsage
	for _, p := range list {
		n := len(kept)
		if n == 0 || kept[n-1].ref.Namespace != p.ref.Namespace || kept[n-1].ref.Name != p.ref.Name {
			kept = append(kept, p)
		} else if started(p).After(started(kept[n-1])) {
			kept[n-1] = p
		}
	}
	return kept
}

// machine reads what the whole machine uses. On cgroup v2 the root cgroup does not count memory.
func (s *Stats) machine() runtime.Usage {
	u := runtime.CgroupUsage("/")
	if u.Memory == 0 {
		mem := keyed(filepath.Join(s.cfg.Root, "proc/meminfo"))
		u.Memory = 1024 * (mem["MemTotal"] - mem["MemFree"])
		u.RSS = 1024 * mem["AnonPages"]
		u.WorkingSet = u.Memory - min(u.Memory, 1024*mem["Inactive(file)"])
	}
	return u
}

// keyed reads lines of "key: value unit", as of /proc/meminfo; what cannot be read is missing.
func keyed(file string) map[string]uint64 {
	values := map[string]uint64{}
	data, err := os.ReadFile(file)
	if err != nil {
		return values
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		key, rest, _ := strings.Cut(lines.Text(), ":")
		if f := strings.Fields(rest); len(f) > 0 {
			if n, err := strconv.ParseUint(f[0], 10, 64); err == nil {
				values[strings.TrimSpace(key)] = n
			}
		}
	}
	return values
}

// collector measures when Prometheus asks.
type collector struct{ s *Stats }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// The kubelet's names.
var (
	nodeCPU         = desc("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds")
	nodeMemory      = desc("node_memory_working_set_bytes", "Current working set of the node in bytes")
	podCPU          = desc("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", "pod", "namespace")
	podMemory       = desc("pod_memory_working_set_bytes", "Current working set of the pod in bytes", "pod", "namespace")
	containerCPU    = desc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", "container", "pod", "namespace")
	containerMemory = desc("container_memory_working_set_bytes", "Current working set of the container in bytes", "container", "pod", "namespace")
	containerStart  = desc("container_start_time_seconds", "Start time of the container since unix epoch in seconds", "container", "pod", "namespace")
	scrapeError     = desc("scrape_error", "1 if there was an error while getting container metrics, 0 otherwise")
	resourceError   = desc("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise")
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodeCPU, nodeMemory, podCPU, podMemory, containerCPU, containerMemory, containerStart, scrapeError, resourceError} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	send := func(u runtime.Usage, cpu, memory *prometheus.Desc, labels ...string) {
		out <- prometheus.NewMetricWithTimestamp(u.Time, prometheus.MustNewConstMetric(cpu, prometheus.CounterValue, u.CPU.Seconds(), labels...))
		out <- prometheus.NewMetricWithTimestamp(u.Time, prometheus.MustNewConstMetric(memory, prometheus.GaugeValue, float64(u.WorkingSet), labels...))
	}
	node := c.s.cfg.Node()
	send(node, nodeCPU, nodeMemory)
	for _, p := range c.s.pods() {
		for _, one := range p.containers {
			labels := []string{one.Name, p.ref.Name, p.ref.Namespace}
			send(one.usage, containerCPU, containerMemory, labels...)
			if !one.StartedAt.IsZero() {
				out <- prometheus.MustNewConstMetric(containerStart, prometheus.GaugeValue, float64(one.StartedAt.UnixNano())/1e9, labels...)
			}
		}
		if !p.total.Time.IsZero() {
			send(p.total, podCPU, podMemory, p.ref.Name, p.ref.Namespace)
		}
	}
	failed := 0.0
	if node.Memory == 0 {
		failed = 1
	}
	out <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, failed)
	out <- prometheus.MustNewConstMetric(resourceError, prometheus.GaugeValue, failed)
}
