package decide

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/scheduler/explain"
	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
)

// Preemption makes room for a pod on a node.
type Preemption struct {
	Node string
	// Victims go, the most important first.
	Victims []*model.Pod
	// Displaced are pods of lower priority that waited for the same node and do so no longer.
	Displaced []*model.Pod
}

// candidate is a node and who would have to leave it.
type candidate struct {
	node    *model.Node
	victims []*model.Pod // the most important first
	// violations is how many of them a disruption budget protects.
	violations int
	highest    int32
	sum        int64
	started    time.Time // when the oldest of those with the highest priority started
}

// candidacy keeps what was found out about a node for all pods of a class.
type candidacy struct {
	version, budgets uint64
	candidate        *candidate
	rejected         *filter.Rejection
}

var (
	noVictims  = &filter.Rejection{Reasons: []string{"No preemption victims found for incoming pod"}, Final: true}
	notHelpful = &filter.Rejection{Reasons: []string{"Preemption is not helpful for scheduling"}, Final: true}
)

// nowhere explains a pod that no node can run, and makes room for it where it may.
func (d *Decider) nowhere(nodes []*model.Node) Decision {
	all := len(d.cluster.Nodes())
	decision := Decision{}
	counts := map[string]int{}
	for rejected, n := range d.tally(nodes, &decision.RejectedBy) {
		for _, reason := range rejected.Reasons {
			counts[reason] += n
		}
	}
	if d.only != nil && all > len(nodes) {
		counts[fmt.Sprintf("node(s) didn't satisfy plugin(s) %v", []string{"NodeAffinity"})] += all - len(nodes)
		decision.RejectedBy |= d.bitNamed("NodeAffinity")
	}
	decision.Message = explain.Message(all, counts)
	if !d.settings.Preempt {
		return decision
	}
	if why := d.mayNotPreempt(nodes); why != "" {
		decision.Message += " preemption: " + why
		return decision
	}
	return d.preempt(nodes, all, decision)
}

// tally counts the rejections and notes which filters made them. Most are shared between nodes, so that each is looked into once.
func (d *Decider) tally(nodes []*model.Node, by *uint32) map[*filter.Rejection]int {
	counts := map[*filter.Rejection]int{}
	last, n := (*filter.Rejection)(nil), 0
	for i, rejected := range d.rejected {
		if rejected == last {
			n++
			continue
		}
		if last != nil {
			counts[last] += n
		}
		last, n = rejected, 1
		if counts[rejected] == 0 {
			*by |= d.bitOf(nodes[(d.turn+i)%len(nodes)])
		}
	}
	if last != nil {
		counts[last] += n
	}
	return counts
}

// whole explains a pod that was rejected before any node was looked at.
func (d *Decider) whole(nodes int, rejected *filter.Rejection, by uint32) Decision {
	return Decision{Message: explain.Whole(nodes, rejected.Reasons), RejectedBy: by, Unnominate: rejected.Final}
}

// bitOf finds the filter that rejected a node.
func (d *Decider) bitOf(node *model.Node) uint32 {
	if !d.ready {
		d.prepareLocal()
	}
	for _, f := range d.active {
		if f.Check(node) != nil {
			return f.bit
		}
	}
	for _, f := range d.wide {
		if f.Check(node) != nil {
			return f.bit
		}
	}
	// It is only the pods that the node is being freed for that keep this one off.
	return d.bitNamed("NodeResourcesFit") | d.bitNamed("NodePorts") | d.bitNamed("InterPodAffinity") | d.bitNamed("PodTopologySpread")
}

func (d *Decider) bitNamed(name string) uint32 {
	for i, f := range d.all {
		if f.Name() == name {
			return 1 << i
		}
	}
	return 0
}

// mayNotPreempt tells why the pod must not remove others; empty where it may.
func (d *Decider) mayNotPreempt(nodes []*model.Node) string {
	if p := d.pod.Pod.Spec.PreemptionPolicy; p != nil && *p == corev1.PreemptNever {
		return "not eligible due to preemptionPolicy=Never."
	}
	name := d.cluster.NominatedTo(d.pod.Pod.UID)
	if name == "" {
		return ""
	}
	for i, rejected := range d.rejected {
		if nodes[(d.turn+i)%len(nodes)].Name == name && rejected.Final {
			return ""
		}
	}
	if node := d.cluster.Node(name); node != nil {
		for _, p := range node.Pods {
			if p.Priority < d.pod.Priority && (p.Doomed || p.Terminating() && preempted(p.Pod)) {
				return "not eligible due to a terminating pod on the nominated node."
			}
		}
	}
	return ""
}

// preempted tells whether a scheduler removes the pod.
func preempted(pod *corev1.Pod) bool {
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		if c.Type == corev1.DisruptionTarget {
			return c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
		}
	}
	return false
}

func (d *Decider) preempt(nodes []*model.Node, all int, decision Decision) Decision {
	potential := d.potential[:0]
	for i, rejected := range d.rejected {
		if !rejected.Final {
			potential = append(potential, nodes[(d.turn+i)%len(nodes)])
		}
	}
	d.potential, d.wider = potential, len(d.wide) > 0
	counts := map[string]int{}
	best := d.bestCandidate(potential, counts)
	if best == nil {
		counts[notHelpful.Reasons[0]] += all - len(potential)
		if all == len(potential) {
			delete(counts, notHelpful.Reasons[0])
		}
		decision.Message += " preemption: " + explain.Message(all, counts)
		decision.Unnominate = true
		return decision
	}
	decision.Preempt = &Preemption{Node: best.node.Name, Victims: best.victims}
	for _, p := range best.node.Nominated {
		if p.Priority < d.pod.Priority {
			decision.Preempt.Displaced = append(decision.Preempt.Displaced, p)
		}
	}
	return decision
}

