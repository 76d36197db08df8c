package nodeipam

import (
	"fmt"
	"net/netip"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func TestRanges(t *testing.T) {
	r, err := newRanges(netip.MustParsePrefix("10.244.0.0/22"), 24)
	if err != nil {
		t.Fatal(err)
	}
	r.occupy(netip.MustParsePrefix("10.244.1.0/24"), "old")
	r.occupy(netip.MustParsePrefix("10.9.0.0/24"), "elsewhere")
	var got string
	for _, owner := range []types.UID{"a", "b", "a", "c", "d"} {
		p, ok := r.take(owner)
		got += fmt.Sprintf("%v%v ", p, ok)
	}
	if got != "10.244.0.0/24true 10.244.2.0/24true 10.244.0.0/24true 10.244.3.0/24true invalid Prefixfalse " {
		t.Fatal(got)
	}
	if !r.release("old") || r.release("old") {
		t.Fatal("release")
	}
	if p, _ := r.take("d"); p.String() != "10.244.1.0/24" {
		t.Fatal(p)
	}
}

func TestRangesIPv6AndOdd(t *testing.T) {
	r, _ := newRanges(netip.MustParsePrefix("fd00:10:244::/56"), 64)
	r.occupy(netip.MustParsePrefix("fd00:10:244::/63"), "two")
	if p, _ := r.take("a"); p.String() != "fd00:10:244:2::/64" {
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
			p, ok := r.take(owner)
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
