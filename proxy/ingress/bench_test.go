package ingress

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
)

// BenchmarkProxy compares with a plain reverse proxy of net/http whose transport is tuned alike, in one run: requests for 1 KiB on connections that
// stay, through one and the other.
func BenchmarkProxy(b *testing.B) {
	body := make([]byte, 1<<10)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	defer backend.Close()
	to, _ := url.Parse(backend.URL)
	plain := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to); r.SetXForwarded() },
		Transport: &http.Transport{DialContext: (&net.Dialer{}).DialContext, DisableCompression: true, MaxIdleConnsPerHost: idlePerBackend}, BufferPool: &buffers{},
	}
	b.Run("net-http", func(b *testing.B) { drive(b, plain) })
	s := benchServer(b, backend.Listener.Addr().(*net.TCPAddr).Port)
	b.Run("ingress", func(b *testing.B) {
		drive(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, false) }))
	})
}

// benchServer has a thousand Ingresses, of which all lead to one endpoint of the loopback.
func benchServer(b *testing.B, port int) *Server {
	b.Helper()
	s, err := New(Config{Factory: informers.NewSharedInformerFactory(nil, 0)})
	if err != nil {
		b.Fatal(err)
	}
	number, name := int32(port), "http"
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: name, Port: 80}}}}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}, AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &number}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"127.0.0.1"}}},
	}
	f := s.cfg.Factory
	for _, err := range []error{
		f.Core().V1().Services().Informer().GetIndexer().Add(service), f.Discovery().V1().EndpointSlices().Informer().GetIndexer().Add(slice),
		f.Networking().V1().IngressClasses().Informer().GetIndexer().Add(&networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "coracle"}, Spec: networkingv1.IngressClassSpec{Controller: "coracle.dev/ingress"}}),
	} {
		if err != nil {
			b.Fatal(err)
		}
	}
	for i := range 1000 {
		r := rulesOf(fmt.Sprint(i), int64(i), fmt.Sprintf("h%d.example.com / web\nh%d.example.com /api web", i, i))
		r.ReadTimeout = time.Minute
		for j := range r.Paths {
			r.Paths[j].Backend.Number = 80
		}
		s.builder.set(types.NamespacedName{Namespace: "ns", Name: fmt.Sprint(i)}, r)
	}
	s.table.Store(s.builder.build())
	return s
}

// drive sends requests through a proxy on 32 connections. The processor time is that of all: the client and the backend take the same through any
// proxy.
func drive(b *testing.B, h http.Handler) {
	b.Helper()
	front := httptest.NewServer(h)
	defer front.Close()
	request := []byte("GET /api/things/42?page=3 HTTP/1.1\r\nHost: h500.example.com\r\nUser-Agent: bench\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\n\r\n")
	var left atomic.Int64
	left.Store(int64(b.N))
	before := processorTime(b)
	b.ResetTimer()
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			conn, err := net.Dial("tcp", front.Listener.Addr().String())
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			for in := bufio.NewReader(conn); left.Add(-1) >= 0; {
				if _, err := conn.Write(request); err != nil {
					b.Error(err)
					return
				}
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					b.Error(err)
					return
				}
				if n, err := io.Copy(io.Discard, resp.Body); resp.StatusCode != 200 || n != 1<<10 || err != nil {
					b.Errorf("%s, %d bytes, %v", resp.Status, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
	b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
