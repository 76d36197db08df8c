package eviction

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPolicy(t *testing.T) {
	p, err := Flags{Hard: []string{"memory.available<100Mi", "nodefs.available<12.5%", "imagefs.available<0%"}, Soft: []string{"memory.available<1Gi"},
		SoftGrace: map[string]string{"memory.available": "90s"}, MinReclaim: map[string]string{"nodefs.available": "1Gi"}, MaxPodGrace: 7, PressureTransitionPeriod: time.Minute}.Policy()
	want := []Threshold{{Signal: MemoryAvailable, Less: Amount{Quantity: 100 << 20}}, {Signal: NodeFsAvailable, Less: Amount{Fraction: 0.125}, MinReclaim: Amount{Quantity: 1 << 30}},
		{Signal: MemoryAvailable, Less: Amount{Quantity: 1 << 30}, Grace: 90 * time.Second}}
	if err != nil || !slices.Equal(p.Thresholds, want) || p.MaxPodGrace != 7*time.Second || p.Transition != time.Minute {
		t.Errorf("%+v, %v", p, err)
	}
	if m, s := p.Reserved(1<<30, 800); m != 100<<20 || s != 100 {
		t.Errorf("reserved %d %d", m, s)
	}
	if d := DefaultPolicy(); len(d.Thresholds) != 5 || d.Transition != 5*time.Minute {
		t.Errorf("default %+v", d)
	}
	for _, c := range []struct {
		flags Flags
		want  string
	}{
		{Flags{Hard: []string{"cpu.available<1"}}, `unsupported eviction signal "cpu.available"`},
		{Flags{Hard: []string{"memory.available"}}, `want SIGNAL<AMOUNT`},
		{Flags{Hard: []string{"memory.available<-1Gi"}}, `"-1Gi" is negative`},
		{Flags{Hard: []string{"memory.available<101%"}}, `"101%" is not a percentage`},
		{Flags{Hard: []string{"memory.available<x"}}, `"x": quantities must match`},
		{Flags{Soft: []string{"memory.available<1Gi"}}, "grace period must be specified for the soft eviction threshold memory.available"},
		{Flags{SoftGrace: map[string]string{"x": "1s"}}, `unsupported eviction signal "x"`},
		{Flags{MinReclaim: map[string]string{"x": "1"}}, `unsupported eviction signal "x"`},
		{Flags{MinReclaim: map[string]string{"pid.available": "y"}}, "minimum reclaim of pid.available"},
	} {
		if _, err := c.flags.Policy(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.flags, err, c.want)
		}
	}
}

func TestPressure(t *testing.T) {
	hard := Threshold{Signal: MemoryAvailable, Less: Amount{Quantity: 10}, MinReclaim: Amount{Quantity: 5}}
	soft := Threshold{Signal: NodeFsAvailable, Less: Amount{Fraction: 0.5}, Grace: 20 * time.Second}
	policy := Policy{Thresholds: []Threshold{soft, hard}, Transition: time.Minute}
	var p pressure
	start := time.Unix(1000, 0)
	for _, step := range []struct {
		at           int // seconds
		memory, disk int64
		drive        []Threshold
		conditions   []v1.NodeConditionType
	}{
		{0, 10, 50, nil, nil},
		{10, 9, 49, []Threshold{hard}, []v1.NodeConditionType{v1.NodeDiskPressure, v1.NodeMemoryPressure}},
		{20, 14, 49, []Threshold{hard}, []v1.NodeConditionType{v1.NodeDiskPressure, v1.NodeMemoryPressure}}, // not yet 15
		{30, 15, 49, []Threshold{soft}, []v1.NodeConditionType{v1.NodeDiskPressure, v1.NodeMemoryPressure}},
		{40, 14, 50, nil, []v1.NodeConditionType{v1.NodeDiskPressure, v1.NodeMemoryPressure}},
		{50, 14, 49, nil, []v1.NodeConditionType{v1.NodeDiskPressure, v1.NodeMemoryPressure}}, // its grace begins anew
		{80, 9, 49, []Threshold{hard, soft}, []v1.NodeConditionType{v1.NodeDiskPressure, v1.NodeMemoryPressure}},
		{139, 99, 99, nil, []v1.NodeConditionType{v1.NodeDiskPressure, v1.NodeMemoryPressure}},
		{140, 99, 99, nil, nil},
	} {
		o := Observations{MemoryAvailable: {step.memory, 100}, NodeFsAvailable: {step.disk, 100}}
		drive, conditions := p.observe(policy, o, start.Add(time.Duration(step.at)*time.Second))
		if !slices.Equal(drive, step.drive) || !slices.Equal(conditions, step.conditions) {
			t.Errorf("at %d s: %v %v, want %v %v", step.at, drive, conditions, step.drive, step.conditions)
		}
	}
}

