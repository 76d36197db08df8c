// Package health tells load balancers whether to send connections to this node: for each service at its health check node port, and for the
// proxy as a whole, as kube-proxy does. Nothing listens for what nobody asks for.
package health

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coracle-dev/coracle/proxy/ruleset"
)

// retry is how long after a port could not be had it is tried again.
const retry = time.Second

// Listen opens a port of this node for a health check.
type Listen func(ctx context.Context, port uint16) (net.Listener, error)

// Services answers on the health check node ports of services.
type Services struct {
	ctx     context.Context
	listen  Listen
	healthy func() bool
	log     *slog.Logger

	mu      sync.Mutex
	servers map[string]*server // by namespace/name
}

// NewServices makes one that answers until ctx ends; healthy tells whether the proxy keeps up with changes.
func NewServices(ctx context.Context, listen Listen, healthy func() bool) *Services {
	return &Services{ctx: ctx, listen: listen, healthy: healthy, log: slog.With("component", "proxy"), servers: map[string]*server{}}
}

// Everywhere listens on all addresses.
func Everywhere(ctx context.Context, port uint16) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(int(port))))
}

// server is that of one service.
type server struct {
	namespace, name string
	health          ruleset.Health
	stop            context.CancelFunc
}

// Set takes what is to be told of a service; a port of zero ends it.
func (s *Services) Set(service string, health ruleset.Health) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.servers[service]
	switch {
	case old != nil && old.health.Port == health.Port:
		old.health = health
		return
	case old != nil:
		old.stop()
		delete(s.servers, service)
	}
	if health.Port == 0 {
		return
	}
	namespace, name, _ := strings.Cut(service, "/")
	ctx, stop := context.WithCancel(s.ctx)
	added := &server{namespace: namespace, name: name, health: health, stop: stop}
	s.servers[service] = added
	go s.serve(ctx, added, health.Port)
}

// serve listens until ctx ends, as soon as the port can be had.
func (s *Services) serve(ctx context.Context, of *server, port uint16) {
	for told := false; ctx.Err() == nil; told = true {
		listener, err := s.listen(ctx, port)
		if err == nil {
			srv := newServer(s.handler(of))
			defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
			if err = srv.Serve(listener); ctx.Err() != nil {
				return
			}
		}
		if !told {
			s.log.Error("cannot serve the health check of a service; trying again", "service", of.namespace+"/"+of.name, "port", port, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}

func newServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
}

func (s *Services) handler(of *server) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		count := of.health.Local
		s.mu.Unlock()
		healthy := s.healthy()
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(count))
		answer(w, count > 0 && healthy,
			fmt.Sprintf("{\n\t\"service\": {\n\t\t\"namespace\": %q,\n\t\t\"name\": %q\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": %v\n}", of.namespace, of.name, count, healthy))
	})
}

func answer(w http.ResponseWriter, ok bool, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if ok {
		w.WriteHeader(http.StatusOK)
	} else {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write([]byte(body))
}
