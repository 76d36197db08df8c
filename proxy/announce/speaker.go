package announce

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/coracle-dev/coracle/internal/iface"
)

// Claim is an address to be announced by some node.
type Claim struct {
	// Nodes are the names of those that serve it; nil are all.
	Nodes map[string]bool

	served map[id]bool
}

func (c Claim) servedBy(node id) bool { return c.served == nil || c.served[node] }

// prepare knows the nodes by their ids.
func (c Claim) prepare() Claim {
	if c.Nodes != nil {
		c.served = map[id]bool{}
		for name := range c.Nodes {
			c.served[idOf(name)] = true
		}
	}
	return c
}

// state is what a speaker is to go by.
type state struct {
	claims  map[netip.Addr]Claim
	cluster [16]byte
	fitness fitness
	contact time.Time
}

// speaker announces addresses on this network namespace's links.
type speaker struct {
	node   id
	nodeIP netip.Addr
	log    *slog.Logger
	// state is asked whenever changed is sent to, and before each heartbeat.
	state   func() state
	changed <-chan struct{}
	took    func(netip.Addr)

	segments map[int]*segment
	frames   chan frame
	homeless map[netip.Addr]bool
}

type frame struct {
	segment *segment
	data    []byte
}

// run announces until ctx ends. It ends in silence: an agent that is only started anew keeps its addresses if it is back before
// the others miss it. A node that goes down for good is cordoned before.
func (s *speaker) run(ctx context.Context) error {
	s.segments, s.frames, s.homeless = map[int]*segment{}, make(chan frame, 256), map[netip.Addr]bool{}
	defer func() {
		for _, g := range s.segments {
			g.close()
		}
	}()
	updates, done := make(chan netlink.AddrUpdate, 16), make(chan struct{})
	defer close(done)
	if err := netlink.AddrSubscribe(updates, done); err != nil {
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	again := true
	for {
		now := time.Now()
		if again {
			s.refresh(ctx, now)
		}
		again = false
		timer.Reset(s.step(now).Sub(now))
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
			again = true
		case _, open := <-updates:
			if !open {
				return errors.New("the kernel no longer tells of addresses")
			}
			again = true
		case f := <-s.frames:
			f.segment.hear(time.Now(), f.data)
		case <-timer.C:
		}
	}
}

// step does what is due, and tells when it is to be called again at the latest.
func (s *speaker) step(now time.Time) time.Time {
	next := now.Add(time.Minute)
	st := s.state()
	for _, g := range s.segments {
		m := g.member
		if m.fitness != st.fitness {
			m.fitness, g.nextBeat = st.fitness, now
		}
		m.contact = st.contact
		if due := g.step(now); due.Before(next) {
			next = due
		}
	}
	return next
}

// refresh finds the links that the addresses are to be announced on.
func (s *speaker) refresh(ctx context.Context, now time.Time) {
	st := s.state()
	links, err := listLinks()
	if err != nil {
		s.log.Error("cannot list links", "error", err)
		return
	}
	wanted := map[int]map[netip.Addr]Claim{}
	for addr, claim := range st.claims {
		l, ok := links.of(addr, s.nodeIP)
		if !ok {
			if !s.homeless[addr] {
				s.homeless[addr] = true
				s.log.Warn("no link of this node is in the address' subnet", "address", addr)
			}
			continue
		}
		delete(s.homeless, addr)
		if wanted[l.index] == nil {
			wanted[l.index] = map[netip.Addr]Claim{}
		}
		wanted[l.index][addr] = claim.prepare()
	}
	for index, g := range s.segments {
		if wanted[index] == nil || links[index].name != g.name || g.member.cluster != st.cluster {
			g.close()
			delete(s.segments, index)
		}
	}
	for index, claims := range wanted {
		g := s.segments[index]
		if g == nil {
			if g = s.open(ctx, links[index], st, now); g == nil {
				continue
			}
			s.segments[index] = g
		}
		g.mac, g.wanted, g.changed = links[index].mac, claims, true
	}
}

// open begins to speak on a link.
func (s *speaker) open(ctx context.Context, l link, st state, now time.Time) *segment {
	g := &segment{index: l.index, name: l.name, mac: l.mac, log: s.log, member: newMember(s.node, st.cluster, now), took: s.took}
	g.member.fitness, g.member.contact = st.fitness, st.contact
	err := openSegment(g, func(g *segment, data []byte) {
		select {
		case s.frames <- frame{g, data}:
		case <-ctx.Done():
		}
	})
	if err != nil {
		s.log.Error("cannot announce addresses", "link", l.name, "error", err)
		return nil
	}
	return g
}

// link is one that addresses can be announced on.
type link struct {
	index  int
	name   string
	mac    net.HardwareAddr
	ranges []netip.Prefix // its addresses, each with its subnet
}

type links map[int]link

// listLinks lists the links with IPv4 and Ethernet addresses.
func listLinks() (links, error) {
	addrs, err := iface.Addresses(nil)
	if err != nil {
		return nil, err
	}
	out := links{}
	for _, a := range addrs {
		l, known := out[a.LinkIndex]
		if !known {
			found, err := netlink.LinkByIndex(a.LinkIndex)
			if err != nil || len(found.Attrs().HardwareAddr) != 6 || found.Attrs().Flags&net.FlagLoopback != 0 {
				continue // gone meanwhile, or nothing that ARP is for
			}
			l = link{index: a.LinkIndex, name: found.Attrs().Name, mac: found.Attrs().HardwareAddr}
		}
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok {
			bits, _ := a.Mask.Size()
			l.ranges = append(l.ranges, netip.PrefixFrom(ip, bits))
		}
		out[a.LinkIndex] = l
	}
	return out, nil
}

// of is the link in whose subnet addr is, of several the most specific; or else that of the node's own address, whose router may know more.
func (l links) of(addr, nodeIP netip.Addr) (link, bool) {
	best, bits := link{}, -1
	for _, each := range l {
		for _, r := range each.ranges {
			switch {
			case r.Contains(addr) && r.Bits() < 32 && r.Bits() > bits:
				best, bits = each, r.Bits()
			case bits < 0 && r.Addr() == nodeIP:
				best = each
			}
		}
	}
	return best, best.index != 0
}
