package policy

import (
	"context"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/internal/netpolicy"
	"github.com/coracle-dev/coracle/internal/testenv"
	"github.com/coracle-dev/coracle/internal/thread"
	"github.com/coracle-dev/coracle/proxy/policy/rules"
)

// node is an Enforcer on a real API server, whose table is in the test's network namespace.
type node struct {
	*testing.T
	client   kubernetes.Interface
	enforcer *Enforcer
	held     atomic.Bool // whether pods hold their addresses
}

func newNode(t *testing.T) *node {
	t.Helper()
	testenv.NetNS(t)
	needsNFT(t)
	n := &node{T: t, client: kubernetes.NewForConfigOrDie(apiservertest.Start(t))}
	n.enforcer = New(Config{Client: n.client, NodeName: "n1", Held: func(netip.Addr) bool { return n.held.Load() }})
	for _, name := range []string{"x", "y"} {
		_, err := n.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		must(t, err)
		_, err = n.client.CoreV1().ServiceAccounts(name).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		must(t, err)
	}
	return n
}

// run has the Enforcer work until the test ends; its loop stays on a thread of the namespace.
func (n *node) run(before ...func() error) {
	n.Helper()
	here, err := netns.Get()
	must(n.T, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		defer here.Close()
		done <- thread.Do(func() error {
			if err := netns.Set(here); err != nil {
				return err
			}
			for _, do := range before {
				if err := do(); err != nil {
					return err
				}
			}
			return n.enforcer.Run(ctx)
		})
	}()
	n.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			n.Error(err)
		}
		must(n.T, Cleanup())
	})
}

// pod makes one on this node, without an address.
func (n *node) pod(name, app string) *corev1.Pod {
	n.Helper()
	pod, err := n.client.CoreV1().Pods("x").Create(n.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
	must(n.T, err)
	return pod
}

func (n *node) status(pod *corev1.Pod, phase corev1.PodPhase, addr string) {
	n.Helper()
	pod = pod.DeepCopy()
	pod.Status.Phase, pod.Status.PodIP, pod.Status.PodIPs = phase, addr, []corev1.PodIP{{IP: addr}}
	_, err := n.client.CoreV1().Pods("x").UpdateStatus(n.Context(), pod, metav1.UpdateOptions{})
	must(n.T, err)
}

func (n *node) policy(name, spec string) {
	n.Helper()
	p := &networkingv1.NetworkPolicy{}
	must(n.T, yaml.UnmarshalStrict([]byte("spec: "+spec), p))
	p.Name = name
	_, err := n.client.NetworkingV1().NetworkPolicies("x").Create(n.Context(), p, metav1.CreateOptions{})
	must(n.T, err)
}

func (n *node) peers(namespace, key, addr string) {
	n.Helper()
	_, err := n.client.DiscoveryV1().EndpointSlices(namespace).Create(n.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{GenerateName: "peers-", Labels: map[string]string{netpolicy.Label: key, discoveryv1.LabelManagedBy: netpolicy.ManagedBy}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{addr}}}}, metav1.CreateOptions{})
	must(n.T, err)
}

// eventually waits until the table has, or has not, each of the texts.
func (n *node) eventually(has, hasNot []string) {
	n.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		listed, wrong := nft(n.T, "", "list", "ruleset"), ""
		for _, text := range has {
			if !strings.Contains(listed, text) {
				wrong = "there is no " + text
			}
		}
		for _, text := range hasNot {
			if strings.Contains(listed, text) {
				wrong = "there is " + text
			}
		}
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			n.Fatalf("%s in\n%s", wrong, listed)
		}
	}
}

func texts(list ...string) []string { return list }

const denyAll = `{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress, Egress]}`

