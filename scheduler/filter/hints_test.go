package filter

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/scheduler/model"
	"github.com/coracle-dev/coracle/scheduler/schedulertest"
)

// withLabel gives a node one label more.
func withLabel(key, value string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[key] = value }
}

func term(app string) []corev1.PodAffinityTerm {
	return []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}}
}

// TestHelps: a rejected pod wakes for what can help it, and for nothing else.
func TestHelps(t *testing.T) {
	node, pod := schedulertest.Node, schedulertest.Pod
	placed := func(cluster *model.Cluster, p *corev1.Pod, on string) *model.Pod {
		m := model.NewPod(p)
		cluster.SetPod(m, on)
		return m
	}
	cluster := model.New()
	cluster.SetNode(node("full", "2", "4Gi"))
	placed(cluster, pod("hog", "1500m", ""), "full")
	cluster.SetNode(node("roomy", "2", "4Gi"))
	full, roomy := cluster.Node("full"), cluster.Node("roomy")

	onPort := func(port int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: port}} }
	}
	selecting := func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }
	tolerant := func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} }
	named := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Labels = map[string]string{"app": name} }
	}
	near := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: term("db")}}
	}
	apart := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: term("db")}}
	}
	spread := func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}
	}
	tainted := func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoSchedule}}
	}
	cordoned := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	changed := func(before, after *corev1.Node) *Event {
		return &Event{Kind: NodeChanged, OldNode: before, Node: after}
	}
	added := func(n *corev1.Node) *Event { return &Event{Kind: NodeAdded, Node: n} }
	gone := func(p *corev1.Pod, at *model.Node) *Event {
		return &Event{Kind: PodGone, Pod: model.NewPod(p), At: at}
	}
	came := func(p *corev1.Pod) *Event { return &Event{Kind: PodPlaced, Pod: model.NewPod(p)} }
	plain := node("n", "2", "4Gi")

	for _, c := range []struct {
		filter, what string
		pod          *corev1.Pod
		event        *Event
		want         bool
	}{
		{"NodeUnschedulable", "uncordoned", pod("p", "", ""), changed(node("n", "2", "4Gi", cordoned), plain), true},
		{"NodeUnschedulable", "another change", pod("p", "", ""), changed(plain, node("n", "2", "4Gi", withLabel("a", "b"))), false},
		{"NodeUnschedulable", "a cordoned node comes", pod("p", "", ""), added(node("n", "2", "4Gi", cordoned)), false},
		{"NodeUnschedulable", "a pod goes", pod("p", "", ""), gone(pod("q", "", ""), roomy), false},
		{"TaintToleration", "a taint goes", pod("p", "", ""), changed(node("n", "2", "4Gi", tainted), plain), true},
		{"TaintToleration", "a tainted node comes", pod("p", "", ""), added(node("n", "2", "4Gi", tainted)), false},
		{"TaintToleration", "a tainted node that is tolerated comes", pod("p", "", "", tolerant), added(node("n", "2", "4Gi", tainted)), true},
		{"NodeAffinity", "the label comes", pod("p", "", "", selecting), changed(plain, node("n", "2", "4Gi", withLabel("disk", "ssd"))), true},
		{"NodeAffinity", "another label comes", pod("p", "", "", selecting), changed(plain, node("n", "2", "4Gi", withLabel("disk", "hdd"))), false},
		{"NodeAffinity", "it had the label before", pod("p", "", "", selecting), changed(node("n", "1", "4Gi", withLabel("disk", "ssd")), node("n", "2", "4Gi", withLabel("disk", "ssd"))), false},
		{"NodePorts", "the port comes free", pod("p", "", "", onPort(80)), gone(pod("q", "", "", onPort(80)), roomy), true},
		{"NodePorts", "another port comes free", pod("p", "", "", onPort(80)), gone(pod("q", "", "", onPort(81)), roomy), false},
		{"NodeResourcesFit", "a pod goes and there is room", pod("p", "1", ""), gone(pod("q", "1", ""), roomy), true},
		{"NodeResourcesFit", "a pod goes and there is not enough", pod("p", "1", ""), gone(pod("q", "1", ""), full), false},
		{"NodeResourcesFit", "a large node comes", pod("p", "1", ""), added(plain), true},
		{"NodeResourcesFit", "a small node comes", pod("p", "4", ""), added(plain), false},
		{"NodeResourcesFit", "a node grows", pod("p", "3", ""), changed(plain, node("n", "4", "4Gi")), true},
		{"NodeResourcesFit", "a node shrinks", pod("p", "1", ""), changed(node("n", "4", "4Gi"), plain), false},
		{"NodeResourcesFit", "a pod comes", pod("p", "1", ""), came(pod("q", "", "")), false},
		{"InterPodAffinity", "the wanted neighbour comes", pod("p", "", "", near), came(pod("q", "", "", named("db"))), true},
		{"InterPodAffinity", "another comes", pod("p", "", "", near), came(pod("q", "", "", named("web"))), false},
		{"InterPodAffinity", "the unwanted neighbour goes", pod("p", "", "", apart), gone(pod("q", "", "", named("db")), roomy), true},
		{"InterPodAffinity", "another goes", pod("p", "", "", apart), gone(pod("q", "", "", named("web")), roomy), false},
		{"InterPodAffinity", "who did not want it goes", pod("p", "", "", named("db")), gone(pod("q", "", "", apart), roomy), true},
		{"PodTopologySpread", "one that counts goes", pod("p", "", "", spread), gone(pod("q", "", ""), roomy), true},
		{"PodTopologySpread", "one that does not count goes", pod("p", "", "", spread), gone(pod("q", "", "", named("db")), roomy), false},
		{"PodTopologySpread", "one that counts comes", pod("p", "", "", spread), came(pod("q", "", "")), true},
		{"PodTopologySpread", "a node moves", pod("p", "", "", spread), changed(plain, node("n", "2", "4Gi", withLabel("zone", "a"))), true},
		{"PodTopologySpread", "a node is cordoned", pod("p", "", "", spread), changed(plain, node("n", "2", "4Gi", cordoned)), false},
	} {
		f, err := New(c.filter, Args{})
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Helps(model.NewPod(c.pod), c.event); got != c.want {
			t.Errorf("%s: %s: helps %v, want %v", c.filter, c.what, got, c.want)
		}
	}
}

// TestEveryNameIsAFilter: what is listed can be made, once, under its name.
func TestEveryNameIsAFilter(t *testing.T) {
	all := slices.Concat(Local, Wide)
	for i, name := range all {
		f, err := New(name, Args{})
		if err != nil || f.Name() != name || slices.Index(all, name) != i {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
}
