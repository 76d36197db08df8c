package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers"
	"github.com/coracle-dev/coracle/controllers/loadbalancer"
)

// balanced makes a service of type LoadBalancer.
func (c *cluster) balanced(name string, change ...func(*corev1.Service)) {
	c.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt(8080)}},
	}}
	for _, f := range change {
		f(s)
	}
	_, err := c.client.CoreV1().Services("default").Create(c.ctx, s, metav1.CreateOptions{})
	c.must(err)
}

// edit changes a service until the write is accepted.
func (c *cluster) edit(name string, change func(*corev1.Service)) {
	c.Helper()
	for {
		s, err := c.client.CoreV1().Services("default").Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		change(s)
		_, err = c.client.CoreV1().Services("default").Update(c.ctx, s, metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) {
			c.must(err)
			return
		}
	}
}

// has waits until the service has these addresses, and the condition the reason.
func (c *cluster) has(name, reason string, want ...string) *corev1.Service {
	c.Helper()
	var s *corev1.Service
	c.eventually("addresses of "+name, func() error {
		var err error
		s, err = c.client.CoreV1().Services("default").Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		var got []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			got = append(got, in.IP)
			if in.IPMode == nil || *in.IPMode != corev1.LoadBalancerIPModeVIP {
				return fmt.Errorf("mode %v", in.IPMode)
			}
		}
		condition := meta.FindStatusCondition(s.Status.Conditions, loadbalancer.Condition)
		if reason == "" && condition == nil && len(got) == 0 {
			return nil
		}
		if !slices.Equal(got, want) || condition == nil || condition.Reason != reason || (condition.Status == metav1.ConditionTrue) != (len(want) > 0) {
			return fmt.Errorf("%v, want %v; %+v", got, want, condition)
		}
		return nil
	})
	return s
}

func (c *cluster) setPools(text string) {
	c.Helper()
	_, _ = c.client.CoreV1().Namespaces().Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}}, metav1.CreateOptions{})
	maps := c.client.CoreV1().ConfigMaps("kube-system")
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: loadbalancer.ConfigMap}, Data: map[string]string{loadbalancer.PoolsKey: text}}
	if _, err := maps.Create(c.ctx, config, metav1.CreateOptions{}); err != nil {
		_, err = maps.Update(c.ctx, config, metav1.UpdateOptions{})
		c.must(err)
	}
}

// TestLoadBalancerPools: addresses are given, kept, freed and given again; nobody has one twice; what cannot be had is said.
func TestLoadBalancerPools(t *testing.T) {
	c := start(t, func(cfg *controllers.Config) {
		p, err := loadbalancer.ParseRanges([]string{"192.168.1.240-192.168.1.241"})
		if err != nil {
			t.Fatal(err)
		}
		cfg.LoadBalancer = loadbalancer.Config{Pools: p}
		cfg.Enabled = []string{"loadbalancer"}
	})
	const pool, failed = "AddressPool", "AllocationFailed"
	c.balanced("a", func(s *corev1.Service) { s.Spec.AllocateLoadBalancerNodePorts = ptr.To(false) })
	a := c.has("a", pool, "192.168.1.240")
	if a.Spec.Ports[0].NodePort != 0 {
		t.Errorf("a service that wants no node ports has %d", a.Spec.Ports[0].NodePort)
	}
	c.event("a", "EnsuringLoadBalancer", "Ensuring load balancer")
	c.event("a", "EnsuredLoadBalancer", "Ensured load balancer")
	c.event("a", "IPAllocated", `Assigned IP ["192.168.1.240"]`)
	c.balanced("b", func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To(loadbalancer.Class) })
	c.has("b", pool, "192.168.1.241")
	c.balanced("others", func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To("example.com/lb") })
	c.balanced("c")
	c.has("c", failed)
	c.event("c", failed, `Failed to allocate IP for "default/c": no available IPs`)
	c.has("others", "")
	c.restart()
	c.must(c.client.CoreV1().Services("default").Delete(c.ctx, "a", metav1.DeleteOptions{}))
	c.has("c", pool, "192.168.1.240")
	c.has("b", pool, "192.168.1.241")
	c.balanced("d", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.168.1.241" })
	c.event("d", failed, `Failed to allocate IP for "default/d": 192.168.1.241 is in use by service "default/b"`)
	c.edit("b", func(s *corev1.Service) { s.Spec.Type, s.Spec.LoadBalancerClass = corev1.ServiceTypeClusterIP, nil })
	c.has("b", "")
	c.has("d", pool, "192.168.1.241")
	c.setPools("- {name: more, addresses: [10.0.0.0/30], avoidBuggyIPs: true}")
	c.edit("b", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer })
	c.has("b", pool, "10.0.0.1")
	c.setPools("- {name: bad, addresses: [10.0.0.0/30, 192.168.1.241]}")
	c.event(loadbalancer.ConfigMap, "InvalidPools", `The pools stay as they were: pool "bad": 192.168.1.241-192.168.1.241 overlaps 192.168.1.240-192.168.1.241 of pool "default"`)
	c.has("b", pool, "10.0.0.1")
	c.setPools("- {name: more, addresses: [10.0.0.8/30]}")
	c.has("b", pool, "10.0.0.8")
	c.has("d", pool, "192.168.1.241")
}

