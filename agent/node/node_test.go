package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/agent/network"
	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
	"github.com/coracle-dev/coracle/internal/client"
)

func healthy() Input {
	return Input{
		Facts: Facts{CPUs: 2, Memory: 4 << 30, Storage: 100 << 30}, Name: "n1", IPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, MaxPods: 110,
		Now: time.Unix(1000, 0), Reserved: v1.ResourceList{
			v1.ResourceMemory: resource.MustParse("100Mi"), v1.ResourceEphemeralStorage: resource.MustParse("10Gi")},
	}
}

func condition(st v1.NodeStatus, t v1.NodeConditionType) string {
	for _, c := range st.Conditions {
		if c.Type == t {
			return string(c.Status) + " " + c.Reason + ": " + c.Message
		}
	}
	return ""
}

func TestConditions(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Input)
		kind   v1.NodeConditionType
		want   string
	}{
		"ready":  {func(*Input) {}, v1.NodeReady, "True KubeletReady: kubelet is posting ready status"},
		"memory": {func(in *Input) { in.Pressure = []v1.NodeConditionType{v1.NodeMemoryPressure} }, v1.NodeMemoryPressure, "True KubeletHasInsufficientMemory: kubelet has insufficient memory available"},
		"disk":   {func(in *Input) { in.Pressure = []v1.NodeConditionType{v1.NodeDiskPressure, v1.NodePIDPressure} }, v1.NodeDiskPressure, "True KubeletHasDiskPressure: kubelet has disk pressure"},
		"calm":   {func(*Input) {}, v1.NodeDiskPressure, "False KubeletHasNoDiskPressure: kubelet has no disk pressure"},
		"pids":   {func(in *Input) { in.Pressure = []v1.NodeConditionType{v1.NodePIDPressure} }, v1.NodePIDPressure, "True KubeletHasInsufficientPID: kubelet has insufficient PID available"},
		"ways":   {func(in *Input) { in.Network = network.Status{Known: true} }, v1.NodeNetworkUnavailable, "False CoracleIsUp: the ways to the pods of other nodes are made"},
		"no way": {func(in *Input) { in.Network = network.Status{Known: true, Unavailable: "why"} }, v1.NodeNetworkUnavailable, "True CoracleIsDown: why"},
		"others": {func(*Input) {}, v1.NodeNetworkUnavailable, ""},
		"down":   {func(in *Input) { in.NotReady = []string{"a", "b"} }, v1.NodeReady, "False KubeletNotReady: a, b"},
	} {
		in := healthy()
		c.change(&in)
		if got := condition(Status(in, &v1.NodeStatus{}), c.kind); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestStatusKeepsWhatIsNotItsOwn(t *testing.T) {
	in := healthy()
	old := Status(in, &v1.NodeStatus{})
	old.Conditions = append(old.Conditions, v1.NodeCondition{Type: "NetworkUnavailable", Status: v1.ConditionFalse})
	in.Now = in.Now.Add(time.Hour)
	now := Status(in, &old)
	if !same(&old, &now) {
		t.Error("a heartbeat alone makes a difference")
	}
	old.Capacity["example.com/dongle"] = resource.MustParse("4") // as an administrator advertises it
	now = Status(in, &old)
	if q := now.Allocatable["example.com/dongle"]; q.Value() != 4 {
		t.Errorf("allocatable dongles: %s", q.String())
	}
	if condition(now, "NetworkUnavailable") == "" {
		t.Error("a foreign condition is lost")
	}
	for _, c := range now.Conditions {
		if c.Type == v1.NodeReady && (c.LastTransitionTime.Unix() != 1000 || c.LastHeartbeatTime.Unix() != 4600) {
			t.Errorf("times %+v", c)
		}
	}
	if q := now.Allocatable[v1.ResourceMemory]; q.Value() != 4<<30-100<<20 {
		t.Errorf("allocatable memory %s", q.String())
	}
}

func TestImages(t *testing.T) {
	var list []runtime.Image
	for i := range 60 {
		list = append(list, runtime.Image{ID: string(rune('a' + i)), Names: []string{"x"}, Size: int64(i)})
	}
	list = append(list, runtime.Image{Size: 99})
	if got := imageList(list); len(got) != 49 || got[0].SizeBytes != 59 {
		t.Errorf("%d images, first of %d bytes", len(got), got[0].SizeBytes)
	}
}

func TestReadFacts(t *testing.T) {
	root := t.TempDir()
	for path, text := range map[string]string{
		"proc/meminfo": "MemTotal:        2048 kB\nMemAvailable:    1024 kB\nHugePages_Total:       0\n", "etc/machine-id": "abc\n",
		"proc/sys/kernel/random/boot_id": "boot\n", "proc/sys/kernel/osrelease": "6.18\n", "etc/os-release": "NAME=x\nPRETTY_NAME=\"Some Linux 1\"\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := ReadFacts(root, filepath.Join(root, "not", "there"))
	if err != nil || f.Memory != 2<<20 || f.Info.MachineID != "abc" || f.Info.SystemUUID != "abc" || f.Info.BootID != "boot" ||
		f.Info.OSImage != "Some Linux 1" || f.Info.KernelVersion != "6.18" || f.Storage == 0 {
		t.Errorf("%+v, %v", f, err)
	}
}

// TestReporter runs against a real API server: registration, readiness, lease, and a node that is deleted.
func TestReporter(t *testing.T) {
	c, err := client.Config{RestConfig: apiservertest.Start(t), Component: "test"}.Clientset()
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: v1.NamespaceNodeLease}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	recorder := record.NewFakeRecorder(100)
	var tired atomic.Bool
	r := New(Config{Client: c, Name: "n1", IPs: healthy().IPs, MaxPods: 110, Facts: healthy().Facts, ControlPlane: true, Network: func() network.Status { return network.Status{} },
		Pressure: func() []v1.NodeConditionType { return nil }, VolumesInUse: func() []v1.UniqueVolumeName { return nil },
		Look: func(context.Context) ([]runtime.Image, []string) {
			if tired.Load() {
				return nil, []string{"tired"}
			}
			return nil, nil
		}, LeaseDuration: time.Second, Recorder: recorder, Log: slog.New(slog.DiscardHandler)})
	r.settle = 0
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	node := func() *v1.Node {
		n, err := c.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			return &v1.Node{}
		}
		return n
	}
	await(t, "ready", func() bool { return strings.HasPrefix(condition(node().Status, v1.NodeReady), "True") })
	n := node()
	if _, ok := n.Labels[RoleLabel]; !ok || n.Labels[v1.LabelHostname] != "n1" || len(n.Status.Addresses) != 2 {
		t.Errorf("node %+v", n)
	}
	var renewals []metav1.MicroTime
	await(t, "lease renewed four times a second", func() bool {
		l, err := c.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(t.Context(), "n1", metav1.GetOptions{})
		return err == nil && *l.Spec.HolderIdentity == "n1" && *l.Spec.LeaseDurationSeconds == 1 &&
			slices.ContainsFunc(l.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == n.UID }) && renewed(&renewals, *l.Spec.RenewTime) > 3
	})
	if err := c.CoreV1().Nodes().Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	tired.Store(true)
	r.Poke()
	await(t, "registered again", func() bool { return strings.HasPrefix(condition(node().Status, v1.NodeReady), "False") })
}

