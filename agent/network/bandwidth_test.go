package network

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestParseBandwidth(t *testing.T) {
	for _, c := range []struct {
		ingress, egress string
		want            Bandwidth
		errors          []string
	}{
		{"", "", Bandwidth{}, nil},
		{"1M", "10G", Bandwidth{1_000_000, 10_000_000_000}, nil},
		{"1k", "1P", Bandwidth{1000, 1e15}, nil},
		{"1Mi", "0.5G", Bandwidth{1 << 20, 500_000_000}, nil},
		{"999", "2P", Bandwidth{}, []string{`kubernetes.io/ingress-bandwidth "999": resource is unreasonably small (< 1kbit)`, `kubernetes.io/egress-bandwidth "2P": resource is unreasonably large (> 1Pbit)`}},
		{"fast", "-1M", Bandwidth{}, []string{`kubernetes.io/ingress-bandwidth "fast": quantities must match`, "unreasonably small"}},
	} {
		annotations := map[string]string{}
		if c.ingress != "" {
			annotations[IngressBandwidth] = c.ingress
		}
		if c.egress != "" {
			annotations[EgressBandwidth] = c.egress
		}
		got, err := ParseBandwidth(annotations)
		if got != c.want || (err != nil) != (c.errors != nil) {
			t.Errorf("%q %q: %v, %v", c.ingress, c.egress, got, err)
		}
		for _, part := range c.errors {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%q %q: %v, want %q", c.ingress, c.egress, err, part)
			}
		}
	}
}

// TestTokenBucket holds for every bandwidth that is accepted: the bucket fits the kernel's numbers and a full packet.
func TestTokenBucket(t *testing.T) {
	for bits := uint64(1000); bits <= 1e15; bits *= 10 {
		f := tokenBucket(bits)
		seconds := float64(f.Buffer) / 15.625e6 // the kernel's ticks of 64 ns
		bucket := seconds * float64(f.Rate)
		if f.Rate != bits/8 || bucket < 9000 || seconds < 1e-6 && bits < 1e13 || f.Limit < 9000 {
			t.Errorf("%d bit/s: %+v, a bucket of %.0f bytes", bits, f, bucket)
		}
	}
}

// TestBandwidth sends through limited links, each direction apart.
func TestBandwidth(t *testing.T) {
	m := machines(t, 1, 1500)
	m[0].start(None)
	free, _ := m[0].pod("free")
	const megabit, size = 1_000_000, 600_000
	for name, limit := range map[string]Bandwidth{"ingress": {Ingress: 4 * megabit}, "egress": {Egress: 4 * megabit}} {
		var addr netip.Addr
		path := m[0].namespace(name)
		inside(t, m[0].path, func() error {
			pod := onNetwork(name, path)
			pod.Bandwidth = limit
			addrs, err := m[0].n.Setup(context.Background(), pod)
			if err == nil {
				addr = addrs[0]
			}
			return err
		})
		source, sink := netip.AddrPortFrom(addr, 9000).String(), netip.AddrPortFrom(addr, 9001).String()
		var listeners []net.Listener
		inside(t, path, func() error {
			for _, at := range []string{source, sink} {
				l, err := net.Listen("tcp4", at)
				if err != nil {
					return err
				}
				t.Cleanup(func() { l.Close() })
				listeners = append(listeners, l)
			}
			return nil
		})
		go serveOnce(listeners[0], func(c net.Conn) { _, _ = c.Write(make([]byte, size)) })
		go serveOnce(listeners[1], func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
		took := map[string]time.Duration{}
		inside(t, free, func() error {
			started := time.Now()
			c, err := net.Dial("tcp4", source)
			if err != nil {
				return err
			}
			if n, err := io.Copy(io.Discard, c); err != nil || n != size {
				t.Errorf("%d bytes, %v", n, err)
			}
			took["egress"] = time.Since(started)
			started = time.Now()
			if c, err = net.Dial("tcp4", sink); err != nil {
				return err
			}
			if _, err = c.Write(make([]byte, size)); err != nil {
				return err
			}
			_ = c.(*net.TCPConn).CloseWrite()
			_, err = io.Copy(io.Discard, c) // ends when all has been received
			took["ingress"] = time.Since(started)
			return err
		})
		least := time.Duration(float64(size-2*(64<<10)) * 8 / (4 * megabit) * float64(time.Second))
		for direction, d := range took {
			if limited := direction == name; limited && d < least*8/10 {
				t.Errorf("%s limited: %v for it, want %v at least", name, d, least)
			} else if !limited && d > 10*least {
				t.Errorf("%s limited: %v for the other direction", name, d)
			}
		}
	}
}

func serveOnce(l net.Listener, fn func(net.Conn)) {
	c, err := l.Accept()
	if err == nil {
		fn(c)
		c.Close()
	}
}
