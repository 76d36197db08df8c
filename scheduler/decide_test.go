package scheduler

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
)

func node(name, cpu, memory string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse(cpu),
			corev1.ResourceMemory: resource.MustParse(memory),
			corev1.ResourcePods:   resource.MustParse("110"),
		}},
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func pod(name, cpu, memory string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{
			SchedulerName: corev1.DefaultSchedulerName,
			Containers:    []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}}}},
		},
	}
	if cpu != "" {
		p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		p.Spec.Containers[0].Resources.Requests[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func tainted(key, value string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffectNoSchedule})
	}
}

func cordoned(n *corev1.Node) { n.Spec.Unschedulable = true }

func selecting(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{key: value} }
}

func hostPort(port int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: port, HostPort: port, Protocol: corev1.ProtocolTCP}}
	}
}

func antiAffine(p *corev1.Pod) {
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		}},
	}}
}

func affine(p *corev1.Pod) {
	p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
		}},
	}}
}

func spread(p *corev1.Pod) {
	p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
	}}
}

func TestSchedule(t *testing.T) {
	cases := []struct {
		name   string
		nodes  []*corev1.Node
		placed map[*corev1.Pod]string
		pod    *corev1.Pod
		node   string
		why    string
	}{
		{name: "no nodes", pod: pod("p", "1", ""), why: "no nodes available to schedule pods"},
		{name: "fits", nodes: []*corev1.Node{node("a", "2", "4Gi")}, pod: pod("p", "1", "1Gi"), node: "a"},
		{name: "insufficient", nodes: []*corev1.Node{node("a", "2", "4Gi"), node("b", "1", "1Gi")}, pod: pod("p", "3", "2Gi"),
			why: "0/2 nodes are available: 1 Insufficient memory, 2 Insufficient cpu."},
		{name: "full by what runs there", nodes: []*corev1.Node{node("a", "2", "4Gi")}, placed: map[*corev1.Pod]string{pod("q", "1500m", ""): "a"},
			pod: pod("p", "1", ""), why: "0/1 nodes are available: 1 Insufficient cpu."},
		{name: "taint", nodes: []*corev1.Node{node("a", "2", "4Gi", tainted("dedicated", "gpu"))}, pod: pod("p", "", ""),
			why: "0/1 nodes are available: 1 node(s) had untolerated taint(s)."},
		{name: "toleration", nodes: []*corev1.Node{node("a", "2", "4Gi", tainted("dedicated", "gpu"))},
			pod: pod("p", "", "", func(p *corev1.Pod) {
				p.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}
			}), node: "a"},
		{name: "cordoned", nodes: []*corev1.Node{node("a", "2", "4Gi", cordoned)}, pod: pod("p", "", ""),
			why: "0/1 nodes are available: 1 node(s) were unschedulable."},
		{name: "node selector", nodes: []*corev1.Node{node("a", "2", "4Gi"), node("b", "2", "4Gi")}, pod: pod("p", "", "", selecting(corev1.LabelHostname, "b")), node: "b"},
		{name: "node selector that matches none", nodes: []*corev1.Node{node("a", "2", "4Gi")}, pod: pod("p", "", "", selecting("disk", "ssd")),
			why: "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."},
		{name: "host port taken", nodes: []*corev1.Node{node("a", "2", "4Gi")}, placed: map[*corev1.Pod]string{pod("q", "", "", hostPort(80)): "a"},
			pod: pod("p", "", "", hostPort(80)), why: "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},
		{name: "least allocated wins", nodes: []*corev1.Node{node("a", "4", "8Gi"), node("b", "4", "8Gi")}, placed: map[*corev1.Pod]string{pod("q", "2", "4Gi"): "a"},
			pod: pod("p", "1", "1Gi"), node: "b"},
		{name: "anti-affinity of its own", nodes: []*corev1.Node{node("a", "4", "8Gi"), node("b", "4", "8Gi")}, placed: map[*corev1.Pod]string{pod("q", "", ""): "b"},
			pod: pod("p", "", "", antiAffine), node: "a"},
		{name: "anti-affinity of another", nodes: []*corev1.Node{node("a", "4", "8Gi")}, placed: map[*corev1.Pod]string{pod("q", "", "", antiAffine): "a"},
			pod: pod("p", "", ""), why: "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."},
		{name: "affinity", nodes: []*corev1.Node{node("a", "4", "8Gi"), node("b", "4", "8Gi")},
			placed: map[*corev1.Pod]string{pod("q", "", "", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db"} }): "b"},
			pod:    pod("p", "", "", affine), node: "b"},
		{name: "affinity to nothing", nodes: []*corev1.Node{node("a", "4", "8Gi")}, pod: pod("p", "", "", affine),
			why: "0/1 nodes are available: 1 node(s) didn't match pod affinity rules."},
		{name: "spread", nodes: []*corev1.Node{node("a", "4", "8Gi"), node("b", "400m", "8Gi")}, placed: map[*corev1.Pod]string{pod("q", "", ""): "a", pod("r", "350m", "", func(p *corev1.Pod) { p.Labels = nil }): "b"},
			pod: pod("p", "100m", "", spread),
			why: "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints."},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cluster := model.New()
			for _, n := range c.nodes {
				cluster.SetNode(n)
			}
			for p, n := range c.placed {
				cluster.SetPod(model.NewPod(p), n)
			}
			d := newDecider().schedule(cluster, model.NewPod(c.pod))
			if d.node != c.node || d.message != c.why {
				t.Errorf("got node %q, message %q\nwant node %q, message %q", d.node, d.message, c.node, c.why)
			}
			if d.node == "" && d.wokenBy == 0 {
				t.Error("a rejected pod that no event wakes")
			}
		})
	}
}

