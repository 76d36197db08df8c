package announce

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// Times of the election. A node that dies is missed after deadAfter at the latest, and one heartbeat earlier at the earliest.
const (
	beatEvery = 400 * time.Millisecond
	deadAfter = 2200 * time.Millisecond
	// settleFor is how long a node listens before it takes anything: others answer a newcomer at once.
	settleFor = 300 * time.Millisecond
	// outOfTouch is how much longer than others a node may be without the API server before they are preferred to it.
	outOfTouch = 15 * time.Second
	// forgetAfter is how long a node that is gone counts as one that should be there, while the API server can be reached.
	forgetAfter = time.Minute
)

// id is a node, by a hash of its name.
type id uint64

func idOf(name string) id { return id(binary.BigEndian.Uint64(sum(name))) }

func sum(text string) []byte {
	s := sha256.Sum256([]byte(text))
	return s[:]
}

// fitness is what a node says of itself.
type fitness uint8

const (
	unfit   fitness = iota // it announces nothing
	reserve                // cordoned or not ready: only where nobody else is
	fit
)

// peer is what is known of a node.
type peer struct {
	fitness fitness
	// heard is when it last spoke, contact when it last reached the API server; both by this node's clock.
	heard, contact time.Time
}

// member is one node's knowledge of the nodes on one link. It has no clock and sends nothing: it is told the time, what is heard, and says what to send.
type member struct {
	self    id
	cluster [16]byte
	began   time.Time
	fitness fitness
	contact time.Time
	peers   map[id]peer
	// known is when nodes that should be there were last heard. While this node is out of touch nobody is forgotten.
	known map[id]time.Time
}

func newMember(self id, cluster [16]byte, now time.Time) *member {
	return &member{self: self, cluster: cluster, began: now, contact: now, peers: map[id]peer{}, known: map[id]time.Time{}}
}

// hear takes what another node says, and tells whether to answer at once.
func (m *member) hear(now time.Time, msg message) (answer bool) {
	if msg.cluster != m.cluster || msg.sender.id == m.self {
		return false
	}
	_, had := m.peers[msg.sender.id]
	m.learn(now, msg.sender)
	for _, e := range msg.others {
		m.learn(now, e)
	}
	return msg.asks || !had
}

// learn takes what somebody knows of a node, if it is newer than what this one knows.
func (m *member) learn(now time.Time, e entry) {
	heard := now.Add(-e.age)
	if e.id == m.self || e.age >= deadAfter || !heard.After(m.peers[e.id].heard) {
		return
	}
	m.peers[e.id] = peer{fitness: e.fitness, heard: heard, contact: heard.Add(-e.contact)}
	m.known[e.id] = heard
}

// forget drops the dead, and tells when the next one will be.
func (m *member) forget(now time.Time) (next time.Time) {
	for id, p := range m.peers {
		dies := p.heard.Add(deadAfter)
		if !dies.After(now) {
			delete(m.peers, id)
		} else if next.IsZero() || dies.Before(next) {
			next = dies
		}
	}
	if now.Sub(m.contact) < outOfTouch {
		for id, heard := range m.known {
			if now.Sub(heard) > forgetAfter {
				delete(m.known, id)
			}
		}
	}
	return next
}

// isolated tells whether this node is more likely cut off than all the others dead.
func (m *member) isolated(now time.Time) bool {
	return now.Sub(m.contact) > outOfTouch && 2*(len(m.peers)+1) < len(m.known)+1
}

// own is how fit this node is, all in all.
func (m *member) own(now time.Time) fitness {
	if m.isolated(now) {
		return unfit
	}
	return m.fitness
}

// speak is the next heartbeat. asks has the others answer.
func (m *member) speak(now time.Time, asks bool) message {
	msg := message{cluster: m.cluster, asks: asks, sender: entry{id: m.self, fitness: m.own(now), contact: now.Sub(m.contact)}}
	for id, p := range m.peers {
		msg.others = append(msg.others, entry{id: id, fitness: p.fitness, age: now.Sub(p.heard), contact: max(0, p.heard.Sub(p.contact))})
	}
	slices.SortFunc(msg.others, func(a, b entry) int { return cmp.Or(cmp.Compare(a.age, b.age), cmp.Compare(a.id, b.id)) })
	return msg
}

// candidate is a node that may announce; the ones of the highest class that there is do.
type candidate struct {
	id    id
	class uint8
}

// candidates are those alive that may announce, in order. Nobody but this node may while it only listens.
func (m *member) candidates(now time.Time) []candidate {
	all := map[id]peer{m.self: {fitness: m.own(now), contact: m.contact}}
	latest := m.contact
	for id, p := range m.peers {
		all[id] = p
		if p.contact.After(latest) {
			latest = p.contact
		}
	}
	var out []candidate
	for id, p := range all {
		class := uint8(p.fitness)
		switch {
		case p.fitness == unfit:
			continue
		case latest.Sub(p.contact) <= outOfTouch:
			class += uint8(fit)
		}
		out = append(out, candidate{id, class})
	}
	slices.SortFunc(out, func(a, b candidate) int { return cmp.Compare(a.id, b.id) })
	return out
}

// settled tells whether this node has listened long enough to take addresses.
func (m *member) settled(now time.Time) bool { return now.Sub(m.began) >= settleFor }

// owner is the node that announces an address: of the candidates that serve it, those of the highest class, the one that the address' hash prefers. Where a
// node comes or goes only the addresses that it has or had move.
func owner(addr netip.Addr, candidates []candidate, serves func(id) bool) (id, bool) {
	var best candidate
	var score uint64
	for _, c := range candidates {
		if !serves(c.id) || c.class < best.class {
			continue
		}
		if s := weight(addr, c.id); c.class > best.class || s > score || s == score && c.id > best.id {
			best, score = c, s
		}
	}
	return best.id, best.class > 0
}

func weight(addr netip.Addr, node id) uint64 {
	return binary.BigEndian.Uint64(sum(string(binary.BigEndian.AppendUint64(addr.AsSlice(), uint64(node)))))
}
