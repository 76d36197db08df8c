package podspec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// list reads "cpu=1 memory=1Gi".
func list(text string) v1.ResourceList {
	var out v1.ResourceList
	for part := range strings.FieldsSeq(text) {
		name, value, _ := strings.Cut(part, "=")
		if out == nil {
			out = v1.ResourceList{}
		}
		out[v1.ResourceName(name)] = resource.MustParse(value)
	}
	return out
}

func required(requests, limits string) v1.ResourceRequirements {
	return v1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}
}

func TestResourcesOfAPodAsAWhole(t *testing.T) {
	whole := required("cpu=500m memory=512Mi", "cpu=1 memory=1Gi")
	pod := &v1.Pod{Spec: v1.PodSpec{Resources: &whole, Containers: []v1.Container{
		{Name: "own", Resources: required("cpu=100m memory=128Mi", "cpu=200m memory=256Mi")}, {Name: "none"}}}}
	pod.UID = "u"
	m := Machine{Memory: 4 << 30}
	if d := cmp.Diff(runtime.Resources{CPUShares: 102, CPUQuota: 20000, CPUPeriod: 100000, MemoryLimit: 256 << 20, OOMScoreAdj: 1000 - 1000*320/4096},
		Resources(pod, &pod.Spec.Containers[0], m)); d != "" {
		t.Error("its own limits:", d)
	}
	if d := cmp.Diff(runtime.Resources{CPUShares: 2, CPUQuota: 100000, CPUPeriod: 100000, MemoryLimit: 1 << 30, OOMScoreAdj: 1000 - 1000*192/4096},
		Resources(pod, &pod.Spec.Containers[1], m)); d != "" {
		t.Error("the pod's:", d)
	}
	if d := cmp.Diff(Cgroup{"/k/burstable/podu", runtime.Resources{CPUShares: 512, CPUQuota: 100000, CPUPeriod: 100000, MemoryLimit: 1 << 30}}, PodCgroup("k", pod, m)); d != "" {
		t.Error(d)
	}
}

func TestHugePages(t *testing.T) {
	c := v1.Container{Resources: required("cpu=1 memory=1Mi hugepages-2Mi=4Mi", "cpu=1 memory=1Mi hugepages-2Mi=4Mi")}
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{c, c}}}
	m := Machine{PageSizes: []int64{64 << 10, 2 << 20, 1 << 30}}
	if d := cmp.Diff(map[string]int64{"64KB": 0, "2MB": 4 << 20, "1GB": 0}, Resources(pod, &c, m).HugePages); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]int64{"64KB": 0, "2MB": 8 << 20, "1GB": 0}, PodCgroup("k", pod, m).Resources.HugePages); d != "" {
		t.Error(d)
	}
	if got := Resources(pod, &c, Machine{}).HugePages; got != nil {
		t.Errorf("on a machine without: %v", got)
	}
}

func TestOOMScore(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	pod := &v1.Pod{Spec: v1.PodSpec{
		InitContainers: []v1.Container{{Name: "side", RestartPolicy: &always, Resources: required("memory=16Mi", "")}},
		Containers:     []v1.Container{{Name: "app", Resources: required("memory=512Mi", "")}},
	}}
	if got := OOMScore(pod, &pod.Spec.InitContainers[0], 1<<30); got != 500 {
		t.Errorf("a sidecar goes before what it serves: %d", got)
	}
	pod.Spec.Priority, pod.Spec.PriorityClassName = new(int32(2000001000)), "system-node-critical"
	if got := OOMScore(pod, &pod.Spec.Containers[0], 1<<30); got != -997 {
		t.Errorf("critical for the node: %d", got)
	}
	pod.Spec.Priority, pod.Spec.PriorityClassName = new(int32(2000000000)), "system-cluster-critical"
	if got := OOMScore(pod, &pod.Spec.Containers[0], 1<<30); got != 500 {
		t.Errorf("critical for the cluster: %d", got)
	}
}

func TestResizeOrder(t *testing.T) {
	pod := func(name, cpu string, priority int32, limits string) *v1.Pod {
		p := &v1.Pod{Spec: v1.PodSpec{Priority: &priority, Containers: []v1.Container{{Resources: required("memory=1Mi cpu="+cpu, limits)}}}}
		p.Name = name
		return p
	}
	grow := func(name string, priority int32, limits string) Resize {
		return Resize{Wanted: pod(name, "2", priority, limits), Allocated: pod(name, "1", priority, "")}
	}
	all := []Resize{grow("low", 0, ""), grow("guaranteed", 0, "cpu=2 memory=1Mi"), grow("high", 10, ""),
		{Wanted: pod("shrinks", "1", 0, ""), Allocated: pod("shrinks", "2", 0, "")}}
	ResizeOrder(all)
	var got []string
	for _, r := range all {
		got = append(got, r.Wanted.Name)
	}
	if d := cmp.Diff([]string{"shrinks", "high", "guaranteed", "low"}, got); d != "" {
		t.Error(d)
	}
}

func TestWithResources(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "a", Resources: required("cpu=2 memory=2Mi example.com/x=1", "cpu=2 example.com/x=1")}, {Name: "b"}}}}
	have := map[string]v1.ResourceRequirements{"a": required("cpu=1 memory=2Mi", ""), "b": {}}
	got := WithResources(pod, have, nil)
	if d := cmp.Diff(required("cpu=1 memory=2Mi example.com/x=1", "example.com/x=1"), got.Spec.Containers[0].Resources); d != "" {
		t.Error(d)
	}
	if q := pod.Spec.Containers[0].Resources.Requests.Cpu(); q.Value() != 2 {
		t.Error("the pod it was made from has changed")
	}
	if again := WithResources(got, have, nil); again != got {
		t.Error("copied without need")
	}
	label := AppliedLabel(got.Spec.Containers[0].Resources)
	if d := cmp.Diff(&got.Spec.Containers[0].Resources, Applied(label)); d != "" {
		t.Error(d)
	}
}
