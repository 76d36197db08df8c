package nodettl

import (
	"testing"

	"pgregory.net/rapid"
)

func TestNext(t *testing.T) {
	at := 0
	for _, c := range []struct{ count, seconds int }{
		{1, 0}, {100, 0}, {101, 15}, {95, 15}, {90, 15}, {89, 0}, {500, 15}, {501, 30}, {450, 30}, {449, 15}, {1001, 60}, {2001, 300}, {1800, 300}, {1799, 60}, {0, 0}, {5000, 300},
	} {
		if at = next(at, c.count); steps[at].seconds != c.seconds {
			t.Errorf("%d nodes: %d s, want %d", c.count, steps[at].seconds, c.seconds)
		}
	}
}

func TestNextFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := 0
		for _, count := range rapid.SliceOfN(rapid.IntRange(0, 6000), 1, 50).Draw(t, "counts") {
			if at = next(at, count); count < steps[at].least || count > steps[at].most {
				t.Fatalf("%d nodes at %+v", count, steps[at])
			}
			if next(at, count) != at {
				t.Fatal("not at rest")
			}
		}
	})
}
