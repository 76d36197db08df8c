package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// timeout is for how long a change may wait until the proxy counts as stuck.
const timeout = time.Minute

// Proxy is how the proxy itself fares.
type Proxy struct {
	now func() time.Time
	// asked counts the answers by path and status.
	asked func(path, code string)

	mu         sync.Mutex
	updated    time.Time
	queued     time.Time // when the oldest change came that has not been applied; zero: there is none
	ineligible bool
}

// NewProxy makes one; asked is called for each answer, with its path and status.
func NewProxy(asked func(path, code string)) *Proxy {
	return &Proxy{now: time.Now, asked: asked}
}

// Queued notes that there are changes to be applied.
func (p *Proxy) Queued() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queued.IsZero() {
		p.queued = p.now()
	}
}

// Updated notes that all changes are applied.
func (p *Proxy) Updated() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.updated, p.queued = p.now(), time.Time{}
}

// Eligible notes whether the node shall get connections from load balancers: not while it is about to be removed.
func (p *Proxy) Eligible(is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ineligible = !is
}

// Healthy tells whether changes are applied in time.
func (p *Proxy) Healthy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.healthy()
}

func (p *Proxy) healthy() bool { return p.queued.IsZero() || p.now().Sub(p.queued) < timeout }

// Serve answers /healthz and /livez on an address until ctx ends.
func (p *Proxy) Serve(ctx context.Context, address string) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("failed to start proxy healthz on %s: %w", address, err)
	}
	srv := newServer(p.handler())
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("proxy healthz closed with error: %w", err)
	}
	return nil
}

func (p *Proxy) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { p.tell(w, "healthz") })
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { p.tell(w, "livez") })
	return mux
}

// tell answers; of a proxy that keeps up, the last update is now.
func (p *Proxy) tell(w http.ResponseWriter, path string) {
	p.mu.Lock()
	now, eligible, ok, updated := p.now(), !p.ineligible, p.healthy(), p.updated
	p.mu.Unlock()
	node := ""
	if path == "healthz" {
		ok = ok && eligible
		node = fmt.Sprintf(", \"nodeEligible\": %v", eligible)
	}
	code := http.StatusServiceUnavailable
	if ok {
		updated, code = now, http.StatusOK
	}
	p.asked(path, strconv.Itoa(code))
	answer(w, ok, fmt.Sprintf("{\"lastUpdated\": %q,\"currentTime\": %q%s}", updated, now, node))
}
