package decide

import (
	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
)

// Verdict is what one filter has against a node, or against the whole pod.
type Verdict struct {
	Filter  string   `json:"filter"`
	Reasons []string `json:"reasons"`
	// Final: the removal of other pods would not help.
	Final bool `json:"final"`
}

// NodeReport is what filters and scorers say of one node.
type NodeReport struct {
	Node string `json:"node"`
	// Verdicts are of all filters that reject the node, in their order; none where it can run the pod.
	Verdicts []Verdict `json:"verdicts,omitempty"`
	// Scores are each scorer's, times its weight; Total is their sum.
	Scores map[string]int64 `json:"scores,omitempty"`
	Total  int64            `json:"total"`
}

// Explanation is all there is to say about where a pod could go.
type Explanation struct {
	// Whole is set where the pod was rejected before any node was looked at.
	Whole *Verdict     `json:"whole,omitempty"`
	Nodes []NodeReport `json:"nodes,omitempty"`
}

// Explain asks every filter about every node and every scorer about all nodes that pass, however many there are.
func (d *Decider) Explain(cluster *model.Cluster, pod *model.Pod) Explanation {
	d.cluster, d.pod, d.class, d.only = cluster, pod, nil, nil
	var e Explanation
	for _, prepare := range [...]func() (*filter.Rejection, uint32){d.prepareLocal, d.prepareWide} {
		if rejected, by := prepare(); rejected != nil {
			e.Whole = d.verdict(by, rejected)
			return e
		}
	}
	d.feasible, d.facts = d.feasible[:0], d.facts[:0]
	for _, node := range cluster.Nodes() {
		r := NodeReport{Node: node.Name, Verdicts: d.verdicts(node)}
		if len(r.Verdicts) == 0 {
			d.feasible = append(d.feasible, node)
			d.facts = append(d.facts, d.find(node))
		}
		e.Nodes = append(e.Nodes, r)
	}
	d.explainScores(e.Nodes)
	return e
}

func (d *Decider) verdicts(node *model.Node) []Verdict {
	var all []Verdict
	for _, list := range [...][]activeFilter{d.active, d.wide} {
		for _, f := range list {
			if rejected := f.Check(node); rejected != nil {
				all = append(all, *d.verdict(f.bit, rejected))
			}
		}
	}
	if len(all) > 0 || len(node.Nominated) == 0 {
		return all
	}
	if rejected := d.checkLocal(node); rejected != nil {
		all = append(all, Verdict{Filter: "NominatedPods", Reasons: rejected.Reasons})
	}
	return all
}

func (d *Decider) verdict(bit uint32, rejected *filter.Rejection) *Verdict {
	for i, f := range d.all {
		if bit == 1<<i {
			return &Verdict{Filter: f.Name(), Reasons: rejected.Reasons, Final: rejected.Final}
		}
	}
	return &Verdict{Reasons: rejected.Reasons, Final: rejected.Final}
}

// explainScores adds to the reports of feasible nodes what each scorer gives them.
func (d *Decider) explainScores(reports []NodeReport) {
	of := map[string]*NodeReport{}
	for i := range reports {
		of[reports[i].Node] = &reports[i]
	}
	for _, list := range [...][]weighted{d.localScores, d.wideScores} {
		for i := range list {
			s := &list[i]
			if !s.Prepare(d.pod, d.cluster, d.feasible) {
				continue
			}
			parts := make([]int64, len(d.feasible))
			for j, node := range d.feasible {
				parts[j] = s.Score(node)
			}
			s.Normalize(parts)
			for j, node := range d.feasible {
				r := of[node.Name]
				if r.Scores == nil {
					r.Scores = map[string]int64{}
				}
				r.Scores[s.Name()] = s.weight * parts[j]
				r.Total += s.weight * parts[j]
			}
		}
	}
}
