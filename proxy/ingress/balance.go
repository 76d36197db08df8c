package ingress

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/internal/ingress"
)

// upstream is a backend as requests see it. What it leads to is replaced as a whole; requests that are on their way keep the endpoint that
// they have.
type upstream struct {
	key  upstreamKey
	pool atomic.Pointer[pool]
}

// upstreamKey is a backend of one namespace.
type upstreamKey struct {
	namespace string
	ingress.Backend
}

func (k upstreamKey) service() types.NamespacedName {
	return types.NamespacedName{Namespace: k.namespace, Name: k.Service}
}

// pool is the endpoints of a backend.
type pool struct {
	protocol  ingress.Protocol
	endpoints []*endpoint
	turn      atomic.Uint32
}

// endpoint is one address, with how it has done. It lives as long as any pool has it.
type endpoint struct {
	address string
	// cookie stands for it in a client's cookie: it does not tell the address.
	cookie string
	// pending is how many requests it works on.
	pending atomic.Int32
	// failures is how many requests in a row have failed, and until when, in nanoseconds of the clock, it gets none for that reason.
	failures atomic.Int32
	ejected  atomic.Int64
}

func newEndpoint(address string) *endpoint {
	sum := sha256.Sum256([]byte(address))
	return &endpoint{address: address, cookie: hex.EncodeToString(sum[:8])}
}

// An endpoint that fails gets no requests for firstEjection, and for twice as long with every further failure, up to lastEjection.
const (
	firstEjection = time.Second
	lastEjection  = 30 * time.Second
	// trial is how long the request may take that tries it out, before another one does.
	trial = 5 * time.Second
)

func (e *endpoint) failed(now time.Time) {
	n := min(e.failures.Add(1)-1, 5)
	e.ejected.Store(now.Add(min(firstEjection<<n, lastEjection)).UnixNano())
}

func (e *endpoint) succeeded() {
	if e.failures.Load() != 0 { // written only where it changes something, for all requests share it
		e.failures.Store(0)
		e.ejected.Store(0)
	}
}

// pick gives the endpoint with the fewest requests, in turn among equals, leaving out those tried already. Those that are ejected get
// requests only where all are. Nil: all were tried.
func (p *pool) pick(tried []*endpoint, now time.Time) *endpoint {
	n := len(p.endpoints)
	if n == 0 {
		return nil
	}
	var best, outcast *endpoint
	least, first := int32(0), int(p.turn.Add(1)%uint32(n))
	for i := range n {
		e := p.endpoints[(first+i)%n]
		if slices.Contains(tried, e) {
			continue
		}
		if until := e.ejected.Load(); until != 0 {
			if until <= now.UnixNano() && e.ejected.CompareAndSwap(until, now.Add(trial).UnixNano()) {
				return e // this one request tries it out
			}
			if outcast == nil || until < outcast.ejected.Load() {
				outcast = e
			}
			continue
		}
		if pending := e.pending.Load(); best == nil || pending < least {
			best, least = e, pending
		}
		if least == 0 || best != nil && i >= mostLookedAt {
			break
		}
	}
	if best == nil {
		return outcast
	}
	return best
}

// mostLookedAt bounds what a pick costs in a Service of many endpoints.
const mostLookedAt = 16

// sticky gives the endpoint that a cookie stands for, unless it is ejected.
func (p *pool) sticky(cookie string, now time.Time) *endpoint {
	for _, e := range p.endpoints {
		if e.cookie == cookie && e.ejected.Load() <= now.UnixNano() {
			return e
		}
	}
	return nil
}
