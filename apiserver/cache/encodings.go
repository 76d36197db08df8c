package cache

import (
	"slices"
	"sync"
	"sync/atomic"
	"weak"

	"k8s.io/apimachinery/pkg/runtime"
)

// encodings memoises an object's bytes by encoding name. An object has few encodings, so a list serves.
type encodings struct {
	mu   sync.Mutex
	list []*encoding
	pool *encodingPool // where the cache learns which objects hold bytes; nil for objects outside a cache
}

type encoding struct {
	name  string
	once  sync.Once
	bytes []byte
	err   error
	used  atomic.Uint32 // the pool's epoch at the last use
}

// Encoded returns the object's bytes in the encoding name, calling encode for them at most once while they
// are kept. The bytes are shared: do not change them. An error of encode is not:
// a conversion may fail for a while.
func (o *Object) Encoded(name string, encode func(runtime.Object) ([]byte, error)) ([]byte, error) {
	e, first := o.encodings.find(name)
	if o.encodings.pool != nil {
		o.encodings.pool.touch(o, e, first)
	}
	e.once.Do(func() { e.bytes, e.err = encode(o.Object) })
	if e.err != nil {
		o.encodings.forget(e)
	}
	return e.bytes, e.err
}

// find returns the named encoding, and whether it is the first that the object holds.
func (s *encodings) find(name string) (e *encoding, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.list {
		if e.name == name {
			return e, false
		}
	}
	e = &encoding{name: name}
	s.list = append(s.list, e)
	return e, len(s.list) == 1
}

// Holds tells whether the object's bytes in the encoding name are there.
func (o *Object) Holds(name string) bool {
	s := &o.encodings
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.list, func(e *encoding) bool { return e.name == name })
}

func (s *encodings) forget(e *encoding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(slices.Clone(s.list), func(o *encoding) bool { return o == e })
}

// drop forgets the encodings last used before epoch and tells how many are left.
func (s *encodings) drop(epoch uint32) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var kept []*encoding
	for _, e := range s.list {
		if e.used.Load() >= epoch {
			kept = append(kept, e)
		}
	}
	s.list = kept
	return len(kept)
}

// encodingPool remembers which objects hold encodings, so that bytes nobody asked for in a while can go. It
// keeps no object alive.
type encodingPool struct {
	epoch   atomic.Uint32
	mu      sync.Mutex
	holders []weak.Pointer[Object]
}

// keptEpochs is how many calls of sweep an unused encoding outlives.
const keptEpochs = 4

func (p *encodingPool) touch(o *Object, e *encoding, first bool) {
	if now := p.epoch.Load(); first || e.used.Load() != now {
		e.used.Store(now)
	}
	if first {
		p.mu.Lock()
		p.holders = append(p.holders, weak.Make(o))
		p.mu.Unlock()
	}
}

// sweep starts a new epoch and drops the encodings that were not used in the last ones.
func (p *encodingPool) sweep() {
	now := p.epoch.Add(1)
	p.mu.Lock()
	holders := p.holders
	p.holders = nil
	p.mu.Unlock()
	var kept []weak.Pointer[Object]
	for _, h := range holders {
		o := h.Value()
		if o == nil {
			continue
		}
		if now < keptEpochs || o.encodings.drop(now-keptEpochs+1) > 0 {
			kept = append(kept, h)
		}
	}
	p.mu.Lock()
	p.holders = append(kept, p.holders...)
	p.mu.Unlock()
}