func pod(name string, prio int32, requests string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{Priority: &prio, Containers: []v1.Container{{Name: "c"}}}}
	if requests != "" {
		q := resource.MustParse(requests)
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceMemory: q, v1.ResourceEphemeralStorage: q}
	}
	return p
}

func using(p *v1.Pod, memory int64, disk Disk, processes int64) candidate {
	return candidate{pod: p, known: true, usage: PodUsage{Containers: map[string]ContainerUsage{"c": {Memory: memory, Rootfs: disk}}, Processes: processes}}
}

func TestRank(t *testing.T) {
	list := []candidate{
		using(pod("within", 0, "1Gi"), 1<<20, Disk{1 << 20, 9}, 1),
		using(pod("over-little", 0, "1Mi"), 2<<20, Disk{2 << 20, 8}, 7),
		using(pod("over-much", 0, "1Mi"), 9<<20, Disk{9 << 20, 7}, 6),
		using(pod("over-precious", 5, ""), 99<<20, Disk{99 << 20, 6}, 9),
		using(pod("within-precious", 5, "1Gi"), 99<<20, Disk{99 << 20, 5}, 9),
		{pod: pod("unknown", 9, "")},
	}
	both := places{true, true}
	for _, c := range []struct {
		signal Signal
		want   string
	}{
		{MemoryAvailable, "unknown over-much over-little over-precious within within-precious"},
		{NodeFsAvailable, "unknown over-much over-little over-precious within within-precious"},
		{ImageFsInodesFree, "unknown within over-little over-much over-precious within-precious"},
		{PIDAvailable, "unknown over-little over-much within over-precious within-precious"},
	} {
		got := slices.Clone(list)
		rank(got, c.signal, both)
		var names []string
		for _, g := range got {
			names = append(names, g.pod.Name)
		}
		if s := strings.Join(names, " "); s != c.want {
			t.Errorf("%s: %s, want %s", c.signal, s, c.want)
		}
	}
}

func TestWords(t *testing.T) {
	c := using(pod("p", 0, "1Mi"), 3<<20, Disk{}, 0)
	got, notes := words(Threshold{Signal: MemoryAvailable, Less: Amount{Quantity: 100 << 20}}, Observations{MemoryAvailable: {90 << 20, 1 << 30}}, c)
	want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. Container c was using 3Mi, request is 1Mi, has larger consumption of memory. "
	if got != want || notes["offending_containers"] != "c" || notes["offending_containers_usage"] != "3Mi" || notes["starved_resource"] != "memory" {
		t.Errorf("%q %v", got, notes)
	}
	if got, _ := words(Threshold{Signal: NodeFsInodesFree, Less: Amount{Fraction: 0.05}}, Observations{NodeFsInodesFree: {400, 10000}}, c); got !=
		"The node was low on resource: inodes. Threshold quantity: 500, available: 400. " {
		t.Errorf("%q", got)
	}
	if got, _ := words(Threshold{Signal: PIDAvailable}, nil, c); got != "The node was low on resource: pids. " {
		t.Errorf("%q", got)
	}
}

