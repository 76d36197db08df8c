// Package policy tests network policies on the real binary: two machines, six pods, real packets.
package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
	"github.com/coracle-dev/coracle/internal/thread"
)

// The ports that every pod serves. Pods call them http, alt and dns.
const (
	http = "tcp 80"
	alt  = "tcp 81"
	dns  = "udp 80"
)

// place is where packets come from: a pod or a machine.
type place struct {
	name, addr, netns string
}

// world is a cluster of two nodes, and the namespaces x, y and z with pods a, on the node called so, and b, on the second.
type world struct {
	*testing.T
	c      *cluster.Cluster
	second *cluster.Cluster
	agent  *cluster.Process // the second's
	client kubernetes.Interface
	pods   map[string]*place // by namespace/name
	// nodes by name, and outside, a machine that is no node.
	nodes   map[string]*place
	outside *place
}

const image = "coracle/demo:v1"

func newWorld(t *testing.T) *world {
	t.Helper()
	c := cluster.New(t)
	second, outside := c.Machine(2), c.Machine(3)
	c.Up("--advertise-address", "10.99.2.1", "--node-ip", "10.99.2.1")
	w := &world{T: t, c: c, second: second, client: c.Client(), pods: map[string]*place{}, outside: &place{"outside", "10.99.3.2", outside.NetNS},
		nodes: map[string]*place{"node": {"node", "10.99.2.1", c.NetNS}, "second": {"second", "10.99.2.2", second.NetNS}}}
	t.Cleanup(w.describe)
	token, err := c.Run("token", "create", "-q", "--kubeconfig", c.Kubeconfig)
	if err != nil {
		t.Fatalf("token: %v\n%s", err, token)
	}
	w.startSecond("--token", strings.TrimSpace(token))
	w.eventually(func() error {
		nodes, err := w.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		ready := 0
		for i := range nodes.Items {
			for _, condition := range nodes.Items[i].Status.Conditions {
				if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		if err == nil && ready != 2 {
			err = fmt.Errorf("%d nodes are ready", ready)
		}
		return err
	})
	second.ImportDemo(testenv.Repository())
	w.populate()
	return w
}

// describe tells what there is, where the test has failed.
func (w *world) describe() {
	if !w.Failed() {
		return
	}
	for _, args := range [][]string{{"get", "pods,networkpolicies,nodes", "-A", "-o", "wide"}, {"get", "events", "-A"}, {"get", "endpointslices", "-n", "kube-system"}} {
		out, _ := w.c.TryKubectl("", args...)
		w.Log(out)
	}
	for _, c := range []*cluster.Cluster{w.c, w.second} {
		out, _ := c.Command("nft", "list", "table", "ip", "coracle-policies").CombinedOutput()
		w.Logf("%s", out)
	}
}

// startSecond starts the second machine's agent.
func (w *world) startSecond(args ...string) {
	args = append(args, "--server", "https://10.99.2.1:6443", "--node-name", "second", "--node-ip", "10.99.2.2")
	w.agent = w.second.Start(slices.Concat([]string{"agent"}, w.second.AgentFlags(), w.second.SteadyFlags(), args)...)
}

func (w *world) eventually(condition func() error) {
	w.Helper()
	cluster.Eventually(w, time.Minute, condition)
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) populate() {
	w.Helper()
	for _, ns := range []string{"x", "y", "z"} {
		w.namespace(ns)
		for name, node := range map[string]string{"a": "node", "b": "second"} {
			w.create(w.pod(ns, name, node))
		}
	}
	for _, ns := range []string{"x", "y", "z"} {
		for _, name := range []string{"a", "b"} {
			p := w.running(ns, name)
			w.pods[p.name] = p
			w.serve(p)
		}
	}
}

func (w *world) namespace(name string) {
	w.Helper()
	_, err := w.client.CoreV1().Namespaces().Create(w.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"ns": name}}}, metav1.CreateOptions{})
	w.must(err)
	w.eventually(func() error {
		_, err := w.client.CoreV1().ServiceAccounts(name).Get(w.Context(), "default", metav1.GetOptions{})
		return err
	})
}

// pod is one that does nothing: the test serves and asks in its network namespace.
func (w *world) pod(ns, name, node string) *corev1.Pod {
	zero := int64(0)
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"pod": name}}, Spec: corev1.PodSpec{
		NodeSelector: map[string]string{corev1.LabelHostname: node}, TerminationGracePeriodSeconds: &zero,
		Containers: []corev1.Container{{Name: "c", Image: image, Command: []string{"sleep", "100000"}, Ports: []corev1.ContainerPort{
			{Name: "http", ContainerPort: 80}, {Name: "alt", ContainerPort: 81}, {Name: "dns", ContainerPort: 80, Protocol: corev1.ProtocolUDP},
		}}},
	}}
}

func (w *world) create(pod *corev1.Pod) {
	w.Helper()
	_, err := w.client.CoreV1().Pods(pod.Namespace).Create(w.Context(), pod, metav1.CreateOptions{})
	w.must(err)
}

