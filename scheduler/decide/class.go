package decide

import (
	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/model"
)

// cachedFacts bounds the facts that are kept, over all classes: 32 bytes each and as much for preemption.
const cachedFacts = 1 << 18

// The scorers whose scores are brought to scale over all feasible nodes, by their place in fact.raw.
const (
	rawTaints = iota
	rawAffinity
	rawScores
)

func rawOf(scorer string) (int, bool) {
	switch scorer {
	case "TaintToleration":
		return rawTaints, true
	case "NodeAffinity":
		return rawAffinity, true
	}
	return 0, false
}

// fact is what the local filters and scorers say of one node, for all pods of a class.
type fact struct {
	version  uint64 // of the node; 0 where nothing is known
	rejected *filter.Rejection
	sum      int64 // weighted, of scorers whose scores need no scaling
	raw      [rawScores]int32
}

// class holds the facts about pods that are equal in all that concerns one node.
type class struct {
	facts   []fact // by slot
	victims []candidacy
	known   bool
	only    []string
	shared  uint64
	used    uint64
}

// classes are those that were asked for lately. A class is kept from its second pod on, so that pods that are all
// different cost no memory.
type classes struct {
	byKey map[string]*class
	once  map[string]struct{}
	tick  uint64
}

func newClasses() classes {
	return classes{byKey: map[string]*class{}, once: map[string]struct{}{}}
}

// of gives the class of a pod; nil where nothing is kept.
func (s *classes) of(cluster *model.Cluster, pod *model.Pod) *class {
	s.tick++
	key := pod.Class()
	k := s.byKey[key]
	if k == nil {
		if _, seen := s.once[key]; !seen {
			if len(s.once) >= 1024 {
				clear(s.once)
			}
			s.once[key] = struct{}{}
			return nil
		}
		s.makeRoom(cluster.Slots())
		k = &class{shared: cluster.Shared}
		s.byKey[key] = k
	}
	k.used = s.tick
	if k.shared != cluster.Shared {
		clear(k.facts)
		k.shared = cluster.Shared
	}
	for len(k.facts) < cluster.Slots() {
		k.facts = append(k.facts, make([]fact, cluster.Slots()-len(k.facts))...)
	}
	return k
}

// makeRoom forgets the class that was not used for longest where there are too many.
func (s *classes) makeRoom(slots int) {
	if (len(s.byKey)+1)*slots <= cachedFacts {
		return
	}
	oldest, when := "", s.tick+1
	for key, k := range s.byKey {
		if k.used < when {
			oldest, when = key, k.used
		}
	}
	delete(s.byKey, oldest)
}

// factOf gives the fact of a node for the pod in hand.
func (d *Decider) factOf(node *model.Node) fact {
	if d.class == nil || len(node.Nominated) > 0 && d.cluster.NominatedTo(d.pod.Pod.UID) == node.Name {
		return d.find(node)
	}
	f := &d.class.facts[node.Slot]
	if f.version != node.Version {
		*f = d.find(node)
	}
	return *f
}

// find asks the local filters and scorers.
func (d *Decider) find(node *model.Node) fact {
	f := fact{version: node.Version, rejected: d.checkLocal(node)}
	if f.rejected != nil {
		return f
	}
	for i := range d.localScores {
		s := &d.localScores[i]
		if !s.active {
			continue
		}
		if raw, has := rawOf(s.Name()); has {
			f.raw[raw] = int32(s.Score(node))
		} else {
			f.sum += s.weight * s.Score(node)
		}
	}
	return f
}
