package ingress

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// TestTwoNodes: every node serves every Ingress, wherever the pods are; the status has the nodes that serve; one that does not says so, and a node
// whose port is taken tells it. After a restart of its agent a node goes on.
func TestTwoNodes(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	m := c.Machine(2)
	c.Up("--advertise-address", "10.99.2.1", "--node-ip", "10.99.2.1")
	s := &site{T: t, c: c, node: "10.99.2.1"}
	taken, err := m.Listen("tcp", "10.99.2.2:80")
	if err != nil {
		t.Fatal(err)
	}
	token, err := c.Run("token", "create", "-q", "--kubeconfig", c.Kubeconfig)
	if err != nil {
		t.Fatal(token, err)
	}
	join := func(more ...string) *cluster.Process {
		args := append(append([]string{"agent"}, m.AgentFlags()...), append(m.SteadyFlags(), "--server", "https://10.99.2.1:6443", "--token", strings.TrimSpace(token), "--node-name", "second", "--node-ip", "10.99.2.2")...)
		return m.Start(append(args, more...)...)
	}
	agent := join()
	c.Kubectl("wait", "--for=create", "node/second", "--timeout=60s")
	c.Kubectl("wait", "--for=condition=Ready", "node/second", "--timeout=60s")
	c.Kubectl("cordon", "second") // so that its own pods cannot answer
	c.Kubectl("create", "deployment", "shop", "--image=coracle/demo:v1", "--replicas=2")
	c.Kubectl("expose", "deployment", "shop", "--port=80", "--target-port=8080")
	c.Kubectl("create", "ingress", "shop", "--rule=shop.example.com/*=shop:80")
	s.eventually(s.web(nil), "http://shop.example.com/hostname", "200 shop-")
	cluster.Eventually(t, 60*time.Second, func() error {
		events := c.Kubectl("get", "events", "--field-selector=involvedObject.kind=Ingress,reason=PortNotAvailable", "-o", "jsonpath={.items[*].message}")
		if !strings.HasPrefix(events, "node second cannot listen, and tries again: listen tcp 10.99.2.2:80") {
			return fmt.Errorf("events %q", events)
		}
		return nil
	})
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	second := &site{T: t, c: m, node: "10.99.2.2"}
	second.eventually(second.web(nil), "http://shop.example.com/hostname", "200 shop-")
	status := func(want string) {
		t.Helper()
		cluster.Eventually(t, 60*time.Second, func() error {
			return cluster.Want("the addresses", c.Kubectl("get", "ingress", "shop", "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}"), want)
		})
	}
	status("10.99.2.1 10.99.2.2")
	agent.Stop()
	agent = join("--ingress=false")
	status("10.99.2.1")
	if err := second.listens("80"); err == nil {
		t.Error("a node with --ingress=false listens")
	}
	agent.Stop()
	join("--ingress-http=8080")
	status("10.99.2.1 10.99.2.2")
	second.eventually(second.web(nil), "http://shop.example.com:8080/hostname", "200 shop-")
}