// TestWritesOfOthersMeanwhile: the watch tells of another's write before the answer to our own comes, which is older; and of the next nothing.
func TestWritesOfOthersMeanwhile(t *testing.T) {
	st := memory.New()
	objects := apiserver.NewCache(st)
	s := apiservertest.StartServer(t, apiserver.Config{Store: st, Cache: objects, Admission: admission.New(admission.Config{Reader: apiserver.NewReader(objects)})})
	admin, err := client.Config{RestConfig: s.LocalConfig(apiservertest.Admin), Component: "test"}.Clientset()
	if err != nil {
		t.Fatal(err)
	}
	var r *Reporter
	taint := func(key string) *v1.Node {
		n, err := admin.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err == nil {
			n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: key, Effect: v1.TaintEffectNoSchedule})
			n, err = admin.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Error(err)
		}
		return n
	}
	config := s.LocalConfig(&user.DefaultInfo{Name: "system:node:n1", Groups: []string{user.NodesGroup, user.AllAuthenticated}})
	seen := 0
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := next.RoundTrip(req)
			if req.Method == http.MethodPut && err == nil && resp.StatusCode == http.StatusOK {
				seen++
				r.Observe(taint(fmt.Sprint("seen-", seen)))
			}
			return resp, err
		})
	})
	c, err := client.Config{RestConfig: config, Component: "test"}.Clientset()
	if err != nil {
		t.Fatal(err)
	}
	notReady := []string(nil)
	r = New(Config{Client: c, Name: "n1", IPs: healthy().IPs, MaxPods: 110, Facts: healthy().Facts, Network: func() network.Status { return network.Status{} },
		Pressure: func() []v1.NodeConditionType { return nil }, VolumesInUse: func() []v1.UniqueVolumeName { return nil },
		Look: func(context.Context) ([]runtime.Image, []string) { return nil, notReady }, Recorder: record.NewFakeRecorder(100), Log: slog.New(slog.DiscardHandler)})
	if err := r.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	written := time.Now()
	notReady = []string{"tired"}
	if err := r.report(t.Context(), &written); err != nil {
		t.Fatal(err)
	}
	notReady = nil
	if err := r.report(t.Context(), &written); err != nil {
		t.Errorf("the write that the watch has told of: %v", err)
	}
	taint("unseen")
	notReady = []string{"tired again"}
	if err := r.report(t.Context(), &written); err == nil {
		t.Error("a write that does not know of another's passes")
	}
	if err := r.report(t.Context(), &written); err != nil {
		t.Errorf("once more: %v", err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// TestNewAgentDisturbsNoReadyNode: while an agent that starts anew does not know its runtime yet, the node stays as it was.
func TestNewAgentDisturbsNoReadyNode(t *testing.T) {
	written := false
	ready := v1.NodeStatus{Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}}
	r := New(Config{Network: func() network.Status { return network.Status{} }, Pressure: func() []v1.NodeConditionType { return nil }, VolumesInUse: func() []v1.UniqueVolumeName { return nil },
		Look: func(context.Context) ([]runtime.Image, []string) {
			written = true
			return nil, []string{"container runtime is down"}
		},
		Log: slog.New(slog.DiscardHandler)})
	r.started = time.Now()
	r.current.Store(&v1.Node{Status: ready})
	var at time.Time
	// Without a client a write would panic.
	if err := r.report(t.Context(), &at); err != nil || !written || !at.IsZero() {
		t.Errorf("report: %v, asked %v, written at %v", err, written, at)
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not %s within 10 s", what)
		}
	}
}

