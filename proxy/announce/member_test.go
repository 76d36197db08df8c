package announce

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

func everywhere(id) bool { return true }

func addrs(n int) []netip.Addr {
	var out []netip.Addr
	for i := range n {
		out = append(out, netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}))
	}
	return out
}

// TestOwner: addresses spread over the nodes, and only those of a node that goes move.
func TestOwner(t *testing.T) {
	var all []candidate
	for i := range 5 {
		all = append(all, candidate{idOf(fmt.Sprint("node-", i)), 4})
	}
	count := map[id]int{}
	for _, addr := range addrs(1000) {
		o, ok := owner(addr, all, everywhere)
		count[o]++
		shuffled := slices.Clone(all)
		rand.Shuffle(5, func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if o2, ok2 := owner(addr, shuffled, everywhere); !ok || !ok2 || o2 != o {
			t.Fatal("two nodes disagree")
		}
		without := slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { return c.id == all[0].id })
		if o2, _ := owner(addr, without, everywhere); o != all[0].id && o2 != o {
			t.Fatal("an address moved although its node stays")
		}
	}
	for node, n := range count {
		if n < 140 || n > 260 {
			t.Errorf("node %x has %d of 1000", node, n)
		}
	}
	all[3].class = 5
	if o, _ := owner(addrs(1)[0], all, everywhere); o != all[3].id {
		t.Error("the highest class does not win")
	}
	if o, _ := owner(addrs(1)[0], all, func(i id) bool { return i == all[1].id }); o != all[1].id {
		t.Error("a node that serves nothing has it")
	}
	if _, ok := owner(addrs(1)[0], all, func(id) bool { return false }); ok {
		t.Error("somebody has what nobody serves")
	}
}

func TestMessage(t *testing.T) {
	m := message{cluster: [16]byte{1, 2}, asks: true, sender: entry{id: 5, fitness: fit, contact: 3 * time.Second}}
	for i := range 300 {
		m.others = append(m.others, entry{id: id(i), fitness: reserve, age: 40 * time.Millisecond, contact: 400 * time.Second})
	}
	frame := m.encode()
	if len(frame) > 1500 {
		t.Fatalf("%d bytes", len(frame))
	}
	got, err := decode(append(frame, make([]byte, 50)...))
	if err != nil || len(got.others) != mostEntries-1 || got.others[7].contact != 255*time.Second || got.others[7].age != 40*time.Millisecond {
		t.Fatalf("%v %+v", err, got)
	}
	got.others, m.others = nil, nil
	if !reflect.DeepEqual(got, m) {
		t.Errorf("%+v, want %+v", got, m)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(message{sender: entry{id: 1, fitness: fit}, others: []entry{{id: 2}}}.encode())
	f.Add([]byte("CorL"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		m, err := decode(frame)
		if err != nil {
			return
		}
		again, err := decode(m.encode())
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%v: %+v, then %+v", err, m, again)
		}
	})
}

// world is nodes on one link, in a time of its own.
type world struct {
	*testing.T
	rng   *rand.Rand
	now   time.Time
	nodes []*node
	// cut tells whether frames between two nodes are lost, loss how many of the others are.
	cut  func(a, b int) bool
	loss float64
	// server tells whether a node reaches the API server.
	server func(a int) bool
}

type node struct {
	*member
	alive bool
	next  time.Time
}

func newWorld(t *testing.T, seed uint64, n int) *world {
	w := &world{T: t, rng: rand.New(rand.NewPCG(seed, 3)), now: time.Unix(1e9, 0), cut: func(_, _ int) bool { return false }, server: func(int) bool { return true }}
	for range n {
		w.nodes = append(w.nodes, &node{})
	}
	for i := range n {
		w.start(i)
	}
	return w
}

func (w *world) start(i int) {
	m := newMember(idOf(fmt.Sprint("node-", i)), [16]byte{1}, w.now)
	m.fitness = fit
	w.nodes[i].member, w.nodes[i].alive = m, true
	w.send(i, true)
}

func (w *world) send(i int, asks bool) {
	n := w.nodes[i]
	n.next = w.now.Add(beatEvery)
	frame := n.speak(w.now, asks).encode()
	for j, to := range w.nodes {
		if j == i || !to.alive || w.cut(i, j) || w.rng.Float64() < w.loss {
			continue
		}
		msg, err := decode(frame)
		if err != nil {
			w.Fatal(err)
		}
		if to.hear(w.now, msg) {
			to.next = w.now // answers in its next step
		}
	}
}

func (w *world) step() {
	w.now = w.now.Add(10 * time.Millisecond)
	for i, n := range w.nodes {
		if !n.alive {
			continue
		}
		if w.server(i) {
			n.contact = w.now
		}
		n.forget(w.now)
		if !n.next.After(w.now) {
			w.send(i, false)
		}
	}
}

// owners are the nodes that announce addr.
func (w *world) owners(addr netip.Addr) []int {
	var out []int
	for i, n := range w.nodes {
		if !n.alive || !n.settled(w.now) {
			continue
		}
		if o, ok := owner(addr, n.candidates(w.now), everywhere); ok && o == n.self {
			out = append(out, i)
		}
	}
	return out
}

func (w *world) run(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.step()
	}
}

