// Package ingress tests Ingresses on the real binary: what docs/ingress.md shows, and traffic while certificates, backends and Ingresses change.
package ingress

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// site is a cluster of one node with the Ingress of docs/ingress.md.
type site struct {
	*testing.T
	c *cluster.Cluster
	// node is the node's address, files the folder that commands are typed in.
	node, files string
}

func (s *site) with(t *testing.T) *site { return &site{t, s.c.For(t), s.node, s.files} }

func TestIngress(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up()
	s := &site{T: t, c: c, node: strings.TrimSpace(c.Kubectl("get", "node", "node", "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)), files: t.TempDir()}
	if err := s.listens("80"); err == nil {
		t.Error("port 80 is listened on though there is no Ingress")
	}
	s.document()
	t.Run("side by side", func(t *testing.T) {
		for name, test := range map[string]func(*site){
			"routes": routes, "rolling update": rollingUpdate, "certificate": certificate, "WebSocket": webSocket, "gRPC": remoteCall, "ejection": ejection, "rights": rights, "source": source,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(s.with(t))
			})
		}
	})
	c.Kubectl("delete", "ingress", "--all")
	cluster.Eventually(t, 60*time.Second, func() error {
		if s.listens("80") == nil || s.listens("443") == nil {
			return errors.New("a port is still listened on")
		}
		return nil
	})
}

func (s *site) listens(port string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := s.c.Dial(ctx, "tcp", net.JoinHostPort(s.node, port))
	if err == nil {
		_ = conn.Close()
	}
	return err
}

// document types the commands of docs/ingress.md.
func (s *site) document() {
	s.Helper()
	s.keyPair("shop.example.com")
	bin := filepath.Join(s.files, "bin")
	if err := errors.Join(os.Mkdir(bin, 0o755), os.Symlink(s.c.Binary(), filepath.Join(bin, "kubectl"))); err != nil {
		s.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(testenv.Repository(), "docs", "ingress.md"))
	if err != nil {
		s.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 3 {
		s.Fatalf("docs/ingress.md has %d blocks of commands", len(blocks))
	}
	run := func(block string) string {
		cmd := s.c.Command("sh", "-e", "-c", "cd "+s.files+"; PATH="+bin+":$PATH; "+block)
		out, err := cmd.CombinedOutput()
		if err != nil {
			s.Fatalf("%s: %v\n%s", block, err, out)
		}
		return string(out)
	}
	run(blocks[0][1])
	web := s.web(nil)
	s.eventually(web, "http://shop.example.com/hostname", "200 shop-")
	cluster.Eventually(s.T, 60*time.Second, func() error {
		return cluster.Want("the address", s.c.Kubectl("get", "ingress", "shop", "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}"), s.node)
	})
	run(blocks[1][1])
	s.eventually(web, "https://shop.example.com/hostname", "200 shop-")
	s.eventually(web, "http://shop.example.com/hostname", "308 ")
	if out := run(strings.ReplaceAll(blocks[2][1], "NODE", "node")); !strings.Contains(out, `coracle_ingress_requests_total{code="200",host="shop.example.com",ingress="shop",namespace="default",path="",service="shop:80"}`) {
		s.Errorf("metrics:\n%s", out)
	}
	if class := s.c.Kubectl("get", "ingress", "shop", "-o", "jsonpath={.spec.ingressClassName}"); class != "coracle" {
		s.Errorf("the default class is %q", class)
	}
}

// keyPair writes tls.crt and tls.key, and gives what trusts them.
func (s *site) keyPair(host string) *x509.CertPool {
	s.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		s.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.Fatal(err)
	}
	crt := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	err = errors.Join(os.WriteFile(filepath.Join(s.files, "tls.crt"), crt, 0o600), os.WriteFile(filepath.Join(s.files, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
	if err != nil {
		s.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(crt)
	return pool
}

// web is a client inside the cluster's network for whom every host is the node. It trusts roots, or everybody if nil.
func (s *site) web(roots *x509.CertPool) *http.Client { return s.from(s.c, roots) }

func (s *site) from(c *cluster.Cluster, roots *x509.CertPool) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return c.Dial(ctx, network, net.JoinHostPort(s.node, port))
		},
		TLSClientConfig: &tls.Config{RootCAs: roots, InsecureSkipVerify: roots == nil}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8,
	}
	s.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// get gives "code body".
func get(c *http.Client, url string) (string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, body), err
}

// eventually waits until an answer begins as wanted.
func (s *site) eventually(c *http.Client, url, want string) {
	s.Helper()
	cluster.Eventually(s.T, 60*time.Second, func() error {
		got, err := get(c, url)
		if err == nil && !strings.HasPrefix(got, want) {
			err = fmt.Errorf("%s: %q, want %q", url, got, want)
		}
		return err
	})
}

// traffic asks for a URL all the time, by some clients that keep their connections and others that do not, until the function that it gives is
// called: not one request may fail.
func (s *site) traffic(url string) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var count atomic.Int64
	for n := range 4 {
		c := s.web(nil)
		wg.Go(func() {
			for ctx.Err() == nil {
				if got, err := get(c, url); err != nil || !strings.HasPrefix(got, "200 ") {
					s.Errorf("%s: %q, %v", url, got, err)
					return
				}
				count.Add(1)
				if n%2 == 0 {
					c.CloseIdleConnections()
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
		if n := count.Load(); n < 100 {
			s.Errorf("only %d requests", n)
		}
		s.Logf("%d requests", count.Load())
	}
}

// backend makes a Service whose one endpoint is a listener at the node's address, and an Ingress for a host of its own.
func (s *site) backend(name, port, more string) net.Listener {
	s.Helper()
	l, err := s.c.Listen("tcp", net.JoinHostPort(s.node, port))
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = l.Close() })
	s.expose(name, port, fmt.Sprintf("[{addresses: [%s]}]", s.node), more)
	return l
}

func (s *site) expose(name, port, endpoints, more string) {
	s.Helper()
	s.c.KubectlIn(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {clusterIP: None, ports: [{port: 80, %[4]s}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{name: "", port: %[2]s}]
endpoints: %[3]s
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: %[1]s}
spec:
  rules: [{host: %[1]s.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: %[1]s, port: {number: 80}}}}]}}]
