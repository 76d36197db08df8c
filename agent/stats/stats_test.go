package stats

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/agent/runtime"
)

var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// fake is a runtime whose containers have used a second of CPU time for each second since begin.
type fake struct {
	now     time.Time
	running []runtime.Container
	root    string
}

func (f *fake) Running() []runtime.Container { return append([]runtime.Container(nil), f.running...) }

func (f *fake) Usage(id string) runtime.Usage {
	if id == "gone" {
		return runtime.Usage{}
	}
	return runtime.Usage{Time: f.now, CPU: f.now.Sub(begin), Memory: 3000, WorkingSet: 2000, RSS: 1000, Pids: 2}
}

func (f *fake) PodUsage(uid string) runtime.Usage { return f.Usage(uid) }

func (f *fake) Detail(id string) runtime.Detail {
	return runtime.Detail{Usage: f.Usage(id), Cgroup: "/kubepods/" + id, UserCPU: time.Second, PageFaults: 9, Swap: 4096, Quota: 50000, Period: 100000, Shares: 512, MemoryLimit: 1 << 20, Cache: 700}
}

func (f *fake) PodDetail(uid string) runtime.Detail { return f.Detail(uid) }

func (f *fake) NodeDetail() runtime.Detail { return runtime.Detail{} }

// Pods and VolumePaths: web has an emptyDir and a claim, beside what is not measured.
func (f *fake) Pods() []*corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "u2"}}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "disk"}}},
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}}},
	}
	return []*corev1.Pod{pod}
}

func (f *fake) ProbeCounts(tell func(*corev1.Pod, string, string, string, uint64)) {
	tell(f.Pods()[0], "c", "Readiness", "failed", 2)
	tell(f.Pods()[0], "c", "Readiness", "failed", 1)
}

func (f *fake) VolumePaths(uid string) map[string]string {
	return map[string]string{"scratch": f.root + "/proc", "data": f.root, "host": "/"}
}

func (f *fake) Pod(uid string) runtime.Pod {
	return runtime.Pod{Sandbox: &runtime.Sandbox{NetNS: "/run/netns/x", CreatedAt: begin}}
}

func fixture(t *testing.T) (*fake, *Stats) {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"proc/meminfo": "MemTotal:       1000 kB\nMemFree:         400 kB\nInactive(file):  100 kB\n", "proc/stat": "cpu 1\nbtime 1700000000\n",
		"proc/sys/kernel/pid_max": "32768\n", "proc/loadavg": "0.1 0.2 0.3 1/234 567\n",
		"proc/self/net/dev": "Inter-|\n face |\n    lo: 1 1 1 0 0 0 0 0 1 1 1 0 0 0 0 0\n  eth0: 10 1 2 0 0 0 0 0 20 1 3 0 0 0 0 0\n", "proc/77/net/dev": "eth0: 5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n",
		"log/c.log": "hello", "log/c.log.1": "before",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	container := func(uid, pod, id, name string, attempt, age int) runtime.Container {
		return runtime.Container{ID: id, Pod: runtime.PodRef{UID: uid, Namespace: "ns", Name: pod}, Name: name, Attempt: attempt, Pid: 77,
			StartedAt: begin.Add(time.Duration(-age) * time.Second), LogPath: filepath.Join(root, "log", name+".log")}
	}
	f := &fake{root: root, now: begin.Add(time.Minute), running: []runtime.Container{
		container("u2", "web", "w2", "c", 1, 10), container("u2", "web", "w1", "c", 0, 20), container("u2", "web", "w3", "side", 0, 10), container("u2", "web", "gone", "over", 0, 1),
		container("u0", "web", "old", "c", 0, 100), // the pod that had the name before, which is still ending
		container("u1", "api", "a", "c", 0, 10),
	}}
	node := func() runtime.Usage {
		return runtime.Usage{Time: f.now, CPU: 90 * time.Second, Memory: 600 << 10, WorkingSet: 500 << 10}
	}
	return f, New(Config{NodeName: "n1", Runtime: f, Pods: f, Data: root, Root: root, Node: node})
}

