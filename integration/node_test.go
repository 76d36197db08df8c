package integration

import (
	"testing"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// TestNodeCommands drives what kubectl does to nodes, on a cluster of its own: nothing else could run there meanwhile.
func TestNodeCommands(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up("--node-labels=disk=ssd,rack=2")
	k := newKube(t, c)
	k.want("labels", k.get("node/node", "{.metadata.labels.disk} {.metadata.labels.rack}"), "ssd 2")
	k.deployment("web", 2)

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

	k.run("taint", "node", "node", "only=some:NoSchedule")
	k.run("run", "tainted", "--image=coracle/demo:v1")
	k.event("FailedScheduling: 0/1 nodes are available: 1 node(s) had untolerated taint(s).")
	k.run("run", "tolerant", "--image=coracle/demo:v1", `--overrides={"spec":{"tolerations":[{"key":"only","operator":"Exists"}]}}`)
	k.ready("pod/tolerant")
	k.run("taint", "node", "node", "only-")
	k.ready("pod/tainted")
}