func TestCapacity(t *testing.T) {
	in := healthy()
	in.Facts.HugePages = []HugePages{{Size: 2 << 20, Count: 512}, {Size: 1 << 30}}
	in.Reserved[v1.ResourceCPU] = resource.MustParse("500m")
	st := Status(in, &v1.NodeStatus{})
	for name, want := range map[v1.ResourceName]string{"cpu": "2 1500m", "memory": "4Gi 2972Mi", "hugepages-2Mi": "1Gi 1Gi", "hugepages-1Gi": "0 0",
		"ephemeral-storage": "100Gi 90Gi", "pods": "110 110"} {
		all, rest := st.Capacity[name], st.Allocatable[name]
		if got := all.String() + " " + rest.String(); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if names := st.RuntimeHandlers; len(names) != 2 || names[1].Name != "runc" {
		t.Errorf("handlers %+v", names)
	}
}

func TestHugePagesOfTheMachine(t *testing.T) {
	root := t.TempDir()
	put := func(path, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "16\n")
	put("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "0\n")
	if got := hugePages(root); len(got) != 2 || got[0] != (HugePages{2 << 20, 0}) {
		t.Errorf("without a controller: %v", got)
	}
	put("sys/fs/cgroup/cgroup.controllers", "cpu memory hugetlb\n")
	if got := hugePages(root); len(got) != 2 || got[0] != (HugePages{2 << 20, 16}) || got[1] != (HugePages{1 << 30, 0}) {
		t.Errorf("got %v", got)
	}
}

// renewed notes a time of renewal, and tells how many different ones there were.
func renewed(seen *[]metav1.MicroTime, at metav1.MicroTime) int {
	if !slices.ContainsFunc(*seen, func(t metav1.MicroTime) bool { return t.Equal(&at) }) {
		*seen = append(*seen, at)
	}
	return len(*seen)
}
