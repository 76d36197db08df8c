package bench

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/integration/cluster"
)

const (
	asJSON      = "application/json"
	asProtobuf  = "application/vnd.kubernetes.protobuf"
	podsPath    = "/api/v1/namespaces/default/pods"
	apiClients  = 16
	listedPods  = 5000
	watchers    = 200
	watchEvents = 500

	// quietAfterLoad is how long a process takes at most to notice that it is idle again.
	quietAfterLoad = 75 * time.Second
)

// api is the admin's bare HTTP: what it costs to build and read objects is not measured.
type api struct {
	b    *testing.B
	host string
	tls  *tls.Config
	c    *cluster.Cluster
}

func newAPI(b *testing.B, c *cluster.Cluster) *api {
	b.Helper()
	config, err := c.REST()
	if err != nil {
		b.Fatal(err)
	}
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		b.Fatal(err)
	}
	return &api{b: b, host: config.Host, tls: tlsConfig, c: c}
}

// client has a connection of its own.
func (a *api) client() *http.Client {
	transport := &http.Transport{DialContext: a.c.Dial, TLSClientConfig: a.tls.Clone(), ForceAttemptHTTP2: true, DisableCompression: true}
	a.b.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// do makes a request and reads the answer to its end; it returns the number of bytes.
func (a *api) do(client *http.Client, method, path, accept, contentType, body string) (int64, error) {
	req, err := http.NewRequestWithContext(a.b.Context(), method, a.host+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", accept)
	if body != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return 0, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return io.Copy(io.Discard, resp.Body)
}

// together makes requests with 16 clients, count in all; it returns requests a second and each one's time, sorted.
func (a *api) together(count int, request func(client *http.Client, i int) error) (float64, []time.Duration) {
	a.b.Helper()
	var next atomic.Int64
	var failed atomic.Value
	took := make([]time.Duration, count)
	var wg sync.WaitGroup
	began := time.Now()
	for range apiClients {
		client := a.client()
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= count {
					return
				}
				at := time.Now()
				if err := request(client, i); err != nil {
					failed.Store(err)
					return
				}
				took[i] = time.Since(at)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		a.b.Fatal(err)
	}
	rate := float64(count) / time.Since(began).Seconds()
	slices.Sort(took)
	return rate, took
}

// load is together, with the server's CPU time a request: a figure that other work on the machine hardly changes.
func (a *api) load(what, goal string, count int, request func(client *http.Client, i int) error) {
	a.b.Helper()
	before := serverCPU(a.b, a.c)
	rate, took := a.together(count, request)
	used := serverCPU(a.b, a.c) - before
	figure(a.b, what, rate, "per_s", goal)
	figure(a.b, what+" p99", percentile(took, 0.99)*1000, "ms", "")
	figure(a.b, what+" CPU of the server", float64(used.Microseconds())/float64(count), "us_each", "")
}

func serverCPU(b *testing.B, c *cluster.Cluster) (sum time.Duration) {
	for p, used := range cpu(b, c) {
		if p.role == "server" {
			sum += used
		}
	}
	return sum
}

// podBody is a pod of about 1.5 KB that no scheduler looks at, so that a create is one write.
func podBody(name string) string {
	env := make([]string, 10)
	for i := range env {
		env[i] = fmt.Sprintf(`{"name":"VARIABLE_%d","value":"the value of variable number %d"}`, i, i)
	}
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"labels":{"app":"bench","tier":"front"}},"spec":{
		"schedulerName":"nobody","containers":[{"name":"c","image":"registry.example.com/team/image:v1","env":[%s],
		"ports":[{"containerPort":8080}],"resources":{"requests":{"cpu":"100m","memory":"64Mi"},"limits":{"memory":"128Mi"}}}]}}`,
		name, strings.Join(env, ","))
}

// BenchmarkAPI measures the API server over TLS with the scheduler and the controllers at work beside it.
func BenchmarkAPI(b *testing.B) {
	c := begin(b)
	startServer(b, c)
	awaitAccount(b, c.Client())
	a := newAPI(b, c)
	a.load("create pods", ">= 2400", listedPods, func(client *http.Client, i int) error {
		_, err := a.do(client, "POST", podsPath, asProtobuf, asJSON, podBody(fmt.Sprintf("pod-%d", i)))
		return err
	})
	a.load("get", ">= 8000", 4*listedPods, func(client *http.Client, i int) error {
		_, err := a.do(client, "GET", fmt.Sprintf("%s/pod-%d", podsPath, i%listedPods), asProtobuf, "", "")
		return err
	})
	a.load("patch", ">= 1700", listedPods, func(client *http.Client, i int) error {
		_, err := a.do(client, "PATCH", fmt.Sprintf("%s/pod-%d", podsPath, i), asProtobuf, "application/merge-patch+json",
			fmt.Sprintf(`{"metadata":{"annotations":{"bench":"%d"}}}`, i))
		return err
	})
	a.lists("protobuf", asProtobuf, "<= 10", ">= 80")
	a.lists("JSON", asJSON, "<= 15", ">= 50")
	a.fanOut()
	figure(b, "RSS at the end of the load", memories(b, c)["all"].rss/mb, "MB", "")
	time.Sleep(quietAfterLoad)
	figure(b, "RSS after that load", memories(b, c)["all"].rss/mb, "MB", "<= 250")
}

// lists measures a list of all pods alone and by 16 clients, the bytes read off the wire and no more.
func (a *api) lists(name, accept, goal, rateGoal string) {
	client := a.client()
	best, size := time.Hour, int64(0)
	for range 10 {
		began := time.Now()
		n, err := a.do(client, "GET", podsPath, accept, "", "")
		if err != nil {
			a.b.Fatal(err)
		}
		best, size = min(best, time.Since(began)), n
	}
	figure(a.b, "list 5000 pods "+name, best.Seconds()*1000, "ms", goal)
	figure(a.b, "list 5000 pods "+name+" size", float64(size)/1e6, "MB", "")
	rate, _ := a.together(100, func(client *http.Client, _ int) error {
		_, err := a.do(client, "GET", podsPath, accept, "", "")
		return err
	})
	figure(a.b, "list 5000 pods "+name+" by 16 clients", rate, "per_s", rateGoal)
}

// fanOut measures how many events reach 200 watchers in a second. The watchers do no more than count the events' lines.
func (a *api) fanOut() {
	a.b.Helper()
	ctx, cancel := context.WithCancel(a.b.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var seen atomic.Int64
	transports := make([]*http.Client, 8) // as many watches share a connection as in a client with many informers
	for i := range transports {
		transports[i] = a.client()
		transports[i].Timeout = 0
	}
	for i := range watchers {
		req, err := http.NewRequestWithContext(ctx, "GET", a.host+"/api/v1/namespaces/default/configmaps?watch=true", nil)
		if err != nil {
			a.b.Fatal(err)
		}
		req.Header.Set("Accept", asJSON)
		resp, err := transports[i%len(transports)].Do(req)
		if err != nil {
			a.b.Fatal(err)
		}
		if resp.StatusCode != http.StatusOK {
			a.b.Fatalf("watch: %s", resp.Status)
		}
		wg.Go(func() { countLines(resp.Body, &seen) })
	}
	time.Sleep(200 * time.Millisecond) // what was there before is sent first
	before := seen.Load()
	value := strings.Repeat("x", 1200)
	began := time.Now()
	a.together(watchEvents, func(client *http.Client, i int) error {
		_, err := a.do(client, "POST", "/api/v1/namespaces/default/configmaps", asProtobuf, asJSON,
			fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"event-%d"},"data":{"value":%q}}`, i, value))
		return err
	})
	for deadline := time.Now().Add(30 * time.Second); seen.Load()-before < watchers*watchEvents; {
		if time.Now().After(deadline) {
			a.b.Fatalf("%d of %d events arrived", seen.Load()-before, watchers*watchEvents)
		}
		time.Sleep(time.Millisecond)
	}
	figure(a.b, "watch fan-out to 200 watchers", watchers*watchEvents/time.Since(began).Seconds(), "per_s", ">= 200000")
}

// countLines reads to the end of body, a watch in JSON: an event a line.
func countLines(body io.ReadCloser, seen *atomic.Int64) {
	defer body.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := body.Read(buffer)
		lines := int64(0)
		for _, c := range buffer[:n] {
			if c == '\n' {
				lines++
			}
		}
		seen.Add(lines)
		if err != nil {
			return
		}
	}
}
