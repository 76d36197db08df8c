package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// What clients may take of the server, for nothing: a header's size and time, and how long a connection may be idle. Bodies may be of
// any size and take any time.
const (
	mostHeader  = 64 << 10
	headerTime  = 15 * time.Second
	idleTime    = 75 * time.Second
	mostStreams = 250
)

// drainTime is how long requests get that are on their way when listening ends.
const drainTime = 5 * time.Second

// door is a port on the node's addresses, open or not.
type door struct {
	addresses []netip.Addr
	port      int
	// make makes the server; one that was shut down cannot be used again.
	make func() (*http.Server, error)
	log  *slog.Logger

	server   *http.Server
	open     map[netip.Addr]bool
	draining sync.WaitGroup
	// told is why the port could not be had the last time; empty it could.
	told string
}

// newServer makes one that serves requests by handle, with TLS where config is not nil.
func newServer(handle http.HandlerFunc, config *tls.Config, log *slog.Logger) *http.Server {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	if config == nil {
		protocols.SetUnencryptedHTTP2(true)
	} else {
		protocols.SetHTTP2(true)
	}
	return &http.Server{
		Handler: handle, TLSConfig: config, Protocols: protocols, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: mostStreams},
		MaxHeaderBytes: mostHeader, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// set opens the port where it is not, or closes it. An error says on which addresses it cannot be opened; set may be called again.
func (d *door) set(ctx context.Context, want bool) error {
	if !want {
		d.close()
		return nil
	}
	if d.server == nil {
		server, err := d.make()
		if err != nil {
			return err
		}
		d.server, d.open = server, map[netip.Addr]bool{}
	}
	var failed []error
	for _, addr := range d.addresses {
		if d.open[addr] {
			continue
		}
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", netip.AddrPortFrom(addr, uint16(d.port)).String())
		if err != nil {
			failed = append(failed, err)
			continue
		}
		d.open[addr] = true
		d.serve(d.server, listener)
	}
	return errors.Join(failed...)
}

func (d *door) serve(server *http.Server, listener net.Listener) {
	serve := server.Serve
	if server.TLSConfig != nil {
		serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	go func() {
		if err := serve(listener); !errors.Is(err, http.ErrServerClosed) {
			d.log.Error("a listener failed", "address", listener.Addr(), "error", err)
		}
	}()
	d.log.Info("listening", "address", listener.Addr().String())
}

// close ends listening at once, and lets requests end that are on their way.
func (d *door) close() {
	server := d.server
	if server == nil {
		return
	}
	d.server, d.open = nil, nil
	d.log.Info("no longer listening", "port", d.port)
	d.draining.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
	})
}

// listens tells whether the port is open on all addresses.
func (d *door) listens() bool { return d.server != nil && len(d.open) == len(d.addresses) }

func (d *door) String() string { return fmt.Sprintf("port %d", d.port) }
