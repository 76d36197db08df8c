package score

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
)

// taints prefers nodes with few PreferNoSchedule taints that the pod does not tolerate.
type taints struct{ tolerations []corev1.Toleration }

func (*taints) Name() string { return "TaintToleration" }

func (s *taints) Prepare(pod *model.Pod, _ *model.Cluster, _ []*model.Node) bool {
	s.tolerations = pod.Pod.Spec.Tolerations
	return true
}

func (s *taints) Score(node *model.Node) int64 {
	var count int64
	for i := range node.Node.Spec.Taints {
		taint := &node.Node.Spec.Taints[i]
		if taint.Effect == corev1.TaintEffectPreferNoSchedule && !filter.Tolerates(s.tolerations, taint) {
			count++
		}
	}
	return count
}

func (*taints) Normalize(scores []int64) { scale(scores, true) }

// nodeAffinity prefers nodes by the pod's preferred terms, and by the profile's.
type nodeAffinity struct {
	added *nodeaffinity.PreferredSchedulingTerms
	terms *nodeaffinity.PreferredSchedulingTerms
}

func newNodeAffinity(added *corev1.NodeAffinity) (Scorer, error) {
	s := &nodeAffinity{}
	if added != nil && len(added.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		terms, err := nodeaffinity.NewPreferredSchedulingTerms(added.PreferredDuringSchedulingIgnoredDuringExecution)
		if err != nil {
			return nil, err
		}
		s.added = terms
	}
	return s, nil
}

func (*nodeAffinity) Name() string { return "NodeAffinity" }

func (s *nodeAffinity) Prepare(pod *model.Pod, _ *model.Cluster, _ []*model.Node) bool {
	s.terms = nil
	if a := pod.Pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		// Validation lets no term in that cannot be parsed.
		s.terms, _ = nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return s.terms != nil || s.added != nil
}

func (s *nodeAffinity) Score(node *model.Node) int64 {
	var sum int64
	for _, terms := range [...]*nodeaffinity.PreferredSchedulingTerms{s.added, s.terms} {
		if terms != nil {
			sum += terms.Score(node.Node)
		}
	}
	return sum
}

func (*nodeAffinity) Normalize(scores []int64) { scale(scores, false) }

// Between these sizes in bytes, what a node has of the pod's images counts in proportion.
const (
	leastImage = 23 << 20
	mostImage  = 1000 << 20
)

// images prefers nodes that have the pod's images, the more so the more nodes have them, lest a few nodes draw all pods.
type images struct {
	asIs
	cluster *model.Cluster
	names   []string
}

func (*images) Name() string { return "ImageLocality" }

func (s *images) Prepare(pod *model.Pod, cluster *model.Cluster, _ []*model.Node) bool {
	if !cluster.HasImages() {
		return false
	}
	s.cluster, s.names = cluster, s.names[:0]
	spec := &pod.Pod.Spec
	for i := range spec.InitContainers {
		s.names = append(s.names, spec.InitContainers[i].Image)
	}
	for i := range spec.Containers {
		s.names = append(s.names, spec.Containers[i].Image)
	}
	for i := range spec.Volumes {
		if image := spec.Volumes[i].Image; image != nil {
			s.names = append(s.names, image.Reference)
		}
	}
	return true
}

func (s *images) Score(node *model.Node) int64 {
	var sum int64
	for _, name := range s.names {
		size, spread := s.cluster.Image(node, name)
		sum += int64(float64(size) * spread)
	}
	most := int64(mostImage) * int64(len(s.names))
	sum = min(max(sum, leastImage), most)
	return Max * (sum - leastImage) / (most - leastImage)
}
