package filter

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/coracle-dev/coracle/scheduler/model"
)

// topologySpread keeps whenUnsatisfiable=DoNotSchedule constraints.
type topologySpread struct {
	constraints []spreadConstraint
	pod         *corev1.Pod
}

type spreadConstraint struct {
	key      string
	maxSkew  int
	self     int            // 1 where the pod matches its own selector
	counts   map[string]int // matching pods by domain, over eligible nodes
	min      int
	selector labels.Selector
}

func (*topologySpread) Name() string   { return "PodTopologySpread" }
func (*topologySpread) WokenBy() Event { return NodeChanged | PodGone | PodPlaced }

func (f *topologySpread) Prepare(pod *model.Pod, cluster *model.Cluster) bool {
	f.constraints, f.pod = f.constraints[:0], pod.Pod
	for i := range pod.Pod.Spec.TopologySpreadConstraints {
		c := &pod.Pod.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			f.constraints = append(f.constraints, newSpreadConstraint(c, pod.Pod, cluster))
		}
	}
	return len(f.constraints) > 0
}

func newSpreadConstraint(c *corev1.TopologySpreadConstraint, pod *corev1.Pod, cluster *model.Cluster) spreadConstraint {
	selector := spreadSelector(c, pod)
	s := spreadConstraint{key: c.TopologyKey, maxSkew: int(c.MaxSkew), counts: map[string]int{}, selector: selector}
	if selector.Matches(labels.Set(pod.Labels)) {
		s.self = 1
	}
	for _, node := range cluster.Nodes() {
		domain, has := node.Node.Labels[c.TopologyKey]
		if !has || !eligible(c, pod, node) {
			continue
		}
		s.counts[domain] += countMatching(node, pod.Namespace, selector)
	}
	s.min = math.MaxInt
	for _, n := range s.counts {
		s.min = min(s.min, n)
	}
	if c.MinDomains != nil && len(s.counts) < int(*c.MinDomains) {
		s.min = 0
	}
	return s
}

// spreadSelector is the constraint's selector with the pod's own values of matchLabelKeys.
func spreadSelector(c *corev1.TopologySpreadConstraint, pod *corev1.Pod) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
	if err != nil {
		return labels.Nothing()
	}
	for _, key := range c.MatchLabelKeys {
		if value, has := pod.Labels[key]; has {
			if r, err := labels.NewRequirement(key, "in", []string{value}); err == nil {
				selector = selector.Add(*r)
			}
		}
	}
	return selector
}

// eligible tells whether a node's domain counts, by the constraint's node inclusion policies.
func eligible(c *corev1.TopologySpreadConstraint, pod *corev1.Pod, node *model.Node) bool {
	if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor {
		if match, _ := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node.Node); !match {
			return false
		}
	}
	if c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor {
		taints := taintToleration{tolerations: pod.Spec.Tolerations}
		return len(taints.Check(node)) == 0
	}
	return true
}

func countMatching(node *model.Node, namespace string, selector labels.Selector) int {
	n := 0
	for _, p := range node.Pods {
		if p.Pod.Namespace == namespace && p.Pod.DeletionTimestamp == nil && selector.Matches(labels.Set(p.Pod.Labels)) {
			n++
		}
	}
	return n
}

func (f *topologySpread) Check(node *model.Node) []string {
	for i := range f.constraints {
		c := &f.constraints[i]
		domain, has := node.Node.Labels[c.key]
		if !has {
			return []string{"node(s) didn't match pod topology spread constraints (missing required label)"}
		}
		if c.counts[domain]+c.self-c.min > c.maxSkew {
			return []string{"node(s) didn't match pod topology spread constraints"}
		}
	}
	return nil
}

// interPodAffinity keeps required pod affinity and anti-affinity, the pod's own and that of pods in place.
type interPodAffinity struct {
	affinity     []affinityTerm
	antiAffinity []affinityTerm
	// forbidden holds topology key=value pairs in which a placed pod refuses this one.
	forbidden map[[2]string]bool
	// lonely: no pod matches any affinity term, but the pod matches its own, so it may be the first.
	lonely bool
}

type affinityTerm struct {
	key     string
	domains map[string]bool
}

func (*interPodAffinity) Name() string   { return "InterPodAffinity" }
func (*interPodAffinity) WokenBy() Event { return NodeChanged | PodGone | PodPlaced }

