package ingress

import (
	"testing"
	"time"
)

func poolOf(addresses ...string) *pool {
	p := &pool{}
	for _, a := range addresses {
		p.endpoints = append(p.endpoints, newEndpoint(a))
	}
	return p
}

func TestPick(t *testing.T) {
	now := time.Unix(1000, 0)
	p := poolOf("a", "b", "c")
	a, b, c := p.endpoints[0], p.endpoints[1], p.endpoints[2]
	counts := map[*endpoint]int{}
	for range 30 {
		counts[p.pick(nil, now)]++
	}
	if counts[a] != 10 || counts[b] != 10 || counts[c] != 10 {
		t.Errorf("not in turn: %v", counts)
	}
	a.pending.Store(2)
	b.pending.Store(1)
	c.pending.Store(3)
	for range 6 {
		if got := p.pick(nil, now); got != b {
			t.Fatalf("%s has more to do than b", got.address)
		}
	}
	if got := p.pick([]*endpoint{b}, now); got != a {
		t.Errorf("%s after b", got.address)
	}
	if got := p.pick([]*endpoint{a, b, c}, now); got != nil {
		t.Errorf("%s was tried", got.address)
	}
	if poolOf().pick(nil, now) != nil {
		t.Error("of nothing")
	}
}

// TestEjected: twice as long with each failure; then one request tries it out; where all are ejected the first to come back is asked.
func TestEjected(t *testing.T) {
	now := time.Unix(1000, 0)
	p := poolOf("a", "b")
	a, b := p.endpoints[0], p.endpoints[1]
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		a.failed(now)
		until := now.Add(want * time.Second)
		if got := time.Unix(0, a.ejected.Load()); !got.Equal(until) {
			t.Errorf("ejected until %v, want %v", got, until)
		}
		for range 4 {
			if p.pick(nil, until.Add(-1)) != b {
				t.Error("asked while it is ejected")
			}
		}
		if p.sticky(a.cookie, until.Add(-1)) != nil {
			t.Error("a cookie leads to it while it is ejected")
		}
	}
	later := now.Add(31 * time.Second)
	tries := 0
	for range 10 {
		if p.pick(nil, later) == a {
			tries++
		}
	}
	if tries != 1 {
		t.Errorf("tried out by %d requests", tries)
	}
	a.succeeded()
	if p.sticky(a.cookie, later) != a {
		t.Error("a cookie does not lead to it")
	}
	a.failed(later)
	b.failed(later.Add(-time.Millisecond))
	for range 4 {
		if got := p.pick(nil, later); got != b {
			t.Errorf("all are ejected, and %s is asked", got.address)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	p, now := poolOf("a", "b", "c", "d", "e", "f", "g", "h"), time.Now()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			e := p.pick(nil, now)
			e.pending.Add(1)
			e.pending.Add(-1)
		}
	})
}
