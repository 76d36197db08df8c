// Package decide places one pod at a time: it finds the nodes that can run it, ranks them, and where there is none, whose
// removal would make one. Pure: the cluster is only read, and the same calls on the same model give the same answers.
package decide

import (
	"slices"

	"github.com/coracle-dev/coracle/scheduler/explain"
	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
	"github.com/coracle-dev/coracle/scheduler/score"
)

// Decision is where a pod goes, or why it goes nowhere and what is done about it.
type Decision struct {
	// Node is the node to bind to; empty where there is none.
	Node string
	// Message is why there is none, in upstream's words.
	Message string
	// RejectedBy are the filters that rejected the pod, as bits by their place in Filters.
	RejectedBy uint32
	// Preempt, where set, makes room.
	Preempt *Preemption
	// Unnominate: the node that the pod was waiting for does not help any more.
	Unnominate bool
}

// Settings are what a profile says about decisions. Use Defaults as a start.
type Settings struct {
	// Filters are the names of the filters to run.
	Filters []string
	// Weights are those of the scorers to run.
	Weights    map[string]int64
	FilterArgs filter.Args
	ScoreArgs  score.Args
	// Percentage of the nodes that is enough to be found feasible; 0 is a share that falls as clusters grow.
	Percentage int
	// Preempt: pods may remove pods of lower priority.
	Preempt bool
	// CandidatePercentage and CandidateNumber bound how many nodes are tried for that; the greater counts.
	CandidatePercentage, CandidateNumber int
}

// Defaults are upstream's.
func Defaults() Settings {
	return Settings{
		Filters: append(append([]string{}, filter.Local...), filter.Wide...),
		Weights: score.Weights(), Preempt: true, CandidatePercentage: 10, CandidateNumber: 100,
	}
}

// Decider decides by one profile. It holds only buffers, what it has found out about single nodes, and where the last search ended,
// so that searches of large clusters take turns through all nodes. It is not safe for concurrent use.
type Decider struct {
	settings    Settings
	all         []filter.Filter // local ones first
	localCount  int
	localScores []weighted
	wideScores  []weighted
	classes     classes

	// start and preemptStart are where the next searches begin, ties where the next choice among equals does.
	start, preemptStart, ties int

	// What follows is about the pod in hand.
	cluster   *model.Cluster
	pod       *model.Pod
	class     *class
	only      []string // the only nodes that can pass; nil means all
	ready     bool     // local filters and scorers are prepared
	active    []activeFilter
	wide      []activeFilter
	feasible  []*model.Node
	facts     []fact              // of the feasible nodes
	rejected  []*filter.Rejection // of the others, in turn
	turn      int                 // where the search began
	potential []*model.Node
	wider     bool // wide filters have something to say, unless who goes changes that
	totals    []int64
	part      []int64
}

type weighted struct {
	score.Scorer
	weight int64
	active bool
}

// activeFilter is a filter with something to say about the pod.
type activeFilter struct {
	filter.Filter
	bit uint32
}

// New makes a decider. Its error names what the settings have that does not exist.
func New(s Settings) (*Decider, error) {
	d := &Decider{settings: s, classes: newClasses()}
	for i, names := range [...][]string{filter.Local, filter.Wide} {
		for _, name := range names {
			if !slices.Contains(s.Filters, name) {
				continue
			}
			f, err := filter.New(name, s.FilterArgs)
			if err != nil {
				return nil, err
			}
			d.all = append(d.all, f)
		}
		if i == 0 {
			d.localCount = len(d.all)
		}
	}
	var err error
	if d.localScores, err = scorers(score.Local, s); err != nil {
		return nil, err
	}
	d.wideScores, err = scorers(score.Wide, s)
	return d, err
}

func scorers(names []string, s Settings) ([]weighted, error) {
	var all []weighted
	for _, name := range names {
		weight := s.Weights[name]
		if weight == 0 {
			continue
		}
		scorer, err := score.New(name, s.ScoreArgs)
		if err != nil {
			return nil, err
		}
		all = append(all, weighted{Scorer: scorer, weight: weight})
	}
	return all, nil
}

