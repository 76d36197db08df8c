package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
)

// Check is one condition of readiness.
type Check struct {
	Name string
	// Check is nil while all is well.
	Check func(ctx context.Context) error
	// Live makes it a condition of liveness as well: where it fails, a restart would help.
	Live bool
}

// health serves /livez, /readyz and /healthz.
type health struct {
	checks   []Check
	stopping atomic.Bool
	booted   chan struct{}
	defined  chan struct{} // closed once the kinds are served that custom resource definitions define
}

func newHealth(s *Server) *health {
	h := &health{booted: make(chan struct{}), defined: make(chan struct{})}
	h.checks = slices.Concat([]Check{
		{Name: "ping", Live: true, Check: func(context.Context) error { return nil }},
		{Name: "etcd", Check: func(ctx context.Context) error {
			_, err := s.cache.StoreRevision(ctx)
			return err
		}},
		{Name: "informer-sync", Check: func(context.Context) error {
			if !s.cache.Ready() {
				return errors.New("the watch cache is not filled yet")
			}
			return nil
		}},
		{Name: "poststarthook/crd-informer-synced", Check: func(context.Context) error {
			if !h.isDefined() {
				return errors.New("custom resources are not served yet")
			}
			return nil
		}},
		{Name: "poststarthook/bootstrap", Check: func(context.Context) error {
			if !h.isBooted() {
				return errors.New("the objects of every cluster are not there yet")
			}
			return nil
		}},
		{Name: "shutdown", Check: func(context.Context) error {
			if h.stopping.Load() {
				return errors.New("process is shutting down")
			}
			return nil
		}},
	}, s.cfg.Checks)
	return h
}

func (h *health) isBooted() bool { return isClosed(h.booted) }

func (h *health) isDefined() bool { return isClosed(h.defined) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// waitBoot waits until the objects of every cluster are there, and what users have defined is served.
func (h *health) waitBoot(ctx context.Context) error {
	for _, c := range []chan struct{}{h.booted, h.defined} {
		select {
		case <-c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// endpoint splits a path into its endpoint and the single check asked for.
func (h *health) endpoint(path string) (endpoint, check string, ok bool) {
	endpoint, check, _ = strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch endpoint {
	case "livez", "readyz", "healthz":
	default:
		return "", "", false
	}
	known := check == "" || slices.ContainsFunc(h.checks, func(c Check) bool { return c.Name == check })
	return endpoint, check, known
}

func (h *health) serves(path string) bool {
	_, _, ok := h.endpoint(path)
	return ok
}

// ServeHTTP answers in upstream's plain text.
func (h *health) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	endpoint, only, _ := h.endpoint(req.URL.Path)
	q := req.URL.Query()
	_, verbose := q["verbose"]
	excluded := q["exclude"]
	var report strings.Builder
	failed := ""
	for _, c := range h.checks {
		if only != "" && c.Name != only || only == "" && endpoint == "livez" && !c.Live {
			continue
		}
		if slices.Contains(excluded, c.Name) {
			fmt.Fprintf(&report, "[+]%s excluded: ok\n", c.Name)
			continue
		}
		if err := c.Check(req.Context()); err != nil {
			fmt.Fprintf(&report, "[-]%s failed: reason withheld\n", c.Name)
			failed = c.Name
			continue
		}
		fmt.Fprintf(&report, "[+]%s ok\n", c.Name)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch {
	case failed != "":
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s%s check failed\n", report.String(), endpoint)
	case verbose:
		fmt.Fprintf(w, "%s%s check passed\n", report.String(), endpoint)
	default:
		_, _ = w.Write([]byte("ok"))
	}
}
