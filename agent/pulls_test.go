package agent

import (
	"context"
	"sync"
	"testing"

	"github.com/coracle-dev/coracle/agent/images"
	"github.com/coracle-dev/coracle/agent/runtime"
)

// slowImages pulls until released, and counts.
type slowImages struct {
	doubleImages
	mu      sync.Mutex
	begun   map[string]int
	most    int
	running int
	ended   int // by the end of their context
	release chan struct{}
}

func (s *slowImages) Pull(ctx context.Context, ref string, _ images.PullOptions) (runtime.Image, error) {
	s.mu.Lock()
	s.begun[ref]++
	s.running++
	s.most = max(s.most, s.running)
	s.mu.Unlock()
	var err error
	select {
	case <-s.release:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	if err != nil {
		s.ended++
	}
	return runtime.Image{ID: ref}, err
}

func (s *slowImages) count(f func() bool) func() bool {
	return func() bool { s.mu.Lock(); defer s.mu.Unlock(); return f() }
}

func TestPullsAreShared(t *testing.T) {
	s := &slowImages{begun: map[string]int{}, release: make(chan struct{})}
	p := newPulls(s, 2)
	e := &env{t: t, node: newDouble()}
	var wg sync.WaitGroup
	for range 10 {
		for _, ref := range []string{"a:v1", "b:v1", "c:v1"} {
			wg.Go(func() {
				if img, _, err := p.pull(t.Context(), ref, images.Keyring{}); err != nil || img.ID != ref {
					t.Errorf("%s: %+v %v", ref, img, err)
				}
			})
		}
	}
	e.await("two pulls", s.count(func() bool { return s.running == 2 }))
	e.await("everyone waits", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		n := 0
		for _, shared := range p.under {
			n += shared.waiting
		}
		return n == 30
	})
	close(s.release)
	wg.Wait()
	if s.most != 2 || s.begun["a:v1"] != 1 || s.begun["b:v1"] != 1 || s.begun["c:v1"] != 1 || len(p.under) != 0 {
		t.Errorf("%d at once, %v, left %v", s.most, s.begun, p.under)
	}
}

// TestPullEndsWithTheLastWhoWaits: one of two gives up and the other gets the image; where both do, the pull is given up.
func TestPullEndsWithTheLastWhoWaits(t *testing.T) {
	s := &slowImages{begun: map[string]int{}, release: make(chan struct{})}
	p := newPulls(s, 1)
	e := &env{t: t, node: newDouble()}
	pull := func() (cancel context.CancelFunc, done chan error) {
		ctx, cancel := context.WithCancel(t.Context())
		done = make(chan error, 1)
		go func() { _, _, err := p.pull(ctx, "a:v1", images.Keyring{}); done <- err }()
		return cancel, done
	}
	waiting := func(n int) func() bool {
		return func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.under) == 1 && p.under["a:v1 "].waiting == n
		}
	}
	cancel1, done1 := pull()
	cancel2, done2 := pull()
	e.await("both wait", waiting(2))
	cancel1()
	if err := <-done1; err != context.Canceled {
		t.Error(err)
	}
	s.release <- struct{}{}
	if err := <-done2; err != nil || s.begun["a:v1"] != 1 {
		t.Errorf("%v, begun %v", err, s.begun)
	}
	cancel2()
	cancel3, done3 := pull()
	e.await("one waits", waiting(1))
	e.await("one begins", s.count(func() bool { return s.begun["a:v1"] == 2 }))
	cancel3()
	<-done3
	e.await("the pull is given up", s.count(func() bool { return s.ended == 1 }))
}