// TestProtect: a pod waits until the policies are known, and has its rules when it goes on.
func TestProtect(t *testing.T) {
	n := newNode(t)
	n.policy("deny", denyAll)
	pod := n.pod("web", "web")
	addr := netip.MustParseAddr("10.244.0.2")
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := n.enforcer.Protect(short, pod, []netip.Addr{addr}); err == nil || !strings.Contains(err.Error(), "not known yet") {
		t.Errorf("before anything is known: %v", err)
	}
	n.run()
	must(t, n.enforcer.Protect(t.Context(), pod, []netip.Addr{addr, netip.MustParseAddr("fd00::2")}))
	if listed := listTable(t); strings.Count(listed, "10.244.0.2 : goto") != 2 {
		t.Errorf("when Protect comes back:\n%s", listed)
	}
	other := n.pod("other", "free")
	must(t, n.enforcer.Protect(t.Context(), other, []netip.Addr{netip.MustParseAddr("10.244.0.3")}))
	if listed := listTable(t); strings.Contains(listed, "10.244.0.3") {
		t.Errorf("a pod that no policy selects is in\n%s", listed)
	}
	// Another pod's change must not make it forget what the API does not show yet.
	n.status(other, corev1.PodRunning, "10.244.0.3")
	n.policy("deny-free", `{podSelector: {matchLabels: {app: free}}}`)
	n.eventually(texts("10.244.0.3 : goto", "10.244.0.2 : goto"), nil)
	// Nor does another pod that the API shows with the address, which it had before, or which mirrors one of the node's own.
	n.status(n.pod("before", "other"), corev1.PodRunning, "10.244.0.2")
	n.status(n.pod("marker", "web"), corev1.PodRunning, "10.244.0.9") // later
	n.eventually(texts("10.244.0.9 : goto", "10.244.0.2 : goto"), nil)
	must(t, n.client.CoreV1().Pods("x").Delete(t.Context(), "before", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	n.status(n.pod("second-marker", "web"), corev1.PodRunning, "10.244.0.10")
	n.eventually(texts("10.244.0.10 : goto", "10.244.0.2 : goto"), nil)
	n.enforcer.Release("another", addr)
	n.status(n.pod("third-marker", "web"), corev1.PodRunning, "10.244.0.11")
	n.eventually(texts("10.244.0.11 : goto", "10.244.0.2 : goto"), nil)
	n.enforcer.Release(string(pod.UID), addr)
	n.eventually(nil, texts("10.244.0.2 : goto"))
}

// TestKernelRefuses: pods that a policy isolates do not start, others do, and the Node has an event that says why.
func TestKernelRefuses(t *testing.T) {
	n := newNode(t)
	n.policy("deny", denyAll)
	n.run(func() error { // this thread may not change the network
		header, data := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
		if err := unix.Capget(&header, &data[0]); err != nil {
			return err
		}
		data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		return unix.Capset(&header, &data[0])
	})
	must(t, n.enforcer.Protect(t.Context(), n.pod("free", "free"), []netip.Addr{netip.MustParseAddr("10.244.0.3")}))
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := n.enforcer.Protect(short, n.pod("web", "web"), []netip.Addr{netip.MustParseAddr("10.244.0.2")}); err == nil || !strings.Contains(err.Error(), "not permitted") {
		t.Errorf("an isolated pod: %v", err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		events, err := n.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=" + reasonNotEnforced})
		must(t, err)
		if len(events.Items) > 0 && events.Items[0].InvolvedObject.Kind == "Node" && strings.Contains(events.Items[0].Message, "not permitted") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", events.Items)
		}
	}
}

// TestPodsOfTheAPI: labels and addresses are followed; what the API forgets stays protected while the pod holds its address.
func TestPodsOfTheAPI(t *testing.T) {
	n := newNode(t)
	n.run()
	n.policy("deny", denyAll)
	pod := n.pod("web", "web")
	n.status(pod, corev1.PodRunning, "10.244.0.2")
	n.eventually(texts("10.244.0.2 : goto"), nil)
	pods := n.client.CoreV1().Pods("x")
	label := func(app string) {
		_, err := pods.Patch(t.Context(), "web", types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"`+app+`"}}}`), metav1.PatchOptions{})
		must(t, err)
	}
	label("free")
	n.eventually(nil, texts("10.244.0.2 : goto"))
	label("web")
	n.eventually(texts("10.244.0.2 : goto"), nil)

	n.held.Store(true)
	must(t, pods.Delete(t.Context(), "web", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	marker := n.pod("marker", "web")
	n.status(marker, corev1.PodRunning, "10.244.0.9") // later than the deletion
	n.eventually(texts("10.244.0.9 : goto", "10.244.0.2 : goto"), nil)
	n.enforcer.Release(string(pod.UID), netip.MustParseAddr("10.244.0.2"))
	n.eventually(nil, texts("10.244.0.2 : goto"))
	n.held.Store(false)
	marker, err := pods.Get(t.Context(), "marker", metav1.GetOptions{})
	must(t, err)
	n.status(marker, corev1.PodSucceeded, "10.244.0.9")
	n.eventually(nil, texts("10.244.0.9 : goto"))
}

// TestPeersAreTrustedFromKubeSystemOnly: who may write EndpointSlices elsewhere lets nobody in. Somebody else's flush does not last.
func TestPeersAreTrustedFromKubeSystemOnly(t *testing.T) {
	n := newNode(t)
	n.run()
	n.policy("p", `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`)
	n.status(n.pod("web", "web"), corev1.PodRunning, "10.244.0.2")
	group, ok := netpolicy.PeersOf("x", &networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{}})
	if !ok {
		t.Fatal("no group")
	}
	n.peers("x", group.Key(), "10.244.0.66")
	n.peers("kube-system", group.Key(), "10.244.0.77")
	n.eventually(texts("10.244.0.77", "peers-"+group.Key(), "10.244.0.2 : goto"), texts("10.244.0.66"))
	nft(t, "flush ruleset", "-f", "-")
	if intact, err := n.enforcer.table.Intact(); intact || err != nil {
		t.Fatalf("after a flush: %v, %v", intact, err)
	}
	n.eventually(texts("10.244.0.77", rules.TableName, "10.244.0.2 : goto"), nil)
}
