package why

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
)

// detail says of a group what the reason does not.
func (f *Facts) detail(cluster *model.Cluster, pod *model.Pod, g *Group) string {
	switch g.Filter {
	case "PodTopologySpread":
		return f.spread()
	case "InterPodAffinity":
		return podAffinity(cluster, pod, g.Reason)
	case "NodeResourcesFit":
		return resources(cluster, pod, g)
	case "TaintToleration":
		return taints(cluster, pod, g)
	case "NodeAffinity":
		return affinity(pod.Pod)
	case "NodePorts":
		var ports []string
		for _, p := range pod.HostPorts {
			ports = append(ports, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
		}
		return "it asks for host ports " + strings.Join(ports, ", ")
	}
	return ""
}

// resources compares what a pod asks for with the most that is free on a node of the group.
func resources(cluster *model.Cluster, pod *model.Pod, g *Group) string {
	name, found := strings.CutPrefix(g.Reason, "Insufficient ")
	if !found {
		return ""
	}
	resourceName := corev1.ResourceName(name)
	want := pod.Requests.Get(resourceName)
	most, where, whole := int64(-1), "", int64(0)
	for _, nodeName := range g.Nodes {
		node := cluster.Node(nodeName)
		if free := max(0, node.Allocatable.Get(resourceName)-node.Requested.Get(resourceName)); free > most {
			most, where = free, nodeName
		}
		whole = max(whole, node.Allocatable.Get(resourceName))
	}
	text := fmt.Sprintf("it asks for %s; most free: %s of %s", amount(resourceName, want), amount(resourceName, most), where)
	if want > whole {
		text += fmt.Sprintf("; none of these nodes has more than %s in all", amount(resourceName, whole))
	}
	return text
}

func amount(name corev1.ResourceName, n int64) string {
	switch name {
	case corev1.ResourceCPU:
		return resource.NewMilliQuantity(n, resource.DecimalSI).String()
	case corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		for _, unit := range []struct {
			shift int
			name  string
		}{{30, "Gi"}, {20, "Mi"}, {10, "Ki"}} {
			if n >= 1<<unit.shift {
				return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/float64(int64(1)<<unit.shift)), ".0") + unit.name
			}
		}
	}
	return fmt.Sprint(n)
}

// taints are those of the group's nodes that the pod does not tolerate, the most frequent first.
func taints(cluster *model.Cluster, pod *model.Pod, g *Group) string {
	counts := map[string]int{}
	for _, name := range g.Nodes {
		node := cluster.Node(name)
		for i := range node.Node.Spec.Taints {
			taint := &node.Node.Spec.Taints[i]
			if taint.Effect != corev1.TaintEffectPreferNoSchedule && !filter.Tolerates(pod.Pod.Spec.Tolerations, taint) {
				counts[taint.ToString()]++
			}
		}
	}
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b)) })
	return few(names, 3)
}

// affinity is what a pod asks of nodes' labels.
func affinity(pod *corev1.Pod) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(pod.Spec.NodeSelector)) {
		parts = append(parts, key+"="+pod.Spec.NodeSelector[key])
	}
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return "it asks for " + strings.Join(parts, ", ")
	}
	var terms []string
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		var all []string
		for _, e := range append(slices.Clone(term.MatchExpressions), term.MatchFields...) {
			all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Key, e.Operator, strings.Join(e.Values, ","))))
		}
		terms = append(terms, strings.Join(all, " and "))
	}
	return "it asks for " + strings.Join(append(parts, strings.Join(terms, ", or ")), ", and ")
}

// spread tells, for each constraint that is not only a wish, how many pods of its are where.
func (f *Facts) spread() string {
	var parts []string
	for i := range f.Pod.Spec.TopologySpreadConstraints {
		c := &f.Pod.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			parts = append(parts, fmt.Sprintf("maxSkew %d over %s of pods with %s: %s", c.MaxSkew, c.TopologyKey, selectorText(c.LabelSelector), f.perDomain(c)))
		}
	}
	return strings.Join(parts, "; ")
}

// perDomain counts pods by domain: those with the fewest and the most where there are many.
func (f *Facts) perDomain(c *corev1.TopologySpreadConstraint) string {
	selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
	if err != nil {
		return err.Error()
	}
	domains, counts := map[string]string{}, map[string]int{}
	for i := range f.Nodes {
		if value, has := f.Nodes[i].Labels[c.TopologyKey]; has {
			domains[f.Nodes[i].Name] = value
			counts[value] += 0
		}
	}
	for i := range f.Pods {
		p := &f.Pods[i]
		domain, has := domains[p.Spec.NodeName]
		if has && p.Namespace == f.Namespace && p.UID != f.Pod.UID && p.DeletionTimestamp == nil && selector.Matches(labels.Set(p.Labels)) {
			counts[domain]++
		}
	}
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Or(cmp.Compare(counts[a], counts[b]), cmp.Compare(a, b)) })
	words := make([]string, len(names))
	for i, name := range names {
		words[i] = fmt.Sprintf("%d in %s", counts[name], name)
	}
	const most = 5
	if len(words) > most {
		return strings.Join(words[:most-1], ", ") + ", ... " + words[len(words)-1]
	}
	return strings.Join(words, ", ")
}

// podAffinity is what a pod asks of pods beside it, where the reason is about its own terms, and which pods they mean; or else
// which pods refuse it.
func podAffinity(cluster *model.Cluster, pod *model.Pod, reason string) string {
	if strings.Contains(reason, "existing pods") {
		refuses := func(p *model.Pod) bool {
			return slices.ContainsFunc(p.AntiAffinity, func(t *model.Term) bool { return t.Matches(pod, cluster) })
		}
		return "it is refused by " + podsOf(cluster, refuses)
	}
	verb, terms := "it asks for", pod.Affinity
	var own []corev1.PodAffinityTerm
	switch a := pod.Pod.Spec.Affinity; {
	case strings.Contains(reason, "anti-affinity") && a != nil && a.PodAntiAffinity != nil:
		verb, terms, own = "it refuses", pod.AntiAffinity, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	case a != nil && a.PodAffinity != nil:
		own = a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	var parts []string
	for i, term := range terms {
		meant := podsOf(cluster, func(p *model.Pod) bool { return term.Matches(p, cluster) })
		parts = append(parts, fmt.Sprintf("%s pods with %s in the same %s: %s", verb, selectorText(own[i].LabelSelector), term.TopologyKey, meant))
	}
	return strings.Join(parts, "; ")
}

// podsOf names placed pods, and where they are.
func podsOf(cluster *model.Cluster, is func(*model.Pod) bool) string {
	var names []string
	for _, node := range cluster.Nodes() {
		for _, p := range node.Pods {
			if is(p) {
				names = append(names, fmt.Sprintf("%s/%s on %s", p.Pod.Namespace, p.Pod.Name, node.Name))
			}
		}
	}
	if len(names) == 0 {
		return "there is none"
	}
	slices.Sort(names)
	return few(names, 3)
}

func selectorText(s *metav1.LabelSelector) string {
	switch {
	case s == nil:
		return "no labels at all, which is none"
	case len(s.MatchLabels)+len(s.MatchExpressions) == 0:
		return "any labels"
	}
	return metav1.FormatLabelSelector(s)
}
