package carry

import (
	"sync"
	"time"
)

// signal wakes everyone who waits for a change. Its owner's lock guards it.
type signal struct{ ch chan struct{} }

func (s *signal) wait() <-chan struct{} {
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) wake() {
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// deadline closes a channel when its time has come.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	ch    chan struct{} // nil: no deadline
}

// set replaces the deadline; the zero time removes it.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.ch = nil
	if t.IsZero() {
		return
	}
	ch := make(chan struct{})
	d.ch = ch
	wait := time.Until(t)
	if wait <= 0 {
		close(ch)
		return
	}
	d.timer = time.AfterFunc(wait, func() { close(ch) })
}

// passed is closed once the deadline has come; it is nil without one.
func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ch
}

func (d *deadline) isPassed() bool {
	select {
	case <-d.passed():
		return true
	default:
		return false
	}
}

// stop frees the timer.
func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
}

// Addr names an end of the tunnel.
type Addr string

// Network implements net.Addr.
func (Addr) Network() string { return "tunnel" }

func (a Addr) String() string { return string(a) }
