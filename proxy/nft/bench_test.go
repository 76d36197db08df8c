package nft

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/internal/testenv"
	"github.com/coracle-dev/coracle/proxy/ruleset"
)

// BenchmarkTenThousandServices of ten endpoints: the first sync, a change of one endpoint, and a comparison with what the kernel has.
func BenchmarkTenThousandServices(b *testing.B) {
	testenv.NetNS(b)
	state := ruleset.NewState()
	state.Update(manyServices(10_000, 10)...)
	for range b.N {
		table := New(testConfig)
		start := time.Now()
		if _, err := table.Sync(state.All()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(start).Seconds(), "s/first-sync")
		var took []time.Duration
		for i := range 50 {
			one := state.Rules(fmt.Sprint("ns/s", i))
			one.Entries = slices.Clone(one.Entries)
			one.Entries[0].Backend.Endpoints = one.Entries[0].Backend.Endpoints[1:]
			start = time.Now()
			if err := table.Update(state.Update(one)); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms/change")
		b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms/slowest-change")
		start = time.Now()
		if outcome, err := table.Sync(state.All()); err != nil || outcome != Equal {
			b.Fatal(outcome, err)
		}
		b.ReportMetric(time.Since(start).Seconds(), "s/comparison")
		if err := errors.Join(Delete(), table.Close()); err != nil {
			b.Fatal(err)
		}
	}
}

func manyServices(services, endpoints int) []ruleset.Rules {
	var all []ruleset.Rules
	for i := range services {
		var eps []netip.AddrPort
		for e := range endpoints {
			n := i*endpoints + e
			eps = append(eps, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 8080))
		}
		k := ruleset.Key{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Protocol: corev1.ProtocolTCP, Port: 80}
		all = append(all, ruleset.Rules{Service: fmt.Sprint("ns/s", i), Entries: []ruleset.Entry{{Key: k, Backend: ruleset.Backend{Endpoints: eps}}}})
	}
	return all
}

// BenchmarkConnect is how long a pod takes to connect to another by a service, among few services and among many; the packets' way must not depend on their number.
func BenchmarkConnect(b *testing.B) {
	for _, services := range []int{10, 10_000} {
		b.Run(fmt.Sprint(services, " services"), func(b *testing.B) {
			client, _ := served(b, services)
			took := make([]time.Duration, 0, 2000*b.N)
			b.ResetTimer()
			must(b, client.do(func() error {
				for range cap(took) {
					start := time.Now()
					c, err := net.Dial("tcp4", "10.200.0.1:80")
					if err != nil {
						return err
					}
					took = append(took, time.Since(start))
					_ = c.(*net.TCPConn).SetLinger(0)
					c.Close()
				}
				return nil
			}))
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "µs/p50")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "µs/p99")
		})
	}
}

// BenchmarkThroughput is that of one connection between pods: directly, and by a service among 10,000; in turns, for the machine may be busy.
func BenchmarkThroughput(b *testing.B) {
	client, target := served(b, 10_000)
	rates := map[string]float64{}
	for range max(b.N, 3) {
		for name, to := range map[string]string{"direct": target.String(), "service": "10.200.0.1:80"} {
			must(b, client.do(func() error {
				rate, err := download(to, time.Second)
				rates[name] = max(rates[name], rate)
				return err
			}))
		}
	}
	b.ReportMetric(rates["direct"], "MB/s-direct")
	b.ReportMetric(rates["service"], "MB/s-service")
	b.ReportMetric(100*rates["service"]/rates["direct"], "%")
}

// served makes a world with many services, of which 10.200.0.1 leads to a pod that sends without end, and gives another pod.
func served(b *testing.B, services int) (client host, target netip.AddrPort) {
	b.Helper()
	world(b)
	client, server := newHost(b, "v1", "10.244.0.2"), newHost(b, "v2", "10.244.0.3")
	target = netip.AddrPortFrom(server.addr, 8080)
	var listener net.Listener
	must(b, server.do(func() (err error) {
		listener, err = net.Listen("tcp4", target.String())
		return err
	}))
	b.Cleanup(func() { listener.Close() })
	go func() {
		data := make([]byte, 1<<16)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				for err := error(nil); err == nil; _, err = c.Write(data) {
				}
				c.Close()
			}()
		}
	}()
	state := ruleset.NewState()
	state.Update(manyServices(services-1, 10)...)
	state.Update(ruleset.Rules{Service: "ns/target", Entries: []ruleset.Entry{{Key: tcp("10.200.0.1", 80), Backend: ruleset.Backend{Endpoints: []netip.AddrPort{target}}}}})
	table := New(testConfig)
	b.Cleanup(func() { _ = table.Close() })
	if _, err := table.Sync(state.All()); err != nil {
		b.Fatal(err)
	}
	return client, target
}

// download reads for some time and gives the rate in MB/s.
func download(from string, d time.Duration) (float64, error) {
	c, err := net.Dial("tcp4", from)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	start := time.Now()
	_ = c.SetReadDeadline(start.Add(d))
	n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{c}, make([]byte, 1<<16))
	if !isTimeout(err) {
		return 0, fmt.Errorf("the connection ended: %w", err)
	}
	return float64(n) / time.Since(start).Seconds() / 1e6, nil
}
