package filter

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/coracle-dev/coracle/scheduler/model"
)

// Tolerates tells whether the tolerations tolerate the taint.
func Tolerates(tolerations []corev1.Toleration, taint *corev1.Taint) bool {
	return schedulinghelper.TolerationsTolerateTaint(klog.Logger{}, tolerations, taint, false)
}

var unschedulable = finally("node(s) were unschedulable")

type nodeUnschedulable struct{}

func (*nodeUnschedulable) Name() string { return "NodeUnschedulable" }

func (f *nodeUnschedulable) Prepare(pod *model.Pod, _ *model.Cluster) Scope {
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	return Scope{Skip: Tolerates(pod.Pod.Spec.Tolerations, &taint)}
}

func (f *nodeUnschedulable) Check(node *model.Node) *Rejection {
	if node.Node.Spec.Unschedulable {
		return unschedulable
	}
	return nil
}

func (*nodeUnschedulable) Helps(_ *model.Pod, e *Event) bool {
	switch e.Kind {
	case NodeAdded:
		return !e.Node.Spec.Unschedulable
	case NodeChanged:
		return e.OldNode.Spec.Unschedulable && !e.Node.Spec.Unschedulable
	}
	return false
}

var otherName = finally("node(s) didn't match the requested node name")

// nodeName matters to pods that name their node and wait all the same, as in the plans of tools; those of the API never queue.
type nodeName struct{ name string }

func (*nodeName) Name() string { return "NodeName" }

func (f *nodeName) Prepare(pod *model.Pod, _ *model.Cluster) Scope {
	f.name = pod.Pod.Spec.NodeName
	return Scope{Skip: f.name == ""}
}

func (f *nodeName) Check(node *model.Node) *Rejection {
	if node.Name != f.name {
		return otherName
	}
	return nil
}

func (*nodeName) Helps(pod *model.Pod, e *Event) bool {
	return e.Kind == NodeAdded && e.Node.Name == pod.Pod.Spec.NodeName
}

var untolerated = finally("node(s) had untolerated taint(s)")

type taintToleration struct{ tolerations []corev1.Toleration }

func (*taintToleration) Name() string { return "TaintToleration" }

func (f *taintToleration) Prepare(pod *model.Pod, _ *model.Cluster) Scope {
	f.tolerations = pod.Pod.Spec.Tolerations
	return Scope{}
}

func (f *taintToleration) Check(node *model.Node) *Rejection {
	if toleratesAll(f.tolerations, node.Node) {
		return nil
	}
	return untolerated
}

// toleratesAll tells whether none of the node's taints keeps a pod with these tolerations off.
func toleratesAll(tolerations []corev1.Toleration, node *corev1.Node) bool {
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect != corev1.TaintEffectPreferNoSchedule && !Tolerates(tolerations, taint) {
			return false
		}
	}
	return true
}

func (*taintToleration) Helps(pod *model.Pod, e *Event) bool {
	switch e.Kind {
	case NodeAdded:
		return toleratesAll(pod.Pod.Spec.Tolerations, e.Node)
	case NodeChanged:
		return toleratesAll(pod.Pod.Spec.Tolerations, e.Node) && !toleratesAll(pod.Pod.Spec.Tolerations, e.OldNode)
	}
	return false
}

var (
	otherNode     = finally("node(s) didn't match Pod's node affinity/selector")
	otherEnforced = finally("node(s) didn't match scheduler-enforced node affinity")
)

type nodeAffinity struct {
	required nodeaffinity.RequiredNodeAffinity
	// added is the profile's; nil where it has none.
	added *nodeaffinity.NodeSelector
	skip  bool // the pod itself asks for nothing
}

func newNodeAffinity(added *corev1.NodeAffinity) (Filter, error) {
	f := &nodeAffinity{}
	if added != nil && added.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		selector, err := nodeaffinity.NewNodeSelector(added.RequiredDuringSchedulingIgnoredDuringExecution)
		if err != nil {
			return nil, err
		}
		f.added = selector
	}
	return f, nil
}

func (*nodeAffinity) Name() string { return "NodeAffinity" }

func (f *nodeAffinity) Prepare(pod *model.Pod, _ *model.Cluster) Scope {
	f.skip = !AsksForNodes(pod.Pod)
	if f.skip {
		return Scope{Skip: f.added == nil}
	}
	f.required = nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
	return Scope{Only: namedNodes(pod.Pod)}
}

// AsksForNodes tells whether a pod has a node selector or required node affinity.
func AsksForNodes(pod *corev1.Pod) bool {
	a := pod.Spec.Affinity
	return len(pod.Spec.NodeSelector) > 0 || a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
}

// namedNodes are the nodes that a pod asks for by name, as those of a DaemonSet do; nil where any of its terms names none.
func namedNodes(pod *corev1.Pod) []string {
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	names := []string{}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		var named []string
		for _, r := range term.MatchFields {
			if r.Key == metav1.ObjectNameField && r.Operator == corev1.NodeSelectorOpIn {
				named = r.Values
			}
		}
		if named == nil {
			return nil
		}
		names = append(names, named...)
	}
	return names
}

func (f *nodeAffinity) Check(node *model.Node) *Rejection {
	if f.added != nil && !f.added.Match(node.Node) {
		return otherEnforced
	}
	if f.skip {
		return nil
	}
	// A term that cannot be parsed matches nothing, as validation let it pass only in matchFields.
	if match, _ := f.required.Match(node.Node); !match {
		return otherNode
	}
	return nil
}

func (f *nodeAffinity) Helps(pod *model.Pod, e *Event) bool {
	match := func(node *corev1.Node) bool {
		if f.added != nil && !f.added.Match(node) {
			return false
		}
		match, _ := nodeaffinity.GetRequiredNodeAffinity(pod.Pod).Match(node)
		return match
	}
	switch e.Kind {
	case NodeAdded:
		return match(e.Node)
	case NodeChanged:
		return match(e.Node) && !match(e.OldNode)
	}
	return false
}

var portTaken = because("node(s) didn't have free ports for the requested pod ports")

type nodePorts struct{ ports []model.HostPort }

func (*nodePorts) Name() string { return "NodePorts" }

func (f *nodePorts) Prepare(pod *model.Pod, _ *model.Cluster) Scope {
	f.ports = pod.HostPorts
	return Scope{Skip: len(f.ports) == 0}
}

func (f *nodePorts) Check(node *model.Node) *Rejection {
	for _, want := range f.ports {
		if slices.ContainsFunc(node.HostPorts, want.Conflicts) {
			return portTaken
		}
	}
	return nil
}

func (*nodePorts) Helps(pod *model.Pod, e *Event) bool {
	switch e.Kind {
	case NodeAdded:
		return true
	case PodGone:
		return slices.ContainsFunc(pod.HostPorts, func(want model.HostPort) bool { return slices.ContainsFunc(e.Pod.HostPorts, want.Conflicts) })
	}
	return false
}
