package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/miekg/dns"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/internal/metrics"
	"github.com/coracle-dev/coracle/internal/run"
)

const (
	dnsPort     = 53
	metricsPort = 9153
	// relisten is how long to wait before trying again where the port is somebody else's.
	relisten = 5 * time.Second
	// idle is how long a TCP connection may be silent, connections how many there may be.
	idle        = 10 * time.Second
	connections = 512
	// maxQuery is the length of the longest question taken by UDP, in bytes.
	maxQuery = 4096
	// buffered is the room for questions that wait to be read, in bytes: those that come while the index is filled, or all at once.
	buffered = 1 << 20
)

// listen serves on both transports. The sockets are open before the index is filled, so that questions wait
// for their answers, and are not refused. A port that another program holds is tried for again: the node's services must not end with it.
func (s *Server) listen(ctx context.Context) error {
	failed := false
	for {
		err := s.listenOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !failed {
			s.log.Error("cannot answer names; trying again. If another DNS server listens on all addresses, let it listen on its own only", "error", err)
			failed = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(relisten):
		}
	}
}

func (s *Server) listenOnce(ctx context.Context) error {
	udp, tcp, err := s.cfg.Sockets.Listeners(netip.AddrPortFrom(s.cfg.Addr, dnsPort).String())
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	defer udp.Close()
	defer tcp.Close()
	_ = udp.SetReadBuffer(buffered) // the kernel's own limit may be less
	if !cache.WaitForCacheSync(ctx.Done(), s.synced...) {
		return nil
	}
	runs := []func(context.Context) error{
		func(ctx context.Context) error { return s.serveTCP(ctx, tcp) },
		func(ctx context.Context) error {
			<-ctx.Done()
			return errors.Join(udp.Close(), tcp.Close())
		},
	}
	for range runtime.GOMAXPROCS(0) {
		runs = append(runs, func(context.Context) error { return s.serveUDP(udp) })
	}
	return run.All(ctx, runs...)
}

// serveUDP answers datagrams until the socket is closed. Questions to other servers are handed on.
func (s *Server) serveUDP(conn *net.UDPConn) error {
	w := s.newWorker(false)
	var packet [maxQuery]byte
	for {
		n, from, err := conn.ReadFromUDPAddrPort(packet[:])
		if err != nil {
			return err
		}
		begun := time.Now()
		answer, later := s.safely(w, packet[:n], from.Addr(), false)
		switch {
		case later:
			s.askLater(conn, w, slices.Clone(packet[:n]), from, begun)
		case answer != nil:
			s.metrics.answered(w, len(answer), time.Since(begun))
			_, _ = conn.WriteToUDPAddrPort(answer, from) // who asked may be gone
		}
	}
}

// askLater answers when other servers have. Beyond maxAsked questions are refused.
func (s *Server) askLater(conn *net.UDPConn, w *worker, packet []byte, from netip.AddrPort, begun time.Time) {
	select {
	case s.asking <- struct{}{}:
	default:
		s.metrics.rejected.Inc()
		answer := w.refuse(dns.RcodeRefused)
		s.metrics.answered(w, len(answer), time.Since(begun))
		_, _ = conn.WriteToUDPAddrPort(answer, from)
		return
	}
	go func() {
		defer func() { <-s.asking }()
		w := s.newWorker(true)
		if answer, _ := s.safely(w, packet, from.Addr(), false); answer != nil {
			s.metrics.answered(w, len(answer), time.Since(begun))
			_, _ = conn.WriteToUDPAddrPort(answer, from)
		}
	}()
}

// safely handles a packet. A mistake of ours costs one answer, and not all.
func (s *Server) safely(w *worker, packet []byte, from netip.Addr, tcp bool) (out []byte, later bool) {
	defer func() {
		if r := recover(); r != nil {
			s.metrics.panics.Inc()
			s.log.Error("cannot answer", "panic", r, "name", wireText(string(w.q.name.wire)))
			out, later = nil, false
		}
	}()
	return w.handle(packet, from, tcp)
}

func (s *Server) serveTCP(ctx context.Context, l *net.TCPListener) error {
	slots := make(chan struct{}, connections)
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return err
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors
			continue
		}
		select {
		case slots <- struct{}{}:
			go func() {
				defer func() { <-slots }()
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				s.converse(conn)
			}()
		default:
			_ = conn.Close()
		}
	}
}

// converse answers the questions of one connection (RFC 7766), each behind two bytes of length.
func (s *Server) converse(conn net.Conn) {
	from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return
	}
	w := s.newWorker(true)
	var size [2]byte
	var packet, out []byte
	for {
		_ = conn.SetDeadline(time.Now().Add(idle))
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		packet = slices.Grow(packet[:0], n)[:n]
		if _, err := io.ReadFull(conn, packet); err != nil {
			return
		}
		begun := time.Now()
		answer, _ := s.safely(w, packet, from.Addr(), true)
		if answer == nil {
			return
		}
		s.metrics.answered(w, len(answer), time.Since(begun))
		out = append(binary.BigEndian.AppendUint16(out[:0], uint16(len(answer))), answer...)
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

// serveMetrics serves them beside the names, as Services of DNS have them. Nothing ends where it cannot.
func (s *Server) serveMetrics(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", netip.AddrPortFrom(s.cfg.Addr, metricsPort).String())
	if err != nil {
		s.log.Warn("no metrics of DNS are served", "error", err)
		return nil
	}
	srv := &http.Server{Handler: metrics.Handler(s.metrics), ReadHeaderTimeout: idle, IdleTimeout: time.Minute}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("dns: metrics: %w", err)
	}
	return nil
}
