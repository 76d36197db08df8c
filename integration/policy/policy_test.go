package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

func everything(string, string, string) bool { return true }

func in(pod, ns string) bool { return strings.HasPrefix(pod, ns+"/") }

// verdict is what a case expects: may from send to to on port?
type verdict func(from, to, port string) bool

// toX is a verdict of policies that isolate the pods of x from what comes in.
func toX(v verdict) verdict {
	return func(from, to, port string) bool { return !in(to, "x") || v(from, to, port) }
}

// toXA is the same for x/a alone.
func toXA(v verdict) verdict {
	return func(from, to, port string) bool { return to != "x/a" || v(from, to, port) }
}

// fromXA is a verdict of policies that isolate x/a in what it sends.
func fromXA(v verdict) verdict {
	return func(from, to, port string) bool { return from != "x/a" || v(from, to, port) }
}

func nothing(string, string, string) bool { return false }

var three = []string{http, alt, dns}

// cases are those of upstream's suite of network policies, each a set of policies in x and what they leave.
var cases = []struct {
	name     string
	policies map[string]string
	ports    []string
	want     verdict
}{
	{"default deny ingress", map[string]string{"deny": `{podSelector: {}, policyTypes: [Ingress]}`}, three, toX(nothing)},
	{"default deny all", map[string]string{"deny": `{podSelector: {}, policyTypes: [Ingress, Egress]}`}, three,
		func(from, to, _ string) bool { return !in(from, "x") && !in(to, "x") }},
	{"default allow over deny", map[string]string{"deny": `{podSelector: {}}`, "allow": `{podSelector: {}, ingress: [{}]}`}, three, everything},
	{"pods by label in the same namespace", map[string]string{"p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}`}, three,
		toXA(func(from, _, _ string) bool { return from == "x/b" })},
	{"pods by expression", map[string]string{"p": `{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [b]}]}}]}]}`}, nil,
		toX(func(from, _, _ string) bool { return from == "x/a" })},
	{"namespaces by label", map[string]string{"p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}]}]}`}, nil,
		toXA(func(from, _, _ string) bool { return in(from, "y") })},
	{"namespaces by their names", map[string]string{"p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: ["y", z]}]}}]}]}`}, nil,
		toXA(func(from, _, _ string) bool { return !in(from, "x") })},
	{"pods and namespaces together", map[string]string{"p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}, podSelector: {matchLabels: {pod: b}}}]}]}`}, nil,
		toXA(func(from, _, _ string) bool { return from == "y/b" })},
	{"pods or namespaces", map[string]string{"p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}, {podSelector: {matchLabels: {pod: b}}}]}]}`}, nil,
		toXA(func(from, _, _ string) bool { return in(from, "y") || from == "x/b" })},
	{"port by number", map[string]string{"p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 81}]}]}`}, three,
		toXA(func(_, _, port string) bool { return port == alt })},
	{"port by name", map[string]string{"p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: alt}], from: [{namespaceSelector: {}}]}]}`}, three,
		toXA(func(_, _, port string) bool { return port == alt })},
	{"range of ports", map[string]string{"p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 81, endPort: 90}]}]}`}, three,
		toXA(func(_, _, port string) bool { return port == alt })},
	{"the other protocol", map[string]string{"p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 80, protocol: UDP}]}]}`}, three,
		toXA(func(_, _, port string) bool { return port == dns })},
	{"a protocol that nobody speaks", map[string]string{"p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 80, protocol: SCTP}]}]}`}, three, toXA(nothing)},
	{"stacked", map[string]string{"one": `{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 81}], from: [{namespaceSelector: {matchLabels: {ns: "y"}}}]}]}`,
		"two": `{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 80}], from: [{namespaceSelector: {matchLabels: {ns: z}}}]}]}`}, three,
		toXA(func(from, _, port string) bool { return in(from, "y") && port == alt || in(from, "z") && port == http })},
	{"egress to pods and namespaces together", map[string]string{"p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: "y"}}, podSelector: {matchLabels: {pod: b}}}]}]}`}, three,
		fromXA(func(_, to, _ string) bool { return to == "y/b" })},
	{"egress by port's name", map[string]string{"p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: "y"}}}], ports: [{port: alt}]}, {ports: [{port: dns, protocol: UDP}]}]}`}, three,
		fromXA(func(_, to, port string) bool { return in(to, "y") && port == alt || port == dns })},
	{"both ways must allow", map[string]string{"out": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: "y"}}}]}]}`,
		"y/in": `{podSelector: {matchLabels: {pod: b}}, ingress: [{from: [{podSelector: {}}]}]}`}, nil,
		func(from, to, _ string) bool {
			return (from != "x/a" || in(to, "y")) && (to != "y/b" || in(from, "y"))
		}},
}

func TestPolicies(t *testing.T) {
	w := newWorld(t)
	w.expect(everything, three...)
	for _, c := range cases {
		for name, spec := range c.policies {
			w.policy(name, spec)
		}
		t.Log(c.name)
		w.expect(c.want, c.ports...)
		w.clear()
	}
	w.expect(everything)
	t.Run("blocks", w.sub(blocks))
	t.Run("changes", w.sub(changes))
	t.Run("connections", w.sub(connections))
	t.Run("nodes and services", w.sub(nodesAndServices))
	t.Run("pods of the host's network", w.sub(hostNetwork))
	t.Run("new pods", w.sub(newPods))
	t.Run("restart", w.sub(restart))
	t.Run("document", w.sub(document))
	t.Run("latency", w.sub(latency))
	down(w)
}

// sub makes a test of the same world.
func (w *world) sub(test func(*world)) func(*testing.T) {
	return func(t *testing.T) {
		inner := *w
		inner.T, inner.c = t, w.c.For(t)
		defer inner.clear()
		test(&inner)
	}
}

// blocks: addresses of pods count in blocks too, and exceptions are taken out of their own block alone.
func blocks(w *world) {
	w.policy("in", `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/16, except: [`+w.pods["y/a"].addr+`/32, `+w.pods["y/b"].addr+`/32]}}]}]}`)
	w.expect(toXA(func(from, _, _ string) bool { return !in(from, "y") }))
	w.policy("in-again", `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{ipBlock: {cidr: `+w.pods["y/a"].addr+`/32}}]}]}`)
	w.expect(toXA(func(from, _, _ string) bool { return from != "y/b" }))
	w.clear()
	w.policy("out", `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [`+w.pods["z/b"].addr+`/32]}}]}]}`)
	w.expect(fromXA(func(_, to, _ string) bool { return to != "z/b" }))
}

func (w *world) label(resource, name, patch string) {
	w.Helper()
	var err error
	if ns, pod, found := strings.Cut(name, "/"); found {
		_, err = w.client.CoreV1().Pods(ns).Patch(w.Context(), pod, types.MergePatchType, []byte(`{"metadata":{"labels":`+patch+`}}`), metav1.PatchOptions{})
	} else {
		_, err = w.client.CoreV1().Namespaces().Patch(w.Context(), name, types.MergePatchType, []byte(`{"metadata":{"labels":`+patch+`}}`), metav1.PatchOptions{})
	}
	w.must(err)
}

// changes of labels and of policies have their effect, on peers and on selected pods.
func changes(w *world) {
	w.policy("p", `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}, {podSelector: {matchLabels: {role: friend}}}]}]}`)
	w.expect(toXA(nothing))
	w.label("namespace", "y", `{"team":"ops"}`)
	w.expect(toXA(func(from, _, _ string) bool { return in(from, "y") }))
	w.label("namespace", "y", `{"team":null}`)
	w.label("pod", "x/b", `{"role":"friend"}`)
	w.expect(toXA(func(from, _, _ string) bool { return from == "x/b" }))
	w.label("pod", "x/b", `{"role":null,"pod":"a"}`) // selected now, and no friend any more
	w.expect(toX(nothing))
	w.label("pod", "x/b", `{"pod":"b"}`)
	w.expect(toXA(nothing))
	policies := w.client.NetworkingV1().NetworkPolicies("x")
	_, err := policies.Patch(w.Context(), "p", types.MergePatchType, []byte(`{"spec":{"ingress":[{"from":[{"namespaceSelector":{"matchLabels":{"ns":"z"}}}]}]}}`), metav1.PatchOptions{})
	w.must(err)
	w.expect(toXA(func(from, _, _ string) bool { return in(from, "z") }))
	_, err = policies.Patch(w.Context(), "p", types.MergePatchType, []byte(`{"spec":{"policyTypes":["Egress"]}}`), metav1.PatchOptions{})
	w.must(err)
	w.expect(fromXA(nothing))
	w.must(policies.Delete(w.Context(), "p", metav1.DeleteOptions{}))
	w.expect(everything)
}

// connections that are open end when they are no longer allowed, and the others go on.
func connections(w *world) {
	dial := func(from string) net.Conn {
		conn, err := w.pods[from].dial("tcp " + w.pods["x/a"].addr + ":80")
		w.must(err)
		w.Cleanup(func() { conn.Close() })
		return conn
	}
	y, z := dial("y/b"), dial("z/b")
	if !echoes(y) || !echoes(z) {
		w.Fatal("no answer before there are policies")
	}
	w.policy("p", `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}]}]}`)
	w.expect(toXA(func(from, _, _ string) bool { return in(from, "y") }))
	if echoes(z) {
		w.Error("a connection that is not allowed goes on")
	}
	_ = y.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(y, "on"); err != nil {
		w.Error(err)
	}
	if _, err := io.ReadFull(y, make([]byte, 2)); err != nil {
		w.Errorf("a connection that is allowed: %v", err)
	}
}

// nodesAndServices: a pod's own node reaches it always, and it that node; other nodes and the world outside count by their addresses. Of a Service
// the endpoint counts.
func nodesAndServices(w *world) {
	service, err := w.client.CoreV1().Services("x").Create(w.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, Selector: map[string]string{"pod": "a"},
		Ports: []corev1.ServicePort{{Port: 8000, TargetPort: intstr.FromInt32(80)}}}}, metav1.CreateOptions{})
	w.must(err)
	w.Cleanup(func() { _ = w.client.CoreV1().Services("x").Delete(context.Background(), "a", metav1.DeleteOptions{}) })
	target, nodePort := w.pods["x/a"].addr, "tcp "+fmt.Sprint(service.Spec.Ports[0].NodePort)
	reach := func(what string, from *place, host, port string, want bool) {
		w.Helper()
		w.eventually(func() error {
			if from.reaches(host, port) != want {
				return fmt.Errorf("%s: %v", what, !want)
			}
			return nil
		})
	}
	reach("service, no policies", w.pods["y/b"], service.Spec.ClusterIP, "tcp 8000", true)
	reach("from outside, no policies", w.outside, "10.99.3.1", nodePort, true)

	w.policy("p", `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}]}], egress: [{to: [{namespaceSelector: {matchLabels: {ns: "y"}}}]}]}`)
	w.expect(func(from, to, _ string) bool {
		return (to != "x/a" || in(from, "y")) && (from != "x/a" || in(to, "y"))
	})
	reach("from its own node", w.nodes["node"], target, http, true)
	reach("from another node", w.nodes["second"], target, http, false)
	reach("from outside", w.outside, "10.99.3.1", nodePort, false)
	reach("service by whom is allowed", w.pods["y/b"], service.Spec.ClusterIP, "tcp 8000", true)
	reach("service by whom is not allowed", w.pods["z/b"], service.Spec.ClusterIP, "tcp 8000", false)
	reach("itself through its service", w.pods["x/a"], service.Spec.ClusterIP, "tcp 8000", true)
	reach("its own node's API server", w.pods["x/a"], "10.99.2.1", "tcp 6443", false) // answers, but does not echo
	if conn, err := w.pods["x/a"].dial("tcp 10.99.2.1:6443"); err != nil {
		w.Errorf("its own node: %v", err)
	} else {
		conn.Close()
	}
	if conn, err := w.pods["x/a"].dial("tcp 10.99.3.2:1"); err == nil || !strings.Contains(err.Error(), "timeout") {
		w.Errorf("the world outside, where nobody listens: %v, %v, want no answer at all", conn, err)
	}
	if conn, err := w.pods["x/a"].dial("tcp 10.96.0.10:53"); err != nil {
		w.Errorf("DNS, which the pod's own node answers: %v", err)
	} else {
		conn.Close()
	}
	w.policy("outside", `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], ingress: [{from: [{ipBlock: {cidr: 10.99.3.0/24}}]}], egress: [{to: [{ipBlock: {cidr: 10.99.3.0/24}}]}]}`)
	reach("from outside, allowed", w.outside, "10.99.3.1", nodePort, true)
	w.eventually(func() error {
		if _, err := w.pods["x/a"].dial("tcp 10.99.3.2:1"); err == nil || !strings.Contains(err.Error(), "refused") {
			return fmt.Errorf("the world outside, allowed: %v, want a refusal", err)
		}
		return nil
	})
}

// hostNetwork: policies neither hold for pods of the host's network nor let them in by their labels.
func hostNetwork(w *world) {
	pod := w.pod("x", "host", "second")
	pod.Spec.HostNetwork, pod.Spec.Containers[0].Ports = true, nil
	w.create(pod)
	w.Cleanup(func() { _ = w.client.CoreV1().Pods("x").Delete(context.Background(), "host", metav1.DeleteOptions{}) })
	w.running("x", "host")
	w.policy("p", `{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {pod: host}}}]}]}`)
	w.expect(func(from, to, _ string) bool { return !in(from, "x") && !in(to, "x") })
	host := w.nodes["second"]
	w.eventually(func() error {
		if !host.reaches(w.pods["y/a"].addr, http) {
			return errors.New("the host does not reach a pod that nothing isolates")
		}
		return nil
	})
	if host.reaches(w.pods["x/a"].addr, http) {
		w.Error("a pod of another node's host network is let in by its labels")
	}
}

// newPods are protected before they run: whatever a pod tries first is refused. Those that nothing isolates get through.
func newPods(w *world) {
	w.policy("deny", `{podSelector: {matchLabels: {kind: new}}, policyTypes: [Ingress, Egress]}`)
	time.Sleep(time.Second) // until the nodes know: what they do not know they cannot enforce
	want := map[string]string{"free-a": "connected", "free-b": "connected"}
	for i := range 8 {
		want["new-"+string(rune('a'+i))] = "timeout"
	}
	for name := range want {
		kind, letter, _ := strings.Cut(name, "-")
		pod := w.pod("x", name, []string{"node", "second"}[letter[0]%2])
		pod.Labels = map[string]string{"kind": kind}
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		pod.Spec.Containers[0].Command = []string{"sh", "-c", "ask -T 1s tcp://" + w.pods["y/a"].addr + ":80 && echo connected"}
		w.create(pod)
		w.Cleanup(func() {
			_ = w.client.CoreV1().Pods("x").Delete(context.Background(), name, metav1.DeleteOptions{})
		})
	}
	for name, says := range want {
		w.eventually(func() error {
			pod, err := w.client.CoreV1().Pods("x").Get(w.Context(), name, metav1.GetOptions{})
			if err == nil && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded {
				err = fmt.Errorf("%s is %s", name, pod.Status.Phase)
			}
			return err
		})
		if logs := w.c.Kubectl("logs", "-n", "x", name); !strings.Contains(logs, says) {
			w.Errorf("%s: %q, want %s", name, logs, says)
		}
	}
}

// restart: rules stay while the agent is away, and come back when somebody takes them.
func restart(w *world) {
	w.policy("deny", `{podSelector: {matchLabels: {pod: b}}}`)
	denied := func(from, to, _ string) bool { return to != "x/b" }
	w.expect(denied)
	leaks, stop := make(chan int), make(chan struct{})
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				leaks <- n
				return
			default:
				if w.pods["y/a"].reaches(w.pods["x/b"].addr, http) {
					n++
				}
			}
		}
	}()
	w.agent.Kill()
	time.Sleep(time.Second)
	w.startSecond()
	w.policy("deny-z", `{podSelector: {matchLabels: {pod: a}}}`)
	denied = toX(nothing)
	w.expect(denied)
	close(stop)
	if n := <-leaks; n > 0 {
		w.Errorf("%d connections while the node's process was away or began anew", n)
	}
	for _, node := range []*cluster.Cluster{w.c, w.second} {
		if out, err := node.Command("nft", "flush", "table", "ip", "coracle-policies").CombinedOutput(); err != nil {
			w.Fatalf("nft: %v\n%s", err, out)
		}
	}
	w.expect(denied)
}

// latency: how long it takes from a label's change at the API until another node lets the pod in.
func latency(w *world) {
	w.policy("p", `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]}`)
	w.expect(toXA(nothing))
	var took []time.Duration
	for range 10 {
		began := time.Now()
		w.label("pod", "x/b", `{"role":"friend"}`)
		for !w.pods["x/b"].connects(w.pods["x/a"].addr) {
			if time.Since(began) > time.Minute {
				w.Fatal("a minute and no effect")
			}
		}
		took = append(took, time.Since(began))
		w.label("pod", "x/b", `{"role":null}`)
		for w.pods["x/b"].connects(w.pods["x/a"].addr) {
		}
	}
	slices.Sort(took)
	w.Logf("a label's change takes effect on another node after %s (median), %s at most", took[len(took)/2], took[len(took)-1])
	if took[len(took)/2] > time.Second {
		w.Errorf("a label's change takes %v", took)
	}
}

// connects tries once, for so short a time that what is measured is not the patience.
func (p *place) connects(addr string) bool {
	var conn net.Conn
	err := p.in(func() (err error) {
		conn, err = (&net.Dialer{Timeout: 10 * time.Millisecond, FallbackDelay: -1}).Dial("tcp4", addr+":80")
		return err
	})
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// down leaves nothing of the table.
func down(w *world) {
	w.Helper()
	for _, node := range []*cluster.Cluster{w.second, w.c} {
		if out, err := node.Coracle("down"); err != nil {
			w.Errorf("down: %v\n%s", err, out)
		}
		if out, err := node.Command("nft", "list", "tables").CombinedOutput(); err != nil || strings.Contains(string(out), "coracle") {
			w.Errorf("after down: %v\n%s", err, out)
		}
	}
}

// document: the commands that docs/network-policy.md names show what it says.
func document(w *world) {
	text, err := os.ReadFile(filepath.Join(testenv.Repository(), "docs", "network-policy.md"))
	w.must(err)
	w.policy("p", `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {}}]}]}`)
	w.expect(toXA(func(from, _, _ string) bool { return in(from, "x") }))
	shown := ""
	for _, block := range regexp.MustCompile("(?ms)^```\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		command := strings.Fields(strings.ReplaceAll(strings.TrimPrefix(block[1], "sudo "), "bin/coracle", w.c.Binary()))
		cmd := w.c.Command(command[0], command[1:]...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+w.c.Kubeconfig)
		out, err := cmd.CombinedOutput()
		if err != nil {
			w.Errorf("%v: %v", command, err)
		}
		shown += string(out)
	}
	for _, want := range []string{"policy-peers-", w.pods["x/b"].addr, "map egress-pods", "chain pods-ingress-x/p", "chain policy-ingress-x/p", "all pods in x"} {
		if !strings.Contains(shown, want) {
			w.Errorf("no %q in\n%s", want, shown)
		}
	}
}
