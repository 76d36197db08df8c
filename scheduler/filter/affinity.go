package filter

import (
	"github.com/coracle-dev/coracle/scheduler/model"
)

var (
	affinityUnmet     = finally("node(s) didn't match pod affinity rules")
	antiAffinityUnmet = because("node(s) didn't match pod anti-affinity rules")
	unwelcome         = because("node(s) didn't satisfy existing pods anti-affinity rules")
)

// interPodAffinity keeps required pod affinity and anti-affinity, the pod's own and that of pods in place.
type interPodAffinity struct {
	affinity, antiAffinity []termState
	// unwelcome are the terms of placed pods that refuse this one.
	unwelcome []placedState
	// first: no pod matches the affinity terms, but the pod matches its own, so it may be the first.
	first bool
}

type termState struct {
	topology *model.Topology
	counts   []int32 // by domain
}

type placedState struct {
	topology *model.Topology
	term     *model.PlacedTerm
}

func (*interPodAffinity) Name() string { return "InterPodAffinity" }

func (f *interPodAffinity) Prepare(pod *model.Pod, cluster *model.Cluster) Scope {
	f.affinity, f.antiAffinity, f.unwelcome, f.first = f.affinity[:0], f.antiAffinity[:0], f.unwelcome[:0], false
	if len(pod.Affinity) > 0 {
		all := model.MatchingAll(pod.Affinity)
		f.affinity = statesOf(f.affinity, pod.Affinity, func(*model.Term) *model.Selection { return all }, cluster)
		f.first = noneIn(f.affinity) && all.Matches(pod, cluster)
	}
	f.antiAffinity = statesOf(f.antiAffinity, pod.AntiAffinity, func(t *model.Term) *model.Selection { return &t.Selection }, cluster)
	cluster.AntiAffinityTerms().About(pod, cluster, func(t *model.PlacedTerm) {
		f.unwelcome = append(f.unwelcome, placedState{cluster.Topology(t.TopologyKey), t})
	})
	return Scope{Skip: len(f.affinity)+len(f.antiAffinity)+len(f.unwelcome) == 0}
}

func statesOf(states []termState, terms []*model.Term, pods func(*model.Term) *model.Selection, cluster *model.Cluster) []termState {
	for _, t := range terms {
		topology := cluster.Topology(t.TopologyKey)
		states = append(states, termState{topology, cluster.Count(pods(t)).In(topology)})
	}
	return states
}

// noneIn tells whether no pod that the terms speak of is anywhere that they speak of.
func noneIn(states []termState) bool {
	for _, s := range states {
		for _, n := range s.counts {
			if n > 0 {
				return false
			}
		}
	}
	return true
}

func (f *interPodAffinity) Check(node *model.Node) *Rejection {
	for i := range f.affinity {
		if there, has := f.affinity[i].in(node); !has || !there && !f.first {
			return affinityUnmet
		}
	}
	for i := range f.antiAffinity {
		if there, _ := f.antiAffinity[i].in(node); there {
			return antiAffinityUnmet
		}
	}
	for i := range f.unwelcome {
		s := &f.unwelcome[i]
		if id, has := s.topology.Domain(node); has && s.term.Sums[id] > 0 {
			return unwelcome
		}
	}
	return nil
}

// in tells whether a pod of the term is in the node's domain, and whether the node is in one.
func (s *termState) in(node *model.Node) (there, has bool) {
	id, has := s.topology.Domain(node)
	return has && int(id) < len(s.counts) && s.counts[id] > 0, has
}

func (f *interPodAffinity) Helps(pod *model.Pod, e *Event) bool {
	switch e.Kind {
	case NodeAdded, NamespaceChanged:
		return true
	case NodeChanged:
		for _, terms := range [...][]*model.Term{pod.Affinity, pod.AntiAffinity} {
			for _, t := range terms {
				if e.OldNode.Labels[t.TopologyKey] != e.Node.Labels[t.TopologyKey] {
					return true
				}
			}
		}
		return len(pod.Affinity)+len(pod.AntiAffinity) == 0 // refused by the terms of others, which are not known here
	case PodPlaced:
		return len(pod.Affinity) > 0 && speaksOf(pod.Affinity, e.Pod)
	case PodGone:
		return speaksOf(pod.AntiAffinity, e.Pod) || speaksOf(e.Pod.AntiAffinity, pod)
	}
	return false
}

// speaksOf tells whether any of the terms speaks of the pod. Namespaces that are selected by labels count all.
func speaksOf(terms []*model.Term, pod *model.Pod) bool {
	for _, t := range terms {
		if t.MayMatch(pod) {
			return true
		}
	}
	return false
}
