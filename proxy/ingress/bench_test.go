package ingress

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

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

// drive sends requests through a proxy, from as many clients as there are cores times 16.
func drive(b *testing.B, h http.Handler) {
	b.Helper()
	front := httptest.NewServer(h)
	defer front.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}
	defer transport.CloseIdleConnections()
	b.SetParallelism(16)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, _ := http.NewRequest("GET", front.URL+"/api/things/42", nil)
			r.Host = "h500.example.com"
			resp, err := transport.RoundTrip(r)
			if err != nil {
				b.Error(err)
				return
			}
			n, _ := io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != 200 || n != 1<<10 {
				b.Errorf("%s, %d bytes", resp.Status, n)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}
