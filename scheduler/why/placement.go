package why

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/coracle-dev/coracle/scheduler/decide"
	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
)

// Filters is what the filters say of all nodes.
type Filters struct {
	Total   int `json:"total"`
	Passing int `json:"passing"`
	// Whole is why the pod was rejected before any node was looked at.
	Whole *decide.Verdict `json:"whole,omitempty"`
	// Groups are the reasons, the most frequent first; a node is in as many as it has reasons.
	Groups []Group `json:"groups,omitempty"`
	// Inexact names what was not read and matters.
	Inexact []string `json:"inexact,omitempty"`
}

// Group is one reason and the nodes it keeps the pod off.
type Group struct {
	Filter string `json:"filter"`
	Reason string `json:"reason"`
	// Nodes by name; Alone counts those that nothing else keeps the pod off.
	Nodes []string `json:"nodes"`
	Alone int      `json:"alone"`
	// Final: the removal of other pods would not help.
	Final bool `json:"final"`
	// Detail says more, as the taints, or the most that is free.
	Detail string `json:"detail,omitempty"`
}

// Scores is what the scorers give the nodes that pass.
type Scores struct {
	// Node is where the pod is; Rank is that node's place by total, from 1, and 0 where it would not pass now.
	Node  string              `json:"node,omitempty"`
	Rank  int                 `json:"rank,omitempty"`
	Nodes []decide.NodeReport `json:"nodes"`
	// Rejected is why Node would not pass now.
	Rejected []decide.Verdict `json:"rejected,omitempty"`
}

// explainPlacement asks filters and scorers as things are now, for a placed pod as if it were not there.
func explainPlacement(f *Facts, r *Report) error {
	if f.unread("nodes") {
		return nil
	}
	settings := f.Settings
	settings.Percentage, settings.CandidatePercentage = 100, 100
	if f.unreadStorage() != nil {
		settings.Filters = slices.DeleteFunc(slices.Clone(settings.Filters), func(name string) bool { return strings.HasPrefix(name, "Volume") || name == "NodeVolumeLimits" })
	}
	d, err := decide.New(settings)
	if err != nil {
		return err
	}
	cluster, pod := f.model()
	e := d.Explain(cluster, pod)
	r.Filters = f.filters(cluster, pod, &e)
	if f.PlugIns != nil && r.Filters.Passing > 0 {
		askPlugIns(f, r, cluster, &e)
	}
	if f.Pod.Spec.NodeName != "" {
		r.Scores = scores(f.Pod.Spec.NodeName, &e)
		return nil
	}
	if r.Filters.Passing > 0 {
		r.Scores = scores("", &e)
	} else if f.PlugIns == nil && len(f.Nodes) > 0 && len(f.Pod.Spec.SchedulingGates) == 0 && f.Pod.Status.NominatedNodeName == "" {
		r.Preemption = preemption(d.Schedule(cluster, pod))
	}
	return nil
}

// model is the cluster without the pod, and the pod as if it waited.
func (f *Facts) model() (*model.Cluster, *model.Pod) {
	cluster := model.New()
	for i := range f.Namespaces {
		labels := f.Namespaces[i].Labels
		if labels == nil {
			labels = map[string]string{}
		}
		cluster.SetNamespace(f.Namespaces[i].Name, labels)
	}
	for i := range f.Nodes {
		cluster.SetNode(&f.Nodes[i])
	}
	for i := range f.Services {
		cluster.SetService(&f.Services[i])
	}
	for i := range f.Budgets {
		cluster.SetBudget(&f.Budgets[i])
	}
	f.setStorage(cluster)
	for i := range f.Pods {
		p := &f.Pods[i]
		switch {
		case p.UID == f.Pod.UID || ended(p):
		case p.Spec.NodeName != "":
			cluster.SetPod(model.NewPod(p), p.Spec.NodeName)
		case p.Status.NominatedNodeName != "" && p.DeletionTimestamp == nil:
			cluster.Nominate(p.UID, model.NewPod(p), p.Status.NominatedNodeName)
		}
	}
	alone := f.Pod.DeepCopy()
	alone.Spec.NodeName = ""
	return cluster, model.NewPod(alone)
}

