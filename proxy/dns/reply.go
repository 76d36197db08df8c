package dns

import (
	"encoding/binary"
	"net/netip"

	"github.com/miekg/dns"
)

// reply writes one answer into a buffer that is used again: no allocation for what the cluster knows.
type reply struct {
	buf    []byte
	limit  int
	counts [3]uint16 // records of the answer, authority and additional sections
	full   bool      // a record did not fit
	shift  uint      // by how many places lists of addresses are turned
}

// Sections, as in counts.
const (
	answer = iota
	authority
	additional
)

// begin writes the header and the question as it was asked, so that its letters keep their case.
func (r *reply) begin(q *query, flags uint16) {
	r.counts, r.full, r.limit = [3]uint16{}, false, q.limit()
	r.buf = append(r.buf[:0], q.packet[:q.end]...)
	binary.BigEndian.PutUint16(r.buf[2:], flagQR|flags|flagRA|q.flags&(flagRD|flagCD))
	clear(r.buf[6:headerLen])
	questions := uint16(0)
	if q.end > headerLen {
		questions = 1
	}
	binary.BigEndian.PutUint16(r.buf[4:], questions)
}

// finish completes the header and adds the OPT record of a client that sent one. code may be an extended one.
func (r *reply) finish(q *query, code int) []byte {
	flags := binary.BigEndian.Uint16(r.buf[2:]) | uint16(code&0xF)
	if r.full {
		flags |= flagTC
	}
	binary.BigEndian.PutUint16(r.buf[2:], flags)
	for i, n := range r.counts {
		binary.BigEndian.PutUint16(r.buf[6+2*i:], n)
	}
	if q.edns {
		addOPT(&r.buf, code, q.do)
	}
	return r.buf
}

// addOPT appends an OPT record to a message that has none.
func addOPT(buf *[]byte, code int, do bool) {
	var bits byte
	if do {
		bits = 0x80
	}
	*buf = append(*buf, 0, 0, byte(dns.TypeOPT), maxUDPSize>>8, maxUDPSize&0xFF, byte(code>>4), 0, bits, 0, 0, 0)
	binary.BigEndian.PutUint16((*buf)[10:], binary.BigEndian.Uint16((*buf)[10:])+1)
}

// owner is where a name was written before: records' names are pointers to it (RFC 1035, 4.1.4).
type owner int

// room tells whether so many bytes more fit. What does not fit into the answer makes it a truncated one; additional records are only left out.
func (r *reply) room(section, size int) bool {
	if len(r.buf)+size <= r.limit {
		return true
	}
	r.full = r.full || section != additional
	return false
}

func (r *reply) pointer(o owner) { r.buf = append(r.buf, 0xC0|byte(o>>8), byte(o)) }

// header begins a record of the class IN.
func (r *reply) header(section int, o owner, rrtype uint16, size int) {
	r.pointer(o)
	r.buf = append(r.buf, byte(rrtype>>8), byte(rrtype), 0, byte(dns.ClassINET), 0, 0, 0, ttl, byte(size>>8), byte(size))
	r.counts[section]++
}

const fixedLen = 12 // a record's header with a pointer for its name

// address writes an A or AAAA record.
func (r *reply) address(section int, o owner, addr netip.Addr) {
	if addr.Is4() {
		if r.room(section, fixedLen+4) {
			r.header(section, o, dns.TypeA, 4)
			a := addr.As4()
			r.buf = append(r.buf, a[:]...)
		}
		return
	}
	if r.room(section, fixedLen+16) {
		r.header(section, o, dns.TypeAAAA, 16)
		a := addr.As16()
		r.buf = append(r.buf, a[:]...)
	}
}

// srv writes an SRV record whose target is host below base, or base itself, and gives where the target is. It is written without
// a pointer, as RFC 2782 has it: Go's resolver refuses any other.
func (r *reply) srv(o owner, host string, base []byte, port uint16) (owner, bool) {
	size := 6 + len(base)
	if host != "" {
		size += 1 + len(host)
	}
	if !r.room(answer, fixedLen+size) {
		return 0, false
	}
	r.header(answer, o, dns.TypeSRV, size)
	r.buf = append(r.buf, 0, 0, 0, srvWeight, byte(port>>8), byte(port))
	target := owner(len(r.buf))
	if host != "" {
		r.label(host)
	}
	r.buf = append(r.buf, base...)
	return target, true
}

// srvWeight is that of every SRV record: all are equal.
const srvWeight = 100

func (r *reply) label(s string) {
	r.buf = append(r.buf, byte(len(s)))
	r.buf = append(r.buf, s...)
}

// named writes a record whose data are one name in wire form, and gives where that is.
func (r *reply) named(o owner, rrtype uint16, target []byte) (owner, bool) {
	if !r.room(answer, fixedLen+len(target)) {
		return 0, false
	}
	r.header(answer, o, rrtype, len(target))
	at := owner(len(r.buf))
	r.buf = append(r.buf, target...)
	return at, true
}

// text writes a TXT record of one string.
func (r *reply) text(o owner, s string) {
	if r.room(answer, fixedLen+1+len(s)) {
		r.header(answer, o, dns.TypeTXT, 1+len(s))
		r.label(s)
	}
}

// hinfo is the answer to a question for ANY (RFC 8482, 4.2).
func (r *reply) hinfo(o owner) {
	const cpu = "RFC8482"
	if r.room(answer, fixedLen+2+len(cpu)) {
		r.header(answer, o, dns.TypeHINFO, 2+len(cpu))
		r.label(cpu)
		r.buf = append(r.buf, 0)
	}
}

// soa writes the zone's SOA record; zone is where its name lies in the question.
func (r *reply) soa(section int, zone owner, serial uint32) {
	const server, mailbox = "\x02ns\x03dns", "\x0ahostmaster"
	size := len(server) + 2 + len(mailbox) + 2 + 20
	if !r.room(section, fixedLen+size) {
		return
	}
	r.header(section, zone, dns.TypeSOA, size)
	r.buf = append(r.buf, server...)
	r.pointer(zone)
	r.buf = append(r.buf, mailbox...)
	r.pointer(zone)
	for _, n := range [...]uint32{serial, 7200, 1800, 86400, ttl} { // refresh, retry, expire, minimum
		r.buf = binary.BigEndian.AppendUint32(r.buf, n)
	}
}

// ttl of every record of the cluster, in seconds: short, since endpoints come and go.
const ttl = 5
