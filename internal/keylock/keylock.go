// Package keylock has a mutex for each of many keys. What nobody holds or waits for takes no memory.
package keylock

import "sync"

// Locks are mutexes by key. The zero value is ready.
type Locks struct {
	mu   sync.Mutex
	held map[string]*entry
}

type entry struct {
	sync.Mutex
	users int // who hold it or wait for it; the mutex of Locks guards it
}

// Lock waits until nobody holds key, takes it, and returns what gives it back, to be called once.
func (l *Locks) Lock(key string) (unlock func()) {
	l.mu.Lock()
	e := l.held[key]
	if e == nil {
		if l.held == nil {
			l.held = map[string]*entry{}
		}
		e = &entry{}
		l.held[key] = e
	}
	e.users++
	l.mu.Unlock()
	e.Lock()
	return func() {
		e.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if e.users--; e.users == 0 {
			delete(l.held, key)
		}
	}
}
