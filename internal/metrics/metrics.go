// Package metrics serves a part's metrics on an address of its own, where the part runs alone.
//
// Invariant: it listens on the loopback alone, for there is nobody to ask who may read.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check tells why nothing can be served on an address.
func Check(address string) error {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%q is no address and port, as in 127.0.0.1:10257", address)
	}
	if !addr.Addr().IsLoopback() {
		return fmt.Errorf("%s is not of the loopback: metrics are served without asking who reads them", addr.Addr())
	}
	return nil
}

// Serve answers /metrics and /healthz on an address of the loopback until ctx ends; an empty address serves nothing.
func Serve(ctx context.Context, address string, all ...prometheus.Collector) error {
	if address == "" {
		<-ctx.Done()
		return nil
	}
	if err := Check(address); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	srv := &http.Server{Handler: Handler(all...), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// Handler answers /metrics, with what is known of the process too, and /healthz.
func Handler(all ...prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(all...)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	return mux
}
