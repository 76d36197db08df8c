package run

import (
	"errors"
	"slices"
	"sync"
	"testing"
)

// TestBatches: all are called once; after a failure the rest of its batch is, and no other.
func TestBatches(t *testing.T) {
	for _, c := range []struct{ n, fails, calls int }{{0, -1, 0}, {1, -1, 1}, {10, -1, 10}, {10, 0, 1}, {10, 1, 3}, {10, 6, 7}, {10, 9, 10}} {
		var mu sync.Mutex
		var called []int
		err := Batches(c.n, 4, func(i int) error {
			mu.Lock()
			defer mu.Unlock()
			called = append(called, i)
			if i == c.fails {
				return errors.New("fails")
			}
			return nil
		})
		slices.Sort(called)
		if (err != nil) != (c.fails >= 0) || len(called) != c.calls || len(slices.Compact(slices.Clone(called))) != c.calls {
			t.Errorf("%+v: called %v, %v", c, called, err)
		}
	}
}
