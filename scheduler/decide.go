package scheduler

import (
	"github.com/coracle-dev/coracle/scheduler/explain"
	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
	"github.com/coracle-dev/coracle/scheduler/score"
)

// decision is where a pod goes, or why it goes nowhere.
type decision struct {
	node    string
	message string       // upstream's words, where node is empty
	wokenBy filter.Event // the events that may change a rejection
}

// decider places one pod after another. It holds only buffers and where the last search ended, so that
// searches of large clusters take turns through all nodes.
type decider struct {
	pipeline *filter.Pipeline
	scores   score.Scores
	feasible []*model.Node
	start    int
}

func newDecider() *decider { return &decider{pipeline: filter.NewPipeline()} }

// schedule decides for one pod; the cluster is only read.
func (d *decider) schedule(cluster *model.Cluster, pod *model.Pod) decision {
	nodes := cluster.Nodes()
	if len(nodes) == 0 {
		return decision{message: explain.NoNodes, wokenBy: filter.NodeChanged}
	}
	d.pipeline.Prepare(pod, cluster)
	d.feasible = d.feasible[:0]
	counts := map[string]int{}
	var wokenBy filter.Event
	want := enough(len(nodes))
	checked := 0
	for ; checked < len(nodes) && len(d.feasible) < want; checked++ {
		node := nodes[(d.start+checked)%len(nodes)]
		f, reasons := d.pipeline.Check(node)
		if f == nil {
			d.feasible = append(d.feasible, node)
			continue
		}
		wokenBy |= f.WokenBy()
		for _, reason := range reasons {
			counts[reason]++
		}
	}
	d.start = (d.start + checked) % len(nodes)
	if len(d.feasible) == 0 {
		return decision{message: explain.Message(len(nodes), counts), wokenBy: wokenBy}
	}
	return decision{node: d.best(pod).Name}
}

// best is the feasible node with the highest rank; of equals, the first found.
func (d *decider) best(pod *model.Pod) *model.Node {
	if len(d.feasible) == 1 {
		return d.feasible[0]
	}
	ranks := d.scores.Rank(pod, d.feasible)
	best := 0
	for i, rank := range ranks {
		if rank > ranks[best] {
			best = i
		}
	}
	return d.feasible[best]
}

// enough is how many feasible nodes are worth ranking: all of up to 100, then a share that falls from a half to a
// twentieth as clusters grow, as upstream's default does.
func enough(nodes int) int {
	const all = 100
	if nodes <= all {
		return nodes
	}
	percent := max(5, 50-nodes/125)
	return max(all, nodes*percent/100)
}