func TestOwnerSpread(t *testing.T) {
	cluster := model.New()
	for i := range 5 {
		cluster.SetNode(node(fmt.Sprint("n", i), "64", "64Gi"))
	}
	controller := true
	d := newDecider()
	for i := range 20 {
		p := model.NewPod(pod(fmt.Sprint("p", i), "10m", "10Mi", func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{UID: "rs", Controller: &controller}}
		}))
		cluster.SetPod(p, d.schedule(cluster, p).node)
	}
	for _, n := range cluster.Nodes() {
		if len(n.Pods) != 4 {
			t.Errorf("%s has %d of 20 pods, want 4", n.Name, len(n.Pods))
		}
	}
}

// TestNeverOvercommits: whatever comes and goes, no node is promised more than it has, and the sums are those of its pods.
func TestNeverOvercommits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cluster, d := model.New(), newDecider()
		names := []string{"a", "b", "c"}
		cpu := rapid.IntRange(1, 4)
		for _, n := range names {
			cluster.SetNode(node(n, fmt.Sprint(cpu.Draw(t, "cpu")), "4Gi"))
		}
		var placed []types.UID
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				if len(placed) > 0 {
					k := rapid.IntRange(0, len(placed)-1).Draw(t, "victim")
					cluster.RemovePod(placed[k])
					placed = append(placed[:k], placed[k+1:]...)
				}
			case 1:
				n := rapid.SampledFrom(names).Draw(t, "node")
				if cluster.Node(n) != nil {
					cluster.RemoveNode(n)
				} else {
					cluster.SetNode(node(n, "4", "4Gi"))
				}
			default:
				p := model.NewPod(pod(fmt.Sprint("p", i), fmt.Sprintf("%dm", rapid.IntRange(1, 2000).Draw(t, "milli")), ""))
				if decided := d.schedule(cluster, p); decided.node != "" {
					cluster.SetPod(p, decided.node)
					placed = append(placed, p.Pod.UID)
				} else if decided.wokenBy&(filter.NodeChanged|filter.PodGone) == 0 {
					t.Fatal("a pod that does not fit must be woken by a pod that goes")
				}
			}
		}
		for _, n := range cluster.Nodes() {
			var sum model.Resources
			for _, p := range n.Pods {
				sum.Add(p.Requests, 1)
			}
			if sum.MilliCPU != n.Requested.MilliCPU || sum.Pods != n.Requested.Pods {
				t.Fatalf("%s: sums %+v, want %+v", n.Name, n.Requested, sum)
			}
		}
	})
}

func BenchmarkSchedule5000Nodes(b *testing.B) {
	cluster := model.New()
	for i := range 5000 {
		cluster.SetNode(node(fmt.Sprintf("node-%04d", i), "32", "64Gi"))
	}
	d := newDecider()
	pods := make([]*model.Pod, b.N)
	for i := range pods {
		pods[i] = model.NewPod(pod(fmt.Sprint("p", i), "10m", "10Mi"))
	}
	b.ResetTimer()
	for _, p := range pods {
		decided := d.schedule(cluster, p)
		cluster.SetPod(p, decided.node)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}
