package score

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
)

// systemDefaults spread the pods of one set over nodes and zones where a profile says nothing else.
var systemDefaults = []corev1.TopologySpreadConstraint{
	{TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 3},
	{TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 5},
}

// spread prefers nodes in domains with few pods of the same set.
type spread struct {
	defaults []corev1.TopologySpreadConstraint
	// system: the defaults are the system's, and a node needs not have all labels.
	system      bool
	constraints []spreadState
	strict      bool
}

type spreadState struct {
	*model.Constraint
	topology *model.Topology
	counts   []int32       // by domain; nil for the hostname
	onNode   *model.Counts // for the hostname
	weight   float64
}

func newSpread(args configv1.PodTopologySpreadArgs) *spread {
	s := &spread{system: args.DefaultingType != configv1.ListDefaulting}
	if s.system {
		s.defaults = systemDefaults
		return s
	}
	for _, c := range args.DefaultConstraints {
		if c.WhenUnsatisfiable == corev1.ScheduleAnyway {
			s.defaults = append(s.defaults, c)
		}
	}
	return s
}

func (*spread) Name() string { return "PodTopologySpread" }

func (s *spread) Prepare(pod *model.Pod, cluster *model.Cluster, nodes []*model.Node) bool {
	constraints := pod.SoftSpread
	own := len(pod.Pod.Spec.TopologySpreadConstraints) > 0
	if !own {
		constraints = cluster.SpreadDefaults(pod, s.defaults)
	}
	s.constraints, s.strict = s.constraints[:0], own || !s.system
	if len(constraints) == 0 {
		return false
	}
	for _, c := range constraints {
		s.constraints = append(s.constraints, spreadState{Constraint: c, topology: cluster.Topology(c.TopologyKey)})
	}
	ignored := 0
	for _, node := range nodes {
		if s.ignored(node) {
			ignored++
		}
	}
	places := filter.NewPlaces(pod.Pod, cluster, constraints)
	for i := range s.constraints {
		c := &s.constraints[i]
		if c.TopologyKey == corev1.LabelHostname {
			c.onNode = cluster.Count(c.Pods)
			c.weight = weightOf(len(nodes) - ignored)
			continue
		}
		c.counts = s.count(c, places, cluster)
		c.weight = weightOf(s.domains(c, nodes))
	}
	return true
}

// weightOf makes up for that pods are spread thinner over many domains.
func weightOf(domains int) float64 { return math.Log(float64(domains + 2)) }

// ignored tells whether a node lacks a label and is therefore not ranked.
func (s *spread) ignored(node *model.Node) bool {
	if !s.strict {
		return false
	}
	for i := range s.constraints {
		if _, has := s.constraints[i].topology.Domain(node); !has {
			return true
		}
	}
	return false
}

// domains counts those of the feasible nodes that are ranked. Where labels may lack, being without is a domain, too.
func (s *spread) domains(c *spreadState, nodes []*model.Node) int {
	seen := make([]bool, len(c.topology.Nodes)+1)
	n := 0
	for _, node := range nodes {
		if s.ignored(node) {
			continue
		}
		if id, _ := c.topology.Domain(node); !seen[id+1] {
			seen[id+1] = true
			n++
		}
	}
	return n
}

// count is how many of the constraint's pods are in each domain.
func (s *spread) count(c *spreadState, places *filter.Places, cluster *model.Cluster) []int32 {
	if s.strict {
		counts, _ := places.Counts(c.Constraint)
		return counts
	}
	pods := cluster.Count(c.Pods)
	if !places.Restricted(c.Constraint) {
		return pods.In(c.topology)
	}
	counts := make([]int32, len(c.topology.Nodes))
	for _, node := range cluster.Nodes() {
		if id, has := c.topology.Domain(node); has && places.Included(c.Constraint, node) {
			counts[id] += int32(pods.On(node))
		}
	}
	return counts
}

// unranked marks nodes that lack a label until Normalize.
const unranked = -1

func (s *spread) Score(node *model.Node) int64 {
	if s.ignored(node) {
		return unranked
	}
	score := 0.0
	for i := range s.constraints {
		c := &s.constraints[i]
		id, has := c.topology.Domain(node)
		if !has {
			continue
		}
		count := 0
		switch {
		case c.onNode != nil:
			count = c.onNode.On(node)
		case int(id) < len(c.counts):
			count = int(c.counts[id])
		}
		score += float64(count)*c.weight + float64(c.MaxSkew-1)
	}
	return int64(math.Round(score))
}

func (s *spread) Normalize(scores []int64) {
	least, most := int64(math.MaxInt64), int64(0)
	for _, v := range scores {
		if v != unranked {
			least, most = min(least, v), max(most, v)
		}
	}
	for i, v := range scores {
		switch {
		case v == unranked:
			scores[i] = 0
		case most == 0:
			scores[i] = Max
		default:
			scores[i] = Max * (most + least - v) / most
		}
	}
}
