package integration

import (
	"fmt"
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
	c.Up("--advertise-address", "10.99.2.1", "--node-ip", "10.99.2.1")
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
