// Package filter decides where a pod may run. Each filter is prepared for one pod and then asked about
// nodes; its answer is empty or upstream's reason, so that "why is it pending" costs nothing. Pure.
package filter

import (
	"github.com/coracle-dev/coracle/scheduler/model"
)

// Event is a kind of change that can make a rejected pod fit.
type Event uint8

// The events, as bits.
const (
	// NodeChanged: a node came, or its labels, taints, allocatable or unschedulable changed.
	NodeChanged Event = 1 << iota
	// PodGone: a pod left a node, or asks for less.
	PodGone
	// PodPlaced: a pod was put on a node, or its labels changed.
	PodPlaced
)

// Filter is one condition. Check gives reasons in upstream's words, none where the node passes.
type Filter interface {
	Name() string
	// Prepare looks at the pod, and at the whole cluster where the condition spans nodes. It is false
	// where the filter has nothing to say about this pod.
	Prepare(pod *model.Pod, cluster *model.Cluster) bool
	Check(node *model.Node) []string
	// WokenBy are the events after which a pod that this filter rejected may fit.
	WokenBy() Event
}

// All makes a fresh set of the filters, in the order they are asked: cheap and decisive ones first.
func All() []Filter {
	return []Filter{
		&nodeUnschedulable{},
		&nodeName{},
		&taintToleration{},
		&nodeAffinity{},
		&nodePorts{},
		&nodeResources{},
		&topologySpread{},
		&interPodAffinity{},
	}
}

// Rejection is what kept a pod off a node: the filter and its reasons.
type Rejection struct {
	Node    string
	Filter  Filter
	Reasons []string
}

// Pipeline runs the filters for one pod at a time.
type Pipeline struct {
	all    []Filter
	active []Filter
}

// NewPipeline has all filters.
func NewPipeline() *Pipeline { return &Pipeline{all: All()} }

// Prepare readies the filters that have something to say about the pod.
func (p *Pipeline) Prepare(pod *model.Pod, cluster *model.Cluster) {
	p.active = p.active[:0]
	for _, f := range p.all {
		if f.Prepare(pod, cluster) {
			p.active = append(p.active, f)
		}
	}
}

// Check asks about one node; nil where it passes. The first filter to reject decides, as upstream's does.
func (p *Pipeline) Check(node *model.Node) (Filter, []string) {
	for _, f := range p.active {
		if reasons := f.Check(node); len(reasons) > 0 {
			return f, reasons
		}
	}
	return nil, nil
}
