// Package score ranks the nodes a pod may run on, each score 0 to 100 times its weight, as upstream's plug-ins of the same names do. Pure.
package score

import (
	"fmt"

	configv1 "k8s.io/kube-scheduler/config/v1"

	"github.com/coracle-dev/coracle/scheduler/model"
)

// Max is the best that a node can get from one scorer, before its weight.
const Max = 100

// Scorer prefers some of the feasible nodes.
type Scorer interface {
	// Name is upstream's name of the plug-in.
	Name() string
	// Prepare looks at the pod and the feasible nodes. It is false where the scorer has nothing to say.
	Prepare(pod *model.Pod, cluster *model.Cluster, nodes []*model.Node) bool
	// Score is how much the node is preferred before Normalize.
	Score(node *model.Node) int64
	// Normalize brings the scores of all feasible nodes to 0..Max.
	Normalize(scores []int64)
}

// Args are the settings of the scorers, from a profile. The zero value has upstream's defaults.
type Args struct {
	Fit          configv1.NodeResourcesFitArgs
	Balanced     configv1.NodeResourcesBalancedAllocationArgs
	NodeAffinity configv1.NodeAffinityArgs
	InterPod     configv1.InterPodAffinityArgs
	Spread       configv1.PodTopologySpreadArgs
}

// Local are the scorers whose Score looks at nothing but one node, and at the cluster's images.
var Local = []string{"TaintToleration", "NodeAffinity", "NodeResourcesFit", "NodeResourcesBalancedAllocation", "ImageLocality"}

// Wide are the scorers that look at the whole cluster.
var Wide = []string{"PodTopologySpread", "InterPodAffinity"}

// Weights are upstream's defaults.
func Weights() map[string]int64 {
	return map[string]int64{
		"TaintToleration": 3, "NodeAffinity": 2, "PodTopologySpread": 2, "InterPodAffinity": 2, "NodeResourcesFit": 1,
		"NodeResourcesBalancedAllocation": 1, "ImageLocality": 1,
	}
}

// New makes the scorer of a name.
func New(name string, args Args) (Scorer, error) {
	switch name {
	case "TaintToleration":
		return &taints{}, nil
	case "NodeAffinity":
		return newNodeAffinity(args.NodeAffinity.AddedAffinity)
	case "NodeResourcesFit":
		return newFit(args.Fit.ScoringStrategy)
	case "NodeResourcesBalancedAllocation":
		return newBalanced(args.Balanced.Resources), nil
	case "ImageLocality":
		return &images{}, nil
	case "PodTopologySpread":
		return newSpread(args.Spread), nil
	case "InterPodAffinity":
		return newInterPod(args.InterPod), nil
	}
	return nil, fmt.Errorf("no scorer is called %q", name)
}

// asIs is for scorers whose scores are 0..Max already.
type asIs struct{}

func (asIs) Normalize([]int64) {}

// scale brings scores to 0..Max by the greatest; reverse makes the least the best.
func scale(scores []int64, reverse bool) {
	var most int64
	for _, v := range scores {
		most = max(most, v)
	}
	for i, v := range scores {
		scaled := int64(0)
		if most > 0 {
			scaled = v * Max / most
		}
		if reverse {
			scaled = Max - scaled
		}
		scores[i] = scaled
	}
}
