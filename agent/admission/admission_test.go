package admission

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func list(cpu, memory string) v1.ResourceList {
	return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
}

func pod(cpu, memory string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{Spec: v1.PodSpec{NodeName: "n1", Containers: []v1.Container{{Resources: v1.ResourceRequirements{Requests: list(cpu, memory)}}}}}
	for _, f := range change {
		f(p)
	}
	return p
}

func withPort(port int32, ip string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: port, HostIP: ip}} }
}

func TestCheck(t *testing.T) {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"disk": "ssd"}},
		Spec: v1.NodeSpec{Taints: []v1.Taint{{Key: "soft", Effect: v1.TaintEffectNoSchedule}}}}
	node.Status.Allocatable = list("2", "1Gi")
	node.Status.Allocatable[v1.ResourcePods] = resource.MustParse("3")
	tainted := node.DeepCopy()
	tainted.Spec.Taints = []v1.Taint{{Key: "k", Value: "v", Effect: v1.TaintEffectNoExecute}}
	tolerate := func(p *v1.Pod) { p.Spec.Tolerations = []v1.Toleration{{Key: "k", Operator: v1.TolerationOpExists}} }
	for name, c := range map[string]struct {
		node            *v1.Node
		others          []*v1.Pod
		pod             *v1.Pod
		reason, message string
	}{
		"fits":           {node: node, others: []*v1.Pod{pod("1", "1Mi")}, pod: pod("1", "1Mi")},
		"asks nothing":   {node: node, others: []*v1.Pod{pod("2", "1Gi")}, pod: pod("0", "0")},
		"cpu":            {node, []*v1.Pod{pod("1500m", "1Mi")}, pod("600m", "1Mi"), "OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000"},
		"memory":         {node, nil, pod("1", "2Gi"), "OutOfmemory", "Pod was rejected: Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824"},
		"pods":           {node, []*v1.Pod{pod("0", "0"), pod("0", "0"), pod("0", "0")}, pod("0", "0"), "OutOfpods", "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"},
		"selector":       {node, nil, pod("1", "1", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "hdd"} }), "NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		"selector fits":  {node: node, pod: pod("1", "1", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} })},
		"port":           {node, []*v1.Pod{pod("0", "0", withPort(80, ""))}, pod("0", "0", withPort(80, "127.0.0.1")), "NodePorts", "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"},
		"ports apart":    {node: node, others: []*v1.Pod{pod("0", "0", withPort(80, "192.0.2.1"))}, pod: pod("0", "0", withPort(80, "127.0.0.1"))},
		"taint":          {tainted, nil, pod("0", "0"), "TaintToleration", "Pod was rejected: Predicate TaintToleration failed: node(s) had untolerated taint {k: v}"},
		"taint tolerate": {node: tainted, pod: pod("0", "0", tolerate)},
	} {
		t.Run(name, func(t *testing.T) {
			r := Check(c.node, c.others, c.pod)
			if r == nil {
				r = &Rejection{}
			}
			if r.Reason != c.reason || r.Message != c.message {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestResize(t *testing.T) {
	node := &v1.Node{}
	node.Status.Allocatable = list("2", "1Gi")
	node.Status.Allocatable[v1.ResourcePods] = resource.MustParse("9")
	for name, c := range map[string]struct {
		others          []*v1.Pod
		pod             *v1.Pod
		reason, message string
	}{
		"fits":   {pod: pod("2", "1Gi"), others: []*v1.Pod{pod("0", "0")}},
		"never":  {nil, pod("2500m", "1Gi"), "Infeasible", "Node didn't have enough capacity: cpu, requested: 2500, capacity: 2000"},
		"memory": {nil, pod("9", "2Gi"), "Infeasible", "Node didn't have enough capacity: memory, requested: 2147483648, capacity: 1073741824"},
		"later":  {[]*v1.Pod{pod("1", "1Mi")}, pod("1500m", "1Mi"), "Deferred", "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"},
	} {
		r := Resize(node, c.others, c.pod)
		if r == nil {
			r = &Rejection{}
		}
		if r.Reason != c.reason || r.Message != c.message {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestInitContainersAndOverheadCount: the largest init container beside the sidecars started before it, or all that runs after, and the overhead.
func TestInitContainersAndOverheadCount(t *testing.T) {
	node := &v1.Node{}
	node.Name = "n1"
	node.Status.Allocatable = list("2", "1Gi")
	node.Status.Allocatable[v1.ResourcePods] = resource.MustParse("9")
	always := v1.ContainerRestartPolicyAlways
	sized := func(cpu string, policy *v1.ContainerRestartPolicy) v1.Container {
		return v1.Container{RestartPolicy: policy, Resources: v1.ResourceRequirements{Requests: list(cpu, "1Mi")}}
	}
	p := pod("500m", "1Mi", func(p *v1.Pod) {
		p.Spec.InitContainers = []v1.Container{sized("600m", &always), sized("1300m", nil)}
		p.Spec.Overhead = list("200m", "1Mi")
	})
	r := Check(node, nil, p)
	if r == nil || r.Message != "Pod was rejected: Node didn't have enough resource: cpu, requested: 2100, used: 0, capacity: 2000" {
		t.Errorf("got %+v", r)
	}
}
