package keylock

import (
	"sync"
	"testing"
)

func TestOneAtATime(t *testing.T) {
	var l Locks
	var all sync.WaitGroup
	counts := map[string]*int{"a": new(int), "b": new(int)} // without the locks the race detector finds them
	for range 50 {
		for key, n := range counts {
			all.Go(func() {
				defer l.Lock(key)()
				*n++
			})
		}
	}
	all.Wait()
	if *counts["a"] != 50 || *counts["b"] != 50 {
		t.Errorf("counted %d and %d", *counts["a"], *counts["b"])
	}
	if len(l.held) != 0 {
		t.Errorf("%d locks are left that nobody holds", len(l.held))
	}
}

func TestKeysDoNotWaitForEachOther(t *testing.T) {
	var l Locks
	unlock := l.Lock("a")
	l.Lock("b")()
	if len(l.held) != 1 {
		t.Errorf("%d locks are held, want one", len(l.held))
	}
	unlock()
}
