package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// What the DNS benchmark asks of a cluster of this size, how many clients do, and in how many rounds for how long.
const (
	dnsServices, dnsHeadless, dnsEndpoints = 500, 50, 10
	dnsClients, dnsRounds                  = 32, 5
	dnsRound                               = 3 * time.Second
)

// BenchmarkDNS asks ours and CoreDNS with its Kubernetes plug-in the same questions, in turns, both on one machine with the same
// objects. A tenth of the questions are for headless Services, a half for names that a search path makes and that do not exist.
func BenchmarkDNS(b *testing.B) {
	program := coreDNS(b)
	c := begin(b)
	c.Up()
	packets := dnsWorld(b, c)
	corednsPid := startCoreDNS(b, c, program)
	servers := []struct {
		name, addr string
		pid        int
	}{{"coracle", "10.96.0.10:53", serverPid(b, c)}, {"CoreDNS", "127.0.0.1:5300", corednsPid}}
	for _, s := range servers {
		waitForName(b, c, s.addr)
	}
	rates, cpus := map[string][]float64{}, map[string][]float64{}
	latencies := map[string][]time.Duration{}
	for range dnsRounds {
		for _, s := range servers {
			before := processCPU(b, s.pid)
			took := askAll(b, c, s.addr, packets)
			used := processCPU(b, s.pid) - before
			rates[s.name] = append(rates[s.name], float64(len(took))/dnsRound.Seconds())
			cpus[s.name] = append(cpus[s.name], used.Seconds()*1e6/float64(len(took)))
			latencies[s.name] = append(latencies[s.name], took...)
		}
	}
	for _, s := range servers {
		figure(b, s.name+" DNS", median(rates[s.name]), "queries/s", "")
		figure(b, s.name+" DNS CPU", median(cpus[s.name]), "us/query", "")
		slices.Sort(latencies[s.name])
		all := latencies[s.name]
		figure(b, s.name+" DNS p50", float64(all[len(all)/2].Microseconds()), "us", "")
		figure(b, s.name+" DNS p99", float64(all[len(all)*99/100].Microseconds()), "us", "")
	}
	figure(b, "queries a second, of CoreDNS'", median(rates["coracle"])/median(rates["CoreDNS"]), "times", ">= 1")
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// coreDNS is the program to compare with: $COREDNS, or what is built from the module beside this test, which takes minutes and a
// way to the Go module proxy.
func coreDNS(b *testing.B) string {
	if path := os.Getenv("COREDNS"); path != "" {
		return path
	}
	path := filepath.Join(b.TempDir(), "coredns")
	build := exec.Command("go", "build", "-C", filepath.Join(testenv.Repository(), "integration", "bench", "coredns"), "-o", path, ".")
	if out, err := build.CombinedOutput(); err != nil {
		b.Skipf("CoreDNS cannot be built: %v\n%s", err, out)
	}
	return path
}

// startCoreDNS runs it as kubeadm configures it, beside the cluster's own.
func startCoreDNS(b *testing.B, c *cluster.Cluster, program string) int {
	b.Helper()
	corefile := filepath.Join(b.TempDir(), "Corefile")
	err := os.WriteFile(corefile, []byte(fmt.Sprintf(`.:5300 {
    bind 127.0.0.1
    errors
    ready 127.0.0.1:8181
    prometheus 127.0.0.1:9154
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig %s
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    cache 30 {
        disable success cluster.local
        disable denial cluster.local
    }
    loadbalance
}
`, c.Kubeconfig)), 0o600)
	if err != nil {
		b.Fatal(err)
	}
	cmd := c.Command(program, "-conf", corefile)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if b.Failed() {
			b.Log(log.String())
		}
	})
	return cmd.Process.Pid
}

func serverPid(b *testing.B, c *cluster.Cluster) int {
	b.Helper()
	for _, p := range processes(b, c) {
		if p.role == "server" {
			return p.pid
		}
	}
	b.Fatal("there is no server")
	return 0
}

func processCPU(b *testing.B, pid int) time.Duration {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 on every Linux
}