func (f *Facts) setStorage(cluster *model.Cluster) {
	for i := range f.Classes {
		cluster.SetStorageClass(&f.Classes[i])
	}
	for i := range f.Volumes {
		cluster.SetVolume(&f.Volumes[i])
	}
	for i := range f.Claims {
		cluster.SetClaim(&f.Claims[i])
	}
	for i := range f.Drivers {
		cluster.SetCSIDriver(&f.Drivers[i])
	}
	for i := range f.CSINodes {
		cluster.SetCSINode(&f.CSINodes[i])
	}
	for i := range f.Capacities {
		cluster.SetStorageCapacity(&f.Capacities[i])
	}
}

// unreadStorage are the kinds without which the filters of volumes would be wrong.
func (f *Facts) unreadStorage() []string {
	var kinds []string
	for _, kind := range []string{"persistentvolumeclaims", "persistentvolumes", "storageclasses", "csidrivers", "csinodes", "csistoragecapacities"} {
		if f.unread(kind) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

func (f *Facts) filters(cluster *model.Cluster, pod *model.Pod, e *decide.Explanation) *Filters {
	result := &Filters{Total: len(f.Nodes), Whole: e.Whole}
	for _, what := range []string{"pods" + Elsewhere, "pods", "namespaces"} {
		if f.unread(what) {
			result.Inexact = append(result.Inexact, what)
		}
	}
	result.Inexact = append(result.Inexact, f.unreadStorage()...)
	if e.Whole != nil {
		return result
	}
	type key struct{ filter, reason string }
	groups := map[key]*Group{}
	for i := range e.Nodes {
		n := &e.Nodes[i]
		if len(n.Verdicts) == 0 {
			result.Passing++
		}
		alone := len(n.Verdicts) == 1 && len(n.Verdicts[0].Reasons) == 1
		for _, v := range n.Verdicts {
			for _, reason := range v.Reasons {
				g := groups[key{v.Filter, reason}]
				if g == nil {
					g = &Group{Filter: v.Filter, Reason: reason, Final: true}
					groups[key{v.Filter, reason}] = g
				}
				g.Nodes = append(g.Nodes, n.Node)
				g.Final = g.Final && v.Final
				if alone {
					g.Alone++
				}
			}
		}
	}
	for _, g := range groups {
		slices.Sort(g.Nodes)
		g.Detail = detail(cluster, pod, g)
		result.Groups = append(result.Groups, *g)
	}
	sortGroups(result.Groups)
	return result
}

func sortGroups(groups []Group) {
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(len(b.Nodes), len(a.Nodes)), cmp.Compare(a.Filter, b.Filter), cmp.Compare(a.Reason, b.Reason))
	})
}

// detail says of a group what the reason does not.
func detail(cluster *model.Cluster, pod *model.Pod, g *Group) string {
	switch g.Filter {
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

// preemption says whether the scheduler could make room.
func preemption(d decide.Decision) string {
	if d.Preempt == nil {
		_, text, _ := strings.Cut(d.Message, " preemption: ")
		if _, counts, found := strings.Cut(text, " nodes are available: "); found {
			text = counts
		}
		return after("would not help: ", text)
	}
	victims := make([]string, 0, len(d.Preempt.Victims))
	for _, v := range d.Preempt.Victims {
		victims = append(victims, fmt.Sprintf("%s/%s (priority %d)", v.Pod.Namespace, v.Pod.Name, v.Priority))
	}
	return fmt.Sprintf("would free %s by removing %s", d.Preempt.Node, few(victims, 5))
}

// scores ranks the nodes that pass.
func scores(node string, e *decide.Explanation) *Scores {
	s := &Scores{Node: node}
	for i := range e.Nodes {
		if n := &e.Nodes[i]; len(n.Verdicts) == 0 {
			s.Nodes = append(s.Nodes, *n)
		} else if n.Node == node {
			s.Rejected = n.Verdicts
		}
	}
	slices.SortStableFunc(s.Nodes, func(a, b decide.NodeReport) int {
		return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(a.Node, b.Node))
	})
	s.Rank = 1 + slices.IndexFunc(s.Nodes, func(n decide.NodeReport) bool { return n.Node == node })
	return s
}
