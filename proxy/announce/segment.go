package announce

import (
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// repeats are the pauses between the gratuitous ARPs of a takeover: some are lost, and some switches learn slowly.
var repeats = []time.Duration{0, 100 * time.Millisecond, 400 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second}

// segment is one link on which addresses are announced.
type segment struct {
	index  int
	name   string
	mac    net.HardwareAddr
	log    *slog.Logger
	member *member
	beats  *socket
	arp    *socket
	// took is called when this node takes an address.
	took func(netip.Addr)

	wanted     map[netip.Addr]Claim
	changed    bool // wanted, since the last election
	candidates []candidate
	nextBeat   time.Time
	asked      bool
	held       map[netip.Addr]*hold
	// answers is what is read by who answers requests.
	answers atomic.Pointer[answers]
}

// answers are the addresses that this node has, and the one that it says they are at.
type answers struct {
	addrs map[netip.Addr]bool
	mac   net.HardwareAddr
}

// hold is an address that this node announces.
type hold struct {
	told int
	next time.Time
}

// openSegment listens on a link; what heartbeats it hears it gives to heard.
func openSegment(g *segment, heard func(*segment, []byte)) (err error) {
	if g.beats, err = openSocket(g.index, etherType); err != nil {
		return err
	}
	if g.arp, err = openSocket(g.index, 0x0806); err != nil {
		g.beats.close()
		return err
	}
	g.held = map[netip.Addr]*hold{}
	g.answers.Store(&answers{})
	if err := g.arp.filter(requestsFor(nil)); err != nil {
		g.close()
		return err
	}
	go g.read(g.beats, func(frame []byte) { heard(g, slices.Clone(frame)) })
	go g.read(g.arp, g.answer)
	return nil
}

// close ends both readers.
func (g *segment) close() {
	g.beats.close()
	g.arp.close()
}

// read gives what comes to use until the socket is closed.
func (g *segment) read(s *socket, use func([]byte)) {
	buffer := make([]byte, 2048)
	for {
		n, err := s.receive(buffer)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil: // the link went down: the error is told once, then the socket works as before
			time.Sleep(beatEvery)
		default:
			use(buffer[:n])
		}
	}
}

// answer answers a request for an address that this node has.
func (g *segment) answer(frame []byte) {
	p, err := decodeARP(frame)
	have := g.answers.Load()
	if err != nil || p.op != arpRequest || !have.addrs[p.target] {
		return
	}
	reply := arpPacket{op: arpReply, fromMAC: have.mac, from: p.target, target: p.from, targetMAC: p.fromMAC}
	if err := g.arp.send(p.fromMAC, reply.encode()); err != nil {
		g.log.Debug("ARP not answered", "address", p.target, "error", err)
	}
}

// step does what is due now, and tells when the next thing is.
func (g *segment) step(now time.Time) time.Time {
	next := g.member.forget(now)
	earlier := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	if !g.nextBeat.After(now) {
		g.speak(now)
	}
	earlier(g.nextBeat)
	if settled := g.member.began.Add(settleFor); settled.After(now) {
		earlier(settled)
		return next
	}
	g.elect(now)
	for addr, h := range g.held {
		if h.told < len(repeats) && !h.next.After(now) {
			g.tell(addr)
			if h.told++; h.told < len(repeats) {
				h.next = now.Add(repeats[h.told])
			}
		}
		if h.told < len(repeats) {
			earlier(h.next)
		}
	}
	return next
}

// speak sends a heartbeat; the first asks for those of the others.
func (g *segment) speak(now time.Time) {
	msg := g.member.speak(now, !g.asked)
	g.asked, g.nextBeat = true, now.Add(beatEvery)
	if err := g.beats.send(broadcastMAC, msg.encode()); err != nil {
		g.log.Debug("heartbeat not sent", "link", g.name, "error", err)
	}
}

// hear takes a frame.
func (g *segment) hear(now time.Time, frame []byte) {
	msg, err := decode(frame)
	if err == nil && g.member.hear(now, msg) {
		g.nextBeat = now
	}
}

func (g *segment) tell(addr netip.Addr) {
	for _, packet := range gratuitous(addr, g.mac) {
		if err := g.arp.send(broadcastMAC, packet); err != nil {
			g.log.Debug("address not announced", "address", addr, "link", g.name, "error", err)
		}
	}
}

// elect finds out which addresses are this node's, where that may have changed.
func (g *segment) elect(now time.Time) {
	candidates := g.member.candidates(now)
	if !g.changed && slices.Equal(candidates, g.candidates) {
		return
	}
	// Who appears may have announced the same: the clients are told anew whose it is.
	appeared := slices.ContainsFunc(candidates, func(c candidate) bool {
		return !slices.ContainsFunc(g.candidates, func(b candidate) bool { return b.id == c.id })
	})
	g.changed, g.candidates = false, candidates
	held := map[netip.Addr]*hold{}
	var taken []netip.Addr
	for addr, claim := range g.wanted {
		if who, ok := owner(addr, candidates, claim.servedBy); !ok || who != g.member.self {
			continue
		}
		h := g.held[addr]
		switch {
		case h == nil:
			h = &hold{next: now}
			taken = append(taken, addr)
			g.log.Info("announcing", "address", addr, "link", g.name)
		case appeared:
			*h = hold{next: now}
		}
		held[addr] = h
	}
	for addr := range g.held {
		if held[addr] == nil {
			g.log.Info("no longer announcing", "address", addr, "link", g.name)
		}
	}
	g.hold(held)
	for _, addr := range taken {
		g.took(addr)
	}
}

// hold makes these the addresses that requests are answered for.
func (g *segment) hold(held map[netip.Addr]*hold) {
	addrs := map[netip.Addr]bool{}
	for addr := range held {
		addrs[addr] = true
	}
	g.held = held
	g.answers.Store(&answers{addrs: addrs, mac: g.mac})
	if err := g.arp.filter(requestsFor(slices.Collect(maps.Keys(addrs)))); err != nil {
		g.log.Error("cannot tell the kernel for which addresses to answer", "link", g.name, "error", err)
	}
}
