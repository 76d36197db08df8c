package filter

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/coracle-dev/coracle/scheduler/model"
)

// Tolerates tells whether the tolerations tolerate the taint.
func Tolerates(tolerations []corev1.Toleration, taint *corev1.Taint) bool {
	return schedulinghelper.TolerationsTolerateTaint(klog.Logger{}, tolerations, taint, false)
}

type nodeUnschedulable struct{}

func (*nodeUnschedulable) Name() string   { return "NodeUnschedulable" }
func (*nodeUnschedulable) WokenBy() Event { return NodeChanged }

func (f *nodeUnschedulable) Prepare(pod *model.Pod, _ *model.Cluster) bool {
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	return !Tolerates(pod.Pod.Spec.Tolerations, &taint)
}

func (f *nodeUnschedulable) Check(node *model.Node) []string {
	if node.Node.Spec.Unschedulable {
		return []string{"node(s) were unschedulable"}
	}
	return nil
}

// nodeName matters only to pods that ask a name through affinity's matchFields or preset nodeName, which never queue;
// it keeps the pipeline complete for plug-ins that run it on any pod.
type nodeName struct{ name string }

func (*nodeName) Name() string   { return "NodeName" }
func (*nodeName) WokenBy() Event { return NodeChanged }

func (f *nodeName) Prepare(pod *model.Pod, _ *model.Cluster) bool {
	f.name = pod.Pod.Spec.NodeName
	return f.name != ""
}

func (f *nodeName) Check(node *model.Node) []string {
	if node.Name != f.name {
		return []string{"node(s) didn't match the requested node name"}
	}
	return nil
}

type taintToleration struct{ tolerations []corev1.Toleration }

func (*taintToleration) Name() string   { return "TaintToleration" }
func (*taintToleration) WokenBy() Event { return NodeChanged }

func (f *taintToleration) Prepare(pod *model.Pod, _ *model.Cluster) bool {
	f.tolerations = pod.Pod.Spec.Tolerations
	return true
}

func (f *taintToleration) Check(node *model.Node) []string {
	for i := range node.Node.Spec.Taints {
		taint := &node.Node.Spec.Taints[i]
		if taint.Effect == corev1.TaintEffectPreferNoSchedule || Tolerates(f.tolerations, taint) {
			continue
		}
		return []string{"node(s) had untolerated taint(s)"}
	}
	return nil
}

type nodeAffinity struct {
	required nodeaffinity.RequiredNodeAffinity
}

func (*nodeAffinity) Name() string   { return "NodeAffinity" }
func (*nodeAffinity) WokenBy() Event { return NodeChanged }

func (f *nodeAffinity) Prepare(pod *model.Pod, _ *model.Cluster) bool {
	spec := &pod.Pod.Spec
	affinity := spec.Affinity != nil && spec.Affinity.NodeAffinity != nil &&
		spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
	if len(spec.NodeSelector) == 0 && !affinity {
		return false
	}
	f.required = nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
	return true
}

func (f *nodeAffinity) Check(node *model.Node) []string {
	// A term that cannot be parsed matches nothing, as validation let it pass only in matchFields.
	if match, _ := f.required.Match(node.Node); !match {
		return []string{"node(s) didn't match Pod's node affinity/selector"}
	}
	return nil
}

type nodePorts struct{ ports []model.HostPort }

func (*nodePorts) Name() string   { return "NodePorts" }
func (*nodePorts) WokenBy() Event { return NodeChanged | PodGone }

func (f *nodePorts) Prepare(pod *model.Pod, _ *model.Cluster) bool {
	f.ports = pod.HostPorts
	return len(f.ports) > 0
}

func (f *nodePorts) Check(node *model.Node) []string {
	for _, want := range f.ports {
		if slices.ContainsFunc(node.HostPorts, want.Conflicts) {
			return []string{"node(s) didn't have free ports for the requested pod ports"}
		}
	}
	return nil
}

type nodeResources struct{ requests model.Resources }

func (*nodeResources) Name() string   { return "NodeResourcesFit" }
func (*nodeResources) WokenBy() Event { return NodeChanged | PodGone }

func (f *nodeResources) Prepare(pod *model.Pod, _ *model.Cluster) bool {
	f.requests = pod.Requests
	return true
}

func (f *nodeResources) Check(node *model.Node) []string {
	var reasons []string
	have, used, want := &node.Allocatable, &node.Requested, &f.requests
	if used.Pods+1 > have.Pods {
		reasons = append(reasons, "Too many pods")
	}
	short := func(want, used, have int64) bool { return want > 0 && want > have-used }
	if short(want.MilliCPU, used.MilliCPU, have.MilliCPU) {
		reasons = append(reasons, "Insufficient cpu")
	}
	if short(want.Memory, used.Memory, have.Memory) {
		reasons = append(reasons, "Insufficient memory")
	}
	if short(want.EphemeralStorage, used.EphemeralStorage, have.EphemeralStorage) {
		reasons = append(reasons, "Insufficient ephemeral-storage")
	}
	first := len(reasons)
	for name, amount := range want.Scalar {
		if short(amount, used.Scalar[name], have.Scalar[name]) {
			reasons = append(reasons, "Insufficient "+string(name))
		}
	}
	slices.Sort(reasons[first:])
	return reasons
}
