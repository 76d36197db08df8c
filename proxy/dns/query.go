package dns

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// Sizes of RFC 1035 and RFC 6891, in bytes.
const (
	headerLen  = 12
	maxName    = 255
	maxLabels  = 128
	optLen     = 11   // an OPT record without options
	minUDPSize = 512  // what a client without EDNS takes
	maxUDPSize = 1232 // what passes everywhere without fragments, whatever a client says
)

// Bits of the header's second word.
const (
	flagQR = 1 << 15
	flagAA = 1 << 10
	flagTC = 1 << 9
	flagRD = 1 << 8
	flagRA = 1 << 7
	flagAD = 1 << 5
	flagCD = 1 << 4

	opcodeMask = 0xF << 11
)

// name is a domain name in wire form, in lower case.
type name struct {
	wire   []byte // with the root's empty label
	labels []uint8
}

// label is the i-th, without its length.
func (n *name) label(i int) []byte {
	at := int(n.labels[i])
	return n.wire[at+1 : at+1+int(n.wire[at])]
}

// from is the part of the name that begins with label i.
func (n *name) from(i int) []byte {
	if i == len(n.labels) {
		return n.wire[len(n.wire)-1:]
	}
	return n.wire[n.labels[i]:]
}

// query is one question as it came.
type query struct {
	packet []byte // the message; the question's name begins at headerLen
	end    int    // of the question
	name   name
	qtype  uint16
	class  uint16
	flags  uint16
	edns   bool
	do     bool
	size   int // the largest answer that the client takes
	tcp    bool

	lower  [maxName]byte
	starts [maxLabels]uint8
}

// verdict says what a packet is.
type verdict int

const (
	fine verdict = iota
	drop         // no question: an answer, or less than a header
	formatError
	notImplemented
	badVersion
)

// parse reads a packet of untrusted content. It keeps the packet, and allocates nothing.
func (q *query) parse(packet []byte, tcp bool) verdict {
	q.packet, q.end, q.tcp, q.edns, q.do, q.size, q.qtype = packet, headerLen, tcp, false, false, minUDPSize, dns.TypeNone
	if len(packet) < headerLen {
		return drop
	}
	q.flags = binary.BigEndian.Uint16(packet[2:])
	if q.flags&flagQR != 0 {
		return drop
	}
	if q.flags&opcodeMask != 0 {
		return notImplemented
	}
	if binary.BigEndian.Uint16(packet[4:]) != 1 || !q.parseQuestion() {
		return formatError
	}
	return q.parseRecords()
}

func (q *query) parseQuestion() bool {
	at, n := headerLen, 0
	for {
		if at >= len(q.packet) {
			return false
		}
		size := int(q.packet[at])
		if size > 63 || at+1+size > len(q.packet) || at-headerLen+1+size > maxName { // a pointer has nothing to point at
			return false
		}
		to := at - headerLen
		q.lower[to] = byte(size)
		if size == 0 {
			at++
			break
		}
		q.starts[n] = uint8(to)
		n++
		for i, c := range q.packet[at+1 : at+1+size] {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			q.lower[to+1+i] = c
		}
		at += 1 + size
	}
	if at+4 > len(q.packet) {
		return false
	}
	q.name = name{wire: q.lower[:at-headerLen], labels: q.starts[:n]}
	q.qtype, q.class = binary.BigEndian.Uint16(q.packet[at:]), binary.BigEndian.Uint16(q.packet[at+2:])
	q.end = at + 4
	return true
}

// parseRecords looks for the OPT record (RFC 6891). Its options, cookies among them, are passed over.
func (q *query) parseRecords() verdict {
	others := int(binary.BigEndian.Uint16(q.packet[6:])) + int(binary.BigEndian.Uint16(q.packet[8:]))
	total := others + int(binary.BigEndian.Uint16(q.packet[10:]))
	at, result := q.end, fine
	for i := range total {
		r, ok := recordAt(q.packet, at)
		if !ok {
			return formatError
		}
		at = r.end
		if r.rrtype != dns.TypeOPT {
			continue
		}
		if q.edns || i < others || q.packet[r.start] != 0 {
			return formatError
		}
		q.edns = true
		q.do = q.packet[r.ttl+2]&0x80 != 0
		q.size = min(max(int(r.class), minUDPSize), maxUDPSize)
		if q.packet[r.ttl+1] != 0 {
			result = badVersion
		}
	}
	return result
}

// limit is the size that the answer may have, without its OPT record.
func (q *query) limit() int {
	size := q.size
	if q.tcp {
		size = dns.MaxMsgSize
	}
	if q.edns {
		size -= optLen
	}
	return size
}

// record is where one resource record lies in a message.
type record struct {
	start, ttl, data, end int
	rrtype, class         uint16
}

// recordAt finds the record that begins at an offset.
func recordAt(msg []byte, at int) (record, bool) {
	r := record{start: at}
	for {
		if at >= len(msg) {
			return r, false
		}
		size := int(msg[at])
		if size >= 0xC0 {
			at += 2
			break
		}
		at += 1 + size
		if size == 0 {
			break
		}
		if size > 63 {
			return r, false
		}
	}
	if at+10 > len(msg) {
		return r, false
	}
	r.rrtype, r.class = binary.BigEndian.Uint16(msg[at:]), binary.BigEndian.Uint16(msg[at+2:])
	r.ttl, r.data = at+4, at+10
	r.end = r.data + int(binary.BigEndian.Uint16(msg[at+8:]))
	return r, r.end <= len(msg)
}
