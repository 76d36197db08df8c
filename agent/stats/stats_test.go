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

	"github.com/coracle-dev/coracle/agent/runtime"
)

var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// fake is a runtime whose containers have used a second of CPU time for each second since begin.
type fake struct {
	now     time.Time
	running []runtime.Container
}

func (f *fake) Running() []runtime.Container { return append([]runtime.Container(nil), f.running...) }

func (f *fake) Usage(id string) runtime.Usage {
	if id == "gone" {
		return runtime.Usage{}
	}
	return runtime.Usage{Time: f.now, CPU: f.now.Sub(begin), Memory: 3000, WorkingSet: 2000, RSS: 1000, Pids: 2}
}

func (f *fake) PodUsage(uid string) runtime.Usage { return f.Usage(uid) }

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
	f := &fake{now: begin.Add(time.Minute), running: []runtime.Container{
		container("u2", "web", "w2", "c", 1, 10), container("u2", "web", "w1", "c", 0, 20), container("u2", "web", "w3", "side", 0, 10), container("u2", "web", "gone", "over", 0, 1),
		container("u0", "web", "old", "c", 0, 100), // the pod that had the name before, which is still ending
		container("u1", "api", "a", "c", 0, 10),
	}}
	node := func() runtime.Usage {
		return runtime.Usage{Time: f.now, CPU: 90 * time.Second, Memory: 600 << 10, WorkingSet: 500 << 10}
	}
	return f, New(Config{NodeName: "n1", Runtime: f, Data: root, Root: root, Node: node})
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