// running waits until the pod runs.
func (w *world) running(ns, name string) *place {
	w.Helper()
	var p *place
	w.eventually(func() error {
		pod, err := w.client.CoreV1().Pods(ns).Get(w.Context(), name, metav1.GetOptions{})
		if err != nil || pod.Status.Phase != corev1.PodRunning || pod.Status.PodIP == "" {
			return errors.Join(err, fmt.Errorf("%s/%s: %s", ns, name, pod.Status.Phase))
		}
		layout := w.c.Layout
		if pod.Spec.NodeName == "second" {
			layout = w.second.Layout
		}
		p = &place{ns + "/" + name, pod.Status.PodIP, filepath.Join(layout.Sandboxes(), string(pod.UID), "net")}
		return nil
	})
	return p
}

// in runs do in the network namespace of p.
func (p *place) in(do func() error) error {
	return thread.Do(func() error {
		ns, err := netns.GetFromPath(p.netns)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return err
		}
		return do()
	})
}

// serve answers on every port, until the test ends.
func (w *world) serve(p *place) {
	w.Helper()
	w.must(p.in(func() error {
		for _, port := range []string{":80", ":81"} {
			l, err := net.Listen("tcp4", port)
			if err != nil {
				return err
			}
			w.Cleanup(func() { l.Close() })
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					go func() { defer conn.Close(); _, _ = io.Copy(conn, conn) }()
				}
			}()
		}
		l, err := net.ListenPacket("udp4", ":80")
		if err != nil {
			return err
		}
		w.Cleanup(func() { l.Close() })
		go func() {
			buf := make([]byte, 64)
			for {
				n, from, err := l.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = l.WriteTo(buf[:n], from)
			}
		}()
		return nil
	}))
}

// patience is how long a packet may take; what takes longer counts as dropped, and is tried again where it should not have been.
const patience = 400 * time.Millisecond

// dial opens a connection from p, whose answers are p's business.
func (p *place) dial(target string) (conn net.Conn, err error) {
	network, addr, _ := strings.Cut(target, " ")
	err = p.in(func() (err error) {
		conn, err = (&net.Dialer{Timeout: patience, FallbackDelay: -1}).DialContext(context.Background(), network+"4", addr)
		return err
	})
	return conn, err
}

// echoes tells whether what is sent comes back.
func echoes(conn net.Conn) bool {
	_ = conn.SetDeadline(time.Now().Add(patience))
	buf := make([]byte, 4)
	if _, err := io.WriteString(conn, "ping"); err != nil {
		return false
	}
	_, err := io.ReadFull(conn, buf)
	return err == nil
}

// reaches tells whether p is answered by host, on a port such as "tcp 80".
func (p *place) reaches(host, port string) bool {
	network, number, _ := strings.Cut(port, " ")
	conn, err := p.dial(network + " " + net.JoinHostPort(host, number))
	if err != nil {
		return false
	}
	defer conn.Close()
	return echoes(conn)
}

// expect waits until exactly those pairs of pods reach each other, on each of the ports, that allowed says.
func (w *world) expect(allowed func(from, to, port string) bool, ports ...string) {
	w.Helper()
	if len(ports) == 0 {
		ports = []string{http}
	}
	w.eventually(func() error {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var wrong []string
		for _, from := range w.pods {
			for _, to := range w.pods {
				for _, port := range ports {
					wg.Go(func() {
						want := from == to || allowed(from.name, to.name, port)
						if got := from.reaches(to.addr, port); got != want {
							mu.Lock()
							wrong = append(wrong, fmt.Sprintf("%s to %s on %s: %v", from.name, to.name, port, got))
							mu.Unlock()
						}
					})
				}
			}
		}
		wg.Wait()
		if len(wrong) > 0 {
			return fmt.Errorf("%s", strings.Join(wrong, "\n"))
		}
		return nil
	})
}

func read(text string) *networkingv1.NetworkPolicy {
	policy := &networkingv1.NetworkPolicy{}
	if err := yaml.UnmarshalStrict([]byte(text), policy); err != nil {
		panic(err)
	}
	return policy
}

// policy creates one in the namespace x, unless it names another.
func (w *world) policy(name, spec string) {
	w.Helper()
	policy := read("spec: " + spec)
	policy.Namespace, policy.Name = "x", name
	if ns, n, found := strings.Cut(name, "/"); found {
		policy.Namespace, policy.Name = ns, n
	}
	_, err := w.client.NetworkingV1().NetworkPolicies(policy.Namespace).Create(w.Context(), policy, metav1.CreateOptions{})
	w.must(err)
}

// clear removes all policies.
func (w *world) clear() {
	w.Helper()
	for _, ns := range []string{"x", "y", "z"} {
		w.must(w.client.NetworkingV1().NetworkPolicies(ns).DeleteCollection(w.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	}
}
