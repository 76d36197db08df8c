package job

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestIndexes(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "0": "0", "1,3-5,7": "1,3-5,7", "0,1": "0,1", "0,1,2": "0-2", "3-4": "3,4", "5,3,4": "3-5", "2-9,4,8-12": "2-12",
		"8-30": "8-19", "19,20": "19", "x,4,1-,-2,6-5,,7": "4,7", "99999999999999999999": "", "-1": "",
	} {
		if got := parseIndexes(text, 20).String(); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	s := parseIndexes("1,3-5,9", 20)
	if s.total() != 5 || s.has(0) || !s.has(1) || s.has(2) || !s.has(4) || s.has(8) || !s.has(9) || s.has(10) {
		t.Fatal(s)
	}
	if got := fmt.Sprint(s.missing(4, 20), s.missing(99, 8), s.missing(0, 8)); got != "[0 2 6 7] [0 2 6 7] []" {
		t.Fatal(got)
	}
	if n := s.common(parseIndexes("0-3,5-9", 20)); n != 4 {
		t.Fatal(n)
	}
}

// TestIndexesAreSets compares with sets of single numbers.
func TestIndexesAreSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 30
		draw := func(name string) (indexes, map[int]bool) {
			set := map[int]bool{}
			for _, i := range rapid.SliceOf(rapid.IntRange(0, limit-1)).Draw(t, name) {
				set[i] = true
			}
			return setOf(set), set
		}
		a, as := draw("a")
		b, bs := draw("b")
		u := a.union(b)
		n, common, missing := 0, 0, []int(nil)
		for i := range limit {
			if u.has(i) != (as[i] || bs[i]) || a.has(i) != as[i] {
				t.Fatalf("%d: %v and %v make %v", i, a, b, u)
			}
			switch {
			case as[i] && bs[i]:
				common++
				n++
			case as[i] || bs[i]:
				n++
			default:
				missing = append(missing, i)
			}
		}
		if u.total() != n || a.common(b) != common || b.common(a) != common || !slices.Equal(u.missing(limit, limit), missing) {
			t.Fatalf("%v and %v: %d, %d in common, without %v", a, b, u.total(), a.common(b), u.missing(limit, limit))
		}
		if back := parseIndexes(u.String(), limit); !slices.Equal(back, u) {
			t.Fatalf("%v is read as %v", u, back)
		}
		below := rapid.IntRange(0, limit).Draw(t, "below")
		if cut := parseIndexes(u.String(), below); cut.total() != below-len(u.missing(limit, below)) {
			t.Fatalf("%v below %d is %v", u, below, cut)
		}
	})
}

func FuzzParseIndexes(f *testing.F) {
	for _, text := range []string{"", "1,3-5,7", "5-1", "a-b", "1--2", "0-99999999999999999999", "1,1,1", "-", ",", "2-3-4"} {
		f.Add(text, 10)
	}
	f.Fuzz(func(t *testing.T, text string, completions int) {
		s := parseIndexes(text, completions)
		for i, iv := range s {
			if iv.first < 0 || iv.last < iv.first || iv.last >= completions || i > 0 && iv.first <= s[i-1].last+1 {
				t.Fatalf("%q below %d: %v", text, completions, s)
			}
		}
		if back := parseIndexes(s.String(), completions); !slices.Equal(back, s) {
			t.Fatalf("%v is read as %v", s, back)
		}
	})
}
