package model

import (
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	corev1 "k8s.io/api/core/v1"
)

// Constraint is a topology spread constraint of a pod.
type Constraint struct {
	TopologyKey string
	MaxSkew     int
	MinDomains  int // 1 where not given
	// Pods are those that are counted; Self tells whether the pod is one of them.
	Pods *Selection
	Self bool
	// IgnoreAffinity and HonorTaints say which nodes' domains count.
	IgnoreAffinity, HonorTaints bool
}

func newConstraint(c *corev1.TopologySpreadConstraint, pod *corev1.Pod) *Constraint {
	selector := require(selectorOf(c.LabelSelector), selection.In, c.MatchLabelKeys, pod.Labels)
	return &Constraint{
		TopologyKey: c.TopologyKey, MaxSkew: int(c.MaxSkew), MinDomains: minDomains(c.MinDomains),
		Pods: livingIn(pod.Namespace, selector), Self: selector.Matches(labels.Set(pod.Labels)),
		IgnoreAffinity: c.NodeAffinityPolicy != nil && *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyIgnore,
		HonorTaints:    c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
	}
}

// Counts tells whether a change of the other pod may change the counts.
func (c *Constraint) Counts(other *Pod) bool { return c.Pods.MayMatch(other) }

func minDomains(given *int32) int {
	if given == nil {
		return 1
	}
	return int(*given)
}

// SpreadDefaults makes constraints of a profile's defaults for a pod that has none: they count the pods of its owner, or of the
// services that select it; none where there is neither.
func (c *Cluster) SpreadDefaults(p *Pod, defaults []corev1.TopologySpreadConstraint) []*Constraint {
	if len(defaults) == 0 {
		return nil
	}
	pods := c.siblings(p)
	if pods == nil {
		return nil
	}
	made := make([]*Constraint, len(defaults))
	for i := range defaults {
		made[i] = newConstraint(&defaults[i], p.Pod)
		made[i].Pods, made[i].Self = pods, pods.Matches(p, c)
	}
	return made
}

// siblings selects the pods that a pod is one of a set with; nil where it is alone.
func (c *Cluster) siblings(p *Pod) *Selection {
	if p.Owner != "" {
		return ownedBy(p.Owner)
	}
	all := labels.Set{}
	for _, s := range c.services {
		if s.Namespace == p.Pod.Namespace && labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(p.Pod.Labels)) {
			for k, v := range s.Spec.Selector {
				all[k] = v
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	return livingIn(p.Pod.Namespace, labels.SelectorFromSet(all))
}
