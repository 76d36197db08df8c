package controllers_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers"
)

// servedClass makes the class of Ingresses that nodes serve.
func (c *cluster) servedClass() {
	c.Helper()
	_, err := c.client.NetworkingV1().IngressClasses().Create(c.ctx, &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "coracle"}, Spec: networkingv1.IngressClassSpec{Controller: "coracle.dev/ingress"}}, metav1.CreateOptions{})
	c.must(err)
}

func (c *cluster) ingress(name, class, host string, edit func(*networkingv1.Ingress)) {
	c.Helper()
	i := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.IngressSpec{IngressClassName: &class, Rules: []networkingv1.IngressRule{{
		Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{
			Path: "/", PathType: ptr.To(networkingv1.PathTypePrefix), Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Number: 80}}},
		}}}},
	}}}}
	if edit != nil {
		edit(i)
	}
	_, err := c.client.NetworkingV1().Ingresses("default").Create(c.ctx, i, metav1.CreateOptions{})
	c.must(err)
}

// reachedBy waits until an Ingress's status has these addresses.
func (c *cluster) reachedBy(name, want string) {
	c.Helper()
	c.eventually("addresses of "+name, func() error {
		i, err := c.client.NetworkingV1().Ingresses("default").Get(c.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		var have []string
		for _, in := range i.Status.LoadBalancer.Ingress {
			have = append(have, in.IP+in.Hostname)
		}
		if got := strings.Join(have, " "); got != want {
			return fmt.Errorf("%q, want %q", got, want)
		}
		return nil
	})
}

func (c *cluster) address(node string, addresses ...corev1.NodeAddress) {
	c.Helper()
	c.node(node)
	c.nodeStatus(node, func(s *corev1.NodeStatus) { s.Addresses = addresses })
}

// TestIngressStatus: Ingresses of our class have the addresses of the nodes that are ready and serve them, and others are left alone.
func TestIngressStatus(t *testing.T) {
	c := start(t, func(cfg *controllers.Config) { cfg.Ingress = true })
	c.servedClass()
	c.address("n1", corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}, corev1.NodeAddress{Type: corev1.NodeHostName, Address: "n1"})
	c.address("n2", corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "10.0.0.2"}, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "192.0.2.2"})
	c.ingress("web", "coracle", "a.example.com", nil)
	c.ingress("theirs", "nginx", "b.example.com", nil)
	c.reachedBy("web", "10.0.0.1 192.0.2.2")
	c.patchNode("n2", `{"metadata":{"labels":{"coracle.dev/ingress":"false"}}}`)
	c.reachedBy("web", "10.0.0.1")
	c.patchNode("n2", `{"metadata":{"labels":{"coracle.dev/ingress":"true"}}}`)
	c.reachedBy("web", "10.0.0.1 192.0.2.2")
	c.patchNode("n1", `{"metadata":{"labels":{"node.kubernetes.io/exclude-from-external-load-balancers":""}}}`)
	c.reachedBy("web", "192.0.2.2")
	c.nodeStatus("n2", func(s *corev1.NodeStatus) { s.Conditions[0].Status = corev1.ConditionFalse })
	c.reachedBy("web", "")
	c.reachedBy("theirs", "")
}

// TestIngressPublishedService: with a Service that leads to the Ingresses they have its addresses.
func TestIngressPublishedService(t *testing.T) {
	c := start(t, func(cfg *controllers.Config) {
		cfg.Ingress, cfg.IngressService, cfg.LoadBalancer.Off = true, "default/front", true
	})
	c.servedClass()
	c.address("n1", corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "10.0.0.1"})
	c.ingress("web", "coracle", "a.example.com", nil)
	front, err := c.client.CoreV1().Services("default").Create(c.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "front"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.9", ExternalIPs: []string{"192.0.2.9"}, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	c.must(err)
	c.reachedBy("web", "192.0.2.9")
	front.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {Hostname: "lb.example.com"}}
	_, err = c.client.CoreV1().Services("default").UpdateStatus(c.ctx, front, metav1.UpdateOptions{})
	c.must(err)
	c.reachedBy("web", "192.0.2.1 lb.example.com 192.0.2.9")
}

// TestIngressProblems: what of an Ingress cannot be served is told in events.
func TestIngressProblems(t *testing.T) {
	c := start(t, func(cfg *controllers.Config) { cfg.Ingress = true })
	c.servedClass()
	c.ingress("first", "coracle", "a.example.com", nil)
	c.ingress("second", "coracle", "a.example.com", func(i *networkingv1.Ingress) {
		i.Annotations = map[string]string{"nginx.ingress.kubernetes.io/rewrite-target": "/", "example.com/other": "x"}
		i.Spec.DefaultBackend = &networkingv1.IngressBackend{Resource: &corev1.TypedLocalObjectReference{Kind: "Bucket", Name: "b"}}
	})
	c.event("second", "AnnotationNotSupported", "annotation nginx.ingress.kubernetes.io/rewrite-target has no effect here")
	c.event("second", "ResourceBackendNotSupported", "spec.defaultBackend: a backend that is no Service cannot be served")
	c.event("second", "PathTaken", `host "a.example.com", path "": the older Ingress default/first has it`)
	s := service("web")
	s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.org"}
	_, err := c.client.CoreV1().Services("default").Create(c.ctx, s, metav1.CreateOptions{})
	c.must(err)
	c.event("first", "ServiceNotSupported", "Service web is of type ExternalName, which is not served")
	have, err := c.client.CoreV1().Services("default").Get(c.ctx, "web", metav1.GetOptions{})
	c.must(err)
	have.Spec = corev1.ServiceSpec{ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{{Port: 81}}}
	_, err = c.client.CoreV1().Services("default").Update(c.ctx, have, metav1.UpdateOptions{})
	c.must(err)
	c.event("first", "ServicePortNotFound", "Service web has no port 80")
}
