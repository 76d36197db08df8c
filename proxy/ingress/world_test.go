package ingress

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/ingress"
)

// world is an API server, a Server that serves on the loopback what is said there, and backends that seem to have addresses of pods.
type world struct {
	*testing.T
	client  kubernetes.Interface
	server  *Server
	stop    func() // ends the Server and waits for its end
	backend struct {
		sync.Mutex
		at map[string]string // real addresses by those of pods
	}
}

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	t.Parallel()
	kube, err := kubernetes.NewForConfig(apiservertest.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, client: kube}
	w.backend.at = map[string]string{}
	w.class("coracle", ingress.Controller)
	w.serve(change...)
	return w
}

// serve starts the Server on ports that are free.
func (w *world) serve(change ...func(*Config)) {
	w.Helper()
	factory := client.Informers(w.client)
	cfg := Config{
		Client: w.client, Factory: factory, NodeName: "n1", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		HTTPPort: freePort(w), HTTPSPort: freePort(w), Metrics: NewMetrics(),
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if w.server, err = New(cfg); err != nil {
		w.Fatal(err)
	}
	w.server.transports.dial = w.dial
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- w.server.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
	w.Cleanup(w.stop)
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// dial leads from addresses of pods to the backends. Pods that there are not refuse, and those of 10.9.0.0/16 do not answer.
func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if strings.HasPrefix(address, "10.9.") {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
	}
	w.backend.Lock()
	real, ok := w.backend.at[address]
	w.backend.Unlock()
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("connection refused")}
	}
	return (&net.Dialer{}).DialContext(ctx, network, real)
}

// pod runs a backend at an address, such as 10.1.0.1:8080, until the test's end.
func (w *world) pod(address string, h http.Handler, change ...func(*httptest.Server)) *httptest.Server {
	w.Helper()
	s := httptest.NewUnstartedServer(h)
	for _, f := range change {
		f(s)
	}
	if s.TLS != nil {
		s.StartTLS()
	} else {
		s.Start()
	}
	w.Cleanup(s.Close)
	w.backend.Lock()
	w.backend.at[address] = s.Listener.Addr().String()
	w.backend.Unlock()
	return s
}

// named is a backend that says its name.
func named(name string) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, name) })
}

func must[T any](w *world) func(T, error) T {
	return func(v T, err error) T {
		w.Helper()
		if err != nil {
			w.Fatal(err)
		}
		return v
	}
}

func (w *world) class(name, controller string) {
	w.Helper()
	must[*networkingv1.IngressClass](w)(w.client.NetworkingV1().IngressClasses().Create(w.Context(), &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.IngressClassSpec{Controller: controller}}, metav1.CreateOptions{}))
}

// service makes a Service with port 80, called http, and an EndpointSlice of addresses with their port. A letter before an address says of the
// endpoint: t it ends and serves, n it is not ready.
func (w *world) service(name string, change func(*corev1.Service), addresses ...string) {
	w.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
	if change != nil {
		change(s)
	}
	must[*corev1.Service](w)(w.client.CoreV1().Services("default").Create(w.Context(), s, metav1.CreateOptions{}))
	w.endpoints(name, addresses...)
}

func (w *world) endpoints(service string, addresses ...string) {
	w.Helper()
	slices := w.client.DiscoveryV1().EndpointSlices("default")
	no, yes, port, name, tcp := false, true, int32(8080), "http", corev1.ProtocolTCP
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}}, AddressType: discoveryv1.AddressTypeIPv4}
	s.Ports = []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}}
	for _, a := range addresses {
		e := discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no}}
		switch a[0] {
		case 't':
			e.Conditions.Ready, e.Conditions.Terminating = &no, &yes
		case 'n':
			e.Conditions.Ready, e.Conditions.Serving = &no, &no
		}
		e.Addresses = []string{strings.TrimLeft(a, "tn")}
		s.Endpoints = append(s.Endpoints, e)
	}
	_, err := slices.Create(w.Context(), s, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = slices.Update(w.Context(), s, metav1.UpdateOptions{})
	}
	if err != nil {
		w.Fatal(err)
	}
}

