package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/coracle-dev/coracle/agent/images"
	"github.com/coracle-dev/coracle/agent/network"
	"github.com/coracle-dev/coracle/agent/runtime"
)

// double is a node without containers: it keeps what it is told in memory.
type double struct {
	mu         sync.Mutex
	sandboxes  map[string]*runtime.Sandbox
	containers map[string]*runtime.Container
	configs    map[string]runtime.ContainerConfig
	ended      map[string]chan struct{}
	addrs      map[string]netip.Addr
	next       netip.Addr
	events     chan string
	log        []string
	stubborn   map[string]bool   // container names that end only by SIGKILL
	memory     map[string]uint64 // working set, by container ID
	execs      func(id string, command []string) int
	groups     map[string]runtime.Resources
	used       uint64 // of memory, by every cgroup
	broken     error  // returned by Create and Start
}

func newDouble() *double {
	return &double{sandboxes: map[string]*runtime.Sandbox{}, containers: map[string]*runtime.Container{}, configs: map[string]runtime.ContainerConfig{},
		ended: map[string]chan struct{}{}, addrs: map[string]netip.Addr{}, next: netip.MustParseAddr("10.244.0.2"),
		events: make(chan string, 1000), stubborn: map[string]bool{}, memory: map[string]uint64{}, groups: map[string]runtime.Resources{}}
}

func (d *double) note(format string, args ...any) {
	d.log = append(d.log, fmt.Sprintf(format, args...))
}

func (d *double) RunSandbox(_ context.Context, cfg runtime.SandboxConfig) (*runtime.Sandbox, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.sandboxes[cfg.Pod.UID]; s != nil {
		return s, nil
	}
	if cfg.Handler != "" {
		d.note("handler %s", cfg.Handler)
	}
	s := &runtime.Sandbox{Pod: cfg.Pod, NetNS: "/run/netns/" + cfg.Pod.UID, CreatedAt: time.Now(), Resources: cfg.Resources}
	d.sandboxes[cfg.Pod.UID] = s
	d.note("sandbox %s", cfg.Pod.Name)
	return s, nil
}

func (d *double) ResizeSandbox(_ context.Context, uid string, res runtime.Resources) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := *d.sandboxes[uid]
	s.Resources = &res
	d.sandboxes[uid] = &s
	d.note("resize %s cpu=%d memory=%d", s.Pod.Name, res.CPUQuota, res.MemoryLimit)
	return nil
}

func (d *double) SetCgroup(path string, res runtime.Resources) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.groups[path] = res
	return nil
}

func (d *double) Update(_ context.Context, id string, res runtime.Resources, labels map[string]string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.containers[id]
	c.Labels = maps.Clone(c.Labels)
	maps.Copy(c.Labels, labels)
	d.note("resize %s/%s cpu=%d memory=%d", c.Pod.Name, c.Name, res.CPUQuota, res.MemoryLimit)
	return nil
}

func (d *double) RemoveSandbox(_ context.Context, uid string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.sandboxes[uid]; s != nil {
		d.note("unsandbox %s", s.Pod.Name)
	}
	delete(d.sandboxes, uid)
	return nil
}

func (d *double) Pod(uid string) runtime.Pod {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pod(uid)
}

func (d *double) pod(uid string) runtime.Pod {
	p := runtime.Pod{Sandbox: d.sandboxes[uid]}
	for _, c := range d.containers {
		if c.Pod.UID == uid {
			p.Containers = append(p.Containers, *c)
		}
	}
	slices.SortFunc(p.Containers, func(a, b runtime.Container) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Attempt, b.Attempt))
	})
	return p
}

func (d *double) List(context.Context) (map[string]runtime.Pod, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string]runtime.Pod{}
	for uid := range d.sandboxes {
		out[uid] = d.pod(uid)
	}
	for _, c := range d.containers {
		out[c.Pod.UID] = d.pod(c.Pod.UID)
	}
	return out, nil
}

func (d *double) Events(ctx context.Context) <-chan string { return d.events }

func (d *double) Create(_ context.Context, cfg runtime.ContainerConfig) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return "", d.broken
	}
	id := fmt.Sprintf("%s-%s-%d", cfg.Pod.UID, cfg.Name, cfg.Attempt)
	if d.containers[id] == nil {
		d.containers[id] = &runtime.Container{ID: id, Pod: cfg.Pod, Name: cfg.Name, Attempt: cfg.Attempt, CreatedAt: time.Now(), ImageRef: cfg.Image,
			ImageID: cfg.Image, LogPath: cfg.LogPath, Labels: cfg.Labels}
		d.configs[id], d.ended[id] = cfg, make(chan struct{})
	}
	return id, nil
}

