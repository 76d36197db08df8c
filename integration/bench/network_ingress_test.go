package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// BenchmarkIngress compares an Ingress of the real binary with a plain reverse proxy of net/http in a process of its own, in turn: requests per second for
// 1 KiB over 64 connections that stay, and per second of the proxy's own processor time, which other load on the machine changes little. Client and
// backend write and read bytes, so that what is measured is the proxy.
func BenchmarkIngress(b *testing.B) {
	const rounds, each = 5, 2 * time.Second
	c := begin(b)
	c.Up()
	node := strings.TrimSpace(c.Kubectl("get", "node", "node", "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`))
	backend := ingressBackend(b, c, node)
	c.KubectlIn(fmt.Sprintf(ingressObjects, backend.Port, node), "apply", "-f", "-")
	plain := plainProxy(b, c, node, backend.String())
	proxies := []struct{ name, role, address string }{
		{"plain net/http proxy", filepath.Base(os.Args[0]), plain}, {"Ingress", "server", net.JoinHostPort(node, "80")},
	}
	perSecond, perCPU := map[string][]float64{}, map[string][]float64{}
	time.Sleep(settle)
	for _, p := range proxies { // until it serves, and once to warm up
		cluster.Eventually(b, 60*time.Second, func() error { return requests(c, p.address, 1, time.Millisecond, &atomic.Int64{}) })
		drive(b, c, p.address, time.Second)
	}
	for range rounds {
		for _, p := range proxies {
			before := cpu(b, c)
			n := drive(b, c, p.address, each)
			var used time.Duration
			for process, after := range cpu(b, c) {
				if process.role == p.role {
					used += after - before[process]
				}
			}
			perSecond[p.name] = append(perSecond[p.name], n/each.Seconds())
			perCPU[p.name] = append(perCPU[p.name], n/used.Seconds())
		}
	}
	median := func(all []float64) float64 { slices.Sort(all); return all[len(all)/2] }
	for _, p := range proxies {
		figure(b, p.name, median(perSecond[p.name]), "requests/s", "")
		figure(b, p.name+" for a second of a core", median(perCPU[p.name]), "requests", "")
	}
	figure(b, "Ingress to plain proxy", 100*median(perSecond["Ingress"])/median(perSecond["plain net/http proxy"]), "%", ">= 80")
	figure(b, "Ingress to plain proxy by processor time", 100*median(perCPU["Ingress"])/median(perCPU["plain net/http proxy"]), "%", ">= 80")
	figure(b, "Ingress on two cores of its own", 2*median(perCPU["Ingress"]), "requests/s", ">= 20000")
}

const ingressObjects = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: "", port: %d}]
endpoints: [{addresses: [%s]}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules: [{host: web.example.com, http: {paths: [{path: /api, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]
`

// ingressBackend answers every request with 1 KiB.
func ingressBackend(b *testing.B, c *cluster.Cluster, node string) *net.TCPAddr {
	b.Helper()
	l, err := c.Listen("tcp", net.JoinHostPort(node, "0"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024))
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for in := bufio.NewReader(conn); ; {
					line, err := in.ReadSlice('\n')
					if err != nil {
						return
					}
					if len(line) > 2 {
						continue // a header's line
					}
					if _, err := conn.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr)
}

const plainProxyEnv = "CORACLE_BENCH_PLAIN_PROXY"

// plainProxy runs TestPlainProxy in a process of its own, and gives its address.
func plainProxy(b *testing.B, c *cluster.Cluster, node, backend string) string {
	b.Helper()
	address := net.JoinHostPort(node, "8081")
	cmd := c.Command(os.Args[0], "-test.run=^TestPlainProxy$", c.Dir) // by the folder it is known to be the cluster's
	cmd.Env = append(cmd.Env, plainProxyEnv+"="+address+" "+backend)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return address
}

// TestPlainProxy is the proxy that BenchmarkIngress compares with: net/http's own, with buffers and idle connections as it should have.
func TestPlainProxy(t *testing.T) {
	address, backend, found := strings.Cut(os.Getenv(plainProxyEnv), " ")
	if !found {
		t.Skip("it is a part of BenchmarkIngress")
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: backend})
			r.SetXForwarded()
		},
		Transport:  &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
		BufferPool: &copyBuffers{},
	}
	srv := &http.Server{Addr: address, Handler: proxy, ReadHeaderTimeout: time.Minute}
	t.Fatal(srv.ListenAndServe())
}

type copyBuffers struct{ pool sync.Pool }

func (p *copyBuffers) Get() []byte {
	if have, ok := p.pool.Get().(*[32 << 10]byte); ok {
		return have[:]
	}
	return make([]byte, 32<<10)
}

func (p *copyBuffers) Put(data []byte) { p.pool.Put((*[32 << 10]byte)(data)) }

// drive sends requests for a time and gives how many were answered.
func drive(b *testing.B, c *cluster.Cluster, address string, during time.Duration) float64 {
	b.Helper()
	var count atomic.Int64
	if err := requests(c, address, 64, during, &count); err != nil {
		b.Fatal(err)
	}
	return float64(count.Load())
}

func requests(c *cluster.Cluster, address string, connections int, during time.Duration, count *atomic.Int64) error {
	conns := make([]net.Conn, connections)
	for i := range conns {
		conn, err := c.Dial(context.Background(), "tcp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		conns[i] = conn
	}
	failed := make([]error, connections)
	end := time.Now().Add(during)
	var wg sync.WaitGroup
	for i, conn := range conns {
		wg.Go(func() {
			in := bufio.NewReader(conn)
			for failed[i] == nil && time.Now().Before(end) {
				if failed[i] = request1(conn, in); failed[i] == nil {
					count.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if count.Load() == 0 {
		failed = append(failed, errors.New("no request was answered"))
	}
	return errors.Join(failed...)
}

var ingressRequest = []byte("GET /api/things/42?page=3 HTTP/1.1\r\nHost: web.example.com\r\nUser-Agent: bench\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\n\r\n")

// request1 asks once and reads the answer.
func request1(conn net.Conn, in *bufio.Reader) error {
	if _, err := conn.Write(ingressRequest); err != nil {
		return err
	}
	status, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200")) {
		return fmt.Errorf("%s", status)
	}
	length := -1
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if length != 1024 {
		return fmt.Errorf("an answer of %d bytes", length)
	}
	_, err = io.CopyN(io.Discard, in, int64(length))
	return err
}
