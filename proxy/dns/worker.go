package dns

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// maxChain is how many names an ExternalName may lead through within the cluster.
const maxChain = 8

// worker answers one question at a time, in memory of its own.
type worker struct {
	s    *Server
	q    query
	r    reply
	zone zone
	// wait lets it ask other servers. Without, it only tells that this is needed.
	wait bool
	from origin
}

// origin is the part that an answer is from, as CoreDNS names its plug-ins in metrics.
type origin int

const (
	fromCluster origin = iota
	fromForward
	fromHosts
	fromNone
)

func (s *Server) newWorker(wait bool) *worker {
	return &worker{s: s, wait: wait, zone: zone{index: s.index, suffix: s.suffix, server: s.cfg.Addr}}
}

// handle gives the answer to a packet; nil drops it. later tells that others must be asked: a worker that may wait is to handle the packet.
func (w *worker) handle(packet []byte, from netip.Addr, tcp bool) (out []byte, later bool) {
	w.from = fromNone
	w.r.shift = w.s.shift()
	switch w.q.parse(packet, tcp) {
	case drop:
		return nil, false
	case formatError:
		return w.bare(dns.RcodeFormatError), false
	case notImplemented:
		return w.bare(dns.RcodeNotImplemented), false
	case badVersion:
		return w.refuse(dns.RcodeBadVers), false
	}
	if w.q.class != dns.ClassINET || w.q.qtype == dns.TypeAXFR || w.q.qtype == dns.TypeIXFR {
		return w.refuse(dns.RcodeRefused), false
	}
	if out := w.hosts(); out != nil {
		return out, false
	}
	if k, ours := w.zone.has(&w.q.name); ours {
		return w.cluster(k)
	}
	w.r.begin(&w.q, flagAA)
	if w.zone.reverse(&w.r, &w.q.name, headerLen, w.q.qtype) {
		w.from = fromCluster
		return w.r.finish(&w.q, dns.RcodeSuccess), false
	}
	return w.forward(from)
}

// bare answers with a header alone: the question could not be read.
func (w *worker) bare(code int) []byte {
	w.q.end, w.q.edns = headerLen, false
	return w.refuse(code)
}

func (w *worker) refuse(code int) []byte {
	w.r.begin(&w.q, 0)
	return w.r.finish(&w.q, code)
}

// cluster answers for a name of the cluster's zone with k labels before it.
func (w *worker) cluster(k int) (out []byte, later bool) {
	w.from = fromCluster
	q, r := &w.q, &w.r
	r.begin(q, flagAA)
	apex := owner(headerLen + len(q.name.wire) - len(w.zone.suffix.wire))
	f := w.zone.lookup(r, &q.name, k, headerLen, q.qtype)
	switch {
	case f.alias != "":
		return w.follow(f.alias, apex)
	case !f.exists:
		return w.negative(dns.RcodeNameError, apex), false
	case q.qtype == dns.TypeANY:
		r.hinfo(headerLen)
	case r.counts[answer] == 0 && !r.full:
		return w.negative(dns.RcodeSuccess, apex), false
	}
	return r.finish(q, dns.RcodeSuccess), false
}

// negative completes an answer without the records asked for, and says for how long that may be believed (RFC 2308). apex is where the zone's
// name lies.
func (w *worker) negative(code int, apex owner) []byte {
	w.r.soa(authority, apex, w.zone.index.serial())
	return w.r.finish(&w.q, code)
}

// follow writes the chain of names that an ExternalName begins, and the records at its end.
func (w *worker) follow(alias string, apex owner) (out []byte, later bool) {
	o, chased := owner(headerLen), 0
	for alias != "" {
		target := wireName(alias)
		at, ok := w.r.named(o, dns.TypeCNAME, target)
		if !ok || target == nil || w.q.qtype == dns.TypeCNAME || w.q.qtype == dns.TypeANY {
			break
		}
		n := nameOf(target)
		k, ours := w.zone.has(&n)
		if !ours {
			return w.followOutside(&n)
		}
		if chased++; chased > maxChain {
			return w.refuse(dns.RcodeServerFailure), false
		}
		before := w.r.counts[answer]
		f := w.zone.lookup(&w.r, &n, k, at, w.q.qtype)
		switch {
		case !f.exists:
			return w.negative(dns.RcodeNameError, apex), false
		case f.alias == "" && w.r.counts[answer] == before && !w.r.full:
			return w.negative(dns.RcodeSuccess, apex), false
		}
		o, alias = at, f.alias
	}
	return w.r.finish(&w.q, dns.RcodeSuccess), false
}

// nameOf reads a name in wire form that is known to be one.
func nameOf(wire []byte) name {
	n := name{wire: wire}
	for at := 0; wire[at] != 0; at += 1 + int(wire[at]) {
		n.labels = append(n.labels, uint8(at))
	}
	return n
}

// followOutside adds what other servers say of the chain's last name. Where none answers the chain alone is the answer: it is what is known.
func (w *worker) followOutside(n *name) (out []byte, later bool) {
	e, later := w.outside(n)
	if later {
		return nil, true
	}
	code := dns.RcodeSuccess
	if e != nil && !failedEntry(e) {
		var m dns.Msg
		if err := m.Unpack(e.wire); err == nil {
			code = m.Rcode
			for _, rr := range m.Answer {
				rr.Header().Ttl = e.left(rr.Header().Ttl, w.s.now())
				w.r.other(rr)
			}
		}
	}
	return w.r.finish(&w.q, code), false
}

