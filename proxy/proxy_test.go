package proxy

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/internal/sysctl"
	"github.com/coracle-dev/coracle/internal/testenv"
	"github.com/coracle-dev/coracle/proxy/nft"
)

// inside is set in the process that has a network namespace of its own.
const inside = "CORACLE_TEST_NAMESPACE"

// ownNamespace runs the test in a process with a network namespace of its own, which is where it returns true.
func ownNamespace(t testing.TB) bool {
	t.Helper()
	testenv.NeedsRoot(t)
	if os.Getenv(inside) != "" {
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		must(t, netlink.LinkSetUp(lo))
		own, err := netlink.ParseAddr("192.0.2.1/32")
		must(t, err)
		must(t, netlink.AddrReplace(lo, own))
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "4m")
	if _, ok := t.(*testing.B); ok {
		name := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
		cmd.Args = append(cmd.Args, "-test.bench", name, "-test.run", "^$", "-test.benchtime", "1x")
	}
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	return false
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok; it fails with what ok said last.
func eventually(t testing.TB, what string, ok func() string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		last := ok()
		if last == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", what, last)
		}
	}
}

const serviceCIDR = "10.96.0.0/16"

// start runs a proxy until stop is called.
func start(t testing.TB, change func(*Config)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cfg := Config{NodeName: "here", NodeIP: netip.MustParseAddr("192.0.2.1"), ServiceCIDR: netip.MustParsePrefix(serviceCIDR), PodCIDR: netip.MustParsePrefix("10.244.0.0/16"),
		Sysctls: sysctl.NewKeeper(t.TempDir() + "/sysctls")}
	change(&cfg)
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func newService(name, ip string, change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Type: corev1.ServiceTypeClusterIP,
		Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}}}}
	change(s)
	return s
}

func newSlice(service string, addresses ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: ptr.To[int32](8080)}},
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service, "other": "label"}}}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, NodeName: ptr.To("here"), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}})
	}
	return s
}

// shows waits until nft shows each of the words, and none of those that begin with a "!".
func shows(t testing.TB, words ...string) {
	t.Helper()
	eventually(t, "the table", func() string {
		out, err := exec.Command("nft", "list", "table", "ip", nft.TableName).CombinedOutput()
		for _, word := range words {
			word, not := strings.CutPrefix(word, "!")
			if err != nil || strings.Contains(string(out), word) == not {
				return fmt.Sprintf("want %v; %v\n%s", words, err, out)
			}
		}
		return ""
	})
}

// handle is the kernel's number of the table: another one has another.
func handle(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("nft", "-a", "list", "table", "ip", nft.TableName).CombinedOutput()
	must(t, err)
	line, _, _ := strings.Cut(string(out), "\n")
	if !strings.Contains(line, "# handle") {
		t.Fatalf("no number of the table in %q", line)
	}
	return line
}

