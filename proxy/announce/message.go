package announce

import (
	"encoding/binary"
	"errors"
	"time"
)

// A heartbeat is a frame of its own EtherType: four bytes of magic, one of version, one of flags, the cluster, the number of nodes, and for
// each of them, the sender first: its id, its fitness, how long ago it was heard and how long before that it last reached the API server.
const (
	etherType  = 0x88b5 // IEEE 802, for local experiments
	version    = 1
	flagAsks   = 1
	headerSize = 4 + 1 + 1 + 16 + 1
	entrySize  = 8 + 1 + 1 + 1
	ageUnit    = 20 * time.Millisecond
	// mostEntries fit into an Ethernet frame of 1500 bytes; of more nodes those heard last are told.
	mostEntries = 130
)

var magic = [4]byte{'C', 'o', 'r', 'L'}

// entry is what a heartbeat says of a node.
type entry struct {
	id      id
	fitness fitness
	// age is how long ago it was heard, contact how long before that it reached the API server.
	age, contact time.Duration
}

type message struct {
	cluster [16]byte
	asks    bool
	sender  entry
	others  []entry
}

func (m message) encode() []byte {
	others := m.others[:min(len(m.others), mostEntries-1)]
	out := append(make([]byte, 0, headerSize+entrySize*(1+len(others))), magic[:]...)
	var flags byte
	if m.asks {
		flags |= flagAsks
	}
	out = append(out, version, flags)
	out = append(out, m.cluster[:]...)
	out = append(out, byte(1+len(others)))
	out = m.sender.append(out)
	for _, e := range others {
		out = e.append(out)
	}
	return out
}

func (e entry) append(out []byte) []byte {
	out = binary.BigEndian.AppendUint64(out, uint64(e.id))
	// Rounded up: what is passed on from node to node gets no younger.
	return append(out, byte(e.fitness), units(e.age+ageUnit-1, ageUnit), units(e.contact, time.Second))
}

func units(d, unit time.Duration) byte { return byte(min(max(d/unit, 0), 255)) }

var errMessage = errors.New("announce: not a heartbeat")

// decode reads a frame, which may be padded.
func decode(frame []byte) (message, error) {
	var m message
	if len(frame) < headerSize+entrySize || [4]byte(frame[:4]) != magic || frame[4] != version {
		return m, errMessage
	}
	m.asks = frame[5]&flagAsks != 0
	m.cluster = [16]byte(frame[6:22])
	count := int(frame[22])
	if rest := frame[headerSize:]; count == 0 || count > mostEntries || len(rest) < count*entrySize {
		return m, errMessage
	}
	for i := range count {
		e, err := decodeEntry(frame[headerSize+i*entrySize:])
		if err != nil {
			return m, err
		}
		if i == 0 {
			m.sender = e
		} else {
			m.others = append(m.others, e)
		}
	}
	return m, nil
}

func decodeEntry(b []byte) (entry, error) {
	e := entry{id: id(binary.BigEndian.Uint64(b)), fitness: fitness(b[8]), age: time.Duration(b[9]) * ageUnit, contact: time.Duration(b[10]) * time.Second}
	if e.fitness > fit {
		return e, errMessage
	}
	return e, nil
}