// other writes a record of any type into the answer, without pointers.
func (r *reply) other(rr dns.RR) {
	buf := make([]byte, dns.Len(rr)+1)
	n, err := dns.PackRR(rr, buf, 0, nil, false)
	if err == nil && r.room(answer, n) {
		r.buf = append(r.buf, buf[:n]...)
		r.counts[answer]++
	}
}

// hosts answers from the entries of the configuration; nil, where there is none of the name.
func (w *worker) hosts() []byte {
	hosts := w.s.settings.Load().hosts
	if len(hosts.addrs) == 0 {
		return nil
	}
	q, r := &w.q, &w.r
	addrs, has := hosts.addrs[string(q.name.wire)]
	var names [][]byte
	if !has {
		addr, isReverse := reverseAddr(&q.name)
		if names, has = hosts.names[addr]; !has || !isReverse {
			return nil
		}
	}
	w.from = fromHosts
	r.begin(q, flagAA)
	addresses(r, headerLen, q.qtype, addrs...)
	for _, n := range names {
		if q.qtype == dns.TypePTR {
			r.named(headerLen, dns.TypePTR, n)
		}
	}
	if q.qtype == dns.TypeANY {
		r.hinfo(headerLen)
	}
	return r.finish(q, dns.RcodeSuccess)
}

// forward answers for all other names, to those who may ask for them.
func (w *worker) forward(from netip.Addr) (out []byte, later bool) {
	w.from = fromForward
	if !w.s.clients.mayForward(from, w.s.now()) {
		return w.refuse(dns.RcodeRefused), false
	}
	if n := &w.q.name; len(n.labels) == 2 && bytes.Equal(n.label(1), loopLabel) {
		w.s.forwarder.looped(string(n.label(0)))
		return w.refuse(dns.RcodeNameError), false
	}
	e, later := w.outside(&w.q.name)
	if later {
		return nil, true
	}
	if e == nil {
		return w.refuse(dns.RcodeServerFailure), false
	}
	return w.r.forwarded(&w.q, e, w.s.now()), false
}

// outside finds what other servers say of a name.
func (w *worker) outside(n *name) (e *entry, later bool) {
	var buf [maxKey]byte
	k := appendKey(buf[:0], n, w.q.qtype, w.q.do, w.q.flags&flagCD != 0)
	now := w.s.now()
	if e, fresh := w.s.forwarder.cache.get(k, now); fresh {
		w.s.metrics.hit(e)
		return e, false
	}
	if !w.wait {
		return nil, true
	}
	w.s.metrics.misses.Inc()
	return w.s.forwarder.ask(request{key: string(k), name: string(n.wire), qtype: w.q.qtype, do: w.q.do, cd: w.q.flags&flagCD != 0}), false
}

// forwarded writes another server's answer, with what is left of its time to live, its addresses turned, and cut to what the client takes.
func (r *reply) forwarded(q *query, e *entry, now time.Time) []byte {
	r.buf = append(r.buf[:0], e.wire...)
	copy(r.buf[:2], q.packet[:2])
	flags := binary.BigEndian.Uint16(e.wire[2:])&^uint16(flagAA|flagRD|flagCD) | flagQR | flagRA | q.flags&(flagRD|flagCD)
	if !q.do && q.flags&flagAD == 0 { // RFC 6840, 5.8
		flags &^= flagAD
	}
	copy(r.buf[headerLen:q.end], q.packet[headerLen:q.end])
	at, limit := q.end, q.limit()
	cut := false
	for section := range 3 {
		count := binary.BigEndian.Uint16(r.buf[6+2*section:])
		kept := uint16(0)
		for ; kept < count && !cut; kept++ {
			record, ok := recordAt(r.buf, at)
			if !ok || record.end > limit {
				cut = true
				if section != additional {
					flags |= flagTC
				}
				break
			}
			binary.BigEndian.PutUint32(r.buf[record.ttl:], e.left(binary.BigEndian.Uint32(r.buf[record.ttl:]), now))
			at = record.end
		}
		binary.BigEndian.PutUint16(r.buf[6+2*section:], kept)
	}
	r.buf = r.buf[:at]
	binary.BigEndian.PutUint16(r.buf[2:], flags)
	turn(r.buf, q.end, r.shift)
	if q.edns {
		addOPT(&r.buf, 0, q.do)
	}
	return r.buf
}

// turn begins the answer's last run of addresses with another of them.
func turn(msg []byte, at int, shift uint) {
	first, size, count := 0, 0, uint(0)
	for range binary.BigEndian.Uint16(msg[6:]) {
		r, ok := recordAt(msg, at)
		if !ok {
			return
		}
		same := count > 0 && r.end-r.start == size && bytes.Equal(msg[r.start:r.ttl], msg[first:first+r.ttl-r.start])
		switch {
		case same:
			count++
		case r.rrtype == dns.TypeA || r.rrtype == dns.TypeAAAA:
			first, size, count = r.start, r.end-r.start, 1
		default:
			count = 0
		}
		at = r.end
	}
	if count > 1 {
		run := msg[first : first+int(count)*size]
		by := int(shift%count) * size
		slices.Reverse(run[:by])
		slices.Reverse(run[by:])
		slices.Reverse(run)
	}
}
