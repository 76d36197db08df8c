package bench

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// BenchmarkEndpointChange measures from a change of a Service's endpoints, as the request is sent, until each of three nodes sends new
// connections to the new one. Each node asks the Service all the time, so that the figure holds the time of a question and the 2 ms between two.
func BenchmarkEndpointChange(b *testing.B) {
	const changes = 200
	l := cluster.NewLab(b, 3)
	fmt.Printf("\n%s\n", b.Name())
	b.ReportMetric(0, "ns/op")
	ctx, kube := context.Background(), l.Client()
	host, targets := hostAddress(b, l), [2]int32{}
	for i := range targets {
		targets[i] = names(b, l, host, fmt.Sprint(i))
	}
	service, err := kube.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "switched"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	must(b, err)
	slices := kube.DiscoveryV1().EndpointSlices("default")
	_, err = slices.Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "switched", Labels: map[string]string{discoveryv1.LabelServiceName: "switched"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{host}}},
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: &targets[0], Protocol: ptr.To(corev1.ProtocolTCP)}},
	}, metav1.CreateOptions{})
	must(b, err)
	address := net.JoinHostPort(service.Spec.ClusterIP, "80")
	seen := watchAnswers(b, l, address)
	seen.wait("0")
	var all, api []time.Duration
	for i := range changes {
		to := (i + 1) % 2
		begin := time.Now()
		_, err := slices.Patch(ctx, "switched", types.JSONPatchType, fmt.Appendf(nil, `[{"op":"replace","path":"/ports/0/port","value":%d}]`, targets[to]), metav1.PatchOptions{})
		must(b, err)
		api = append(api, time.Since(begin))
		all = append(all, seen.wait(fmt.Sprint(to)).Sub(begin))
		time.Sleep(20 * time.Millisecond)
	}
	report(api, "the API's answer to the change", "")
	report(all, "effect on all of 3 nodes", "p99 <= 200")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// report prints percentiles, and leaves the times sorted.
func report(times []time.Duration, what, goal string) {
	slices.Sort(times)
	if goal != "" {
		goal = " (goal " + goal + " ms)"
	}
	at := func(share int) float64 { return float64(times[len(times)*share/100].Microseconds()) / 1000 }
	fmt.Printf("    %-40s p50 %.1f ms, p90 %.1f ms, p99 %.1f ms, most %.1f ms%s\n", what, at(50), at(90), at(99), float64(times[len(times)-1].Microseconds())/1000, goal)
}

// hostAddress is the host's on the lab's bridge.
func hostAddress(b *testing.B, l *cluster.Lab) string {
	b.Helper()
	nodes, err := l.Client().CoreV1().Nodes().List(context.Background(), metav1.ListOptions{})
	must(b, err)
	for _, a := range nodes.Items[0].Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address[:strings.LastIndex(a.Address, ".")] + ".1"
		}
	}
	b.Fatal("no address")
	return ""
}

// names starts a server on the host of the lab that says its name to everyone, and gives its port.
func names(b *testing.B, l *cluster.Lab, host, name string) int32 {
	b.Helper()
	in, err := l.Listen("tcp", net.JoinHostPort(host, "0"))
	must(b, err)
	b.Cleanup(func() { in.Close() })
	go func() {
		for {
			conn, err := in.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprintln(conn, name)
			conn.Close()
		}
	}()
	return int32(in.Addr().(*net.TCPAddr).Port)
}

// answers are what each node's last connection to a Service met, and since when it is that.
type answers struct {
	mu    sync.Mutex
	last  []string
	since []time.Time
	moved chan struct{}
}

// watchAnswers connects from every node, one connection after the other, until the benchmark's end.
func watchAnswers(b *testing.B, l *cluster.Lab, address string) *answers {
	b.Helper()
	a := &answers{last: make([]string, len(l.Nodes)), since: make([]time.Time, len(l.Nodes)), moved: make(chan struct{}, 1)}
	var ended atomic.Bool
	var all sync.WaitGroup
	b.Cleanup(func() { ended.Store(true); all.Wait() })
	for i, node := range l.Nodes {
		at := l.Machine(node)
		all.Go(func() {
			for !ended.Load() {
				a.note(i, answerOf(at, address))
				time.Sleep(2 * time.Millisecond) // the nodes' own work needs the processors, too
			}
		})
	}
	return a
}

func answerOf(at *cluster.Cluster, address string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn, err := at.Dial(ctx, "tcp", address)
	if err != nil {
		return ""
	}
	defer conn.Close()
	line, _ := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line)
}

func (a *answers) note(node int, answer string) {
	a.mu.Lock()
	changed := a.last[node] != answer
	if changed {
		a.last[node], a.since[node] = answer, time.Now()
	}
	a.mu.Unlock()
	if changed {
		select {
		case a.moved <- struct{}{}:
		default:
		}
	}
}

// wait gives the moment when the last node met an answer.
func (a *answers) wait(want string) time.Time {
	for {
		a.mu.Lock()
		all, last := true, time.Time{}
		for i, got := range a.last {
			all = all && got == want
			if a.since[i].After(last) {
				last = a.since[i]
			}
		}
		a.mu.Unlock()
		if all {
			return last
		}
		<-a.moved
	}
}
