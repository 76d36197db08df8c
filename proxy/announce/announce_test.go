package announce

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/internal/client"
)

// TestAnnouncer: what is announced follows services, their endpoints and the node; services of others are left alone.
func TestAnnouncer(t *testing.T) {
	config, err := client.Config{RestConfig: apiservertest.Start(t), Component: "test"}.REST()
	must(t, err)
	kube := kubernetes.NewForConfigOrDie(config)
	ctx, cancel := context.WithCancel(t.Context())
	factory := client.Informers(kube)
	endpoints := factory.Discovery().V1().EndpointSlices().Informer()
	must(t, endpoints.AddIndexers(cache.Indexers{"service": func(obj any) ([]string, error) {
		slice := obj.(*discoveryv1.EndpointSlice)
		return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}, nil
	}}))
	ready := make(chan struct{})
	a, err := New(Config{Client: kube, Factory: factory, NodeName: "n1", NodeIP: netip.MustParseAddr("192.0.2.77"), Ready: ready, Slices: func(key string) []*discoveryv1.EndpointSlice {
		found, _ := endpoints.GetIndexer().ByIndex("service", key)
		var out []*discoveryv1.EndpointSlice
		for _, obj := range found {
			out = append(out, obj.(*discoveryv1.EndpointSlice))
		}
		return out
	}})
	must(t, err)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	_, err = kube.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	must(t, err)
	done := make(chan error, 1)
	factory.Start(ctx.Done())
	close(ready)
	go func() { done <- a.Run(ctx) }()
	defer func() { cancel(); must(t, <-done) }()

	w := &announcing{T: t, a: a, kube: kube}
	w.service("other", "198.51.100.1", "SomethingElse", corev1.ServiceExternalTrafficPolicyCluster)
	w.service("nodes", "192.0.2.1", "NodeAddresses", corev1.ServiceExternalTrafficPolicyCluster)
	w.await("nothing", fit, map[string][]string{})
	if !a.idle() {
		t.Error("it is at work although there is nothing to announce")
	}
	w.service("web", "198.51.100.2", reasonPool, corev1.ServiceExternalTrafficPolicyCluster)
	w.service("near", "198.51.100.3", reasonPool, corev1.ServiceExternalTrafficPolicyLocal)
	w.await("two services", reserve, map[string][]string{"198.51.100.2": nil, "198.51.100.3": {}}) // the node has said nothing yet
	w.endpoint("near-1", "n1", true, true)
	w.endpoint("near-2", "n2", false, true)
	w.await("one endpoint", reserve, map[string][]string{"198.51.100.2": nil, "198.51.100.3": {"n1"}})
	must(t, kube.DiscoveryV1().EndpointSlices("default").Delete(ctx, "near-1", metav1.DeleteOptions{}))
	w.await("an endpoint that ends", reserve, map[string][]string{"198.51.100.2": nil, "198.51.100.3": {"n2"}})
	w.node(`{"spec":{"taints":null},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`, "status")
	w.await("a node that is ready", fit, map[string][]string{"198.51.100.2": nil, "198.51.100.3": {"n2"}})
	w.node(`{"spec":{"unschedulable":true}}`)
	w.await("a cordoned node", reserve, map[string][]string{"198.51.100.2": nil, "198.51.100.3": {"n2"}})
	w.node(`{"metadata":{"labels":{"node.kubernetes.io/exclude-from-external-load-balancers":""}}}`)
	w.await("an excluded node", unfit, map[string][]string{"198.51.100.2": nil, "198.51.100.3": {"n2"}})
	must(t, kube.CoreV1().Services("default").Delete(ctx, "web", metav1.DeleteOptions{}))
	w.await("one deleted", unfit, map[string][]string{"198.51.100.3": {"n2"}})
	w.service("near", "", "", corev1.ServiceExternalTrafficPolicyLocal)
	await(t, "the end", a.idle)
}

type announcing struct {
	*testing.T
	a    *Announcer
	kube kubernetes.Interface
}

// await waits until the speaker is told of this fitness and these addresses, each with its nodes.
func (w *announcing) await(what string, fitness fitness, want map[string][]string) {
	w.Helper()
	await(w.T, what, func() bool {
		w.a.compute()
		st := w.a.state()
		got := map[string][]string{}
		for addr, claim := range st.claims {
			got[addr.String()] = slices.Sorted(maps.Keys(claim.Nodes))
			if claim.Nodes != nil && got[addr.String()] == nil {
				got[addr.String()] = []string{}
			}
		}
		same := maps.EqualFunc(got, want, func(a, b []string) bool { return slices.Equal(a, b) && (a == nil) == (b == nil) })
		return same && (len(want) == 0 || st.fitness == fitness)
	})
}

// service makes a service with the address, or changes it; none takes its address.
func (w *announcing) service(name, address, reason string, policy corev1.ServiceExternalTrafficPolicy) {
	w.Helper()
	services := w.kube.CoreV1().Services("default")
	s, err := services.Get(w.Context(), name, metav1.GetOptions{})
	if err != nil {
		s, err = services.Create(w.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: policy, Ports: []corev1.ServicePort{{Port: 80}}, HealthCheckNodePort: map[bool]int32{true: 31000}[policy == corev1.ServiceExternalTrafficPolicyLocal],
		}}, metav1.CreateOptions{})
		must(w.T, err)
	}
	s.Status = corev1.ServiceStatus{}
	if address != "" {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address, IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)}}
		s.Status.Conditions = []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue, Reason: reason, LastTransitionTime: metav1.Now()}}
	}
	_, err = services.UpdateStatus(w.Context(), s, metav1.UpdateOptions{})
	must(w.T, err)
}

// endpoint makes a slice of the service near with one endpoint.
func (w *announcing) endpoint(name, node string, ready, serving bool) {
	w.Helper()
	_, err := w.kube.DiscoveryV1().EndpointSlices("default").Create(w.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "near"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.9"}, NodeName: &node,
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: ptr.To(!ready)}}},
	}, metav1.CreateOptions{})
	must(w.T, err)
}

func (w *announcing) node(patch string, subresource ...string) {
	w.Helper()
	_, err := w.kube.CoreV1().Nodes().Patch(w.Context(), "n1", "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}, subresource...)
	must(w.T, err)
}