func TestOveruse(t *testing.T) {
	p := pod("p", 0, "")
	if limited(p) {
		t.Error("a pod without limits is limited")
	}
	limit := resource.MustParse("1Mi")
	p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: limit}
	p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "d", Resources: p.Spec.Containers[0].Resources})
	p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	use := func(c, d, v int64) PodUsage {
		return PodUsage{Containers: map[string]ContainerUsage{"c": {Logs: Disk{c, 1}}, "d": {Rootfs: Disk{d, 1}}}, Volumes: map[string]Disk{"v": {v, 1}}}
	}
	for want, u := range map[string]PodUsage{
		"": use(1<<20, 1<<19, 1<<19),
		`Usage of EmptyDir volume "v" exceeds the limit "1Mi". `:                        use(0, 0, 1<<20+1),
		"Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ": use(1<<20, 1<<20, 1),
		`Container c exceeded its local ephemeral storage limit "1Mi". `:                use(1<<20+1, 0, 0),
	} {
		if got := overuse(p, u); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestCritical(t *testing.T) {
	for name, p := range map[string]*v1.Pod{
		"system": pod("p", systemCritical, ""),
		"mirror": {ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1.MirrorPodAnnotationKey: "x"}}},
		"static": {ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"kubernetes.io/config.source": "file"}}},
	} {
		if !Critical(p) {
			t.Error(name)
		}
	}
	if Critical(pod("p", systemCritical-1, "")) {
		t.Error("an ordinary pod is critical")
	}
}

// board is a node of which the test says what is left; evicting or reclaiming gives some back.
type board struct {
	mu        sync.Mutex
	pods      []*v1.Pod
	left      int64
	unused    int64 // what Reclaim gives back
	evicted   []string
	last      Eviction
	warnings  []string
	reclaimed int
}

func (b *board) observe(context.Context) (Observations, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Observations{NodeFsAvailable: {b.left, 100}, ImageFsAvailable: {b.left, 100}}, nil
}

func (b *board) Active() []*v1.Pod { b.mu.Lock(); defer b.mu.Unlock(); return slices.Clone(b.pods) }

func (b *board) Usage(context.Context, *v1.Pod, bool) (PodUsage, bool) { return PodUsage{}, true }

func (b *board) Evict(p *v1.Pod, e Eviction) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.evicted, b.last, b.left = append(b.evicted, p.Name), e, b.left+10
	b.pods = slices.DeleteFunc(b.pods, func(o *v1.Pod) bool { return o == p })
}

func (b *board) Ended(*v1.Pod) bool { return true }

func (b *board) Reclaim(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reclaimed, b.left, b.unused = b.reclaimed+1, b.left+b.unused, 0
	return nil
}

func (b *board) Changed(warning string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if warning != "" {
		b.warnings = append(b.warnings, warning)
	}
}

func TestManager(t *testing.T) {
	b := &board{left: 50, pods: []*v1.Pod{pod("precious", 9, ""), pod("cheap", 0, ""), pod("system", systemCritical, "")}}
	m := New(t.Context(), Config{Policy: Policy{Thresholds: []Threshold{{Signal: NodeFsAvailable, Less: Amount{Quantity: 30}}}, Transition: time.Hour},
		Node: b, Observe: b.observe, Log: slog.New(slog.DiscardHandler)})
	if got := m.check(t.Context(), true); len(got) > 0 || len(m.Conditions()) > 0 || m.Admit(pod("p", 0, "")) != nil {
		t.Errorf("without pressure: %v %v", got, m.Conditions())
	}
	b.left, b.unused = 20, 15
	if got := m.check(t.Context(), true); len(got) > 0 || b.reclaimed != 1 || !slices.Equal(b.warnings, []string{"Attempting to reclaim ephemeral-storage"}) {
		t.Errorf("what is unused is enough: evicted %v, reclaimed %d times, told %q", got, b.reclaimed, b.warnings)
	}
	if r := m.Admit(pod("p", 0, "1Mi")); r == nil || r.Reason != "Evicted" || r.Message != "Pod was rejected: The node had condition: [DiskPressure]. " {
		t.Errorf("admission: %+v", r)
	}
	if m.Admit(pod("p", systemCritical, "")) != nil {
		t.Error("a critical pod is refused")
	}
	b.left = 15
	m.check(t.Context(), true)
	if !b.last.Disruption || b.last.Grace != time.Second || !strings.HasPrefix(b.last.Message, "The node was low on resource: ephemeral-storage. Threshold quantity: 30, available: 15. ") {
		t.Errorf("%+v", b.last)
	}
	m.check(t.Context(), true)
	m.check(t.Context(), true)
	if !slices.Equal(b.evicted, []string{"cheap", "precious"}) {
		t.Errorf("evicted %q", b.evicted)
	}
	b.left = 10
	if m.check(t.Context(), true); len(b.evicted) != 2 {
		t.Errorf("a critical pod was evicted: %q", b.evicted)
	}
}

