package eviction

import (
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Observation of one signal, in its resource's units.
type Observation struct{ Available, Capacity int64 }

// Observations are those of one moment. A signal that could not be read is missing, and its thresholds are not met.
type Observations map[Signal]Observation

// met tells whether less is available than the threshold says; with its minimum reclaim, than is to be available again.
func (o Observations) met(t Threshold, withReclaim bool) bool {
	seen, ok := o[t.Signal]
	if !ok {
		return false
	}
	limit := t.Less.Of(seen.Capacity)
	if withReclaim {
		limit += t.MinReclaim.Of(seen.Capacity)
	}
	return seen.Available < limit
}

// pressure is what is remembered from one observation to the next.
type pressure struct {
	since map[Threshold]time.Time            // when each threshold that is crossed was seen crossed first
	last  map[v1.NodeConditionType]time.Time // when each condition was observed last
	// driving are the thresholds for which something was to be done; they stay until their minimum reclaim is reached.
	driving []Threshold
}

// observe takes the observations of now, and returns the thresholds for which something is to be done, most urgent first, and
// the conditions that the node is in, sorted.
func (p *pressure) observe(policy Policy, o Observations, now time.Time) ([]Threshold, []v1.NodeConditionType) {
	if p.last == nil {
		p.last = map[v1.NodeConditionType]time.Time{}
	}
	var crossed []Threshold
	for _, t := range policy.Thresholds {
		if o.met(t, false) || slices.Contains(p.driving, t) && o.met(t, true) {
			crossed = append(crossed, t)
		}
	}
	since := map[Threshold]time.Time{}
	for _, t := range crossed {
		since[t] = now
		if at, ok := p.since[t]; ok {
			since[t] = at
		}
		p.last[signals[t.Signal].condition] = now
	}
	p.since = since
	maps.DeleteFunc(p.last, func(_ v1.NodeConditionType, at time.Time) bool {
		return now.Sub(at) >= policy.Transition && !at.Equal(now)
	})
	p.driving = slices.DeleteFunc(crossed, func(t Threshold) bool { return now.Sub(since[t]) < t.Grace })
	drive := slices.Clone(p.driving)
	slices.SortStableFunc(drive, func(a, b Threshold) int { return urgency(a) - urgency(b) })
	return drive, slices.Sorted(maps.Keys(p.last))
}

// urgency puts memory first: a node without it does nothing more. Of two of one signal the hard one counts.
func urgency(t Threshold) int {
	n := 0
	if t.Signal != MemoryAvailable {
		n += 2
	}
	if !t.hard() {
		n++
	}
	return n
}
