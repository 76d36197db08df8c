package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// TestNode tests what concerns a whole node, on a cluster of its own, which is set up by a config file.
func TestNode(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up("--config", writeFile(t, "config.yaml", `
pod-cidr: 10.200.0.0/16
service-cidr: 10.201.0.0/16
cluster-domain: boat.example
tls-san: [cluster.example.com]
node-labels:
  disk: ssd
  rack: 2
`))
	k := newKube(t, c)
	k.want("labels", k.get("node/node", "{.metadata.labels.disk} {.metadata.labels.rack}"), "ssd 2")
	ownAddresses(k)
	nodeImages(k)
	cordonAndDrain(k)
	taints(k)
}

// ownAddresses checks that the ranges and the domain of the config file are used.
func ownAddresses(k *kube) {
	k.t.Helper()
	k.deployment("web", 2)
	k.run("expose", "deployment", "web", "--port=80", "--target-port=8080")
	for object, prefix := range map[string]string{"pods": "10.200.", "services": "10.201."} {
		address := k.get(object, "{.items[0].status.podIP}{.items[0].spec.clusterIP}")
		if !strings.HasPrefix(address, prefix) {
			k.t.Errorf("%s have addresses as %s, want %s...", object, address, prefix)
		}
	}
	k.contains("resolv.conf", k.run("exec", "deploy/web", "--", "cat", "/etc/resolv.conf"), "nameserver 10.201.0.10", k.ns+".svc.boat.example")
	k.contains("by name", k.run("exec", "deploy/web", "--", "wget", "-qO-", "http://web."+k.ns+".svc.boat.example"), "Hello from demo")
}

// nodeImages takes an image away and brings it back.
func nodeImages(k *kube) {
	k.t.Helper()
	image := func(args ...string) string {
		k.t.Helper()
		out, err := k.c.Image(args[0], args[1:]...)
		if err != nil {
			k.t.Fatalf("image %v: %v\n%s", args, err, out)
		}
		return out
	}
	archive := filepath.Join(k.t.TempDir(), "demo.tar")
	image("save", archive, "coracle/demo:v2")
	k.contains("remove", image("remove", "coracle/demo:v2"), "removed coracle/demo:v2")
	if out := image("list"); strings.Contains(out, "demo:v2") || !strings.Contains(out, "demo:v1") {
		k.t.Errorf("after remove:\n%s", out)
	}
	k.run("run", "imported", "--image=coracle/demo:v2", "--image-pull-policy=Never")
	k.event("ErrImageNeverPull: ")
	k.contains("import", image("import", archive), "imported docker.io/coracle/demo:v2")
	k.ready("pod/imported")
	k.contains("imported", k.run("exec", "imported", "--", "env"), "VERSION=v2")
	k.run("delete", "pod", "imported", "--now")
}

func cordonAndDrain(k *kube) {
	k.t.Helper()
	k.want("cordon", k.run("cordon", "node"), "node/node cordoned")
	k.contains("cordoned", k.run("get", "nodes"), "Ready,SchedulingDisabled")
	k.run("run", "late", "--image=coracle/demo:v1")
	k.event("FailedScheduling: 0/1 nodes are available: 1 node(s) were unschedulable.")
	late := k.get("pod/late", "{.metadata.uid}")
	out := k.run("drain", "node", "--ignore-daemonsets", "--force", "--timeout=60s")
	k.contains("drain", out, "evicting pod "+k.ns+"/web-", "node/node drained")
	k.want("phases", k.get("pods", "{.items[*].status.phase}"), "Pending Pending Pending")
	k.want("uncordon", k.run("uncordon", "node"), "node/node uncordoned")
	k.rolledOut("web")
	k.ready("pod/late")
	k.want("a pod that was not placed yet", k.get("pod/late", "{.metadata.uid}"), late)
}

func taints(k *kube) {
	k.t.Helper()
	k.run("taint", "node", "node", "only=some:NoSchedule")
	k.run("run", "tainted", "--image=coracle/demo:v1")
	k.event("FailedScheduling: 0/1 nodes are available: 1 node(s) had untolerated taint(s).")
	k.run("run", "tolerant", "--image=coracle/demo:v1", `--overrides={"spec":{"tolerations":[{"key":"only","operator":"Exists"}]}}`)
	k.ready("pod/tolerant")
	k.run("taint", "node", "node", "only-")
	k.ready("pod/tainted")
}
