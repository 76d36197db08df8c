package agent

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/coracle-dev/coracle/agent/images"
	"github.com/coracle-dev/coracle/agent/runtime"
)

// pulls has at most so many images pulled at once, and one pull of an image for all that want it at the same time with the same
// credentials.
type pulls struct {
	images Images
	slots  chan struct{} // one element for each pull under way

	mu    sync.Mutex
	under map[string]*sharedPull
}

// sharedPull is one pull and who waits for it; with the last of them it is given up.
type sharedPull struct {
	cancel  context.CancelFunc
	waiting int
	done    chan struct{} // closed when what follows is set
	img     runtime.Image
	took    time.Duration
	err     error
}

func newPulls(i Images, parallel int) *pulls {
	return &pulls{images: i, slots: make(chan struct{}, parallel), under: map[string]*sharedPull{}}
}

// pull pulls the image, or waits for the pull that is under way; took is without the wait for its turn.
func (p *pulls) pull(ctx context.Context, ref string, ring images.Keyring) (img runtime.Image, took time.Duration, err error) {
	key := ref + " " + strings.Join(ring.Fingerprints(ref), ",")
	p.mu.Lock()
	s := p.under[key]
	if s == nil {
		shared, cancel := context.WithCancel(context.WithoutCancel(ctx))
		s = &sharedPull{cancel: cancel, done: make(chan struct{})}
		p.under[key] = s
		go p.run(shared, key, s, ref, ring)
	}
	s.waiting++
	p.mu.Unlock()
	select {
	case <-s.done:
		return s.img, s.took, s.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.waiting--; s.waiting == 0 {
		s.cancel()
		p.drop(key, s) // who comes now begins anew
	}
	return img, 0, ctx.Err()
}

func (p *pulls) run(ctx context.Context, key string, s *sharedPull, ref string, ring images.Keyring) {
	defer s.cancel()
	defer close(s.done)
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		s.err = ctx.Err()
		return
	}
	began := time.Now()
	s.img, s.err = p.images.Pull(ctx, ref, images.PullOptions{Keyring: ring})
	s.took = time.Since(began)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(key, s)
}

// drop forgets a pull. The caller holds mu.
func (p *pulls) drop(key string, s *sharedPull) {
	if p.under[key] == s {
		delete(p.under, key)
	}
}