// TestLoadBalancerLetsGo: a service that brings a cloud provider's finalizer along can be deleted.
func TestLoadBalancerLetsGo(t *testing.T) {
	c := start(t, func(cfg *controllers.Config) { cfg.Enabled = []string{"loadbalancer"} })
	c.balanced("a", func(s *corev1.Service) { s.Finalizers = []string{"service.kubernetes.io/load-balancer-cleanup"} })
	c.has("a", "UnAvailableLoadBalancer")
	c.event("a", "UnAvailableLoadBalancer", "There are no available nodes for LoadBalancer")
	c.must(c.client.CoreV1().Services("default").Delete(c.ctx, "a", metav1.DeleteOptions{}))
	c.eventually("the service's end", func() error {
		if _, err := c.client.CoreV1().Services("default").Get(c.ctx, "a", metav1.GetOptions{}); err == nil {
			return fmt.Errorf("still there")
		}
		return nil
	})
}

func (c *cluster) addressedNode(name, internal string, external ...string) {
	c.Helper()
	c.node(name)
	c.status(name, func(s *corev1.NodeStatus) {
		s.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: internal}}
		for _, e := range external {
			s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: e})
		}
	})
}

func (c *cluster) status(node string, change func(*corev1.NodeStatus)) {
	c.Helper()
	for {
		n, err := c.client.CoreV1().Nodes().Get(c.ctx, node, metav1.GetOptions{})
		c.must(err)
		change(&n.Status)
		if _, err = c.client.CoreV1().Nodes().UpdateStatus(c.ctx, n, metav1.UpdateOptions{}); err == nil {
			return
		}
	}
}

// TestLoadBalancerNodes: without pools services have the addresses of the nodes that serve them, each port one service.
func TestLoadBalancerNodes(t *testing.T) {
	c := start(t, func(cfg *controllers.Config) { cfg.Enabled = []string{"loadbalancer"} })
	const nodes = "NodeAddresses"
	c.addressedNode("n1", "10.0.0.1")
	c.addressedNode("n2", "10.0.0.2")
	c.addressedNode("n3", "10.0.0.3")
	c.balanced("a")
	c.has("a", nodes, "10.0.0.1", "10.0.0.2", "10.0.0.3")
	c.event("a", "EnsuredLoadBalancer", "Ensured load balancer")
	exclude := func(text string) {
		_, err := c.client.CoreV1().Nodes().Patch(c.ctx, "n2", "application/merge-patch+json", []byte(`{"metadata":{"labels":{"node.kubernetes.io/exclude-from-external-load-balancers":`+text+`}}}`), metav1.PatchOptions{})
		c.must(err)
	}
	exclude(`""`)
	c.has("a", nodes, "10.0.0.1", "10.0.0.3")
	c.event("a", "UpdatedLoadBalancer", "Updated load balancer with new hosts")
	c.status("n3", func(s *corev1.NodeStatus) { s.Conditions[0].Status = corev1.ConditionUnknown })
	c.has("a", nodes, "10.0.0.1")
	exclude("null")
	c.status("n3", func(s *corev1.NodeStatus) { s.Conditions[0].Status = corev1.ConditionTrue })
	c.has("a", nodes, "10.0.0.1", "10.0.0.2", "10.0.0.3")
	c.balanced("b")
	c.event("b", "AllocationFailed", `Failed to allocate IP for "default/b": port 80/TCP of the nodes is in use by service "default/a"`)
	c.restart()
	c.has("b", "AllocationFailed")
	c.edit("a", func(s *corev1.Service) {
		s.Spec.HealthCheckNodePort = 31000 // nobody allocates one here
		s.Spec.Ports[0].Port, s.Spec.ExternalTrafficPolicy = 8080, corev1.ServiceExternalTrafficPolicyLocal
	})
	c.has("b", nodes, "10.0.0.1", "10.0.0.2", "10.0.0.3")
	c.has("a", "UnAvailableLoadBalancer")
	c.localEndpoint("a", "n2")
	c.has("a", nodes, "10.0.0.2")
	c.edit("b", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "10.0.0.3" })
	c.has("b", nodes, "10.0.0.3")
	c.status("n1", func(s *corev1.NodeStatus) {
		s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "198.51.100.1"})
	})
	c.balanced("e", func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 })
	c.has("e", nodes, "198.51.100.1")
	c.setPools("- {name: lan, addresses: [10.0.0.0/28]}")
	c.edit("b", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "" })
	c.edit("e", func(s *corev1.Service) { s.Annotations = map[string]string{"coracle.dev/address-pool": "nodes"} })
	c.has("e", nodes, "198.51.100.1")
	c.eventually("addresses of the pool", func() error {
		seen := map[string]bool{"10.0.0.1": true, "10.0.0.2": true, "10.0.0.3": true} // nodes
		for _, name := range []string{"a", "b"} {
			s, err := c.client.CoreV1().Services("default").Get(c.ctx, name, metav1.GetOptions{})
			c.must(err)
			in := s.Status.LoadBalancer.Ingress
			if len(in) != 1 || seen[in[0].IP] || !strings.HasPrefix(in[0].IP, "10.0.0.") {
				return fmt.Errorf("%s has %v", name, in)
			}
			seen[in[0].IP] = true
		}
		return nil
	})
}

// localEndpoint makes a slice with one ready endpoint of the service.
func (c *cluster) localEndpoint(service, node string) {
	c.Helper()
	_, err := c.client.DiscoveryV1().EndpointSlices("default").Create(c.ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.9"}, NodeName: &node}},
	}, metav1.CreateOptions{})
	c.must(err)
}
