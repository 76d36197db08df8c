// Package admission is the node's own check of a pod that was bound to it: whoever bound it may have known less, or not
// have looked. It is pure.
package admission

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/resource"
	corev1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// Rejection is why the node does not take the pod, in the kubelet's words.
type Rejection struct{ Reason, Message string }

// rejected begins the message of every pod that is refused.
const rejected = "Pod was rejected: "

// Check tells whether node takes pod beside others, the pods it has taken and that have not ended. nil is yes.
func Check(node *v1.Node, others []*v1.Pod, pod *v1.Pod) *Rejection {
	if r := resources(node, others, pod); r != nil {
		return r
	}
	if pod.Spec.NodeName != node.Name {
		return predicate("NodeName", "node(s) didn't match the requested node name")
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
		return predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
	}
	if portTaken(others, pod) {
		return predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports")
	}
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect == v1.TaintEffectNoExecute && !tolerates(pod, t) {
			return predicate("TaintToleration", fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value))
		}
	}
	return nil
}

// Resize tells whether node gives pod the resources that it asks for now, beside others.
func Resize(node *v1.Node, others []*v1.Pod, pod *v1.Pod) *Rejection {
	want := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	for _, name := range []v1.ResourceName{v1.ResourceMemory, v1.ResourceCPU} {
		asked, have := want[name], node.Status.Allocatable[name]
		if asked.Cmp(have) > 0 {
			return &Rejection{v1.PodReasonInfeasible, fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d",
				name, amount(name, asked.MilliValue(), asked.Value()), amount(name, have.MilliValue(), have.Value()))}
		}
	}
	if r := resources(node, others, pod); r != nil {
		return &Rejection{v1.PodReasonDeferred, strings.TrimPrefix(r.Message, rejected)}
	}
	return nil
}

func tolerates(pod *v1.Pod, t *v1.Taint) bool {
	_, untolerated := corev1.FindMatchingUntoleratedTaint(klog.Background(), []v1.Taint{*t}, pod.Spec.Tolerations, nil, true)
	return !untolerated
}

func predicate(name, message string) *Rejection {
	return &Rejection{name, fmt.Sprintf(rejected+"Predicate %s failed: %s", name, message)}
}

// resources compares what all pods together ask for with what the node has to give.
func resources(node *v1.Node, others []*v1.Pod, pod *v1.Pod) *Rejection {
	if max := node.Status.Allocatable.Pods().Value(); int64(len(others))+1 > max {
		return short("pods", 1, int64(len(others)), max)
	}
	want := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	used := v1.ResourceList{}
	for _, p := range others {
		for name, q := range helpers.PodRequests(p, helpers.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	for name, q := range want {
		if q.IsZero() {
			continue
		}
		have := node.Status.Allocatable[name]
		sum := used[name]
		asked, taken, all := amount(name, q.MilliValue(), q.Value()), amount(name, sum.MilliValue(), sum.Value()), amount(name, have.MilliValue(), have.Value())
		if asked+taken > all {
			return short(string(name), asked, taken, all)
		}
	}
	return nil
}

func amount(name v1.ResourceName, milli, whole int64) int64 {
	if name == v1.ResourceCPU {
		return milli
	}
	return whole
}

func short(name string, asked, used, all int64) *Rejection {
	return &Rejection{"OutOf" + name, fmt.Sprintf(rejected+"Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
		name, asked, used, all)}
}

type hostPort struct {
	protocol v1.Protocol
	port     int32
}

// portTaken: another pod has one of the pod's host ports, on the same address or on all of them.
func portTaken(others []*v1.Pod, pod *v1.Pod) bool {
	taken := map[hostPort][]string{}
	for _, p := range others {
		eachHostPort(p, func(h hostPort, ip string) { taken[h] = append(taken[h], ip) })
	}
	clash := false
	eachHostPort(pod, func(h hostPort, ip string) {
		for _, other := range taken[h] {
			clash = clash || other == ip || other == anyAddress || ip == anyAddress
		}
	})
	return clash
}

const anyAddress = "0.0.0.0"

func eachHostPort(p *v1.Pod, f func(hostPort, string)) {
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			for _, cp := range list[i].Ports {
				if cp.HostPort <= 0 {
					continue
				}
				ip, protocol := cp.HostIP, cp.Protocol
				if ip == "" || ip == "::" {
					ip = anyAddress
				}
				if protocol == "" {
					protocol = v1.ProtocolTCP
				}
				f(hostPort{protocol, cp.HostPort}, ip)
			}
		}
	}
}