// Filters are the filters in the order they are asked.
func (d *Decider) Filters() []filter.Filter { return d.all }

// Local are the bits of the filters that look at one node alone.
func (d *Decider) Local() uint32 { return 1<<d.localCount - 1 }

// Schedule decides for one pod.
func (d *Decider) Schedule(cluster *model.Cluster, pod *model.Pod) Decision {
	nodes, decision, done := d.search(cluster, pod)
	if done {
		return decision
	}
	if len(d.feasible) == 0 {
		return d.nowhere(nodes)
	}
	return Decision{Node: d.best().Name}
}

// Candidates are the feasible nodes that Schedule would choose from and their totals, for plug-ins to judge; where there are
// none the decision is final. Both slices are valid until the next call.
func (d *Decider) Candidates(cluster *model.Cluster, pod *model.Pod) ([]*model.Node, []int64, Decision) {
	nodes, decision, done := d.search(cluster, pod)
	if done && decision.Node == "" {
		return nil, nil, decision
	}
	if len(d.feasible) == 0 {
		return nil, nil, d.nowhere(nodes)
	}
	return d.feasible, d.rank(), Decision{}
}

// Fits tells why the pod cannot run on a node; nil where it can.
func (d *Decider) Fits(cluster *model.Cluster, pod *model.Pod, node *model.Node) *filter.Rejection {
	if rejected, _ := d.begin(cluster, pod); rejected != nil {
		return rejected
	}
	rejected, _ := d.check(node)
	return rejected
}

// search fills feasible. It is done where the whole pod is rejected or the node it waited for has room.
func (d *Decider) search(cluster *model.Cluster, pod *model.Pod) (nodes []*model.Node, decision Decision, done bool) {
	d.feasible, d.facts, d.rejected = d.feasible[:0], d.facts[:0], d.rejected[:0]
	nodes = cluster.Nodes()
	if len(nodes) == 0 {
		return nil, Decision{Message: explain.NoNodes, RejectedBy: ^uint32(0)}, true
	}
	if rejected, by := d.begin(cluster, pod); rejected != nil {
		return nil, d.whole(len(nodes), rejected, by), true
	}
	if node := cluster.Node(cluster.NominatedTo(pod.Pod.UID)); node != nil {
		if rejected, _ := d.check(node); rejected == nil {
			d.feasible = append(d.feasible, node)
			d.facts = append(d.facts, d.factOf(node))
			return nil, Decision{Node: node.Name}, true
		}
	}
	if d.only != nil {
		nodes = named(cluster, d.only)
	}
	d.scan(nodes)
	return nodes, Decision{}, false
}

// scan looks at nodes in turn until enough are found.
func (d *Decider) scan(nodes []*model.Node) {
	want, checked := d.enough(len(nodes)), 0
	at := 0
	if len(nodes) > 0 {
		at = d.start % len(nodes)
	}
	first := at
	for ; checked < len(nodes) && len(d.feasible) < want; checked++ {
		node := nodes[at]
		if at++; at == len(nodes) {
			at = 0
		}
		if rejected, f := d.check(node); rejected != nil {
			d.rejected = append(d.rejected, rejected)
		} else {
			d.feasible = append(d.feasible, node)
			d.facts = append(d.facts, f)
		}
	}
	if d.only == nil {
		d.start = first + checked
	}
	d.turn = first
}

