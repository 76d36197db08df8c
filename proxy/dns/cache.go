package dns

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Limits of what is kept of other servers' answers.
const (
	maxEntries = 10_000
	maxBytes   = 4 << 20
	maxTTL     = 5 * time.Minute  // however long an answer says that it holds
	maxNoTTL   = 30 * time.Second // likewise one that says that there is nothing
	failTTL    = 2 * time.Second  // a failure (RFC 9520)
	// staleFor is how long after its end an answer still serves where no server answers (RFC 8767), staleTTL what it then says of itself.
	staleFor = time.Hour
	staleTTL = 30
)

// maxKey is the length of the longest key in the cache: name, type and flags.
const maxKey = maxName + 3

// appendKey writes what an answer is found by.
func appendKey(key []byte, n *name, qtype uint16, do, cd bool) []byte {
	var flags byte
	if do {
		flags = 1
	}
	if cd {
		flags |= 2
	}
	return append(append(key, n.wire...), byte(qtype>>8), byte(qtype), flags)
}

// entry is another server's answer, which never changes.
type entry struct {
	wire   []byte // without an OPT record
	denial bool   // it says that there is no such name, or no such record
	stored time.Time
	fresh  time.Duration // how long it holds
	// stale: it is past its time, and the servers do not answer; until is when it serves no longer even so.
	stale bool
	until time.Time

	used atomic.Bool // since the clock's hand passed it
}

// left is what remains of a record's time to live, in seconds.
func (e *entry) left(ttl uint32, now time.Time) uint32 {
	if e.stale {
		return staleTTL
	}
	ttl = min(ttl, uint32(e.fresh/time.Second))
	age := uint32(max(now.Sub(e.stored), 0) / time.Second)
	if age >= ttl {
		return min(ttl, 1)
	}
	return ttl - age
}

// revive is the entry for a little longer, in which the servers are not asked again.
func (e *entry) revive(now time.Time) *entry {
	return &entry{wire: e.wire, denial: e.denial, stored: now, fresh: failTTL, stale: true, until: e.until}
}

// holds is how long an answer may be kept: as long as each of its records, or as the zone's SOA says where there is none (RFC 2308, 5).
func holds(m *dns.Msg) (d time.Duration, denial bool) {
	limit := maxTTL
	records := m.Answer
	switch {
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return failTTL, false
	case m.Truncated:
		return 0, false
	case m.Rcode == dns.RcodeNameError || len(m.Answer) == 0:
		denial = true
		limit = 0
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				limit = min(maxNoTTL, time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second)
			}
		}
	}
	for _, rr := range records {
		limit = min(limit, time.Duration(rr.Header().Ttl)*time.Second)
	}
	return limit, denial
}

// answers keeps them, bounded in number and size: what was not used of late goes first (CLOCK).
type answers struct {
	mu    sync.RWMutex
	byKey map[string]int // where in the ring
	ring  []slot
	hand  int
	bytes int
}

type slot struct {
	key string
	*entry
}

func newAnswers() *answers { return &answers{byKey: map[string]int{}} }

// get finds an answer, and tells whether it still holds.
func (c *answers) get(key []byte, now time.Time) (e *entry, fresh bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	i, has := c.byKey[string(key)]
	if !has {
		return nil, false
	}
	e = c.ring[i].entry
	if !e.used.Load() {
		e.used.Store(true)
	}
	return e, now.Sub(e.stored) < e.fresh
}

// put keeps an answer in place of one with the same key.
func (c *answers) put(key string, e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := len(key) + len(e.wire)
	if i, has := c.byKey[key]; has {
		c.remove(i)
	}
	for len(c.ring) > 0 && (len(c.ring) >= maxEntries || c.bytes+size > maxBytes) {
		c.evict()
	}
	c.byKey[key] = len(c.ring)
	c.ring = append(c.ring, slot{key, e})
	c.bytes += size
}

func (s slot) size() int { return len(s.key) + len(s.wire) }

// evict removes the first answer at the hand that was not used since the hand came by.
func (c *answers) evict() {
	for {
		c.hand %= len(c.ring)
		if !c.ring[c.hand].used.Swap(false) {
			break
		}
		c.hand++
	}
	c.remove(c.hand)
}

// remove forgets the i-th answer; the last one takes its place.
func (c *answers) remove(i int) {
	gone, last := c.ring[i], len(c.ring)-1
	c.bytes -= gone.size()
	delete(c.byKey, gone.key)
	if i != last {
		c.ring[i] = c.ring[last]
		c.byKey[c.ring[i].key] = i
	}
	c.ring[last] = slot{}
	c.ring = c.ring[:last]
}

// clear forgets everything: the servers are others now.
func (c *answers) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.byKey)
	c.ring, c.hand, c.bytes = nil, 0, 0
}

// sizes counts the answers kept, and those among them that say no.
func (c *answers) sizes() (successes, denials int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, s := range c.ring {
		if s.denial {
			denials++
		}
	}
	return len(c.ring) - denials, denials
}

// failure is the entry of a question that no server answered.
func failure(name string, qtype uint16, now time.Time) *entry {
	wire := make([]byte, headerLen, headerLen+len(name)+4)
	binary.BigEndian.PutUint16(wire[2:], flagQR|dns.RcodeServerFailure)
	wire[5] = 1
	wire = append(append(wire, name...), byte(qtype>>8), byte(qtype), 0, byte(dns.ClassINET))
	return &entry{wire: wire, stored: now, fresh: failTTL}
}
