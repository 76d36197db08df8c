// Package score ranks the nodes a pod may run on. Every score is 0 to 100 times its weight; pure.
package score

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
)

// maxScore is the best a node can get from one scorer, before its weight.
const maxScore = 100

// The weights; those that upstream has too are upstream's defaults.
const (
	weightLeastAllocated = 1
	weightBalanced       = 1
	weightOwnerSpread    = 2
	weightAffinity       = 2
	weightTaints         = 3
)

// Scores holds the buffers of a run, so that scoring allocates nothing.
type Scores struct {
	total, part []int64
}

// Rank gives each of nodes its total for the pod. The result is valid until the next call.
func (s *Scores) Rank(pod *model.Pod, nodes []*model.Node) []int64 {
	s.total = resize(s.total, len(nodes))
	s.part = resize(s.part, len(nodes))
	for i, node := range nodes {
		s.total[i] = weightLeastAllocated*leastAllocated(pod, node) + weightBalanced*balanced(pod, node)
	}
	s.addOwnerSpread(pod, nodes)
	s.addNodeAffinity(pod, nodes)
	s.addTaints(pod, nodes)
	return s.total
}

func resize(s []int64, n int) []int64 {
	if cap(s) < n {
		return make([]int64, n)
	}
	s = s[:n]
	clear(s)
	return s
}

// leastAllocated prefers nodes with much left, averaged over CPU and memory.
func leastAllocated(pod *model.Pod, node *model.Node) int64 {
	free := func(want, used, have int64) int64 {
		if have <= 0 || want+used > have {
			return 0
		}
		return (have - used - want) * maxScore / have
	}
	return (free(pod.Assumed.MilliCPU, node.Assumed.MilliCPU, node.Allocatable.MilliCPU) +
		free(pod.Assumed.Memory, node.Assumed.Memory, node.Allocatable.Memory)) / 2
}

// balanced prefers nodes whose CPU and memory would be used in like parts.
func balanced(pod *model.Pod, node *model.Node) int64 {
	part := func(want, used, have int64) float64 {
		if have <= 0 {
			return 1
		}
		return min(1, float64(want+used)/float64(have))
	}
	cpu := part(pod.Assumed.MilliCPU, node.Assumed.MilliCPU, node.Allocatable.MilliCPU)
	memory := part(pod.Assumed.Memory, node.Assumed.Memory, node.Allocatable.Memory)
	return int64((1 - math.Abs(cpu-memory)/2) * maxScore)
}

// addOwnerSpread prefers nodes with few pods of the same owner.
func (s *Scores) addOwnerSpread(pod *model.Pod, nodes []*model.Node) {
	if pod.Owner == "" {
		return
	}
	most := 0
	for _, node := range nodes {
		most = max(most, node.Owners[pod.Owner])
	}
	if most == 0 {
		return
	}
	for i, node := range nodes {
		s.total[i] += weightOwnerSpread * maxScore * int64(most-node.Owners[pod.Owner]) / int64(most)
	}
}

func (s *Scores) addNodeAffinity(pod *model.Pod, nodes []*model.Node) {
	a := pod.Pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return // validation admits no such terms
	}
	for i, node := range nodes {
		s.part[i] = terms.Score(node.Node)
	}
	s.addNormalised(weightAffinity, false)
}

func (s *Scores) addTaints(pod *model.Pod, nodes []*model.Node) {
	for i, node := range nodes {
		s.part[i] = 0
		for t := range node.Node.Spec.Taints {
			taint := &node.Node.Spec.Taints[t]
			if taint.Effect == corev1.TaintEffectPreferNoSchedule && !filter.Tolerates(pod.Pod.Spec.Tolerations, taint) {
				s.part[i]++
			}
		}
	}
	s.addNormalised(weightTaints, true)
}

// addNormalised adds part scaled to 0..maxScore; reverse makes the least the best.
func (s *Scores) addNormalised(weight int64, reverse bool) {
	var most int64
	for _, v := range s.part {
		most = max(most, v)
	}
	if most == 0 {
		return
	}
	for i, v := range s.part {
		scaled := v * maxScore / most
		if reverse {
			scaled = maxScore - scaled
		}
		s.total[i] += weight * scaled
	}
}
