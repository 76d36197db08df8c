package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// TestProxyAlone: `coracle proxy` with nothing but a kubeconfig, with the rights of system:node-proxier, serves a cluster's Services on a machine without an agent, tells how it
// fares as kube-proxy does, and leaves Services working when it stops.
func TestProxyAlone(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.StartServer()
	listener, err := c.Listen("tcp4", "0.0.0.0:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") }))
	}()
	address := c.Kubectl("get", "endpointslice", "kubernetes", "-o", "jsonpath={.endpoints[0].addresses[0]}")
	c.KubectlIn(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [%s], nodeName: lonely}]
`, address), "apply", "-f", "-")
	p := c.Start("proxy", "--config", "/dev/null", "--run-dir", c.Layout.Run, "--data-dir", t.TempDir(), "--kubeconfig", c.Layout.Kubeconfig("proxy"), "--node-name", "lonely", "--metrics", "127.0.0.1:10249")
	get := func(url, want string) {
		t.Helper()
		cluster.Eventually(t, time.Minute, func() error {
			if p != nil && p.Ended() {
				t.Fatalf("the proxy ended:\n%s", p.Output())
			}
			req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			resp, err := c.HTTP(5*time.Second, false).Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || !strings.Contains(string(body), want) {
				return fmt.Errorf("%s: %s %.300s, %v", url, resp.Status, body, err)
			}
			return nil
		})
	}
	ip := c.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	get("http://"+ip, "served")
	get("http://"+address+":30080", "served")
	get("http://127.0.0.1:30080", "served")
	get("http://"+address+":10256/healthz", `"nodeEligible": true`)
	get("http://127.0.0.1:10249/metrics", "kubeproxy_sync_proxy_rules_duration_seconds_count")
	p.Stop()
	p = nil
	get("http://"+ip, "served")
}
