// Package loadbalancer tests Services of type LoadBalancer as a client beside the cluster meets them: on a lab of three nodes, whose host is the client.
package loadbalancer

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

const patience = 90 * time.Second

type world struct {
	*testing.T
	lab    *cluster.Lab
	client *http.Client
}

func TestLoadBalancer(t *testing.T) {
	t.Parallel()
	w := &world{T: t, lab: cluster.NewLab(t, 3)}
	w.client = w.lab.HTTP(time.Second, false)
	w.nodeAddresses()
	w.pools()
	w.powerCut()
	w.local()
	w.restart()
	w.drain()
}

func (w *world) kubectl(args ...string) string {
	w.Helper()
	return w.lab.Kubectl(args...)
}

// ask gives the answer of an address, or the error in its place.
func (w *world) ask(address, path string) (string, error) {
	answer, err := w.client.Get("http://" + address + path)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return strings.TrimSpace(string(text)), err
}

// answers waits until an address gives an answer that ok takes.
func (w *world) answers(address, path string, ok func(string) bool) {
	w.Helper()
	cluster.Eventually(w.T, patience, func() error {
		answer, err := w.ask(address, path)
		if err == nil && !ok(answer) {
			err = fmt.Errorf("%s%s says %q", address, path, answer)
		}
		return err
	})
}

// addresses waits until the service has as many addresses, and gives them.
func (w *world) addresses(service string, count int) []string {
	w.Helper()
	var have []string
	cluster.Eventually(w.T, patience, func() error {
		have = strings.Fields(w.kubectl("get", "service", service, "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}"))
		if len(have) != count {
			return fmt.Errorf("service %s has %v", service, have)
		}
		return nil
	})
	return have
}

// pod runs a web server on a node, behind the services that select app=NAME.
func (w *world) pod(name, app, node string) {
	w.Helper()
	w.kubectl("run", name, "--image=coracle/demo:v1", "--labels=app="+app, "--overrides", fmt.Sprintf(`{"spec":{"nodeName":%q,"containers":[{"name":%q,"image":"coracle/demo:v1","readinessProbe":{"httpGet":{"path":"/healthz","port":8080},"periodSeconds":1}}]}}`, node, name))
	w.kubectl("wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s")
}

func (w *world) service(name string, port int, more string) {
	w.Helper()
	w.lab.KubectlIn(fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"name":%q},"spec":{"type":"LoadBalancer","selector":{"app":%q},"ports":[{"port":%d,"targetPort":8080}]%s}}`, name, name, port, more), "apply", "-f", "-")
}

var announcing = regexp.MustCompile(`announcing from node "([^"]+)" with protocol "layer2"`)

// announcer waits until an event says that one of the nodes has come to announce the service, after as many events.
func (w *world) announcer(service string, after int, nodes ...string) (node string, events int) {
	w.Helper()
	cluster.Eventually(w.T, patience, func() error {
		out := w.kubectl("get", "events", "--field-selector=reason=nodeAssigned,involvedObject.name="+service, "--sort-by=.lastTimestamp", "-o", "jsonpath={range .items[*]}{.count} {.message}{\"\\n\"}{end}")
		lines := strings.Split(strings.TrimSpace(out), "\n")
		match := announcing.FindStringSubmatch(lines[len(lines)-1])
		events = len(lines)
		if match == nil || events <= after || !slices.Contains(nodes, match[1]) {
			return fmt.Errorf("announced: %q", out)
		}
		node = match[1]
		return nil
	})
	return node, events
}

// nodeAddresses: without pools every node answers for a service.
func (w *world) nodeAddresses() {
	w.Helper()
	w.pod("first", "first", "node-2")
	w.service("first", 8081, "")
	for _, address := range w.addresses("first", 3) {
		w.answers(address+":8081", "/hostname", func(s string) bool { return s == "first" })
	}
	w.kubectl("delete", "service", "first")
}