func (d *double) Start(_ context.Context, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.containers[id]
	if c.State == runtime.StateCreated {
		c.State, c.StartedAt = runtime.StateRunning, time.Now()
		d.note("start %s/%s-%d", c.Pod.Name, c.Name, c.Attempt)
	}
	return nil
}

// exit ends a container as if by itself.
func (d *double) exit(id string, code int32) {
	d.mu.Lock()
	c := d.containers[id]
	if c == nil || c.State != runtime.StateRunning {
		d.mu.Unlock()
		return
	}
	c.State, c.ExitCode, c.FinishedAt = runtime.StateExited, code, time.Now()
	close(d.ended[id])
	d.note("exit %s/%s-%d %d", c.Pod.Name, c.Name, c.Attempt, code)
	uid := c.Pod.UID
	d.mu.Unlock()
	d.events <- uid
}

func (d *double) Stop(ctx context.Context, id string, grace time.Duration) error {
	d.mu.Lock()
	c, ended := d.containers[id], d.ended[id]
	if c == nil || c.State != runtime.StateRunning {
		d.mu.Unlock()
		return nil
	}
	stubborn := d.stubborn[c.Name]
	d.note("stop %s/%s-%d", c.Pod.Name, c.Name, c.Attempt)
	d.mu.Unlock()
	if !stubborn {
		d.exit(id, 143)
		return nil
	}
	select {
	case <-ended:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(grace):
		d.exit(id, 137)
	}
	return nil
}

func (d *double) Remove(_ context.Context, id string) error {
	d.exit(id, 137)
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.containers[id]; c != nil {
		d.note("remove %s/%s-%d", c.Pod.Name, c.Name, c.Attempt)
	}
	delete(d.containers, id)
	return nil
}

func (d *double) Exec(_ context.Context, id string, cfg runtime.ExecConfig) (int, error) {
	d.mu.Lock()
	f := d.execs
	if c := d.containers[id]; c != nil && f == nil {
		d.note("exec %s/%s %v", c.Pod.Name, c.Name, cfg.Command)
	}
	d.mu.Unlock()
	if f != nil {
		return f(id, cfg.Command), nil
	}
	return 0, nil
}

func (d *double) Usage(id string) runtime.Usage {
	d.mu.Lock()
	defer d.mu.Unlock()
	return runtime.Usage{Memory: d.used, WorkingSet: d.memory[id]}
}

func (d *double) PodUsage(string) runtime.Usage {
	d.mu.Lock()
	defer d.mu.Unlock()
	return runtime.Usage{Memory: d.used, Pids: 1}
}

func (d *double) Written(context.Context, string) (int64, int64, error) { return 0, 0, nil }

func (d *double) transcript() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.log)
}

// doubleImages has every image but those named missing.
type doubleImages struct{ *double }

func (doubleImages) Get(_ context.Context, ref string) (runtime.Image, error) {
	if ref == "missing:v1" {
		return runtime.Image{}, fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
	}
	return runtime.Image{ID: "sha256:" + ref, Names: []string{"docker.io/library/" + ref}, Size: 1}, nil
}

func (i doubleImages) Pull(ctx context.Context, ref string, _ images.PullOptions) (runtime.Image, error) {
	return i.Get(ctx, ref)
}

func (i doubleImages) List(ctx context.Context) ([]runtime.Image, error) {
	img, err := i.Get(ctx, "demo:v1")
	return []runtime.Image{img}, err
}

func (doubleImages) Remove(context.Context, string) error { return nil }

// doubleNetwork hands out addresses.
type doubleNetwork struct{ *double }

func (doubleNetwork) Configure(context.Context, netip.Prefix) error { return nil }

func (n doubleNetwork) Setup(_ context.Context, pod network.Pod) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.addrs[pod.UID]; !ok {
		n.addrs[pod.UID], n.next = n.next, n.next.Next()
	}
	return []netip.Addr{n.addrs[pod.UID]}, nil
}

func (doubleNetwork) Status() network.Status { return network.Status{} }

func (doubleNetwork) Changes() <-chan struct{} { return nil }

func (n doubleNetwork) Teardown(_ context.Context, pod runtime.PodRef) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.addrs, pod.UID)
	return nil
}

func (n doubleNetwork) Pods() map[string]netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := map[string]netip.Addr{}
	for k, v := range n.addrs {
		out[k] = v
	}
	return out
}
