package filter

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"github.com/coracle-dev/coracle/scheduler/model"
)

var (
	unlabelled = finally("node(s) didn't match pod topology spread constraints (missing required label)")
	skewed     = because("node(s) didn't match pod topology spread constraints")
)

// topologySpread keeps constraints with whenUnsatisfiable DoNotSchedule.
type topologySpread struct {
	defaults    []corev1.TopologySpreadConstraint
	constraints []spreadState
}

// spreadState is one constraint and how the pods it counts are spread now.
type spreadState struct {
	*model.Constraint
	topology *model.Topology
	counts   []int32 // by domain
	min      int
}

func newTopologySpread(args configv1.PodTopologySpreadArgs) *topologySpread {
	f := &topologySpread{}
	for _, c := range args.DefaultConstraints {
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			f.defaults = append(f.defaults, c)
		}
	}
	return f
}

func (*topologySpread) Name() string { return "PodTopologySpread" }

func (f *topologySpread) Prepare(pod *model.Pod, cluster *model.Cluster) Scope {
	constraints := pod.Spread
	if len(pod.Pod.Spec.TopologySpreadConstraints) == 0 {
		constraints = cluster.SpreadDefaults(pod, f.defaults)
	}
	f.constraints = f.constraints[:0]
	if len(constraints) == 0 {
		return Scope{Skip: true}
	}
	places := NewPlaces(pod.Pod, cluster, constraints)
	for _, c := range constraints {
		s := spreadState{Constraint: c, topology: cluster.Topology(c.TopologyKey)}
		var exists func(domain int) bool
		s.counts, exists = places.Counts(c)
		s.min = leastOf(s.counts, exists, len(s.topology.Nodes), c.MinDomains)
		f.constraints = append(f.constraints, s)
	}
	return Scope{}
}

// leastOf is the least count of the domains that exist; zero where those are fewer than minDomains.
func leastOf(counts []int32, exists func(int) bool, domains, minDomains int) int {
	least, number := math.MaxInt, 0
	for id := range domains {
		if !exists(id) {
			continue
		}
		number++
		count := 0
		if id < len(counts) {
			count = int(counts[id])
		}
		least = min(least, count)
	}
	if number < minDomains {
		return 0
	}
	return least
}

func (f *topologySpread) Check(node *model.Node) *Rejection {
	for i := range f.constraints {
		s := &f.constraints[i]
		id, has := s.topology.Domain(node)
		if !has {
			return unlabelled
		}
		count := 0
		if int(id) < len(s.counts) {
			count = int(s.counts[id])
		}
		if s.Self {
			count++
		}
		if count-s.min > s.MaxSkew {
			return skewed
		}
	}
	return nil
}

func (f *topologySpread) Helps(pod *model.Pod, e *Event) bool {
	switch e.Kind {
	case NodeAdded, NamespaceChanged:
		return true
	case NodeChanged:
		for _, c := range pod.Spread {
			if e.OldNode.Labels[c.TopologyKey] != e.Node.Labels[c.TopologyKey] || c.HonorTaints {
				return true
			}
		}
		return AsksForNodes(pod.Pod) || len(f.defaults) > 0
	case PodPlaced, PodGone:
		return e.Pod.Pod.Namespace == pod.Pod.Namespace && (len(f.defaults) > 0 || spreadCounts(pod, e.Pod))
	}
	return false
}

func spreadCounts(pod, other *model.Pod) bool {
	for _, c := range pod.Spread {
		if c.Counts(other) {
			return true
		}
	}
	return false
}

// Places tells which nodes count for the spread constraints of a pod.
type Places struct {
	pod      *corev1.Pod
	cluster  *model.Cluster
	keys     []*model.Topology
	required nodeaffinity.RequiredNodeAffinity
	asks     bool
}

// NewPlaces is about constraints that are looked at together: only nodes with the labels of all of them count.
func NewPlaces(pod *corev1.Pod, cluster *model.Cluster, constraints []*model.Constraint) *Places {
	p := &Places{pod: pod, cluster: cluster, asks: AsksForNodes(pod)}
	if p.asks {
		p.required = nodeaffinity.GetRequiredNodeAffinity(pod)
	}
	for _, c := range constraints {
		p.keys = append(p.keys, cluster.Topology(c.TopologyKey))
	}
	return p
}

// Counts gives how many of the constraint's pods are in each domain on nodes that count, and which domains exist.
func (p *Places) Counts(c *model.Constraint) (counts []int32, exists func(domain int) bool) {
	topology, pods := p.cluster.Topology(c.TopologyKey), p.cluster.Count(c.Pods)
	if p.allCount(c) {
		return pods.In(topology), func(id int) bool { return topology.Nodes[id] > 0 }
	}
	counts = make([]int32, len(topology.Nodes))
	there := make([]bool, len(topology.Nodes))
	for _, node := range p.cluster.Nodes() {
		if !p.Eligible(c, node) {
			continue
		}
		id, _ := topology.Domain(node)
		counts[id] += int32(pods.On(node))
		there[id] = true
	}
	return counts, func(id int) bool { return there[id] }
}

// allCount tells whether every known node with the constraint's label counts.
func (p *Places) allCount(c *model.Constraint) bool {
	if p.Restricted(c) {
		return false
	}
	for _, t := range p.keys {
		if t.Key != c.TopologyKey && t.Lacking > 0 {
			return false
		}
	}
	return true
}

// Eligible tells whether a node counts for the constraint.
func (p *Places) Eligible(c *model.Constraint, node *model.Node) bool {
	for _, t := range p.keys {
		if _, has := t.Domain(node); !has {
			return false
		}
	}
	return p.Included(c, node)
}

// Included is Eligible without asking for labels.
func (p *Places) Included(c *model.Constraint, node *model.Node) bool {
	if p.asks && !c.IgnoreAffinity {
		if match, _ := p.required.Match(node.Node); !match {
			return false
		}
	}
	return !c.HonorTaints || toleratesAll(p.pod.Spec.Tolerations, node.Node)
}

// Restricted tells whether the constraint leaves out nodes for what the pod asks of nodes, or for taints.
func (p *Places) Restricted(c *model.Constraint) bool {
	return c.HonorTaints || p.asks && !c.IgnoreAffinity
}