// ingress makes or changes an Ingress by the lines of rulesOf; "@key value" is an annotation.
func (w *world) ingress(name, text string) {
	w.Helper()
	class := "coracle"
	i := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}}, Spec: networkingv1.IngressSpec{IngressClassName: &class}}
	backend := func(service string) networkingv1.IngressBackend {
		return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: service, Port: networkingv1.ServiceBackendPort{Number: 80}}}
	}
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) == 2 && words[0][0] == '@' {
			i.Annotations[ingress.OwnPrefix+words[0][1:]] = words[1]
			continue
		}
		r := rulesOf("", 0, line)
		if r.Default != nil {
			b := backend(r.Default.Service)
			i.Spec.DefaultBackend = &b
		}
		for _, t := range r.TLS {
			i.Spec.TLS = append(i.Spec.TLS, networkingv1.IngressTLS{Hosts: t.Hosts, SecretName: t.Secret})
		}
		for _, p := range r.Paths {
			kind := networkingv1.PathTypePrefix
			if p.Exact {
				kind = networkingv1.PathTypeExact
			} else if p.Path == "" {
				p.Path = "/"
			}
			i.Spec.Rules = append(i.Spec.Rules, networkingv1.IngressRule{Host: p.Host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
				Paths: []networkingv1.HTTPIngressPath{{Path: p.Path, PathType: &kind, Backend: backend(p.Backend.Service)}},
			}}})
		}
	}
	all := w.client.NetworkingV1().Ingresses("default")
	_, err := all.Create(w.Context(), i, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = all.Update(w.Context(), i, metav1.UpdateOptions{})
	}
	if err != nil {
		w.Fatal(err)
	}
}

// certificate makes a Secret with a certificate for hosts, or changes it, and gives what trusts it.
func (w *world) certificate(name string, hosts ...string) *x509.CertPool {
	w.Helper()
	crt, key := keyPair(w, hosts...)
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": crt, "tls.key": key}}
	all := w.client.CoreV1().Secrets("default")
	_, err := all.Create(w.Context(), s, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = all.Update(w.Context(), s, metav1.UpdateOptions{})
	}
	if err != nil {
		w.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(crt)
	return pool
}

func keyPair(t testing.TB, hosts ...string) (crt, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: hosts[0]}, DNSNames: hosts, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// web is a client whose connections all lead to the Server, whatever the host. roots may be nil, which trusts everybody.
func (w *world) web(roots *x509.CertPool) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			port := w.server.cfg.HTTPPort
			if strings.HasSuffix(address, ":443") || strings.HasSuffix(address, fmt.Sprint(":", w.server.cfg.HTTPSPort)) {
				port = w.server.cfg.HTTPSPort
			}
			return (&net.Dialer{}).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", port))
		},
		TLSClientConfig: &tls.Config{RootCAs: roots, InsecureSkipVerify: roots == nil}, ForceAttemptHTTP2: true,
	}
	w.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// get asks for a URL and gives "code body".
func get(c *http.Client, url string) (string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, bytes.TrimSpace(body)), err
}

// eventually asks until the answer is the one wanted.
func (w *world) eventually(c *http.Client, url, want string) {
	w.Helper()
	w.until(func() error {
		got, err := get(c, url)
		if err == nil && got != want {
			err = fmt.Errorf("%s: %q, want %q", url, got, want)
		}
		return err
	})
}

func (w *world) until(condition func() error) {
	w.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// gather gives the values of counters, and the counts of histograms, by name and labels.
func gather(t *testing.T, c prometheus.Collector) map[string]uint64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]uint64{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			value := uint64(m.GetCounter().GetValue() + m.GetGauge().GetValue())
			if m.Histogram != nil {
				value = m.Histogram.GetSampleCount()
			}
			all[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = value
		}
	}
	return all
}
