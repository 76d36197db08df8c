package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/internal/netpolicy"
)

// groups shows what is published of each group: its description, and the pods, with their ports where it is one of a port.
func (c *cluster) groups() map[string][]string {
	c.Helper()
	list, err := c.client.DiscoveryV1().EndpointSlices(metav1.NamespaceAll).List(c.ctx, metav1.ListOptions{LabelSelector: netpolicy.Label})
	c.must(err)
	pods, err := c.client.CoreV1().Pods("").List(c.ctx, metav1.ListOptions{})
	c.must(err)
	byAddress := map[string]string{}
	for i := range pods.Items {
		byAddress[pods.Items[i].Status.PodIP] = pods.Items[i].Namespace + "/" + pods.Items[i].Name
	}
	groups := map[string][]string{}
	for _, s := range list.Items {
		if s.Namespace != "kube-system" || s.Labels[discoveryv1.LabelManagedBy] != netpolicy.ManagedBy || s.Labels[discoveryv1.LabelServiceName] != "" || len(s.OwnerReferences) > 0 {
			c.Fatalf("%+v", s.ObjectMeta)
		}
		for _, e := range s.Endpoints {
			text := byAddress[e.Addresses[0]]
			for _, p := range s.Ports {
				text += fmt.Sprint(":", *p.Port)
			}
			groups[s.Annotations[netpolicy.Description]] = append(groups[s.Annotations[netpolicy.Description]], text)
		}
	}
	for _, list := range groups {
		slices.Sort(list)
	}
	return groups
}

func (c *cluster) published(want map[string]string) {
	c.Helper()
	c.eventually("groups of peers", func() error {
		got := c.groups()
		for group, pods := range got {
			if strings.Join(pods, " ") != want[group] {
				return fmt.Errorf("%q: %v, want %q", group, pods, want[group])
			}
		}
		if len(got) != len(want) {
			return fmt.Errorf("%v, want %v", got, want)
		}
		return nil
	})
}

func (c *cluster) peerPod(namespace, name, app string, port int32) {
	c.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "busybox"}}, NodeName: "n1"}}
	pod.Spec.HostNetwork = name == "host"
	if port != 0 {
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: port}}
	}
	_, err := c.client.CoreV1().Pods(namespace).Create(c.ctx, pod, metav1.CreateOptions{})
	c.must(err)
}

func TestPeersOfNetworkPolicies(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	for _, name := range []string{"shop", "ops"} {
		_, err := c.client.CoreV1().Namespaces().Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": name}}}, metav1.CreateOptions{})
		c.must(err)
		c.eventually("account of "+name, func() error {
			_, err := c.client.CoreV1().ServiceAccounts(name).Get(c.ctx, "default", metav1.GetOptions{})
			return err
		})
	}
	c.peerPod("shop", "web", "web", 8080)
	c.peerPod("shop", "db", "db", 0)
	c.peerPod("shop", "host", "web", 8080) // of the host's network: no peer by its labels
	c.peerPod("ops", "backup", "backup", 9090)
	selector := func(key, value string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
	}
	policies := c.client.NetworkingV1().NetworkPolicies("shop")
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: networkingv1.NetworkPolicySpec{
		Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: selector("app", "web")}, {NamespaceSelector: selector("team", "ops")}}}},
		Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}}},
			Ports: []networkingv1.NetworkPolicyPort{{Port: ptr.To(intstr.FromString("http"))}}}},
	}}
	const web, ops, named = "pods app=web in shop", "all pods in namespaces team=ops", "all pods in all namespaces by port http/TCP"
	_, err := policies.Create(c.ctx, policy, metav1.CreateOptions{})
	c.must(err)
	c.published(map[string]string{web: "shop/web", ops: "ops/backup", named: "ops/backup:9090 shop/web:8080"})

	second := policy.DeepCopy()
	second.Name, second.Spec.Egress = "second", nil
	_, err = policies.Create(c.ctx, second, metav1.CreateOptions{})
	c.must(err)
	patch := func(namespace, pod, text string) {
		_, err := c.client.CoreV1().Pods(namespace).Patch(c.ctx, pod, types.MergePatchType, []byte(text), metav1.PatchOptions{})
		c.must(err)
	}
	patch("shop", "db", `{"metadata":{"labels":{"app":"web"}}}`)
	c.peerPod("ops", "extra", "x", 0)
	c.published(map[string]string{web: "shop/db shop/web", ops: "ops/backup ops/extra", named: "ops/backup:9090 shop/web:8080"})

	_, err = c.client.CoreV1().Namespaces().Patch(c.ctx, "ops", types.MergePatchType, []byte(`{"metadata":{"labels":{"team":"other"}}}`), metav1.PatchOptions{})
	c.must(err)
	patch("shop", "web", `{"metadata":{"labels":{"app":null}}}`)
	c.published(map[string]string{web: "shop/db", named: "ops/backup:9090 shop/web:8080"})

	// A group lives as long as one policy names it, and no stranger's change of a slice lasts.
	c.must(policies.Delete(c.ctx, "db", metav1.DeleteOptions{}))
	c.published(map[string]string{web: "shop/db"})
	c.must(c.client.DiscoveryV1().EndpointSlices("kube-system").DeleteCollection(c.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: netpolicy.Label}))
	c.published(map[string]string{web: "shop/db"})

	// What is no longer needed goes also where the controller did not see the end of the need.
	c.restart()
	c.must(c.client.CoreV1().Pods("shop").Delete(c.ctx, "db", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	c.published(map[string]string{})
	c.must(policies.Delete(c.ctx, "second", metav1.DeleteOptions{}))
	c.eventually("end of slices", func() error {
		list, err := c.client.DiscoveryV1().EndpointSlices("kube-system").List(c.ctx, metav1.ListOptions{LabelSelector: netpolicy.Label})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d slices", len(list.Items))
		}
		return err
	})
}