// document gives the part of docs/loadbalancer.md that begins so.
func document(t *testing.T, begin string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testenv.Repository(), "docs", "loadbalancer.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```yaml\n"+begin)
	block, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatalf("docs/loadbalancer.md has no block that begins with %q", begin)
	}
	return begin + block
}

// pools: the document's ConfigMap, with addresses of the lab's network, gives services addresses that no machine has.
func (w *world) pools() {
	w.Helper()
	config := document(w.T, "apiVersion: v1\nkind: ConfigMap")
	replaced := strings.NewReplacer("192.168.1.240-192.168.1.250", w.net(200)+"-"+w.net(202), "203.0.113.0/29", w.net(208)+"/29", "203.0.113.17", w.net(217)).Replace(config)
	w.lab.KubectlIn(replaced, "apply", "-f", "-")
	w.service("web", 80, "")
	if got := w.addresses("web", 1)[0]; got != w.net(200) {
		w.Errorf("web has %s, want %s", got, w.net(200))
	}
	for _, want := range []string{"LoadBalancer Ingress:", w.net(200) + " (VIP)", "IPAllocated", "EnsuredLoadBalancer"} {
		cluster.Eventually(w.T, patience, func() error {
			if out := w.kubectl("describe", "service", "web"); !strings.Contains(out, want) {
				return fmt.Errorf("%q is not in\n%s", want, out)
			}
			return nil
		})
	}
}

// net is an address of the lab's network.
func (w *world) net(host int) string {
	return regexp.MustCompile(`\d+\.\d+\.\d+\.`).FindString(w.lab.MustLab("status")) + fmt.Sprint(host)
}