func TestResource(t *testing.T) {
	_, s := fixture(t)
	w := httptest.NewRecorder()
	s.ServeResource(w, httptest.NewRequest("GET", "/metrics/resource", nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(body)) {
		if !strings.HasPrefix(line, "#") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := []string{
		`container_cpu_usage_seconds_total{container="c",namespace="ns",pod="api"} 60 1767323105000`,
		`container_cpu_usage_seconds_total{container="c",namespace="ns",pod="web"} 60 1767323105000`,
		`container_cpu_usage_seconds_total{container="side",namespace="ns",pod="web"} 60 1767323105000`,
		`container_memory_working_set_bytes{container="c",namespace="ns",pod="api"} 2000 1767323105000`,
		`container_memory_working_set_bytes{container="c",namespace="ns",pod="web"} 2000 1767323105000`,
		`container_memory_working_set_bytes{container="side",namespace="ns",pod="web"} 2000 1767323105000`,
		`container_start_time_seconds{container="c",namespace="ns",pod="api"} 1.767323035e+09`,
		`container_start_time_seconds{container="c",namespace="ns",pod="web"} 1.767323035e+09`,
		`container_start_time_seconds{container="side",namespace="ns",pod="web"} 1.767323035e+09`,
		`node_cpu_usage_seconds_total 90 1767323105000`,
		`node_memory_working_set_bytes 512000 1767323105000`,
		`pod_cpu_usage_seconds_total{namespace="ns",pod="api"} 60 1767323105000`,
		`pod_cpu_usage_seconds_total{namespace="ns",pod="web"} 60 1767323105000`,
		`pod_memory_working_set_bytes{namespace="ns",pod="api"} 2000 1767323105000`,
		`pod_memory_working_set_bytes{namespace="ns",pod="web"} 2000 1767323105000`,
		`resource_scrape_error 0`,
		`scrape_error 0`,
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
}

func TestSummary(t *testing.T) {
	f, s := fixture(t)
	ask := func(url string) summary {
		t.Helper()
		w := httptest.NewRecorder()
		s.ServeSummary(w, httptest.NewRequest("GET", url, nil))
		var out summary
		if err := json.NewDecoder(w.Result().Body).Decode(&out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	first := ask("/stats/summary")
	if n := first.Node; n.NodeName != "n1" || n.StartTime.Unix() != 1700000000 || *n.Memory.AvailableBytes != 500<<10 || *n.Network.RxBytes != 10 ||
		*n.Network.TxErrors != 3 || len(n.Network.Interfaces) != 1 || *n.Rlimit.MaxPID != 32768 || *n.Rlimit.Procs != 234 || *n.FS.CapacityBytes == 0 {
		t.Errorf("node: %+v", n)
	}
	if len(first.Pods) != 2 {
		t.Fatalf("%d pods", len(first.Pods))
	}
	web := first.Pods[1]
	if web.PodRef != (podReference{"web", "ns", "u2"}) || len(web.Containers) != 2 || *web.Network.TxBytes != 6 || *web.Processes.Count != 2 {
		t.Errorf("pod: %+v", web)
	}
	if c := web.Containers[0]; c.CPU.NanoCores != nil || *c.CPU.CoreNanoSeconds != 60e9 || *c.Logs.InodesUsed != 2 {
		t.Errorf("container: %+v %+v", c.CPU, c.Logs)
	}
	f.now = f.now.Add(10 * time.Second)
	second := ask("/stats/summary?only_cpu_and_memory=true")
	if rate := second.Pods[1].Containers[0].CPU.NanoCores; rate == nil || *rate != 1e9 {
		t.Errorf("rate %v, want one core", rate)
	}
	if second.Node.FS != nil || second.Pods[1].Network != nil {
		t.Error("more than CPU and memory")
	}
	f.now = f.now.Add(time.Hour)
	if rate := ask("/stats/summary").Pods[0].CPU.NanoCores; rate != nil {
		t.Errorf("a rate over an hour: %v", *rate)
	}
}

// measured is a runtime whose containers and pods are all the machine's root cgroup.
type measured struct{ fake }

func (measured) Usage(string) runtime.Usage { return runtime.CgroupUsage("/") }

func (measured) PodUsage(string) runtime.Usage { return runtime.CgroupUsage("/") }

// BenchmarkResource answers for 110 pods of one container.
func BenchmarkResource(b *testing.B) {
	m := &measured{}
	for i := range 110 {
		name := fmt.Sprint("pod-", i)
		m.running = append(m.running, runtime.Container{ID: name, Pod: runtime.PodRef{UID: name, Namespace: "ns", Name: name}, Name: "c", StartedAt: begin})
	}
	s := New(Config{NodeName: "n1", Runtime: m, Data: "/"})
	b.ReportAllocs()
	for b.Loop() {
		s.ServeResource(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics/resource", nil))
	}
}

// TestMachine reads the machine that the test runs on.
func TestMachine(t *testing.T) {
	s := New(Config{NodeName: "n1", Runtime: &fake{}, Data: "/"})
	u := s.machine()
	if u.Memory == 0 || u.WorkingSet == 0 || u.WorkingSet > u.Memory || u.Time.IsZero() {
		t.Errorf("%+v", u)
	}
}

// TestCadvisor has the series that dashboards rest on, with their labels.
func TestCadvisor(t *testing.T) {
	_, s := fixture(t)
	w := httptest.NewRecorder()
	s.ServeCadvisor(w, httptest.NewRequest("GET", "/metrics/cadvisor", nil))
	body := w.Body.String()
	labels := `container="side",id="/kubepods/w3",image="",name="w3",namespace="ns",pod="web"`
	for _, want := range []string{
		`container_cpu_usage_seconds_total{container="side",cpu="total",id="/kubepods/w3",image="",name="w3",namespace="ns",pod="web"} 60 `,
		"container_cpu_user_seconds_total{" + labels + "} 1 ", "container_memory_working_set_bytes{" + labels + "} 2000 ", "container_memory_rss{" + labels + "} 1000 ",
		"container_memory_cache{" + labels + "} 700 ", "container_spec_cpu_quota{" + labels + "} 50000 ", "container_spec_memory_limit_bytes{" + labels + "} 1.048576e+06 ",
		"container_cpu_cfs_throttled_seconds_total{" + labels + "} 0 ", "container_start_time_seconds{" + labels + "} ",
		`container_memory_usage_bytes{container="",id="/kubepods/u2",image="",name="",namespace="ns",pod="web"} 3000 `,
		`container_network_receive_bytes_total{container="",id="/kubepods/u2",image="",interface="eth0",name="",namespace="ns",pod="web"} 5`,
		`container_network_transmit_bytes_total{container="",id="/",image="",interface="eth0",name="",namespace="",pod=""} 20`,
		`container_cpu_usage_seconds_total{container="",cpu="total",id="/",image="",name="",namespace="",pod=""} 90 `,
		`machine_memory_bytes{boot_id="",machine_id="",system_uuid=""} 1.024e+06`, "machine_cpu_cores{", "container_fs_usage_bytes{",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("there is no %s", want)
		}
	}
	if t.Failed() {
		t.Log(body)
	}
}

// TestMetrics: what the agent tells of itself and of claims.
func TestMetrics(t *testing.T) {
	_, s := fixture(t)
	w := httptest.NewRecorder()
	s.ServeMetrics(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`kubelet_node_name{node="n1"} 1`, "kubelet_running_pods 3\n", `kubelet_running_containers{container_state="running"} 6`, `kubelet_active_pods{static=""} 1`,
		`kubelet_volume_stats_used_bytes{namespace="ns",persistentvolumeclaim="disk"} `, `kubelet_volume_stats_capacity_bytes{namespace="ns",persistentvolumeclaim="disk"} `, "process_resident_memory_bytes ", "go_goroutines ",
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("there is no %s", want)
		}
	}
}

func TestProbeCounts(t *testing.T) {
	_, s := fixture(t)
	w := httptest.NewRecorder()
	s.ServeProbes(w, httptest.NewRequest("GET", "/metrics/probes", nil))
	if want := `prober_probe_total{container="c",namespace="ns",pod="web",pod_uid="u2",probe_type="Readiness",result="failed"} 3`; !strings.Contains(w.Body.String(), want) {
		t.Errorf("%s has no %s", w.Body.String(), want)
	}
}

// TestSummaryOfVolumes: those of claims and the pod's own, and what the pod takes of the node's disk.
func TestSummaryOfVolumes(t *testing.T) {
	_, s := fixture(t)
	for _, p := range s.summary(true).Pods {
		if p.PodRef.Name != "web" {
			continue
		}
		if len(p.Volumes) != 2 || p.Volumes[0].Name != "data" || p.Volumes[0].PVCRef == nil || p.Volumes[0].PVCRef.Name != "disk" || p.Volumes[1].PVCRef != nil || *p.Volumes[1].UsedBytes == 0 {
			t.Errorf("volumes %+v", p.Volumes)
		}
		if p.Ephemeral == nil || *p.Ephemeral.UsedBytes <= *p.Volumes[1].UsedBytes || *p.Swap.UsageBytes != 4096 || *p.Containers[0].Memory.PageFaults != 9 {
			t.Errorf("ephemeral storage %+v, swap %+v", p.Ephemeral, p.Swap)
		}
	}
}