func named(cluster *model.Cluster, names []string) []*model.Node {
	var nodes []*model.Node
	for _, name := range names {
		if n := cluster.Node(name); n != nil {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// begin prepares for a pod. A rejection is of the whole pod, by the filter with the bit.
func (d *Decider) begin(cluster *model.Cluster, pod *model.Pod) (*filter.Rejection, uint32) {
	d.cluster, d.pod, d.ready = cluster, pod, false
	d.class = d.classes.of(cluster, pod)
	d.only = nil
	if d.class == nil || !d.class.known {
		if rejected, by := d.prepareLocal(); rejected != nil {
			return rejected, by
		}
		if d.class != nil {
			d.class.known, d.class.only = true, d.only
		}
	} else {
		d.only = d.class.only
	}
	return d.prepareWide()
}

func (d *Decider) prepareLocal() (*filter.Rejection, uint32) {
	d.active, d.ready = d.active[:0], true
	for i, f := range d.all[:d.localCount] {
		scope := f.Prepare(d.pod, d.cluster)
		if scope.Rejected != nil {
			return scope.Rejected, 1 << i
		}
		if scope.Only != nil {
			d.only = scope.Only
		}
		if !scope.Skip {
			d.active = append(d.active, activeFilter{f, 1 << i})
		}
	}
	for i := range d.localScores {
		s := &d.localScores[i]
		s.active = s.Prepare(d.pod, d.cluster, nil)
	}
	return nil, 0
}

func (d *Decider) prepareWide() (*filter.Rejection, uint32) {
	d.wide = d.wide[:0]
	for i, f := range d.all[d.localCount:] {
		bit := uint32(1) << (d.localCount + i)
		scope := f.Prepare(d.pod, d.cluster)
		if scope.Rejected != nil {
			return scope.Rejected, bit
		}
		if scope.Only != nil {
			d.only = scope.Only
		}
		if !scope.Skip {
			d.wide = append(d.wide, activeFilter{f, bit})
		}
	}
	return nil, 0
}

// check asks all filters about one node; the first to reject decides.
func (d *Decider) check(node *model.Node) (*filter.Rejection, fact) {
	f := d.factOf(node)
	if f.rejected != nil {
		return f.rejected, f
	}
	return d.checkWide(node), f
}

// checkWide asks the wide filters, which must be prepared: as if the pods were there that the node is being freed for, and as it is.
func (d *Decider) checkWide(node *model.Node) *filter.Rejection {
	if len(node.Nominated) > 0 {
		nominated := d.nominated(node)
		if len(nominated) > 0 && (len(d.wide) > 0 || slices.ContainsFunc(nominated, repels)) {
			if rejected := d.checkWith(nominated, node); rejected != nil {
				return rejected
			}
		}
	}
	return d.askWide(node)
}

func repels(p *model.Pod) bool { return len(p.AntiAffinity) > 0 }

func (d *Decider) askWide(node *model.Node) *filter.Rejection {
	for _, f := range d.wide {
		if rejected := f.Check(node); rejected != nil {
			return rejected
		}
	}
	return nil
}

// checkWith asks the wide filters as if the nominated pods were there already.
func (d *Decider) checkWith(nominated []*model.Pod, node *model.Node) *filter.Rejection {
	for _, p := range nominated {
		d.cluster.Suppose(p, node, 1)
	}
	rejected, _ := d.prepareWide()
	if rejected == nil {
		rejected = d.askWide(node)
	}
	for _, p := range nominated {
		d.cluster.Suppose(p, node, -1)
	}
	d.prepareWide()
	return rejected
}

// nominated are the other pods that the node is being freed for and that go before this one.
func (d *Decider) nominated(node *model.Node) []*model.Pod {
	var others []*model.Pod
	for _, p := range node.Nominated {
		if p.Priority >= d.pod.Priority && p.Pod.UID != d.pod.Pod.UID {
			others = append(others, p)
		}
	}
	return others
}

// checkLocal asks the local filters, with the nominated pods counted.
func (d *Decider) checkLocal(node *model.Node) *filter.Rejection {
	if !d.ready {
		d.prepareLocal()
	}
	var nominated []*model.Pod
	if len(node.Nominated) > 0 {
		nominated = d.nominated(node)
		for _, p := range nominated {
			d.cluster.Suppose(p, node, 1)
		}
	}
	var rejected *filter.Rejection
	for _, f := range d.active {
		if rejected = f.Check(node); rejected != nil {
			break
		}
	}
	for _, p := range nominated {
		d.cluster.Suppose(p, node, -1)
	}
	return rejected
}

// enough is how many feasible nodes are worth ranking: all of up to 100, then a share that falls from a half to a
// twentieth as clusters grow, as upstream's default does.
func (d *Decider) enough(nodes int) int {
	const all = 100
	percent := d.settings.Percentage
	if nodes <= all || percent >= 100 {
		return nodes
	}
	if percent == 0 {
		percent = max(5, 50-nodes/125)
	}
	return max(all, nodes*percent/100)
}
