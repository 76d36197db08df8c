package why

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/scheduler/decide"
	"github.com/coracle-dev/coracle/scheduler/model"
)

// PlugIn is what one plug-in out of process says of the nodes it was asked about.
type PlugIn struct {
	Name   string
	Weight int64
	// PodRejected is why the pod may run nowhere; Rejected is that by node, Scores are 0..100 without weight.
	PodRejected string
	Rejected    map[string]string
	Scores      map[string]int64
	// Down is why there is no answer; Ignored that the scheduler goes on without.
	Down    string
	Ignored bool
}

// askPlugIns adds what plug-ins say of the nodes that pass the filters.
func askPlugIns(f *Facts, r *Report, cluster *model.Cluster, e *decide.Explanation) {
	var passing []*corev1.Node
	for i := range e.Nodes {
		if len(e.Nodes[i].Verdicts) == 0 {
			passing = append(passing, cluster.Node(e.Nodes[i].Node).Node)
		}
	}
	for _, p := range f.PlugIns(passing) {
		if p.Down != "" && p.Ignored {
			r.detail("%s; the scheduler goes on without", p.Down)
			continue
		}
		if p.Down != "" {
			p.PodRejected = p.Down
		}
		p.judge(r.Filters, e)
	}
}

// judge takes one plug-in's answer into the explanation, as if it were one more filter and scorer.
func (p *PlugIn) judge(filters *Filters, e *decide.Explanation) {
	groups := map[string]*Group{}
	for i := range e.Nodes {
		n := &e.Nodes[i]
		if len(n.Verdicts) > 0 {
			continue
		}
		reason, rejected := p.Rejected[n.Node]
		if p.PodRejected != "" {
			reason, rejected = p.PodRejected, true
		}
		if !rejected {
			if score, has := p.Scores[n.Node]; has {
				if n.Scores == nil {
					n.Scores = map[string]int64{}
				}
				n.Scores[p.Name] = p.Weight * score
				n.Total += p.Weight * score
			}
			continue
		}
		n.Verdicts = []decide.Verdict{{Filter: p.Name, Reasons: []string{reason}}}
		filters.Passing--
		g := groups[reason]
		if g == nil {
			g = &Group{Filter: fmt.Sprintf("plug-in %s", p.Name), Reason: reason}
			groups[reason] = g
		}
		g.Nodes = append(g.Nodes, n.Node)
		g.Alone++
	}
	for _, g := range groups {
		slices.Sort(g.Nodes)
		filters.Groups = append(filters.Groups, *g)
	}
	sortGroups(filters.Groups)
}