// TestServicesAreFollowed: services of every type and change of type, endpoints, and the node's zone reach the kernel.
func TestServicesAreFollowed(t *testing.T) {
	if !ownNamespace(t) {
		return
	}
	kube := fake.NewClientset(newService("web", "10.96.1.1", func(*corev1.Service) {}), newSlice("web", "10.244.0.4", "10.244.0.5"),
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}})
	metrics := NewMetrics()
	stop := start(t, func(c *Config) { c.Client, c.Metrics = kube, metrics })
	shows(t, "10.96.1.1 . tcp . 80 : goto lb-2", ": 10.244.0.4 . 8080", ": 10.244.0.5 . 8080", "10.244.0.4 . 10.244.0.4")
	services, slices := kube.CoreV1().Services("ns"), kube.DiscoveryV1().EndpointSlices("ns")
	ctx := t.Context()
	change := func(change func(*corev1.Service)) {
		_, err := services.Update(ctx, newService("web", "10.96.1.1", change), metav1.UpdateOptions{})
		must(t, err)
	}
	change(func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080 })
	shows(t, "tcp . 30080 : goto lb-2-node-masq")
	change(func(s *corev1.Service) {
		s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeLoadBalancer, 30080
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.5"}}
	})
	shows(t, "203.0.113.5 . tcp . 80 : goto lb-2-masq-sticky-10800s", "tcp . 30080 : goto lb-2-node-masq-sticky-10800s")
	change(func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ClusterIP, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "", "example.com"
	})
	shows(t, "!10.96.1.1", "!30080", "!203.0.113.5", "!chain lb-")
	change(func(*corev1.Service) {})
	shows(t, "10.96.1.1 . tcp . 80 : goto lb-2")
	before := handle(t)

	_, err := slices.Update(ctx, newSlice("web"), metav1.UpdateOptions{})
	must(t, err)
	shows(t, "10.96.1.1 . tcp . 80 : goto refuse-now", "!chain lb-", "!10.244.0.4")
	later := newSlice("web", "10.244.0.6")
	later.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().UTC().Format(time.RFC3339Nano)}
	_, err = slices.Update(ctx, later, metav1.UpdateOptions{})
	must(t, err)
	shows(t, "10.96.1.1 . tcp . 80 : goto lb-1", "!: goto refuse-now")

	hinted := newSlice("web", "10.244.0.6", "10.244.0.7")
	for i, zone := range []string{"east", "west"} {
		hinted.Endpoints[i].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}}
	}
	_, err = slices.Update(ctx, hinted, metav1.UpdateOptions{})
	must(t, err)
	shows(t, "10.96.1.1 . tcp . 80 : goto lb-2")
	_, err = kube.CoreV1().Nodes().Update(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here", Labels: map[string]string{corev1.LabelTopologyZone: "west"}}}, metav1.UpdateOptions{})
	must(t, err)
	shows(t, "10.96.1.1 . tcp . 80 : goto lb-1", ": 10.244.0.7 . 8080")

	must(t, services.Delete(ctx, "web", metav1.DeleteOptions{}))
	shows(t, "!10.96.1.1", "!chain lb-")
	if after := handle(t); after != before {
		t.Errorf("the table was made anew on the way: %q, before %q", after, before)
	}
	stop()
	if n := testutil.CollectAndCount(metrics, "kubeproxy_sync_proxy_rules_duration_seconds"); n != 1 || count(t, metrics.programming) != 1 {
		t.Errorf("metrics: %d, %d changes with a time", n, count(t, metrics.programming))
	}
	must(t, Cleanup())
	must(t, Cleanup())
	if out, _ := exec.Command("nft", "list", "ruleset").CombinedOutput(); strings.Contains(string(out), nft.TableName) {
		t.Errorf("left behind:\n%s", out)
	}
}

// count is how many values a histogram has.
func count(t testing.TB, h prometheus.Collector) uint64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	must(t, registry.Register(h))
	families, err := registry.Gather()
	must(t, err)
	return families[0].GetMetric()[0].GetHistogram().GetSampleCount()
}

// TestOthersDoNotHarm: what others flush, remove, change or add is put right within a second, and what is theirs stays.
func TestOthersDoNotHarm(t *testing.T) {
	if !ownNamespace(t) {
		return
	}
	kube := fake.NewClientset(newService("web", "10.96.1.1", func(*corev1.Service) {}), newSlice("web", "10.244.0.4"))
	start(t, func(c *Config) { c.Client, c.DNS = kube, netip.Addr{} })
	shows(t, "10.96.1.1 . tcp . 80 : goto lb-1")
	for _, harm := range []string{
		"nft flush ruleset",
		"nft delete table ip coracle-services",
		"nft flush table ip coracle-services",
		"nft flush chain ip coracle-services lb-1",
		"nft delete element ip coracle-services services { 10.96.1.1 . tcp . 80 }",
		"nft flush map ip coracle-services endpoints",
		"nft add element ip coracle-services services { 10.96.9.9 . tcp . 80 : goto lb-1 }",
		"nft insert rule ip coracle-services prerouting drop",
		"nft add chain ip coracle-services strange",
		"ip link delete coracle-svc",
		"ip route delete " + serviceCIDR,
		"ip link set coracle-svc down",
	} {
		at := time.Now()
		words := strings.Fields(harm)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", harm, err, out)
		}
		shows(t, "10.96.1.1 . tcp . 80 : goto lb-1", ": 10.244.0.4 . 8080", "dnat ip to", "jump dispatch", "!10.96.9.9", "!\tdrop\n", "!strange")
		eventually(t, "the route after "+harm, func() string {
			out, _ := exec.Command("ip", "route").CombinedOutput()
			if strings.Contains(string(out), serviceCIDR+" dev coracle-svc") {
				return ""
			}
			return string(out)
		})
		t.Logf("%s: put right after %s", harm, time.Since(at).Round(time.Millisecond))
	}
}

