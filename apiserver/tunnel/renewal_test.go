package tunnel_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	agent "github.com/coracle-dev/coracle/agent/tunnel"
	"github.com/coracle-dev/coracle/apiserver/tunnel"
	"github.com/coracle-dev/coracle/internal/pki"
)

// renewable is a certificate that says when it has a successor.
type renewable struct {
	mu    sync.Mutex
	ended chan struct{}
}

func (r *renewable) renewed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}

func (r *renewable) renew() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.ended)
	r.ended = make(chan struct{})
}

// TestRenewal: after the agent's certificate was renewed it comes with another connection, and what ran through the old one goes on.
func TestRenewal(t *testing.T) {
	c := newCluster(t)
	id := pki.Node("n1")
	config := c.tls(&id)
	cert, handshakes := config.Certificates[0], atomic.Int32{}
	config.Certificates = nil
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		handshakes.Add(1)
		return &cert, nil
	}
	r := &renewable{ended: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- agent.Run(ctx, agent.Config{Server: "https://" + c.addr, TLS: config, Renewed: r.renewed,
			Handler: raw(map[string]func(net.Conn, *bufio.Reader){"/echo": echo})})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c.waitFor("n1")
	old, err := c.upgrade("n1", "/echo")
	if err != nil {
		t.Fatal(err)
	}
	for round := int32(2); round < 4; round++ {
		r.renew()
		eventually(t, "another handshake", func() bool { return handshakes.Load() == round })
		eventually(t, "a connection to the node", func() bool {
			fresh, err := c.upgrade("n1", "/echo")
			if errors.Is(err, tunnel.ErrNotConnected) {
				return false
			}
			if err != nil {
				t.Fatal(err)
			}
			exchange(t, fresh)
			return fresh.Close() == nil
		})
		exchange(t, old)
	}
	if n := handshakes.Load(); n != 3 {
		t.Errorf("%d handshakes for three certificates", n)
	}
}

func exchange(t *testing.T, conn io.ReadWriter) {
	t.Helper()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	var got [5]byte
	if _, err := io.ReadFull(conn, got[:]); err != nil || string(got[:]) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
}
