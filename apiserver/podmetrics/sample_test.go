package podmetrics

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

func TestRead(t *testing.T) {
	text := `# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 90.5 1767323105000
# TYPE node_memory_working_set_bytes gauge
node_memory_working_set_bytes 512000 1767323105000
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="c",namespace="ns",pod="web"} 60 1767323105000
container_cpu_usage_seconds_total{container="side",namespace="ns",pod="web"} 1 1767323105000
# TYPE container_memory_working_set_bytes gauge
container_memory_working_set_bytes{container="c",namespace="ns",pod="web"} 2000 1767323105000
# TYPE container_start_time_seconds gauge
container_start_time_seconds{container="c",namespace="ns",pod="web"} 1.767323035e+09
# TYPE unknown_metric gauge
unknown_metric 1
`
	s, err := read(strings.NewReader(text), http.Header{"Content-Type": {"text/plain; version=0.0.4"}})
	if err != nil {
		t.Fatal(err)
	}
	if s.node.cpu != 90.5 || s.node.memory != 512000 || s.node.at.Unix() != 1767323105 {
		t.Errorf("node %+v", s.node)
	}
	web := s.pods[types.NamespacedName{Namespace: "ns", Name: "web"}]
	if len(web) != 2 || web["c"].cpu != 60 || web["c"].memory != 2000 || web["c"].started.Unix() != 1767323035 || !web["side"].started.IsZero() {
		t.Errorf("pod %+v", web)
	}
	for _, bad := range []string{"", "node_memory_working_set_bytes 1\n", "{}{}\n"} {
		if _, err := read(strings.NewReader(bad), http.Header{"Content-Type": {"text/plain; version=0.0.4"}}); err == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}

func TestBetween(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(seconds, cpu float64, age int) *point {
		p := &point{at: now.Add(time.Duration(seconds * float64(time.Second))), cpu: cpu, memory: 7}
		if age > 0 {
			p.started = now.Add(time.Duration(-age) * time.Second)
		}
		return p
	}
	for name, c := range map[string]struct {
		prev, last *point
		cores      float64
		window     time.Duration
		ok         bool
	}{
		"a window":                        {at(-15, 10, 600), at(0, 13, 600), 0.2, 15 * time.Second, true},
		"nothing is used":                 {at(-15, 10, 600), at(0, 10, 600), 0, 15 * time.Second, true},
		"a node, which tells no start":    {at(-1, 10, 0), at(0, 14, 0), 4, time.Second, true},
		"nothing before":                  {nil, at(0, 13, 600), 0, 0, false},
		"young":                           {nil, at(0, 5, 10), 0.5, 10 * time.Second, true},
		"too young":                       {nil, at(0, 5, 2), 0, 0, false},
		"another container ran before":    {at(-15, 1, 600), at(0, 5, 10), 0.5, 10 * time.Second, true},
		"another one, and young itself":   {at(-15, 1, 600), at(0, 5, 2), 0, 0, false},
		"the same time":                   {at(0, 10, 600), at(0, 13, 600), 0, 0, false},
		"a counter that went back":        {at(-15, 10, 600), at(0, 3, 600), 0, 0, false},
		"nothing now":                     {at(-15, 10, 600), nil, 0, 0, false},
		"only its memory and start known": {nil, &point{started: now, memory: 7}, 0, 0, false},
	} {
		u, ok := between(c.prev, c.last)
		if ok != c.ok || u.window != c.window || ok && (u.cores != c.cores || u.memory != 7 || !u.at.Equal(now)) {
			t.Errorf("%s: %+v %v", name, u, ok)
		}
	}
}

func TestUseIsShownInBillionthsAndKibibytes(t *testing.T) {
	list := use{cores: 0.0123456789, memory: 5 << 20}.list()
	if cpu, memory := list.Cpu().String(), list.Memory().String(); cpu != "12345679n" || memory != "5Mi" {
		t.Errorf("%s %s", cpu, memory)
	}
}

func TestANodesClockIsSetBack(t *testing.T) {
	now := time.Unix(10_000, 0)
	c := New(Config{Now: func() time.Time { return now }})
	for _, at := range []int64{5000, 5015, 5015, 1000, 1015} {
		c.note("n", &sample{node: point{at: time.Unix(at, 0)}})
	}
	if prev, last := c.of("n"); prev.node.at.Unix() != 1000 || last.node.at.Unix() != 1015 {
		t.Errorf("%v %v", prev.node, last.node)
	}
}

// TestNobodyAsks: what was sampled is forgotten once nobody has asked for a while, and the next question wakes the collector anew.
func TestNobodyAsks(t *testing.T) {
	now := time.Unix(1000, 0)
	c := New(Config{Now: func() time.Time { return now }})
	ended, stop := context.WithCancel(t.Context())
	stop()
	for range 3 {
		if err := c.await(ended); err == nil {
			t.Fatal("an answer without samples")
		}
	}
	if len(c.wake) != 1 {
		t.Fatal("not woken once")
	}
	<-c.wake
	c.note("n", &sample{node: point{at: now}})
	now = now.Add(linger - time.Second)
	if c.sleep() || c.nodes["n"] == nil {
		t.Fatal("asleep too early")
	}
	if prev, last := c.of("n"); prev != nil || last != nil {
		t.Error("what a node said too long ago is believed")
	}
	now = now.Add(time.Second)
	if !c.sleep() || len(c.nodes) != 0 {
		t.Fatal("awake for ever")
	}
	if err := c.await(ended); err == nil || len(c.wake) != 1 {
		t.Fatal("not woken again")
	}
}