// TestRestartKeepsTheTable: a proxy that starts takes what is there, and changes what changed while it was away, and nothing else.
func TestRestartKeepsTheTable(t *testing.T) {
	if !ownNamespace(t) {
		return
	}
	kube := fake.NewClientset(newService("web", "10.96.1.1", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }), newSlice("web", "10.244.0.4", "10.244.0.5"),
		newService("old", "10.96.1.2", func(*corev1.Service) {}), newSlice("old", "10.244.0.4"))
	stop := start(t, func(c *Config) { c.Client = kube })
	shows(t, "10.96.1.1 . tcp . 80 : goto lb-2-sticky-10800s", "10.96.1.2 . tcp . 80 : goto lb-1")
	before := handle(t)
	if out, err := exec.Command("nft", "add", "element", "ip", nft.TableName, "affinity", "{ 10.244.0.9 . 10.96.1.1 . tcp . 80 timeout 1h : 7 }").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	stop()
	must(t, kube.CoreV1().Services("ns").Delete(t.Context(), "old", metav1.DeleteOptions{}))
	_, err := kube.DiscoveryV1().EndpointSlices("ns").Update(t.Context(), newSlice("web", "10.244.0.4", "10.244.0.6"), metav1.UpdateOptions{})
	must(t, err)
	stop = start(t, func(c *Config) { c.Client = kube })
	shows(t, ": 10.244.0.6 . 8080", "!10.244.0.5", "!10.96.1.2", "10.244.0.9 . 10.96.1.1 . tcp . 80 timeout")
	if after := handle(t); after != before {
		t.Errorf("the table was made anew: %q, before %q", after, before)
	}
	stop()
	// With other settings it is another table, in one transaction; clients stay where they are.
	start(t, func(c *Config) {
		c.Client, c.NodePorts = kube, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
	})
	shows(t, "ip daddr 192.0.2.1 fib daddr type local", "10.244.0.9 . 10.96.1.1 . tcp . 80 timeout")
	if after := handle(t); after == before {
		t.Error("the table was not made anew")
	}
}

// TestServiceCIDRs: each of the cluster's ranges has a route, and what is of no service in it is refused; a range that goes takes both along.
func TestServiceCIDRs(t *testing.T) {
	if !ownNamespace(t) {
		return
	}
	cidr := func(name, text string) *networkingv1.ServiceCIDR {
		return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"fd00::/112", text}}}
	}
	kube := fake.NewClientset(cidr("kubernetes", serviceCIDR))
	kube.Resources = []*metav1.APIResourceList{{GroupVersion: "networking.k8s.io/v1", APIResources: []metav1.APIResource{{Name: "servicecidrs"}}}}
	start(t, func(c *Config) { c.Client, c.ServiceCIDR = kube, netip.Prefix{} })
	routes := func(want ...string) {
		t.Helper()
		eventually(t, "routes", func() string {
			out, _ := exec.Command("ip", "route", "show", "dev", ServiceLink).CombinedOutput()
			for _, text := range []string{serviceCIDR, "172.30.0.0/16"} {
				if strings.Contains(string(out), text) != slices.Contains(want, text) {
					return string(out)
				}
			}
			return ""
		})
	}
	routes(serviceCIDR)
	shows(t, "ip daddr 10.96.0.0/16 reject")
	_, err := kube.NetworkingV1().ServiceCIDRs().Create(t.Context(), cidr("more", "172.30.0.0/16"), metav1.CreateOptions{})
	must(t, err)
	routes(serviceCIDR, "172.30.0.0/16")
	shows(t, "ip daddr 10.96.0.0/16 reject", "ip daddr 172.30.0.0/16 reject")
	must(t, kube.NetworkingV1().ServiceCIDRs().Delete(t.Context(), "more", metav1.DeleteOptions{}))
	routes(serviceCIDR)
	shows(t, "ip daddr 10.96.0.0/16 reject", "!172.30")
}