// one waits until each address has exactly one owner, and gives the time that took.
func (w *world) one(what string, within time.Duration, list []netip.Addr) {
	w.Helper()
	begin := w.now
	for {
		bad := slices.IndexFunc(list, func(a netip.Addr) bool { return len(w.owners(a)) != 1 })
		if bad < 0 {
			return
		}
		if w.now.Sub(begin) > within {
			w.Fatalf("%s: after %v %s is announced by %v", what, within, list[bad], w.owners(list[bad]))
		}
		w.step()
	}
}

// TestElection: kills, restarts, partitions and lost frames at random. Three seconds after each change every address has one owner, and keeps it.
func TestElection(t *testing.T) {
	list := addrs(20)
	for seed := range uint64(30) {
		n := 2 + int(seed%5)
		w := newWorld(t, seed, n)
		w.one("start", time.Second, list)
		for range 12 {
			i := w.rng.IntN(n)
			switch w.rng.IntN(4) {
			case 0:
				w.nodes[i].alive = false
			case 1:
				if !w.nodes[i].alive {
					w.start(i)
				}
			case 2:
				w.loss = []float64{0, 0.1}[w.rng.IntN(2)]
			case 3: // two nodes do not hear each other; a third one does, unless there is none
				j, cut := w.rng.IntN(n), w.rng.IntN(2) == 0 && n > 3
				w.cut = func(a, b int) bool { return cut && (a == i && b == j || a == j && b == i) && w.alive() > 2 }
			}
			w.run(3 * time.Second)
			if w.alive() == 0 {
				w.start(i)
				w.run(time.Second)
			}
			if w.loss == 0 {
				w.steady(seed, list)
			} else {
				w.one("with losses", 3*time.Second, list)
			}
		}
	}
}

func (w *world) alive() int {
	n := 0
	for _, node := range w.nodes {
		if node.alive {
			n++
		}
	}
	return n
}

func (w *world) steady(seed uint64, list []netip.Addr) {
	w.Helper()
	before := map[netip.Addr]int{}
	for range 100 {
		w.step()
		for _, a := range list {
			o := w.owners(a)
			if len(o) != 1 {
				w.Fatalf("seed %d: %s is announced by %v", seed, a, o)
			}
			if had, ok := before[a]; ok && had != o[0] {
				w.Fatalf("seed %d: %s moved from %d to %d", seed, a, had, o[0])
			}
			before[a] = o[0]
		}
	}
}

// TestTakeover measures how long an address has no owner when a node dies.
func TestTakeover(t *testing.T) {
	var worst time.Duration
	for seed := range uint64(50) {
		w := newWorld(t, seed, 3)
		w.run(time.Duration(1000+w.rng.IntN(1000)) * time.Millisecond)
		addr := addrs(1)[0]
		dead := w.owners(addr)[0]
		w.nodes[dead].alive = false
		begin := w.now
		for len(w.owners(addr)) == 0 {
			w.step()
		}
		worst = max(worst, w.now.Sub(begin))
	}
	t.Logf("at most %v", worst)
	if worst > 2500*time.Millisecond {
		t.Errorf("takeover after %v", worst)
	}
}

// TestServerAway: nobody moves when nobody reaches the API server; a node that alone does not loses what it has; one that hears neither the server nor
// others stops, unless the only other node may simply be dead.
func TestServerAway(t *testing.T) {
	list := addrs(20)
	has := func(w *world, i int) int {
		n := 0
		for _, a := range list {
			if slices.Contains(w.owners(a), i) {
				n++
			}
		}
		return n
	}
	w := newWorld(t, 1, 3)
	w.run(time.Second)
	w.server = func(int) bool { return false }
	for range 60 {
		w.steady(1, list)
	}
	w.server = func(a int) bool { return a != 0 }
	w.run(40 * time.Second)
	if n := has(w, 0); n != 0 {
		t.Errorf("a node out of touch has %d addresses", n)
	}
	w.one("one node out of touch", 0, list)
	w.cut = func(a, b int) bool { return a == 0 || b == 0 }
	w.run(30 * time.Second)
	if n := has(w, 0); n != 0 {
		t.Errorf("a node that is cut off has %d addresses", n)
	}
	w.one("one node cut off", 0, list)
	w.server, w.cut = func(int) bool { return true }, func(_, _ int) bool { return false }
	w.run(time.Second)
	w.steady(1, list)
	if has(w, 0) == 0 {
		t.Error("a node that is back has nothing")
	}
	w = newWorld(t, 2, 2)
	w.run(time.Second)
	w.nodes[1].alive, w.server = false, func(int) bool { return false } // the server was on it
	w.run(60 * time.Second)
	if n := has(w, 0); n != len(list) {
		t.Errorf("the last of two nodes has %d addresses", n)
	}
}

// TestReserve: a cordoned node hands over at once, and is better than none.
func TestReserve(t *testing.T) {
	w := newWorld(t, 1, 2)
	w.run(time.Second)
	list := addrs(20)
	w.nodes[0].fitness = reserve
	w.send(0, false)
	for _, a := range list {
		if o := w.owners(a); !slices.Equal(o, []int{1}) {
			t.Fatalf("%s is announced by %v", a, o)
		}
	}
	w.nodes[1].fitness = unfit
	w.send(1, false)
	for _, a := range list {
		if o := w.owners(a); !slices.Equal(o, []int{0}) {
			t.Fatalf("%s is announced by %v", a, o)
		}
	}
}
