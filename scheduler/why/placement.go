package why

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/coracle-dev/coracle/scheduler/decide"
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
	for i := range f.Attachments {
		cluster.SetAttachment(&f.Attachments[i])
	}
}

// unreadStorage are the kinds without which the filters of volumes would be wrong.
func (f *Facts) unreadStorage() []string {
	var kinds []string
	for _, kind := range []string{"persistentvolumeclaims", "persistentvolumes", "storageclasses", "csidrivers", "csinodes", "csistoragecapacities", "volumeattachments"} {
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
		g.Detail = f.detail(cluster, pod, g)
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
