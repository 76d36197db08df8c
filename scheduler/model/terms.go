package model

// PlacedTerm is an affinity term that placed pods have, and where those pods are.
type PlacedTerm struct {
	*Term
	// Sums is by domain of the term's topology: how many of the pods are there, or the sum of the weights they give the term.
	Sums map[int32]int64

	onNode map[int32]int64 // the same by slot
}

// TermGroup holds the placed terms of one sort.
type TermGroup struct {
	byKey       map[string]*PlacedTerm
	byNamespace map[string]map[string]*PlacedTerm
	everywhere  map[string]*PlacedTerm
}

func (g *TermGroup) init() {
	*g = TermGroup{byKey: map[string]*PlacedTerm{}, byNamespace: map[string]map[string]*PlacedTerm{}, everywhere: map[string]*PlacedTerm{}}
}

// Empty tells whether no placed pod has such a term.
func (g *TermGroup) Empty() bool { return len(g.byKey) == 0 }

// About calls f for each placed term that speaks of the pod.
func (g *TermGroup) About(p *Pod, c *Cluster, f func(*PlacedTerm)) {
	for _, t := range g.byNamespace[p.Pod.Namespace] {
		if t.Matches(p, c) {
			f(t)
		}
	}
	for _, t := range g.everywhere {
		if t.Matches(p, c) {
			f(t)
		}
	}
}

func (g *TermGroup) add(c *Cluster, term *Term, n *Node, delta int64) {
	t := g.byKey[term.key]
	if t == nil {
		t = &PlacedTerm{Term: term, Sums: map[int32]int64{}, onNode: map[int32]int64{}}
		g.insert(t)
	}
	change(t.onNode, n.Slot, delta)
	if id, ok := c.Topology(term.TopologyKey).Domain(n); ok {
		change(t.Sums, id, delta)
	}
	if len(t.onNode) == 0 {
		g.remove(t)
	}
}

func (g *TermGroup) insert(t *PlacedTerm) {
	g.byKey[t.key] = t
	if t.byLabels != nil {
		g.everywhere[t.key] = t
		return
	}
	for _, namespace := range t.namespaces {
		if g.byNamespace[namespace] == nil {
			g.byNamespace[namespace] = map[string]*PlacedTerm{}
		}
		g.byNamespace[namespace][t.key] = t
	}
}

func (g *TermGroup) remove(t *PlacedTerm) {
	delete(g.byKey, t.key)
	delete(g.everywhere, t.key)
	for _, namespace := range t.namespaces {
		delete(g.byNamespace[namespace], t.key)
		if len(g.byNamespace[namespace]) == 0 {
			delete(g.byNamespace, namespace)
		}
	}
}

func (g *TermGroup) moved(key string, slot, before, after int32) {
	for _, t := range g.byKey {
		n := t.onNode[slot]
		if t.TopologyKey != key || n == 0 {
			continue
		}
		if before >= 0 {
			change(t.Sums, before, -n)
		}
		if after >= 0 {
			change(t.Sums, after, n)
		}
	}
}

func change(m map[int32]int64, at int32, delta int64) {
	if m[at] += delta; m[at] == 0 {
		delete(m, at)
	}
}

// termSet are the terms of placed pods, by what they do.
type termSet struct {
	affinity, antiAffinity, preferred TermGroup
}

func (s *termSet) init() {
	s.affinity.init()
	s.antiAffinity.init()
	s.preferred.init()
}

func (s *termSet) count(c *Cluster, p *Pod, n *Node, sign int64) {
	for _, t := range p.Affinity {
		s.affinity.add(c, t, n, sign)
	}
	for _, t := range p.AntiAffinity {
		s.antiAffinity.add(c, t, n, sign)
	}
	for _, t := range p.Preferred {
		s.preferred.add(c, t.Term, n, sign*t.Weight)
	}
}

func (s *termSet) moved(key string, slot, before, after int32) {
	s.affinity.moved(key, slot, before, after)
	s.antiAffinity.moved(key, slot, before, after)
	s.preferred.moved(key, slot, before, after)
}

// AffinityTerms are the required affinity terms of placed pods.
func (c *Cluster) AffinityTerms() *TermGroup { return &c.terms.affinity }

// AntiAffinityTerms are the required anti-affinity terms of placed pods.
func (c *Cluster) AntiAffinityTerms() *TermGroup { return &c.terms.antiAffinity }

// PreferredTerms are the preferred terms of placed pods; their sums are of weights, negative ones against a place.
func (c *Cluster) PreferredTerms() *TermGroup { return &c.terms.preferred }
