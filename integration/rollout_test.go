package integration

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
)

const rolling = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 5
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: web
        image: coracle/demo:v1
        # A pod that ends goes on accepting for two seconds: proxies need a moment to learn of it.
        args: [serve, -lame=2s]
        readinessProbe:
          httpGet: {path: /healthz, port: 8080}
          periodSeconds: 1
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`

// testRollout updates a Deployment of five, and takes it back, while clients send requests through its Service without a
// pause. No request may fail.
func testRollout(t *testing.T, c *cluster.Cluster) {
	t.Parallel()
	k := newKube(t, c)
	k.apply(rolling)
	k.rolledOut("web")
	address := k.get("service/web", "{.spec.clusterIP}")
	door := k.get("node/node", "{.status.addresses[0].address}") + ":" + k.get("service/web", "{.spec.ports[0].nodePort}")
	load := startLoad(t, c, "http://"+address+"/json", "http://"+door+"/json")
	load.sees("v1")

	k.run("set", "image", "deployment/web", "web=coracle/demo:v2")
	k.rolledOut("web")
	load.sees("v2")
	k.run("rollout", "undo", "deployment/web")
	k.rolledOut("web")
	load.turn()
	load.sees("v1")

	total, failures := load.stop()
	t.Logf("%d requests", total)
	if total < 200 {
		t.Errorf("only %d requests were sent", total)
	}
	if len(failures) > 0 {
		t.Errorf("%d of %d requests were lost, as\n%s", len(failures), total, strings.Join(failures[:min(10, len(failures))], "\n"))
	}
	if left := k.get("pods", `{.items[?(@.spec.containers[0].image=="coracle/demo:v2")].metadata.deletionTimestamp}`); strings.Contains(left, "null") {
		t.Errorf("pods of the other version stay: %s", left)
	}
}

// load is clients that send requests one after another.
type load struct {
	t      *testing.T
	cancel context.CancelFunc
	wait   sync.WaitGroup
	total  atomic.Int64
	mu     sync.Mutex
	failed []string
	seen   map[string]int
}

// startLoad runs three clients a URL: two with a connection for each request, and one that keeps its connections.
func startLoad(t *testing.T, c *cluster.Cluster, urls ...string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{t: t, cancel: cancel, seen: map[string]int{}}
	for _, url := range urls {
		for i := range 3 {
			client := c.HTTP(10*time.Second, i == 2)
			l.wait.Go(func() { l.send(ctx, client, url) })
		}
	}
	t.Cleanup(func() { l.stop() })
	return l
}

func (l *load) send(ctx context.Context, client *http.Client, url string) {
	for ctx.Err() == nil {
		start := time.Now()
		body, err := request(context.Background(), client, url)
		l.total.Add(1)
		l.mu.Lock()
		if err != nil {
			l.failed = append(l.failed, fmt.Sprintf("%s after %v: %v", start.Format("15:04:05.000"), time.Since(start).Round(time.Millisecond), err))
		}
		for _, version := range []string{"v1", "v2"} {
			if strings.Contains(body, `"Version":"`+version+`"`) {
				l.seen[version]++
			}
		}
		l.mu.Unlock()
		time.Sleep(5 * time.Millisecond) // the machine has other work too
	}
}

// sees waits until a version has answered.
func (l *load) sees(version string) {
	l.t.Helper()
	cluster.Eventually(l.t, 20*time.Second, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.seen[version] > 0 {
			return nil
		}
		return fmt.Errorf("nothing answers as %s; failures: %v", version, l.failed[:min(3, len(l.failed))])
	})
}

// turn forgets what was seen.
func (l *load) turn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.seen)
}

// stop ends the clients and gives the count of requests, and those that failed.
func (l *load) stop() (int64, []string) {
	l.cancel()
	l.wait.Wait()
	return l.total.Load(), l.failed
}
