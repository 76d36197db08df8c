package score

import (
	"fmt"
	"math"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"github.com/coracle-dev/coracle/scheduler/model"
)

// cpuAndMemory is what counts where a profile names no resources.
var cpuAndMemory = []configv1.ResourceSpec{{Name: string(corev1.ResourceCPU), Weight: 1}, {Name: string(corev1.ResourceMemory), Weight: 1}}

// fit prefers nodes by how much of them is used.
type fit struct {
	asIs
	resources []configv1.ResourceSpec
	// rate judges one resource of a node by what would be used and what there is.
	rate func(used, have int64) int64
	// skipZero: resources that rate as nothing do not count, as upstream has it for ratios.
	skipZero bool
	pod      *model.Pod
}

func newFit(strategy *configv1.ScoringStrategy) (Scorer, error) {
	s := &fit{resources: cpuAndMemory, rate: leastAllocated}
	if strategy == nil {
		return s, nil
	}
	if len(strategy.Resources) > 0 {
		s.resources = strategy.Resources
	}
	switch strategy.Type {
	case "", configv1.LeastAllocated:
	case configv1.MostAllocated:
		s.rate = mostAllocated
	case configv1.RequestedToCapacityRatio:
		if strategy.RequestedToCapacityRatio == nil {
			return nil, fmt.Errorf("scoringStrategy.requestedToCapacityRatio: required where type is %s", strategy.Type)
		}
		s.rate, s.skipZero = ratio(strategy.RequestedToCapacityRatio.Shape), true
	default:
		return nil, fmt.Errorf("scoringStrategy.type: unsupported value %q", strategy.Type)
	}
	return s, nil
}

func (*fit) Name() string { return "NodeResourcesFit" }

func (s *fit) Prepare(pod *model.Pod, _ *model.Cluster, _ []*model.Node) bool {
	s.pod = pod
	return true
}

func (s *fit) Score(node *model.Node) int64 {
	var sum, weights int64
	for i := range s.resources {
		name := corev1.ResourceName(s.resources[i].Name)
		wanted := s.pod.Assumed.Get(name)
		if wanted == 0 && scalar(name) {
			continue // an extended resource that the pod does not ask for says nothing
		}
		have := node.Allocatable.Get(name)
		if have == 0 {
			continue
		}
		rated := s.rate(node.Assumed.Get(name)+wanted, have)
		if s.skipZero && rated == 0 {
			continue
		}
		sum += rated * s.resources[i].Weight
		weights += s.resources[i].Weight
	}
	if weights == 0 {
		return 0
	}
	if s.skipZero {
		return int64(math.Round(float64(sum) / float64(weights)))
	}
	return sum / weights
}

func scalar(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return false
	}
	return true
}

func leastAllocated(used, have int64) int64 {
	if used > have {
		return 0
	}
	return (have - used) * Max / have
}

func mostAllocated(used, have int64) int64 {
	return min(used, have) * Max / have
}

// ratio rates by a line through the shape's points, whose scores are 0..10.
func ratio(shape []configv1.UtilizationShapePoint) func(used, have int64) int64 {
	return func(used, have int64) int64 {
		percent := int64(100)
		if used <= have {
			percent = used * 100 / have
		}
		return broken(shape, percent)
	}
}

func broken(shape []configv1.UtilizationShapePoint, at int64) int64 {
	for i := range shape {
		if at > int64(shape[i].Utilization) {
			continue
		}
		if i == 0 {
			return scaled(shape[0])
		}
		x0, y0 := int64(shape[i-1].Utilization), scaled(shape[i-1])
		x1, y1 := int64(shape[i].Utilization), scaled(shape[i])
		return y0 + (y1-y0)*(at-x0)/(x1-x0)
	}
	return scaled(shape[len(shape)-1])
}

// scaled is a point's score, 0..10, in our terms.
func scaled(p configv1.UtilizationShapePoint) int64 { return int64(p.Score) * (Max / 10) }

// balanced prefers nodes whose resources would be used in like parts.
type balanced struct {
	asIs
	resources []configv1.ResourceSpec
	pod       *model.Pod
}

func newBalanced(resources []configv1.ResourceSpec) *balanced {
	if len(resources) == 0 {
		resources = cpuAndMemory
	}
	return &balanced{resources: resources}
}

func (*balanced) Name() string { return "NodeResourcesBalancedAllocation" }

// Prepare is false for pods that ask for nothing: balance would draw them all to one node.
func (s *balanced) Prepare(pod *model.Pod, _ *model.Cluster, _ []*model.Node) bool {
	s.pod = pod
	for i := range s.resources {
		if pod.Requests.Get(corev1.ResourceName(s.resources[i].Name)) != 0 {
			return true
		}
	}
	return false
}

func (s *balanced) Score(node *model.Node) int64 {
	var parts [8]float64
	used := parts[:0]
	sum := 0.0
	for i := range s.resources {
		name := corev1.ResourceName(s.resources[i].Name)
		wanted := s.pod.Requests.Get(name)
		have := node.Allocatable.Get(name)
		if have == 0 || wanted == 0 && scalar(name) {
			continue
		}
		part := min(1, float64(node.Requested.Get(name)+wanted)/float64(have))
		used = append(used, part)
		sum += part
	}
	return int64((1 - deviation(used, sum)) * Max)
}

// deviation is the standard deviation of parts whose sum is given.
func deviation(parts []float64, sum float64) float64 {
	switch len(parts) {
	case 0, 1:
		return 0
	case 2:
		return math.Abs(parts[0]-parts[1]) / 2
	}
	mean, squares := sum/float64(len(parts)), 0.0
	for _, part := range parts {
		squares += (part - mean) * (part - mean)
	}
	return math.Sqrt(squares / float64(len(parts)))
}
