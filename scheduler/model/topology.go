package model

// Topology says which domain each node is in by one label.
type Topology struct {
	Key string
	// Of is each slot's domain, -1 where the node is not known or has no such label.
	Of []int32
	// Nodes counts the known nodes in each domain; a domain without any does not exist (any more).
	Nodes []int32
	// Lacking counts the known nodes without the label.
	Lacking int

	ids   map[string]int32
	known []bool // by slot: whether the node is counted in Nodes or Lacking
}

// Domain is the domain of a node; ok is false where it is in none.
func (t *Topology) Domain(n *Node) (id int32, ok bool) {
	if int(n.Slot) >= len(t.Of) {
		return -1, false
	}
	id = t.Of[n.Slot]
	return id, id >= 0
}

// Topology gives the domains by a label, which are kept up to date from the first call on.
func (c *Cluster) Topology(key string) *Topology {
	t := c.topologies[key]
	if t == nil {
		t = &Topology{Key: key, ids: map[string]int32{}}
		c.topologies[key] = t
		for _, n := range c.slots {
			if n != nil {
				c.place(t, n)
			}
		}
	}
	return t
}

// place notes where a node is now, and moves what is counted there.
func (c *Cluster) place(t *Topology, n *Node) {
	for int(n.Slot) >= len(t.Of) {
		t.Of, t.known = append(t.Of, -1), append(t.known, false)
	}
	before, after := t.Of[n.Slot], int32(-1)
	if n.Node != nil {
		if value, has := n.Node.Labels[t.Key]; has {
			after = t.id(value)
		}
	}
	t.countNode(n.Slot, before, -1)
	t.Of[n.Slot], t.known[n.Slot] = after, n.Node != nil
	t.countNode(n.Slot, after, 1)
	if before != after {
		c.counts.moved(t.Key, n.Slot, before, after)
		c.terms.moved(t.Key, n.Slot, before, after)
	}
}

func (t *Topology) countNode(slot, domain int32, sign int32) {
	switch {
	case !t.known[slot]:
	case domain < 0:
		t.Lacking += int(sign)
	default:
		t.Nodes[domain] += sign
	}
}

func (t *Topology) id(value string) int32 {
	id, has := t.ids[value]
	if !has {
		id = int32(len(t.Nodes))
		t.ids[value] = id
		t.Nodes = append(t.Nodes, 0)
	}
	return id
}
