// Package filter decides where a pod may run. Each filter is prepared for one pod and then asked about nodes; its answer is nil
// or upstream's reason, so that "why is it pending" costs nothing. Pure.
package filter

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"github.com/coracle-dev/coracle/scheduler/model"
)

// Rejection is what keeps a pod off a node, in upstream's words. It is shared and never changed.
type Rejection struct {
	Reasons []string
	// Final: the pod would not fit either if other pods left this node.
	Final bool
}

func because(reasons ...string) *Rejection { return &Rejection{Reasons: reasons} }
func finally(reasons ...string) *Rejection { return &Rejection{Reasons: reasons, Final: true} }

// Scope is what a filter knows of a pod before it looks at single nodes.
type Scope struct {
	// Skip: the filter has nothing to say about this pod.
	Skip bool
	// Rejected, where set, keeps the pod off every node.
	Rejected *Rejection
	// Only, where not nil, are the names of the only nodes that can pass.
	Only []string
}

// Filter is one condition.
type Filter interface {
	// Name is upstream's name of the plug-in.
	Name() string
	// Prepare looks at the pod, and at the whole cluster where the condition spans nodes.
	Prepare(pod *model.Pod, cluster *model.Cluster) Scope
	// Check tells why the prepared pod cannot run on the node; nil where it can.
	Check(node *model.Node) *Rejection
	// Helps tells whether the event may make a pod fit that this filter has rejected. It needs no preparation.
	Helps(pod *model.Pod, event *Event) bool
}

// Kind is what has happened.
type Kind uint8

// The kinds of events.
const (
	// NodeAdded: a node came. Event.Node is set.
	NodeAdded Kind = iota
	// NodeChanged: labels, taints, allocatable or unschedulable of a node changed. Event.Node and OldNode are set.
	NodeChanged
	// PodPlaced: a pod was put on a node, or one on a node changed its labels. Event.Pod is set.
	PodPlaced
	// PodGone: a pod left its node, or asks for less there. Event.Pod is set.
	PodGone
	// NamespaceChanged: the labels of a namespace changed.
	NamespaceChanged
	// StorageChanged: a claim, volume, class, CSINode, CSIDriver or capacity changed. Event.Object is set.
	StorageChanged
)

// Event is a change that may make a rejected pod fit.
type Event struct {
	Kind          Kind
	Node, OldNode *corev1.Node
	Pod           *model.Pod
	// At is the node of the event as it is now; nil where it is not known.
	At     *model.Node
	Object any
}

// Args are the settings of the filters, from a profile. The zero value has upstream's defaults.
type Args struct {
	Fit          configv1.NodeResourcesFitArgs
	NodeAffinity configv1.NodeAffinityArgs
	Spread       configv1.PodTopologySpreadArgs
}

// Local are the filters that look at nothing but one node, in the order they are asked: cheap and decisive ones first. Pods of one
// class get the same answers from them.
var Local = []string{"NodeUnschedulable", "NodeName", "TaintToleration", "NodeAffinity", "NodePorts", "NodeResourcesFit"}

// Wide are the filters that look at the whole cluster, in the order they are asked, after the local ones.
var Wide = []string{"VolumeRestrictions", "NodeVolumeLimits", "VolumeBinding", "VolumeZone", "PodTopologySpread", "InterPodAffinity", "DynamicResources"}

// New makes the filter of a name.
func New(name string, args Args) (Filter, error) {
	switch name {
	case "NodeUnschedulable":
		return &nodeUnschedulable{}, nil
	case "NodeName":
		return &nodeName{}, nil
	case "TaintToleration":
		return &taintToleration{}, nil
	case "NodeAffinity":
		return newNodeAffinity(args.NodeAffinity.AddedAffinity)
	case "NodePorts":
		return &nodePorts{}, nil
	case "NodeResourcesFit":
		return newNodeResources(args.Fit), nil
	case "VolumeRestrictions":
		return &volumeRestrictions{}, nil
	case "NodeVolumeLimits":
		return &nodeVolumeLimits{}, nil
	case "VolumeBinding":
		return &volumeBinding{}, nil
	case "VolumeZone":
		return &volumeZone{}, nil
	case "PodTopologySpread":
		return newTopologySpread(args.Spread), nil
	case "InterPodAffinity":
		return &interPodAffinity{}, nil
	case "DynamicResources":
		return &devices{}, nil
	}
	return nil, fmt.Errorf("no filter is called %q", name)
}
