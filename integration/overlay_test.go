package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// TestOverlay has pods of three machines, of which two share no link, reach each other.
func TestOverlay(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	o := &overlay{c: c, machines: map[string]*cluster.Cluster{"node": c, "second": c.Machine(2), "third": c.Machine(3)}, agents: map[string]*cluster.Process{}}
	c.Up("--advertise-address", "10.99.2.1", "--node-ip", "10.99.2.1",
		"--pod-cidr", "10.42.0.0/16", "--service-cidr", "10.43.0.0/16", "--cluster-dns", "10.43.0.53", "--cluster-domain", "lab.example")
	o.kube = newKube(t, c)
	if links := o.ip("node", "-br", "link"); strings.Contains(links, "coracle-vxlan") {
		t.Errorf("a machine alone has the links\n%s", links)
	}
	for name, address := range map[string]string{"second": "10.99.2.2", "third": "10.99.3.2"} {
		o.join(name, address)
	}
	for name := range o.machines {
		o.run("run", "on-"+name, "--image=coracle/demo:v1", fmt.Sprintf(`--overrides={"spec":{"nodeName":"%s"}}`, name))
	}
	for name := range o.machines {
		o.ready("pod/on-" + name)
	}
	o.everyPodToEveryPod()
	o.document()
	o.agree()
	o.withoutServer("second")
	o.leave("third")
}

type overlay struct {
	*kube
	c        *cluster.Cluster
	machines map[string]*cluster.Cluster
	agents   map[string]*cluster.Process
}

// ip runs ip(8) on a machine.
func (o *overlay) ip(machine string, args ...string) string {
	o.t.Helper()
	out, err := o.machines[machine].Command("ip", args...).CombinedOutput()
	if err != nil {
		o.t.Fatalf("%s: ip %v: %v\n%s", machine, args, err, out)
	}
	return string(out)
}

// join makes a machine a node of the cluster.
func (o *overlay) join(name, address string) {
	o.t.Helper()
	token, err := o.c.Run("token", "create", "-q", "--kubeconfig", o.kubeconfig)
	if err != nil {
		o.t.Fatalf("token: %v\n%s", err, token)
	}
	m := o.machines[name]
	o.agents[name] = m.Start(append(append([]string{"agent"}, m.AgentFlags()...), "--server", "https://10.99.2.1:6443", "--token", strings.TrimSpace(token), "--node-name", name, "--node-ip", address,
		"--eviction-hard=memory.available<50Mi", "--image-gc-high-threshold=100")...)
	o.eventually("node/"+name, `{.status.conditions[?(@.type=="Ready")].status}`, "True")
	m.ImportDemo(testenv.Repository())
}

func (o *overlay) everyPodToEveryPod() {
	o.t.Helper()
	for from := range o.machines {
		source := o.get("pod/on-"+from, "{.status.podIP}")
		for to := range o.machines {
			address := o.get("pod/on-"+to, "{.status.podIP}")
			cluster.Eventually(o.t, 30*time.Second, func() error {
				out, ok := o.try("", "exec", "on-"+from, "--", "wget", "-qO-", "http://"+address+":8080/json")
				if !ok || !strings.Contains(out.stdout, `"Hostname":"on-`+to+`","Addr":"`+source+`:`) {
					return fmt.Errorf("from %s at %s to %s at %s: %s", from, source, to, address, out.all())
				}
				return nil
			})
		}
	}
}

var looks = regexp.MustCompile("(?:Look at it:|,) `([^`]+)`")

// document types what docs/network.md says to look at: there is something to see.
func (o *overlay) document() {
	o.t.Helper()
	text, err := os.ReadFile(filepath.Join(testenv.Repository(), "docs", "network.md"))
	if err != nil {
		o.t.Fatal(err)
	}
	typed := 0
	for line := range strings.Lines(string(text)) {
		_, rest, found := strings.Cut(line, "Look at it:")
		if !found {
			continue
		}
		for _, m := range looks.FindAllStringSubmatch("Look at it:"+rest, -1) {
			args := strings.Fields(strings.TrimPrefix(m[1], "sudo "))
			out, err := o.machines["node"].Command(args[0], args[1:]...).CombinedOutput()
			if typed++; err != nil || len(out) == 0 {
				o.t.Errorf("%s: %v\n%s", m[1], err, out)
			}
		}
	}
	if typed < 6 {
		o.t.Errorf("docs/network.md names %d commands to look with", typed)
	}
}

// leave deletes a node: the others forget it.
func (o *overlay) leave(name string) {
	o.t.Helper()
	cidr := o.get("node/"+name, "{.spec.podCIDR}")
	if routes := o.ip("node", "route"); !strings.Contains(routes, cidr) {
		o.t.Errorf("no route to %s:\n%s", cidr, routes)
	}
	o.agents[name].Kill() // else it would register again
	o.run("delete", "node", name)
	cluster.Eventually(o.t, 30*time.Second, func() error {
		if routes := o.ip("second", "route"); strings.Contains(routes, cidr) {
			return fmt.Errorf("%s", routes)
		}
		return nil
	})
}

// agree looks whether the machines that joined took the cluster's addresses and names over, which none of them was given.
func (o *overlay) agree() {
	o.t.Helper()
	o.run("expose", "pod", "on-node", "--port=80", "--target-port=8080")
	for name := range o.machines {
		if cidr := o.get("node/"+name, "{.spec.podCIDR}"); !strings.HasPrefix(cidr, "10.42.") {
			o.t.Errorf("%s has the range %s", name, cidr)
		}
		o.contains("resolv.conf on "+name, o.run("exec", "on-"+name, "--", "cat", "/etc/resolv.conf"), "nameserver 10.43.0.53", o.ns+".svc.lab.example svc.lab.example lab.example")
		cluster.Eventually(o.t, 30*time.Second, func() error {
			out, ok := o.try("", "exec", "on-"+name, "--", "wget", "-qO-", "http://on-node."+o.ns+".svc.lab.example/json")
			if !ok || !strings.Contains(out.stdout, `"Hostname":"on-node"`) {
				return fmt.Errorf("the service by name from %s: %s", name, out.all())
			}
			return nil
		})
	}
}

// withoutServer restarts an agent that cannot ask: it starts with what it was told before.
func (o *overlay) withoutServer(name string) {
	o.t.Helper()
	m := o.machines[name]
	o.agents[name].Stop()
	cable := func(state string) {
		o.t.Helper()
		if out, err := m.Command("ip", "link", "set", "eth0", state).CombinedOutput(); err != nil {
			o.t.Fatalf("%v\n%s", err, out)
		}
	}
	cable("down")
	agent := m.Start(append(append([]string{"agent"}, m.AgentFlags()...), "--node-ip", "10.99.2.2", "--eviction-hard=memory.available<50Mi", "--image-gc-high-threshold=100")...)
	cluster.Eventually(o.t, 30*time.Second, func() error {
		if agent.Ended() {
			o.t.Fatal("the agent ended")
		}
		if out := agent.Output(); !strings.Contains(out, "takes what they said last") {
			return fmt.Errorf("it says:\n%s", out)
		}
		return nil
	})
	cable("up")
	if out, err := m.Command("ip", "route", "replace", "default", "via", "10.99.2.1").CombinedOutput(); err != nil {
		o.t.Fatalf("%v\n%s", err, out)
	}
	o.eventually("node/"+name, `{.status.conditions[?(@.type=="Ready")].status}`, "True")
	o.everyPodToEveryPod()
}
