package model

import "k8s.io/apimachinery/pkg/types"

// countMemory bounds what counts take, in numbers; the least recently used ones go first.
const countMemory = 4 << 20

// Counts are how many pods of a selection there are on each node and in each domain. They are kept up to date while they are used.
type Counts struct {
	// OnNode is by slot; slots beyond its length have none.
	OnNode []int32

	selection *Selection
	byKey     map[string][]int32
	used      uint64
}

// On is how many of the pods are on the node.
func (k *Counts) On(n *Node) int {
	if int(n.Slot) >= len(k.OnNode) {
		return 0
	}
	return int(k.OnNode[n.Slot])
}

// In is how many of the pods are in each domain of a topology; domains beyond its length have none.
func (k *Counts) In(t *Topology) []int32 {
	sums := k.byKey[t.Key]
	if sums == nil {
		sums = make([]int32, len(t.Nodes))
		for slot, n := range k.OnNode {
			if slot < len(t.Of) && t.Of[slot] >= 0 {
				sums[t.Of[slot]] += n
			}
		}
		k.byKey[t.Key] = sums
	}
	return sums
}

// countSet holds the counts that are in use.
type countSet struct {
	byKey map[string]*Counts
	// byNamespace and everywhere find those that a pod may be among; owned by its owner.
	byNamespace map[string][]*Counts
	everywhere  []*Counts
	owned       map[types.UID]*Counts
	tick        uint64
}

func (s *countSet) init() {
	*s = countSet{byKey: map[string]*Counts{}, byNamespace: map[string][]*Counts{}, owned: map[types.UID]*Counts{}, tick: s.tick}
}

// Count gives the counts of a selection.
func (c *Cluster) Count(s *Selection) *Counts {
	set := &c.counts
	set.tick++
	if k := set.byKey[s.Key]; k != nil {
		k.used = set.tick
		return k
	}
	if len(set.byKey) > 0 && (len(set.byKey)+1)*len(c.slots) > countMemory {
		set.dropHalf()
	}
	k := &Counts{selection: s, OnNode: make([]int32, len(c.slots)), byKey: map[string][]int32{}, used: set.tick}
	for _, n := range c.slots {
		if n == nil {
			continue
		}
		for _, p := range n.Pods {
			if s.Matches(p, c) {
				k.OnNode[n.Slot]++
			}
		}
	}
	set.add(k)
	return k
}

func (s *countSet) add(k *Counts) {
	s.byKey[k.selection.Key] = k
	switch {
	case k.selection.owner != "":
		s.owned[k.selection.owner] = k
	case k.selection.byLabels != nil:
		s.everywhere = append(s.everywhere, k)
	default:
		for _, namespace := range k.selection.namespaces {
			s.byNamespace[namespace] = append(s.byNamespace[namespace], k)
		}
	}
}

// dropHalf forgets the half that was not used for longest.
func (s *countSet) dropHalf() {
	old := s.byKey
	newest := s.tick
	oldest := newest
	for _, k := range old {
		oldest = min(oldest, k.used)
	}
	s.keep(func(k *Counts) bool { return k.used > oldest+(newest-oldest)/2 })
}

// dropSelecting forgets what depends on the labels of namespaces.
func (s *countSet) dropSelecting() {
	if len(s.byKey) > 0 {
		s.keep(func(k *Counts) bool { return !k.selection.selectsNamespaces() })
	}
}

func (s *countSet) keep(wanted func(*Counts) bool) {
	old := s.byKey
	s.init()
	for _, k := range old {
		if wanted(k) {
			s.add(k)
		}
	}
}

// count notes in all counts and terms that a pod came to a node, or with sign -1 that it left.
func (c *Cluster) count(p *Pod, n *Node, sign int32) {
	set := &c.counts
	if p.Owner != "" {
		if k := set.owned[p.Owner]; k != nil {
			c.countIn(k, p, n, sign)
		}
	}
	for _, k := range set.byNamespace[p.Pod.Namespace] {
		c.countIn(k, p, n, sign)
	}
	for _, k := range set.everywhere {
		c.countIn(k, p, n, sign)
	}
	c.terms.count(c, p, n, int64(sign))
}

func (c *Cluster) countIn(k *Counts, p *Pod, n *Node, sign int32) {
	if !k.selection.Matches(p, c) {
		return
	}
	for int(n.Slot) >= len(k.OnNode) {
		k.OnNode = append(k.OnNode, 0)
	}
	k.OnNode[n.Slot] += sign
	for key, sums := range k.byKey {
		if id, ok := c.topologies[key].Domain(n); ok {
			k.byKey[key] = addAt(sums, id, sign)
		}
	}
}

// moved takes a node's pods along when it changes its domain.
func (s *countSet) moved(key string, slot, before, after int32) {
	for _, k := range s.byKey {
		sums, has := k.byKey[key]
		if !has || int(slot) >= len(k.OnNode) || k.OnNode[slot] == 0 {
			continue
		}
		if before >= 0 {
			sums = addAt(sums, before, -k.OnNode[slot])
		}
		if after >= 0 {
			sums = addAt(sums, after, k.OnNode[slot])
		}
		k.byKey[key] = sums
	}
}

func addAt(sums []int32, id, delta int32) []int32 {
	for int(id) >= len(sums) {
		sums = append(sums, 0)
	}
	sums[id] += delta
	return sums
}