// dnsWorld makes the Services, and gives the questions about them.
func dnsWorld(b *testing.B, c *cluster.Cluster) [][]byte {
	b.Helper()
	ctx := context.Background()
	config, err := c.REST()
	if err != nil {
		b.Fatal(err)
	}
	config.QPS = -1
	kube := kubernetes.NewForConfigOrDie(config)
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	var packets [][]byte
	ask := func(qtype uint16, name string) {
		packet, err := new(dns.Msg).SetQuestion(name+".", qtype).SetEdns0(1232, false).Pack()
		must(err)
		packets = append(packets, packet)
	}
	ports := []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}
	for i := range dnsServices {
		name := fmt.Sprintf("web-%d", i)
		_, err := kube.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: ports}}, metav1.CreateOptions{})
		must(err)
		full := name + ".default.svc.cluster.local"
		// What a pod of another namespace asks for "web-1.default": one step of the search path, and then the name itself.
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			ask(qtype, name+".default.other.svc.cluster.local")
			ask(qtype, full)
		}
	}
	protocol, port := corev1.ProtocolTCP, int32(80)
	for i := range dnsHeadless {
		name := fmt.Sprintf("bare-%d", i)
		_, err := kube.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: ports}}, metav1.CreateOptions{})
		must(err)
		slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &ports[0].Name, Protocol: &protocol, Port: &port}}}
		for e := range dnsEndpoints {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.250.%d.%d", i, e)}})
		}
		_, err = kube.DiscoveryV1().EndpointSlices("default").Create(ctx, slice, metav1.CreateOptions{})
		must(err)
		for range 4 {
			ask(dns.TypeA, name+".default.svc.cluster.local")
		}
	}
	return packets
}

// waitForName waits until a server knows the last object that was made.
func waitForName(b *testing.B, c *cluster.Cluster, addr string) {
	b.Helper()
	packet, err := new(dns.Msg).SetQuestion(fmt.Sprintf("bare-%d.default.svc.cluster.local.", dnsHeadless-1), dns.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	cluster.Eventually(b, time.Minute, func() error {
		conn, err := c.Dial(context.Background(), "udp", addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		answer := make([]byte, 4096)
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write(packet); err != nil {
			return err
		}
		n, err := conn.Read(answer)
		if err == nil && (n < 12 || answer[7] != dnsEndpoints) {
			err = errors.New(addr + " does not know the Services yet")
		}
		return err
	})
}

// askAll asks for a round's time, each client one question at a time, and gives how long each answer took.
func askAll(b *testing.B, c *cluster.Cluster, addr string, packets [][]byte) []time.Duration {
	b.Helper()
	var mu sync.Mutex
	var took []time.Duration
	var all sync.WaitGroup
	for i := range dnsClients {
		conn, err := c.Dial(context.Background(), "udp", addr)
		if err != nil {
			b.Fatal(err)
		}
		all.Go(func() {
			defer conn.Close()
			mine, err := askSome(conn, packets, i*len(packets)/dnsClients)
			if err != nil {
				b.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
		})
	}
	all.Wait()
	return took
}

func askSome(conn net.Conn, packets [][]byte, next int) ([]time.Duration, error) {
	took := make([]time.Duration, 0, 1<<16)
	query, answer := make([]byte, 512), make([]byte, 4096)
	end := time.Now().Add(dnsRound)
	_ = conn.SetDeadline(end.Add(5 * time.Second))
	for id := uint16(0); ; id++ {
		begun := time.Now()
		if begun.After(end) {
			return took, nil
		}
		next = (next + 1) % len(packets)
		n := copy(query, packets[next])
		query[0], query[1] = byte(id>>8), byte(id)
		if _, err := conn.Write(query[:n]); err != nil {
			return nil, err
		}
		size, err := conn.Read(answer)
		if err != nil {
			return nil, err
		}
		if code := answer[3] & 0xF; size < 12 || answer[0] != query[0] || answer[1] != query[1] || code != dns.RcodeSuccess && code != dns.RcodeNameError {
			return nil, fmt.Errorf("answered %x", answer[:size])
		}
		took = append(took, time.Since(begun))
	}
}
