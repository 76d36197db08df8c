package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// serve answers on loopback, UDP and TCP, until the test ends.
func (w *world) serve() string {
	w.t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp4", listener.Addr().String())
	if err != nil {
		w.t.Skipf("the port is taken: %v", err)
	}
	udp, _ := packets.(*net.UDPConn)
	tcp, _ := listener.(*net.TCPListener)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			if err := w.serveUDP(udp); !errors.Is(err, net.ErrClosed) {
				w.t.Error(err)
			}
		})
	}
	all.Go(func() { _ = w.serveTCP(ctx, tcp) })
	w.t.Cleanup(func() {
		cancel()
		_, _ = udp.Close(), tcp.Close()
		all.Wait()
	})
	return listener.Addr().String()
}

func TestServes(t *testing.T) {
	w := newWorld(t)
	w.fill()
	w.many(200)
	up := newServer(t, gives(t, "example.org. 60 IN A 192.0.2.9"))
	w.upstreams(up)
	addr := w.serve()
	for _, network := range []string{"udp", "tcp"} {
		client := &dns.Client{Net: network, Timeout: 30 * time.Second}
		conn, err := client.Dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"web.default.svc.cluster.local.", "example.org.", "web.default.svc.cluster.local."} {
			reply, _, err := client.ExchangeWithConn(question(name, dns.TypeA), conn)
			if err != nil || len(reply.Answer) != 1 {
				t.Errorf("%s %s: %v %v", network, name, reply, err)
			}
		}
		reply, _, err := client.ExchangeWithConn(question("many.default.svc.cluster.local.", dns.TypeA), conn)
		if err != nil || reply.Truncated != (network == "udp") || network == "tcp" && len(reply.Answer) != 200 {
			t.Errorf("%s: %v %v", network, reply, err)
		}
		_ = conn.Close()
	}
	if up.count() != 1 {
		t.Errorf("asked %v", up.asked)
	}
	counts := counted(t, w.metrics)
	for _, want := range []string{
		`coredns_dns_requests_total{family="1",proto="udp",server="dns://10.96.0.10:53",type="A",view="",zone="."} 4`,
		`coredns_dns_requests_total{family="1",proto="tcp",server="dns://10.96.0.10:53",type="A",view="",zone="."} 4`,
		`coredns_dns_responses_total{plugin="kubernetes",rcode="NOERROR",server="dns://10.96.0.10:53",view="",zone="."} 6`,
		`coredns_dns_responses_total{plugin="forward",rcode="NOERROR",server="dns://10.96.0.10:53",view="",zone="."} 2`,
		`coredns_cache_hits_total{server="dns://10.96.0.10:53",type="success",view="",zones="."} 1`,
		`coredns_cache_entries{server="dns://10.96.0.10:53",type="success",view="",zones="."} 1`,
		`coredns_forward_requests_total{to="` + up.addr + `"} 1`, `coredns_forward_responses_total{rcode="NOERROR",to="` + up.addr + `"} 1`,
		`coredns_dns_request_duration_seconds{server="dns://10.96.0.10:53",view="",zone="."} 8`,
	} {
		if !strings.Contains(counts, want+"\n") {
			t.Errorf("no %s in\n%s", want, counts)
		}
	}
}

// counted lists the metrics' values; of a histogram how many it has seen.
func counted(t *testing.T, m *Metrics) string {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			var labels []string
			for _, l := range metric.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			value := metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			fmt.Fprintf(&b, "%s{%s} %v\n", f.GetName(), strings.Join(labels, ","), value)
		}
	}
	return b.String()
}

// TestOddConnections: what is no question ends the connection, and others go on.
func TestOddConnections(t *testing.T) {
	w := newWorld(t)
	w.fill()
	addr := w.serve()
	for _, sent := range [][]byte{nil, {0}, {0, 5, 1, 2, 3, 4, 5}, {0, 0}, {255, 255, 1}} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(sent); err != nil {
			t.Fatal(err)
		}
		if c, ok := conn.(*net.TCPConn); ok {
			_ = c.CloseWrite()
		}
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		if n, err := conn.Read(make([]byte, 10)); n != 0 || err == nil {
			t.Errorf("%x is answered by %d bytes, %v", sent, n, err)
		}
		_ = conn.Close()
	}
	udp, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	good, err := question("web.default.svc.cluster.local.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint16(good, 4711)
	for _, sent := range [][]byte{{}, {1, 2, 3}, good} {
		if _, err := udp.Write(sent); err != nil {
			t.Fatal(err)
		}
	}
	answer := make([]byte, 512)
	_ = udp.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, err := udp.Read(answer); err != nil || n < 40 || binary.BigEndian.Uint16(answer) != 4711 {
		t.Errorf("answer %x, %v", answer[:n], err)
	}
}

// TestTooMany: questions beyond those that may wait for other servers are refused, and the cluster's names still answered.
func TestTooMany(t *testing.T) {
	w := newWorld(t)
	w.fill()
	w.asking = make(chan struct{}, 1)
	release := make(chan struct{})
	up := newServer(t, func(*dns.Msg, string) { <-release })
	w.upstreams(up)
	addr := w.serve()
	client := &dns.Client{Timeout: 30 * time.Second}
	first := make(chan error, 1)
	go func() {
		_, _, err := client.Exchange(question("one.example.org.", dns.TypeA), addr)
		first <- err
	}()
	for up.count() == 0 {
		time.Sleep(time.Millisecond)
	}
	for name, want := range map[string]int{"two.example.org.": dns.RcodeRefused, "web.default.svc.cluster.local.": dns.RcodeSuccess} {
		if reply, _, err := client.Exchange(question(name, dns.TypeA), addr); err != nil || reply.Rcode != want {
			t.Errorf("%s: %v %v", name, reply, err)
		}
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
}