// powerCut: a client that connects all the time reaches the service again within three seconds after the node that announces it has died.
func (w *world) powerCut() {
	w.Helper()
	owner, events := w.announcer("web", 0, w.lab.Nodes...)
	others := slices.DeleteFunc(slices.Clone(w.lab.Nodes), func(n string) bool { return n == owner })
	w.pod("web-1", "web", others[0])
	address := w.net(200)
	w.answers(address, "/hostname", func(s string) bool { return s == "web-1" })
	client := w.lab.HTTP(200*time.Millisecond, false)
	w.lab.MustLab("kill", owner)
	begin := time.Now() // it is dead now
	for {
		answer, err := client.Get("http://" + address + "/hostname")
		if err == nil {
			answer.Body.Close()
			break
		}
		if time.Since(begin) > patience {
			w.Fatalf("nobody takes over: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	took := time.Since(begin)
	w.Logf("takeover after %v", took.Round(10*time.Millisecond))
	if took > 6*time.Second { // three on a machine that has nothing else to do
		w.Errorf("takeover after %v", took)
	}
	w.announcer("web", events, others...)
	w.lab.MustLab("start", owner)
	w.kubectl("wait", "--for=condition=Ready", "node/"+owner, "--timeout=90s")
}

// local: only the node with an endpoint announces, and the client's address is kept.
func (w *world) local() {
	w.Helper()
	w.pod("near", "near", "node-3")
	w.service("near", 80, `,"externalTrafficPolicy":"Local"`)
	w.addresses("near", 1)
	w.announcer("near", 0, "node-3")
	w.answers(w.net(201), "/clientip", func(s string) bool { return strings.HasPrefix(s, w.net(1)+":") || s == w.net(1) })
	w.kubectl("delete", "service", "near")
	cluster.Eventually(w.T, patience, func() error {
		if _, err := w.ask(w.net(201), "/"); err == nil {
			return errors.New("the address of a deleted service answers")
		}
		return nil
	})
}

// owner is the node that announces an address.
func (w *world) owner(address string) string {
	w.Helper()
	var node string
	cluster.Eventually(w.T, patience, func() error {
		mac := w.ownerMAC(address)
		i := slices.IndexFunc(w.lab.Nodes, func(n string) bool { return w.mac(n) == mac })
		if i < 0 {
			return fmt.Errorf("no node has the Ethernet address %q", mac)
		}
		node = w.lab.Nodes[i]
		return nil
	})
	return node
}

// restart: the agent of the node that announces is killed and started anew by its supervisor. Where that takes less than two seconds, nothing moves, and a connection
// lives on; in any case the node has the address afterwards.
func (w *world) restart() {
	w.Helper()
	address := w.net(200)
	w.answers(address, "/hostname", func(s string) bool { return s != "" })
	owner := w.owner(address)
	keep := w.lab.HTTP(5*time.Second, true)
	who := func() (string, error) {
		answer, err := keep.Get("http://" + address + "/clientip")
		if err != nil {
			return "", err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		return string(text), err
	}
	first, err := who()
	if err != nil {
		w.Fatal(err)
	}
	const kill = `for d in /proc/[0-9]*; do tr '\0' ' ' < $d/cmdline 2>/dev/null | grep -q '^[^ ]*coracle agent' && kill -9 ${d#/proc/} && echo killed; done`
	if out, err := w.lab.Exec(owner, "sh", "-c", kill); !strings.Contains(out, "killed") {
		w.Fatalf("the agent was not found: %v %s", err, out)
	}
	begin, moved := time.Now(), time.Duration(0)
	for time.Since(begin) < 5*time.Second {
		if now, err := who(); (err != nil || now != first) && moved == 0 {
			moved = time.Since(begin)
			w.Logf("the connection broke after %v: %v", moved.Round(10*time.Millisecond), err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if moved != 0 && moved < 1500*time.Millisecond {
		w.Error("the address moved before the agent could be missed")
	}
	cluster.Eventually(w.T, patience, func() error {
		if now := w.owner(address); now != owner {
			return fmt.Errorf("%s announces, %s before", now, owner)
		}
		_, err := w.ask(address, "/hostname")
		return err
	})
}

// drain: the service moves away from a node that is cordoned; at most the connection fails that is on its way when it moves.
func (w *world) drain() {
	w.Helper()
	w.kubectl("delete", "pod", "--all", "--grace-period=1")
	w.pod("web-2", "web", "node-1")
	address := w.net(200)
	w.answers(address, "/hostname", func(s string) bool { return s == "web-2" })
	w.service("web", 80, `,"sessionAffinity":"None"`)
	node := w.owner(address)
	stop, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(failed)
		for lost := false; ; {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if _, err := w.ask(address, "/hostname"); err != nil && lost {
				failed <- err
				return
			} else if err != nil {
				lost = true
			}
		}
	}()
	w.kubectl("cordon", node)
	cluster.Eventually(w.T, patience, func() error {
		if w.ownerMAC(address) == w.mac(node) {
			return fmt.Errorf("%s still announces", node)
		}
		return nil
	})
	time.Sleep(time.Second) // the client goes on for a while
	close(stop)
	if err := <-failed; err != nil {
		w.Errorf("while %s was cordoned: %v", node, err)
	}
	w.kubectl("uncordon", node)
}

var ether = regexp.MustCompile(`(?:lladdr|link/ether) (\S+)`)

// ownerMAC is who the host takes for the owner of an address.
func (w *world) ownerMAC(address string) string {
	out, err := w.lab.Command("ip", "neigh", "show", address).CombinedOutput()
	match := ether.FindStringSubmatch(string(out))
	if err != nil || match == nil {
		w.Logf("ip neigh: %v %s", err, out)
		return ""
	}
	return match[1]
}

// mac is a node's Ethernet address on the lab's network.
func (w *world) mac(node string) string {
	w.Helper()
	out, err := w.lab.Exec(node, "ip", "link", "show", "eth0")
	match := ether.FindStringSubmatch(out)
	if err != nil || match == nil {
		w.Fatalf("ip link on %s: %v %s", node, err, out)
	}
	return match[1]
}