// bestCandidate tries some of the nodes. Where none will do, counts tells why.
func (d *Decider) bestCandidate(potential []*model.Node, counts map[string]int) *candidate {
	want := min(len(potential), max(len(potential)*d.settings.CandidatePercentage/100, d.settings.CandidateNumber))
	var best *candidate
	found, harmless := 0, false
	for i := range potential {
		node := potential[(d.preemptStart+i)%len(potential)]
		c, rejected := d.candidacyOf(node)
		if c == nil {
			for _, reason := range rejected.Reasons {
				counts[reason]++
			}
			continue
		}
		found++
		harmless = harmless || c.violations == 0
		if best == nil || c.before(best) {
			best = c
		}
		if harmless && found >= want {
			d.preemptStart += i + 1
			break
		}
	}
	return best
}

// before tells whether this candidate is the better one, by upstream's criteria in turn.
func (c *candidate) before(other *candidate) bool {
	return cmp.Or(
		cmp.Compare(c.violations, other.violations),
		cmp.Compare(c.highest, other.highest),
		cmp.Compare(c.sum, other.sum),
		cmp.Compare(len(c.victims), len(other.victims)),
		other.started.Compare(c.started),
	) < 0
}

// candidacyOf is selectVictims, remembered for the class where nothing but the node decides.
func (d *Decider) candidacyOf(node *model.Node) (*candidate, *filter.Rejection) {
	if d.class == nil || d.wider || d.cluster.NominatedTo(d.pod.Pod.UID) == node.Name {
		return d.selectVictims(node)
	}
	if len(d.class.victims) < d.cluster.Slots() {
		d.class.victims = append(d.class.victims, make([]candidacy, d.cluster.Slots()-len(d.class.victims))...)
	}
	k := &d.class.victims[node.Slot]
	if k.version != node.Version || k.budgets != d.cluster.BudgetVersion {
		k.version, k.budgets = node.Version, d.cluster.BudgetVersion
		k.candidate, k.rejected = d.selectVictims(node)
	}
	return k.candidate, k.rejected
}

// selectVictims finds the least that must go from a node for the pod to fit.
func (d *Decider) selectVictims(node *model.Node) (*candidate, *filter.Rejection) {
	var lower []*model.Pod
	for _, p := range node.Pods {
		if p.Priority < d.pod.Priority {
			lower = append(lower, p)
		}
	}
	if len(lower) == 0 {
		return nil, noVictims
	}
	slices.SortFunc(lower, byImportance)
	for _, p := range lower {
		d.cluster.Suppose(p, node, -1)
	}
	c := &candidate{node: node}
	rejected := d.checkSupposed(node)
	if rejected == nil {
		d.reprieve(c, lower)
	}
	back := lower
	if rejected == nil {
		back = c.victims
	}
	for _, p := range back {
		d.cluster.Suppose(p, node, 1)
	}
	if d.wider {
		d.prepareWide()
	}
	if rejected != nil {
		return nil, rejected
	}
	if len(c.victims) == 0 {
		return nil, noVictims // a filter rejects the node for what no victim changes
	}
	c.judge()
	return c, nil
}

// reprieve puts back each pod that can stay, those that a budget protects first, then by importance; the others are victims.
func (d *Decider) reprieve(c *candidate, lower []*model.Pod) {
	protected, others := d.byBudget(lower)
	for _, p := range protected {
		if d.mustGo(c.node, p) {
			c.victims = append(c.victims, p)
			c.violations++
		}
	}
	for _, p := range others {
		if d.mustGo(c.node, p) {
			c.victims = append(c.victims, p)
		}
	}
	slices.SortFunc(c.victims, byImportance)
}

func (d *Decider) mustGo(node *model.Node, p *model.Pod) bool {
	d.cluster.Suppose(p, node, 1)
	if d.checkSupposed(node) == nil {
		return false
	}
	d.cluster.Suppose(p, node, -1)
	return true
}

// checkSupposed is check without what is remembered.
func (d *Decider) checkSupposed(node *model.Node) *filter.Rejection {
	if rejected := d.checkLocal(node); rejected != nil {
		return rejected
	}
	if d.wider {
		if rejected, _ := d.prepareWide(); rejected != nil {
			return rejected
		}
	}
	return d.checkWide(node)
}

// byBudget tells those whose removal a disruption budget forbids from the others; both stay in order.
func (d *Decider) byBudget(lower []*model.Pod) (protected, others []*model.Pod) {
	if !d.cluster.HasBudgets() {
		return nil, lower
	}
	spent := map[*model.Budget]int32{}
	for _, p := range lower {
		violates := false
		d.cluster.Budgets(func(b *model.Budget) {
			if b.Covers(p) {
				spent[b]++
				violates = violates || spent[b] > b.Allowed
			}
		})
		if violates {
			protected = append(protected, p)
		} else {
			others = append(others, p)
		}
	}
	return protected, others
}

func (c *candidate) judge() {
	c.highest = c.victims[0].Priority
	c.started = startOf(c.victims[0])
	for _, p := range c.victims {
		c.sum += int64(p.Priority) + math.MaxInt32 + 1
		if p.Priority == c.highest && startOf(p).Before(c.started) {
			c.started = startOf(p)
		}
	}
}

// byImportance orders pods: the higher priority first, then the one that has run longer.
func byImportance(a, b *model.Pod) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), startOf(a).Compare(startOf(b)), cmp.Compare(a.Pod.UID, b.Pod.UID))
}

// startOf is when a pod started; one that has not counts as starting last.
func startOf(p *model.Pod) time.Time {
	if p.Pod.Status.StartTime == nil {
		return time.Unix(1<<40, 0)
	}
	return p.Pod.Status.StartTime.Time
}