`, name, port, endpoints, more), "apply", "-f", "-")
}

func routes(s *site) {
	s.c.KubectlIn(`
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: paths}
spec:
  rules:
  - host: "*.paths.example.com"
    http:
      paths:
      - {path: /hostname, pathType: Exact, backend: {service: {name: shop, port: {number: 80}}}}
      - {path: /none, pathType: Prefix, backend: {service: {name: none, port: {number: 80}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: old, annotations: {kubernetes.io/ingress.class: coracle}}
spec:
  rules: [{host: old.example.com, http: {paths: [{path: /, pathType: ImplementationSpecific, backend: {service: {name: shop, port: {number: 80}}}}]}}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: theirs}
spec:
  ingressClassName: theirs
  rules: [{host: theirs.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: shop, port: {number: 80}}}}]}}]
`, "apply", "-f", "-")
	web := s.web(nil)
	for url, want := range map[string]string{
		"http://a.paths.example.com/hostname": "200 shop-", "http://a.paths.example.com/hostname/": "404 ", "http://paths.example.com/hostname": "404 ", "http://a.b.paths.example.com/hostname": "404 ",
		"http://a.paths.example.com/none/x": "503 ", "http://old.example.com/hostname": "200 shop-", "http://theirs.example.com/": "404 ",
	} {
		s.eventually(web, url, want)
	}
}

func rollingUpdate(s *site) {
	s.c.Kubectl("create", "deployment", "rolling", "--image=coracle/demo:v1", "--replicas=3")
	s.c.Kubectl("expose", "deployment", "rolling", "--port=80", "--target-port=8080")
	s.c.Kubectl("create", "ingress", "rolling", "--rule=rolling.example.com/*=rolling:80")
	s.c.Kubectl("rollout", "status", "deployment", "rolling")
	s.eventually(s.web(nil), "http://rolling.example.com/", "200 Hello from demo v1")
	end := s.traffic("http://rolling.example.com/")
	s.c.Kubectl("set", "image", "deployment/rolling", "*=coracle/demo:v2")
	s.c.Kubectl("rollout", "status", "deployment", "rolling")
	s.c.Kubectl("scale", "deployment", "rolling", "--replicas=1")
	s.c.Kubectl("scale", "deployment", "rolling", "--replicas=4")
	s.c.Kubectl("rollout", "status", "deployment", "rolling")
	s.eventually(s.web(nil), "http://rolling.example.com/", "200 Hello from demo v2")
	end()
}

func certificate(s *site) {
	end := s.traffic("https://shop.example.com/hostname")
	for range 3 {
		roots := s.keyPair("shop.example.com")
		s.c.KubectlIn(s.c.Kubectl("create", "secret", "tls", "shop", "--cert="+filepath.Join(s.files, "tls.crt"), "--key="+filepath.Join(s.files, "tls.key"), "--dry-run=client", "-o", "yaml"), "apply", "-f", "-")
		s.eventually(s.web(roots), "https://shop.example.com/hostname", "200 shop-")
		if got, err := get(s.web(roots), "https://other.example.com/"); err == nil {
			s.Errorf("a host without a certificate is trusted: %s", got)
		}
	}
	end()
}

func webSocket(s *site) {
	l := s.backend("socket", "9001", "")
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			kind, data, err := conn.ReadMessage()
			if err != nil || conn.WriteMessage(kind, data) != nil {
				return
			}
		}
	})}
	go func() { _ = srv.Serve(l) }()
	s.Cleanup(func() { _ = srv.Close() })
	dialer := websocket.Dialer{NetDialContext: s.web(nil).Transport.(*http.Transport).DialContext}
	var conn *websocket.Conn
	cluster.Eventually(s.T, 60*time.Second, func() (err error) {
		conn, _, err = dialer.Dial("ws://socket.example.com/", nil)
		return err
	})
	defer conn.Close()
	for _, text := range []string{"one", "two"} {
		if err := conn.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
			s.Fatal(err)
		}
		if _, got, err := conn.ReadMessage(); err != nil || string(got) != text {
			s.Fatalf("%q, %v", got, err)
		}
		s.c.Kubectl("annotate", "--overwrite", "ingress", "socket", "changed="+text) // the connection outlives it
	}
}

func remoteCall(s *site) {
	l := s.backend("calls", "9002", "appProtocol: kubernetes.io/h2c")
	srv, checks := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(srv, checks)
	checks.SetServingStatus("shop", healthpb.HealthCheckResponse_SERVING)
	go func() { _ = srv.Serve(l) }()
	s.Cleanup(srv.Stop)
	dial := s.web(nil).Transport.(*http.Transport).DialContext
	conn, err := grpc.NewClient("passthrough:///calls.example.com:443", grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return dial(ctx, "tcp", address) }))
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close()
	client := healthpb.NewHealthClient(conn)
	cluster.Eventually(s.T, 60*time.Second, func() error {
		got, err := client.Check(s.Context(), &healthpb.HealthCheckRequest{Service: "shop"})
		if err == nil && got.Status != healthpb.HealthCheckResponse_SERVING {
			err = fmt.Errorf("status %v", got.Status)
		}
		return err
	})
}

// ejection: one of two endpoints refuses; no request fails, and it is rarely asked.
func ejection(s *site) {
	l := s.backend("half", "9003", "")
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-For"))
	})}
	go func() { _ = srv.Serve(l) }()
	s.Cleanup(func() { _ = srv.Close() })
	s.expose("half", "9003", fmt.Sprintf("[{addresses: [%s]}, {addresses: [10.244.255.254]}]", s.node), "")
	s.eventually(s.web(nil), "http://half.example.com/", "200 ")
	end := s.traffic("http://half.example.com/")
	time.Sleep(2 * time.Second)
	end()
	s.expose("gone", "9004", fmt.Sprintf("[{addresses: [%s]}]", s.node), "") // nobody listens there
	s.eventually(s.web(nil), "http://gone.example.com/", "502 ")
}

// rights: the node's own identity cannot read certificates but as it is meant to, and no other Secret.
func rights(s *site) {
	as := func(args ...string) (string, error) {
		return s.c.TryKubectl("", append([]string{"--as=system:node:node", "--as-group=system:nodes"}, args...)...)
	}
	s.c.Kubectl("create", "secret", "generic", "other", "--from-literal=a=b")
	for _, args := range [][]string{{"get", "secrets"}, {"get", "secret", "shop"}, {"get", "secret", "other"}, {"get", "secrets", "--field-selector=metadata.name=other,type=kubernetes.io/tls"}, {"get", "secrets", "--field-selector=metadata.name=shop"}} {
		if out, err := as(args...); err == nil || !strings.Contains(out, "forbidden") {
			s.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	if out, err := as("get", "secrets", "--field-selector=metadata.name=shop,type=kubernetes.io/tls", "-o", "name"); err != nil || strings.TrimSpace(out) != "secret/shop" {
		s.Errorf("%v\n%s", err, out)
	}
}

// source: a backend learns the address of a client on another machine.
func source(s *site) {
	l := s.backend("source", "9005", "")
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-For")+" "+r.Header.Get("X-Real-Ip"))
	})}
	go func() { _ = srv.Serve(l) }()
	s.Cleanup(func() { _ = srv.Close() })
	other := s.c.Machine(1)
	s.eventually(s.from(other, nil), "http://source.example.com/", "200 10.99.1.2 10.99.1.2")
}
