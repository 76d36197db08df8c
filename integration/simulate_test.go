package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// TestSimulate runs pods on simulated nodes, loses a node and gets it back, and cleans up. No root is needed for what it shows, only for the
// network namespace of its own.
func TestSimulate(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	server := c.StartServer()
	args := []string{"simulate", "--config", "/dev/null", "--kubeconfig", c.Kubeconfig, "--nodes", "20", "--zones", "2", "--run-for", "100ms"}
	p := c.Start(args...)
	k := newKubeNamed(t, c, "simulated")
	k.eventually("nodes", `{.items[*].status.conditions[?(@.type=="Ready")].status}`, strings.TrimSpace(strings.Repeat("True ", 20)))
	k.want("a zone's nodes", fmt.Sprint(len(strings.Fields(k.run("get", "nodes", "-l", "topology.kubernetes.io/zone=zone-1", "-o", "jsonpath={.items[*].metadata.name}")))), "10")

	k.apply(strings.Replace(deployment("web", 40), "    spec:\n", `    spec:
      tolerations:
      - {key: node.kubernetes.io/unreachable, effect: NoExecute, tolerationSeconds: 1}
`, 1))
	k.rolledOut("web")
	k.apply(`{apiVersion: v1, kind: Pod, metadata: {name: ends}, spec: {restartPolicy: Never, containers: [{name: c, image: none}]}}`)
	k.eventually("pod/ends", "{.status.phase}", "Succeeded")

	server.Stop() // nobody minds for long
	c.StartServer()
	k.run("scale", "deployment/web", "--replicas=50")
	k.rolledOut("web")

	p.Stop() // the next one takes over
	p = c.Start(args...)
	k.run("scale", "deployment/web", "--replicas=60")
	k.rolledOut("web")

	k.run("label", "node", "sim-3", "simulate.coracle.dev/state=down")
	lost := k.run("get", "pods", "--field-selector=spec.nodeName=sim-3,status.phase=Running", "-o", "jsonpath={.items[*].metadata.uid}")
	if lost == "" {
		t.Fatal("nothing ran on sim-3")
	}
	cluster.Eventually(t, 2*time.Minute, func() error {
		return cluster.Want("sim-3's Ready", k.get("node/sim-3", `{.status.conditions[?(@.type=="Ready")].status}`), "Unknown")
	})
	cluster.Eventually(t, time.Minute, func() error {
		return cluster.Want("ready replicas beside the lost ones", k.get("deployment/web", "{.status.readyReplicas}"), "60")
	})
	k.run("label", "node", "sim-3", "simulate.coracle.dev/state-")
	k.eventually("node/sim-3", `{.status.conditions[?(@.type=="Ready")].status}`, "True")
	cluster.Eventually(t, time.Minute, func() error { // what was evicted meanwhile ends now
		for uid := range strings.FieldsSeq(k.get("pods", "{.items[*].metadata.uid}")) {
			if strings.Contains(lost, uid) {
				return fmt.Errorf("pod %s is there still", uid)
			}
		}
		return nil
	})

	p.Stop()
	out, err := c.Command(cluster.Binary(t), append(args, "--clean")...).CombinedOutput()
	if err != nil || string(out) != "20 nodes deleted\n" {
		t.Fatalf("clean: %v\n%s", err, out)
	}
	k.want("nodes", k.get("nodes", "{.items[*].metadata.name}"), "")
}

// TestSimulateRefusals shows what the command says where it is asked wrongly.
func TestSimulateRefusals(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	for args, want := range map[string]string{
		"--nodes 0":             "are above 0",
		"--taints half":         `"half": want KEY=VALUE:EFFECT or KEY:EFFECT`,
		"--cpu many":            "--cpu many",
		"--pod-cidr fd00::/8":   "is not a range of IPv4 addresses",
		"--kubeconfig /nowhere": "/nowhere",
	} {
		out, err := c.Command(cluster.Binary(t), append([]string{"simulate", "--config", "/dev/null"}, strings.Fields(args)...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("simulate %s: %v\n%s", args, err, out)
		}
	}
}
