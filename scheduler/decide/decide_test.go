package decide

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/coracle-dev/coracle/scheduler/model"
	"github.com/coracle-dev/coracle/scheduler/schedulertest"
)

var node, pod = schedulertest.Node, schedulertest.Pod

func newDecider(t interface{ Fatal(...any) }) *Decider {
	d, err := New(Defaults())
	if err != nil {
		t.Fatal(err)
	}
	return d
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
			why: "0/2 nodes are available: 1 Insufficient memory, 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."},
		{name: "full by what runs there", nodes: []*corev1.Node{node("a", "2", "4Gi")}, placed: map[*corev1.Pod]string{pod("q", "1500m", ""): "a"},
			pod: pod("p", "1", ""), why: "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{name: "taint", nodes: []*corev1.Node{node("a", "2", "4Gi", tainted("dedicated", "gpu"))}, pod: pod("p", "", ""),
			why: "0/1 nodes are available: 1 node(s) had untolerated taint(s). preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{name: "toleration", nodes: []*corev1.Node{node("a", "2", "4Gi", tainted("dedicated", "gpu"))},
			pod: pod("p", "", "", func(p *corev1.Pod) {
				p.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}
			}), node: "a"},
		{name: "cordoned", nodes: []*corev1.Node{node("a", "2", "4Gi", cordoned)}, pod: pod("p", "", ""),
			why: "0/1 nodes are available: 1 node(s) were unschedulable. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{name: "node selector", nodes: []*corev1.Node{node("a", "2", "4Gi"), node("b", "2", "4Gi")}, pod: pod("p", "", "", selecting(corev1.LabelHostname, "b")), node: "b"},
		{name: "node selector that matches none", nodes: []*corev1.Node{node("a", "2", "4Gi")}, pod: pod("p", "", "", selecting("disk", "ssd")),
			why: "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{name: "host port taken", nodes: []*corev1.Node{node("a", "2", "4Gi")}, placed: map[*corev1.Pod]string{pod("q", "", "", hostPort(80)): "a"},
			pod: pod("p", "", "", hostPort(80)), why: "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{name: "least allocated wins", nodes: []*corev1.Node{node("a", "4", "8Gi"), node("b", "4", "8Gi")}, placed: map[*corev1.Pod]string{pod("q", "2", "4Gi"): "a"},
			pod: pod("p", "1", "1Gi"), node: "b"},
		{name: "anti-affinity of its own", nodes: []*corev1.Node{node("a", "4", "8Gi"), node("b", "4", "8Gi")}, placed: map[*corev1.Pod]string{pod("q", "", ""): "b"},
			pod: pod("p", "", "", antiAffine), node: "a"},
		{name: "anti-affinity of another", nodes: []*corev1.Node{node("a", "4", "8Gi")}, placed: map[*corev1.Pod]string{pod("q", "", "", antiAffine): "a"},
			pod: pod("p", "", ""), why: "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{name: "affinity", nodes: []*corev1.Node{node("a", "4", "8Gi"), node("b", "4", "8Gi")},
			placed: map[*corev1.Pod]string{pod("q", "", "", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db"} }): "b"},
			pod:    pod("p", "", "", affine), node: "b"},
		{name: "affinity to nothing", nodes: []*corev1.Node{node("a", "4", "8Gi")}, pod: pod("p", "", "", affine),
			why: "0/1 nodes are available: 1 node(s) didn't match pod affinity rules. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{name: "devices", nodes: []*corev1.Node{node("a", "4", "8Gi")}, pod: pod("p", "", "", func(p *corev1.Pod) {
			p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "card"}}
		}), why: "0/1 nodes are available: cannot allocate all claims: no part of this cluster allocates devices."},
		{name: "spread", nodes: []*corev1.Node{node("a", "4", "8Gi"), node("b", "400m", "8Gi")}, placed: map[*corev1.Pod]string{pod("q", "", ""): "a", pod("r", "350m", "", func(p *corev1.Pod) { p.Labels = nil }): "b"},
			pod: pod("p", "100m", "", spread),
			why: "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."},
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
			d := newDecider(t).Schedule(cluster, model.NewPod(c.pod))
			if d.Node != c.node || d.Message != c.why {
				t.Errorf("got node %q, message %q\nwant node %q, message %q", d.Node, d.Message, c.node, c.why)
			}
			if d.Node == "" && d.RejectedBy == 0 {
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
	d := newDecider(t)
	for i := range 20 {
		p := model.NewPod(pod(fmt.Sprint("p", i), "10m", "10Mi", func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", UID: "rs", Controller: &controller}}
		}))
		cluster.SetPod(p, d.Schedule(cluster, p).Node)
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
		cluster, d := model.New(), newDecider(t)
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
				if decided := d.Schedule(cluster, p); decided.Node != "" {
					cluster.SetPod(p, decided.Node)
					placed = append(placed, p.Pod.UID)
				} else if decided.RejectedBy == 0 {
					t.Fatal("a pod that does not fit must be rejected by somebody")
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
