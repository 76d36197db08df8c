package proxy

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

// BenchmarkProxy runs the whole proxy, without names, on 10,000 services of 10 endpoints: how long the first sync takes from its start, how long a change of a slice takes to
// be in the kernel, and what it all keeps in memory. The client is a fake one in the same process; what that holds is left out.
func BenchmarkProxy(b *testing.B) {
	for _, services := range []int{10, 10_000} {
		b.Run(strconv.Itoa(services), func(b *testing.B) { benchmarkProxy(b, services) })
	}
}

func benchmarkProxy(b *testing.B, services int) {
	if !ownNamespace(b) {
		return
	}
	kube := fake.NewClientset(manyObjects(services)...)
	before, rss := settled()
	metrics := NewMetrics()
	began := time.Now()
	stop := start(b, func(c *Config) { c.Client, c.Metrics, c.Sysctls = kube, metrics, nil })
	eventually(b, "the first sync", func() string {
		if count(b, metrics.sync) == 0 {
			return "not yet"
		}
		return ""
	})
	b.ReportMetric(time.Since(began).Seconds(), "s/to-first-sync") // with the fake client's lists
	after, peak := settled()
	b.ReportMetric(float64(after-before)/1e6, "MB/heap")
	b.ReportMetric(float64(peak-rss)/1e6, "MB/peak-RSS")
	slices := kube.DiscoveryV1().EndpointSlices("ns")
	var slowest time.Duration
	for i := range 20 {
		synced := count(b, metrics.sync)
		slice, err := slices.Get(b.Context(), fmt.Sprintf("s%d-1", i%services), metav1.GetOptions{})
		must(b, err)
		slice.Endpoints = slice.Endpoints[1:]
		began := time.Now()
		_, err = slices.Update(b.Context(), slice, metav1.UpdateOptions{})
		must(b, err)
		for count(b, metrics.sync) == synced && time.Since(began) < time.Minute {
			time.Sleep(time.Millisecond / 4)
		}
		slowest = max(slowest, time.Since(began))
	}
	b.ReportMetric(float64(slowest.Microseconds())/1000, "ms/slowest-change")
	stop()
	must(b, Cleanup())
}

// settled gives the bytes of the heap in use and the most memory that the process ever had resident.
func settled() (heap, peak int64) {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, _ := strconv.ParseInt(strings.Fields(rest + " 0")[0], 10, 64)
	return int64(m.HeapAlloc), kib << 10
}

func manyObjects(services int) []k8sruntime.Object {
	var all []k8sruntime.Object
	for i := range services {
		name := fmt.Sprint("s", i)
		ip := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String()
		service := newService(name, ip, func(s *corev1.Service) {
			s.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat("x", 300)}
			s.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl", FieldsV1: metav1.NewFieldsV1(strings.Repeat("x", 500))}}
		})
		var addresses []string
		for e := range 10 {
			n := i*10 + e
			addresses = append(addresses, netip.AddrFrom4([4]byte{10, 128 + byte(n>>16), byte(n >> 8), byte(n)}).String())
		}
		slice := newSlice(name, addresses...)
		for e := range slice.Endpoints {
			slice.Endpoints[e].NodeName = ptr.To(fmt.Sprint("node-", e))
			slice.Endpoints[e].TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: "ns", Name: fmt.Sprintf("%s-%d", name, e), UID: "2d1a7a4b-3c56-4c1e-8d53-0a2f1f3f5b6c"}
			slice.Endpoints[e].Conditions = discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)}
		}
		all = append(all, service, slice)
	}
	return all
}
