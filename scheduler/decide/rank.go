package decide

import "github.com/coracle-dev/coracle/scheduler/model"

// best is the feasible node with the highest total; equals take turns, so that what fits everywhere alike is spread.
func (d *Decider) best() *model.Node {
	if len(d.feasible) == 1 {
		return d.feasible[0]
	}
	totals := d.rank()
	d.ties++
	first := d.ties % len(totals)
	best := first
	for i := range totals {
		at := first + i
		if at >= len(totals) {
			at -= len(totals)
		}
		if totals[at] > totals[best] {
			best = at
		}
	}
	return d.feasible[best]
}

// rank gives each feasible node its total.
func (d *Decider) rank() []int64 {
	d.totals = resize(d.totals, len(d.feasible))
	d.part = resize(d.part, len(d.feasible))
	for i := range d.facts {
		d.totals[i] = d.facts[i].sum
	}
	for s := range d.localScores {
		scorer := &d.localScores[s]
		if raw, has := rawOf(scorer.Name()); has {
			for i := range d.facts {
				d.part[i] = int64(d.facts[i].raw[raw])
			}
			d.add(scorer)
		}
	}
	for s := range d.wideScores {
		scorer := &d.wideScores[s]
		if !scorer.Prepare(d.pod, d.cluster, d.feasible) {
			continue
		}
		for i, node := range d.feasible {
			d.part[i] = scorer.Score(node)
		}
		d.add(scorer)
	}
	return d.totals
}

// add brings the parts to scale and adds them to the totals.
func (d *Decider) add(s *weighted) {
	s.Normalize(d.part)
	for i, v := range d.part {
		d.totals[i] += s.weight * v
	}
}

func resize(s []int64, n int) []int64 {
	if cap(s) < n {
		return make([]int64, n, n+n/2)
	}
	return s[:n]
}