func TestAdmissionUnderMemoryPressure(t *testing.T) {
	m := &Manager{conditions: []v1.NodeConditionType{v1.NodeMemoryPressure}}
	tolerant := pod("tolerant", 0, "")
	tolerant.Spec.Tolerations = []v1.Toleration{{Key: v1.TaintNodeMemoryPressure, Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoSchedule}}
	for _, c := range []struct {
		pod *v1.Pod
		ok  bool
	}{{pod("besteffort", 0, ""), false}, {pod("burstable", 0, "1Mi"), true}, {tolerant, true}} {
		if r := m.Admit(c.pod); (r == nil) != c.ok {
			t.Errorf("%s: %+v", c.pod.Name, r)
		}
	}
}

// TestRunEvictsUntilEnoughIsLeft has the loop do all of it, woken by the alarm.
func TestRunEvictsUntilEnoughIsLeft(t *testing.T) {
	b := &board{left: 9, pods: []*v1.Pod{pod("a", 0, ""), pod("b", 1, ""), pod("c", 2, "")}}
	alarm := make(chan struct{}, 1)
	m := New(t.Context(), Config{Policy: Policy{Thresholds: []Threshold{{Signal: NodeFsAvailable, Less: Amount{Quantity: 20}}}, Interval: time.Hour},
		Node: b, Observe: b.observe, Alarm: alarm, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); m.Run(ctx) }()
	alarm <- struct{}{}
	for deadline := time.Now().Add(30 * time.Second); len(b.Active()) > 1 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	<-ended
	if !slices.Equal(b.evicted, []string{"a", "b"}) {
		t.Errorf("evicted %q", b.evicted)
	}
}

func TestMachine(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("proc/meminfo", "MemTotal:  1000 kB\nMemFree:  300 kB\nInactive(file):  200 kB\n")
	write("proc/loadavg", "0.1 0.2 0.3 2/321 999\n")
	write("proc/sys/kernel/pid_max", "4194304\n")
	write("proc/sys/kernel/threads-max", "1000\n")
	m := Machine{Root: root, Data: root, Images: root}
	o, err := m.Observe(t.Context())
	if err != nil || o[MemoryAvailable] != (Observation{500 << 10, 1000 << 10}) || o[PIDAvailable] != (Observation{679, 1000}) ||
		o[NodeFsAvailable].Capacity == 0 || o[ImageFsAvailable] != o[NodeFsAvailable] || m.Split() {
		t.Errorf("%+v %v", o, err)
	}
	write("sys/fs/cgroup/memory/memory.usage_in_bytes", "600000\n")
	write("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 100000\n")
	if o, err = m.Observe(t.Context()); err != nil || o[MemoryAvailable].Available != 1000<<10-500000 {
		t.Errorf("cgroup v1: %+v %v", o, err)
	}
	m.Images = filepath.Join(root, "missing")
	if o, err = m.Observe(t.Context()); err == nil || o[MemoryAvailable].Capacity == 0 {
		t.Errorf("without a folder of images: %+v %v", o, err)
	}
}

// TestRealMachine reads the one it runs on, and ends the wait for its alarm.
func TestRealMachine(t *testing.T) {
	m := Machine{Data: "/", Images: "/"}
	o, err := m.Observe(t.Context())
	for _, s := range []Signal{MemoryAvailable, PIDAvailable, NodeFsAvailable} {
		if err != nil || o[s].Capacity == 0 || o[s].Available <= 0 || o[s].Available > o[s].Capacity {
			t.Errorf("%s: %+v %v", s, o[s], err)
		}
	}
	m.Alarm(t.Context())
}

func TestMeasure(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a", "f")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	before := Measure(dir)
	if err := os.WriteFile(file, make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(file, filepath.Join(dir, "again")); err != nil {
		t.Fatal(err)
	}
	if got := Measure(dir); got.Inodes != before.Inodes+1 || got.Bytes < 100_000 || got.Bytes > 150_000 {
		t.Errorf("%+v after %+v", got, before)
	}
	if got := Measure(filepath.Join(dir, "missing")); got != (Disk{}) {
		t.Errorf("of nothing: %+v", got)
	}
}
