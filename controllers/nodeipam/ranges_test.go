package nodeipam

import (
	"fmt"
	"net/netip"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// node is one whose UID is its name.
func node(name string) owner { return owner{types.UID(name), name} }

func TestRanges(t *testing.T) {
	r, err := newRanges(netip.MustParsePrefix("10.244.0.0/22"), 24)
	if err != nil {
		t.Fatal(err)
	}
	r.occupy(netip.MustParsePrefix("10.244.1.0/24"), node("old"))
	r.occupy(netip.MustParsePrefix("10.9.0.0/24"), node("elsewhere"))
	var got string
	for _, name := range []string{"a", "b", "a", "c", "d"} {
		p, ok := r.take(node(name))
		got += fmt.Sprintf("%v%v ", p, ok)
	}
	if got != "10.244.0.0/24true 10.244.2.0/24true 10.244.0.0/24true 10.244.3.0/24true invalid Prefixfalse " {
		t.Fatal(got)
	}
	if !r.release("old") || r.release("old") {
		t.Fatal("release")
	}
	if p, _ := r.take(node("d")); p.String() != "10.244.1.0/24" {
		t.Fatal(p)
	}
}

func TestRangesIPv6AndOdd(t *testing.T) {
	r, _ := newRanges(netip.MustParsePrefix("fd00:10:244::/56"), 64)
	r.occupy(netip.MustParsePrefix("fd00:10:244::/63"), node("two"))
	if p, _ := r.take(node("a")); p.String() != "fd00:10:244:2::/64" {
		t.Fatal(p)
	}
	for _, bad := range [][2]any{{"10.0.0.0/24", 16}, {"10.0.0.0/24", 40}} {
		if _, err := newRanges(netip.MustParsePrefix(bad[0].(string)), bad[1].(int)); err == nil {
			t.Errorf("%v accepted", bad)
		}
	}
}

func TestRangesNeverOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, _ := newRanges(netip.MustParsePrefix("10.244.0.0/16"), rapid.IntRange(17, 24).Draw(t, "bits"))
		have := map[types.UID]netip.Prefix{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			owner := types.UID(fmt.Sprint(rapid.IntRange(0, 20).Draw(t, "owner")))
			if rapid.Bool().Draw(t, "release") {
				r.release(owner)
				delete(have, owner)
				continue
			}
			p, ok := r.take(node(string(owner)))
			if !ok {
				continue
			}
			for other, q := range have {
				if other != owner && q.Overlaps(p) {
					t.Fatalf("%s and %s", p, q)
				}
			}
			have[owner] = p
		}
	})
}

// TestANodeThatRegistersAnewKeepsItsRange unless somebody else needed it.
func TestANodeThatRegistersAnewKeepsItsRange(t *testing.T) {
	r, _ := newRanges(netip.MustParsePrefix("10.244.0.0/22"), 24)
	r.occupy(netip.MustParsePrefix("10.244.2.0/24"), node("known")) // as a controller that starts finds it
	first, _ := r.take(node("a"))
	r.release("a")
	r.release("known")
	if other, _ := r.take(node("b")); other == first {
		t.Errorf("the range just given back goes to another at once")
	}
	for name, want := range map[string]string{"a": first.String(), "known": "10.244.2.0/24"} {
		if p, _ := r.take(owner{types.UID("new " + name), name}); p.String() != want {
			t.Errorf("%s had %s and gets %s", name, want, p)
		}
	}
	r.release("new a")
	if p, _ := r.take(node("c")); p.String() == first.String() {
		t.Errorf("c gets the range of a, though another is free")
	}
	if p, _ := r.take(node("d")); p != first {
		t.Errorf("the last free range is kept for a: %s", p)
	}
	if _, ok := r.take(owner{"newer a", "a"}); ok {
		t.Error("a range is given twice")
	}
}

// TestManyNodes fills ranges of several sizes to the last.
func TestManyNodes(t *testing.T) {
	for _, c := range []struct {
		cluster     string
		bits, nodes int
	}{{"10.244.0.0/16", 24, 256}, {"10.244.0.0/16", 26, 1024}, {"10.0.0.0/8", 20, 4096}, {"10.244.0.0/24", 24, 1}, {"10.244.0.0/24", 30, 64}} {
		r, err := newRanges(netip.MustParsePrefix(c.cluster), c.bits)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[netip.Prefix]bool{}
		for i := range c.nodes {
			p, ok := r.take(node(fmt.Sprint(i)))
			if !ok || seen[p] || p.Bits() != c.bits || !netip.MustParsePrefix(c.cluster).Overlaps(p) {
				t.Fatalf("%v: node %d gets %s, %v", c, i, p, ok)
			}
			seen[p] = true
		}
		if p, ok := r.take(node("one more")); ok {
			t.Errorf("%v: one more node gets %s", c, p)
		}
	}
}