func (f *interPodAffinity) Prepare(pod *model.Pod, cluster *model.Cluster) bool {
	*f = interPodAffinity{forbidden: map[[2]string]bool{}}
	if a := pod.Pod.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			terms := a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
			f.affinity = placeTerms(terms, pod.Pod, cluster)
			f.lonely = noneMatched(f.affinity) && matchesAll(terms, pod.Pod)
		}
		if a.PodAntiAffinity != nil {
			f.antiAffinity = placeTerms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, pod.Pod, cluster)
		}
	}
	for _, node := range cluster.Nodes() {
		if node.AntiAffine > 0 {
			f.forbid(pod.Pod, node)
		}
	}
	return len(f.affinity) > 0 || len(f.antiAffinity) > 0 || len(f.forbidden) > 0
}

// forbid notes the domains in which pods of this node refuse the incoming pod.
func (f *interPodAffinity) forbid(pod *corev1.Pod, node *model.Node) {
	for _, placed := range node.Pods {
		a := placed.Pod.Spec.Affinity
		if a == nil || a.PodAntiAffinity == nil {
			continue
		}
		for i := range a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			term := &a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i]
			if value, has := node.Node.Labels[term.TopologyKey]; has && termMatches(term, placed.Pod, pod) {
				f.forbidden[[2]string{term.TopologyKey, value}] = true
			}
		}
	}
}

func placeTerms(terms []corev1.PodAffinityTerm, pod *corev1.Pod, cluster *model.Cluster) []affinityTerm {
	placed := make([]affinityTerm, len(terms))
	for i := range terms {
		placed[i] = affinityTerm{key: terms[i].TopologyKey, domains: map[string]bool{}}
		for _, node := range cluster.Nodes() {
			value, has := node.Node.Labels[terms[i].TopologyKey]
			if !has || placed[i].domains[value] {
				continue
			}
			for _, other := range node.Pods {
				if termMatches(&terms[i], pod, other.Pod) {
					placed[i].domains[value] = true
					break
				}
			}
		}
	}
	return placed
}

// termMatches tells whether target is one that owner's term speaks of. A namespaceSelector is taken as "all namespaces" when
// empty; others need namespace labels, which the scheduler asks for through Namespaces.
func termMatches(term *corev1.PodAffinityTerm, owner, target *corev1.Pod) bool {
	if !termNamespace(term, owner, target.Namespace) {
		return false
	}
	selector, err := metav1.LabelSelectorAsSelector(term.LabelSelector)
	if err != nil {
		return false
	}
	for _, key := range term.MatchLabelKeys {
		if value, has := owner.Labels[key]; has && target.Labels[key] != value {
			return false
		}
	}
	for _, key := range term.MismatchLabelKeys {
		if value, has := owner.Labels[key]; has && target.Labels[key] == value {
			return false
		}
	}
	return selector.Matches(labels.Set(target.Labels))
}

func termNamespace(term *corev1.PodAffinityTerm, owner *corev1.Pod, namespace string) bool {
	if term.NamespaceSelector != nil && len(term.NamespaceSelector.MatchLabels) == 0 && len(term.NamespaceSelector.MatchExpressions) == 0 {
		return true
	}
	if len(term.Namespaces) == 0 && term.NamespaceSelector == nil {
		return namespace == owner.Namespace
	}
	if slices.Contains(term.Namespaces, namespace) {
		return true
	}
	if term.NamespaceSelector == nil {
		return false
	}
	selector, err := metav1.LabelSelectorAsSelector(term.NamespaceSelector)
	return err == nil && selector.Matches(labels.Set{corev1.LabelMetadataName: namespace})
}

func noneMatched(terms []affinityTerm) bool {
	return !slices.ContainsFunc(terms, func(t affinityTerm) bool { return len(t.domains) > 0 })
}

func matchesAll(terms []corev1.PodAffinityTerm, pod *corev1.Pod) bool {
	for i := range terms {
		if !termMatches(&terms[i], pod, pod) {
			return false
		}
	}
	return true
}

func (f *interPodAffinity) Check(node *model.Node) []string {
	for _, term := range f.affinity {
		value, has := node.Node.Labels[term.key]
		if !has || (!term.domains[value] && !f.lonely) {
			return []string{"node(s) didn't match pod affinity rules"}
		}
	}
	for _, term := range f.antiAffinity {
		if value, has := node.Node.Labels[term.key]; has && term.domains[value] {
			return []string{"node(s) didn't match pod anti-affinity rules"}
		}
	}
	for pair := range f.forbidden {
		if value, has := node.Node.Labels[pair[0]]; has && value == pair[1] {
			return []string{"node(s) didn't satisfy existing pods anti-affinity rules"}
		}
	}
	return nil
}
