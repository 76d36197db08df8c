package integration

import (
	"strings"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// wantPart makes the error of a text that lacks a part.
func wantPart(text, part string) error {
	if strings.Contains(text, part) {
		return nil
	}
	return cluster.Want("text", text, "..."+part+"...")
}

func kubectlScale(k *kube) {
	k.deployment("web", 1)
	k.want("scale", k.run("scale", "deployment/web", "--replicas=3"), "deployment.apps/web scaled")
	k.eventually("deployment/web", "{.status.readyReplicas}", "3")
	k.contains("wrong precondition", k.fails("", "scale", "deployment/web", "--replicas=1", "--current-replicas=5"), "Expected replicas to be 5, was 3")
	k.run("scale", "deployment/web", "--replicas=0", "--current-replicas=3")
	k.eventually("pods", "{.items[*].metadata.name}", "")
	k.apply(`
apiVersion: v1
kind: ReplicationController
metadata: {name: old}
spec:
  replicas: 0
  selector: {app: old}
  template:
    metadata: {labels: {app: old}}
    spec:
      containers: [{name: web, image: "coracle/demo:v1"}]
`)
	k.run("scale", "rc/old", "--replicas=1")
	k.eventually("rc/old", "{.status.readyReplicas}", "1")
}

func kubectlRollout(k *kube) {
	k.deployment("web", 2)
	k.run("annotate", "deployment/web", "kubernetes.io/change-cause=first")
	k.want("set image", k.run("set", "image", "deployment/web", "web=coracle/demo:v2"), "deployment.apps/web image updated")
	k.run("annotate", "deployment/web", "kubernetes.io/change-cause=second")
	k.contains("status", k.run("rollout", "status", "deployment/web", "--timeout=90s"), `deployment "web" successfully rolled out`)
	k.contains("new image", k.run("exec", "deploy/web", "--", "env"), "VERSION=v2")
	history := k.run("rollout", "history", "deployment/web")
	k.contains("history", history, "REVISION  CHANGE-CAUSE", "1         first", "2         second")
	k.contains("one revision", k.run("rollout", "history", "deployment/web", "--revision=1"), "coracle/demo:v1")

	k.want("undo", k.run("rollout", "undo", "deployment/web"), "deployment.apps/web rolled back")
	k.rolledOut("web")
	k.want("image after undo", k.get("deployment/web", "{.spec.template.spec.containers[0].image}"), "coracle/demo:v1")
	k.contains("old image", k.run("exec", "deploy/web", "--", "env"), "VERSION=v1")
	k.run("rollout", "undo", "deployment/web", "--to-revision=2")
	k.rolledOut("web")
	k.want("image of revision 2", k.get("deployment/web", "{.spec.template.spec.containers[0].image}"), "coracle/demo:v2")
	k.want("revision", k.get("deployment/web", `{.metadata.annotations.deployment\.kubernetes\.io/revision}`), "4")
	k.contains("no such revision", k.fails("", "rollout", "undo", "deployment/web", "--to-revision=77"), "unable to find specified revision 77 in history")

	before := k.get("pods", "{.items[*].metadata.uid}")
	k.run("rollout", "restart", "deployment/web")
	k.rolledOut("web")
	for uid := range strings.FieldsSeq(k.get("pods", "{.items[?(@.metadata.deletionTimestamp==\"\")].metadata.uid}")) {
		if strings.Contains(before, uid) {
			k.t.Fatalf("pod %s outlived the restart", uid)
		}
	}
}

func kubectlRolloutPause(k *kube) {
	k.deployment("web", 1)
	k.want("pause", k.run("rollout", "pause", "deployment/web"), "deployment.apps/web paused")
	k.run("set", "image", "deployment/web", "web=coracle/demo:v2")
	k.run("set", "env", "deployment/web", "COLOUR=blue")
	k.eventually("deployment/web", "{.status.conditions[?(@.type==\"Progressing\")].reason}", "DeploymentPaused")
	k.want("replica sets while paused", k.run("get", "rs", "-o", "jsonpath={range .items[*]}x{end}"), "x")
	k.contains("restart while paused", k.fails("", "rollout", "restart", "deployment/web"), `can't restart paused deployment (run rollout resume first)`)
	k.want("resume", k.run("rollout", "resume", "deployment/web"), "deployment.apps/web resumed")
	k.rolledOut("web")
	k.want("one rollout for both changes", k.run("get", "rs", "-o", "jsonpath={range .items[*]}x{end}"), "xx")
	k.contains("environment", k.run("exec", "deploy/web", "--", "env"), "VERSION=v2", "COLOUR=blue")
}

func kubectlLabel(k *kube) {
	k.run("create", "configmap", "a")
	k.want("label", k.run("label", "configmap", "a", "tier=front", "env=test"), "configmap/a labeled")
	k.want("selected", k.run("get", "configmaps", "-l", "tier=front,env=test", "-o", "name"), "configmap/a")
	k.contains("no overwrite", k.fails("", "label", "configmap", "a", "tier=back"), "'tier' already has a value (front), and --overwrite is false")
	k.run("label", "configmap", "a", "tier=back", "--overwrite")
	k.want("overwritten", k.get("configmap/a", "{.metadata.labels.tier}"), "back")
	k.want("removed", k.run("label", "configmap", "a", "tier-"), "configmap/a unlabeled")
	k.want("left", k.get("configmap/a", "{.metadata.labels}"), `{"env":"test"}`)

	// A pod that loses its label is let go by its ReplicaSet, which makes another.
	k.deployment("web", 1)
	pod := k.get("pods", "{.items[0].metadata.name}")
	k.run("label", "pod", pod, "app-")
	k.eventually("pod/"+pod, "{.metadata.ownerReferences}", "")
	k.eventually("deployment/web", "{.status.readyReplicas}", "1")
	k.run("label", "pods", "--all", "all=yes")
	k.want("both", k.run("get", "pods", "-l", "all=yes", "-o", "jsonpath={range .items[*]}x{end}"), "xx")
}

func kubectlAnnotate(k *kube) {
	k.run("create", "configmap", "a")
	k.want("annotate", k.run("annotate", "configmap", "a", "note=with spaces, and more"), "configmap/a annotated")
	k.want("annotation", k.get("configmap/a", "{.metadata.annotations.note}"), "with spaces, and more")
	k.contains("no overwrite", k.fails("", "annotate", "configmap", "a", "note=x"), "--overwrite is false but found the following declared annotation(s): 'note' already has a value")
	k.run("annotate", "configmap", "a", "note-")
	k.want("removed", k.get("configmap/a", "{.metadata.annotations}"), "")
}

func kubectlPatch(k *kube) {
	k.apply(strings.Replace(deployment("web", 0), "      containers:\n", "      containers:\n      - {name: side, image: side:v1}\n", 1))
	k.want("strategic", k.run("patch", "deployment", "web", "-p", `{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"side:v2"}]}}}}`),
		"deployment.apps/web patched")
	images := "{.spec.template.spec.containers[*].image}"
	k.want("a strategic patch merges lists by name", k.get("deployment/web", images), "side:v2 coracle/demo:v1")
	k.run("patch", "deployment", "web", "--type=merge", "-p", `{"metadata":{"labels":{"app":null,"new":"yes"}},"spec":{"template":{"spec":{"containers":[{"name":"only","image":"only:v1"}]}}}}`)
	k.want("a merge patch replaces lists", k.get("deployment/web", images), "only:v1")
	k.want("and removes what is null", k.get("deployment/web", "{.metadata.labels}"), `{"new":"yes"}`)
	k.run("patch", "deployment", "web", "--type=json", "-p", `[
		{"op":"test","path":"/spec/template/spec/containers/0/name","value":"only"},
		{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"only:v2"},
		{"op":"add","path":"/spec/template/spec/containers/-","value":{"name":"more","image":"more:v1"}}]`)
	k.want("a JSON patch", k.get("deployment/web", images), "only:v2 more:v1")
	k.want("no change", k.run("patch", "deployment", "web", "-p", `{"spec":{"paused":false}}`), "deployment.apps/web patched (no change)")
	k.run("patch", "deployment", "web", "--subresource=scale", "--type=merge", "-p", `{"spec":{"replicas":1}}`)
	k.want("the scale subresource", k.get("deployment/web", "{.spec.replicas}"), "1")
	k.contains("a failed test", k.fails("", "patch", "deployment", "web", "--type=json", "-p", `[{"op":"test","path":"/spec/replicas","value":9}]`),
		"The request is invalid: the server rejected our request due to an error in our request")
}

func kubectlEdit(k *kube) {
	k.run("create", "configmap", "a", "--from-literal=colour=blue")
	edit := func(script string) (result, bool) {
		cmd := k.command("edit", "configmap", "a")
		cmd.Env = append(cmd.Env, "KUBE_EDITOR="+writeScript(k.t, script))
		return k.execute(cmd, "")
	}
	r, _ := edit(`sed -i 's/colour: blue/colour: red/' "$1"`)
	k.want("edit", strings.TrimSpace(r.stdout), "configmap/a edited")
	k.want("edited", k.get("configmap/a", "{.data.colour}"), "red")
	r, _ = edit(`true`)
	k.contains("no change", r.all(), "Edit cancelled, no changes made")
	// What the API server refuses is opened again, with the reason on top; the second time it is mended.
	r, ok := edit(`if grep -q '# configmaps "a" was not valid' "$1"; then sed -i 's/colour: \[1\]/colour: green/' "$1"; else sed -i 's/colour: red/colour: [1]/' "$1"; fi`)
	if !ok {
		k.t.Logf("an edit that was refused once: %s", r.all())
	}
	cmd := k.command("edit", "configmap", "a")
	cmd.Env = append(cmd.Env, "KUBE_EDITOR=false")
	r, ok = k.execute(cmd, "")
	if ok {
		k.t.Fatalf("an editor that fails must fail the command: %s", r.all())
	}
}

func kubectlReplace(k *kube) {
	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {colour: blue}\n"
	k.contains("absent", k.fails(manifest, "replace", "-f", "-"), `Error from server (NotFound): error when replacing "STDIN": configmaps "a" not found`)
	k.runIn(manifest, "create", "-f", "-")
	k.run("label", "configmap", "a", "by=hand")
	k.want("replace", k.runIn(strings.Replace(manifest, "blue", "red", 1), "replace", "-f", "-"), "configmap/a replaced")
	k.want("everything is replaced", k.get("configmap/a", "{.data.colour}{.metadata.labels}"), "red")
	uid := k.get("configmap/a", "{.metadata.uid}")
	k.contains("force", k.runIn(manifest, "replace", "--force", "-f", "-"), "configmap/a replaced")
	if k.get("configmap/a", "{.metadata.uid}") == uid {
		k.t.Fatal("replace --force kept the object")
	}
}

func kubectlSet(k *kube) {
	k.apply(deployment("web", 0))
	k.run("set", "env", "deployment/web", "COLOUR=blue", "SIZE=2")
	k.run("set", "env", "deployment/web", "SIZE-")
	k.want("environment", k.get("deployment/web", "{.spec.template.spec.containers[0].env}"), `[{"name":"COLOUR","value":"blue"}]`)
	k.run("set", "resources", "deployment/web", "--requests=cpu=10m", "--limits=memory=64Mi")
	k.want("resources", k.get("deployment/web", "{.spec.template.spec.containers[0].resources}"), `{"limits":{"memory":"64Mi"},"requests":{"cpu":"10m"}}`)
	k.run("create", "serviceaccount", "robot")
	k.run("set", "serviceaccount", "deployment/web", "robot")
	k.want("service account", k.get("deployment/web", "{.spec.template.spec.serviceAccountName}"), "robot")
	k.run("create", "service", "clusterip", "web", "--tcp=80")
	k.run("set", "selector", "service/web", "tier=front")
	k.want("selector", k.get("service/web", "{.spec.selector}"), `{"tier":"front"}`)
}

func kubectlDelete(k *kube) {
	k.pod("web")
	k.want("delete", k.run("delete", "pod", "web", "--now"), `pod "web" deleted from `+k.ns+` namespace`)
	k.want("gone", k.run("get", "pods", "-o", "name"), "")
	k.want("not found", k.fails("", "delete", "pod", "web"), `Error from server (NotFound): pods "web" not found`)
	k.run("delete", "pod", "web", "--ignore-not-found")
	k.pod("slow", "sleep", "infinity")
	k.run("delete", "pod", "slow", "--grace-period=0", "--force")
	k.want("forced", k.run("get", "pods", "-o", "name"), "")
	for _, name := range []string{"a", "b", "c"} {
		k.run("create", "configmap", name)
	}
	k.run("label", "configmap", "a", "x=y")
	k.run("delete", "configmaps", "-l", "x=y")
	k.run("delete", "configmap/b")
	k.want("left", k.run("get", "configmaps", "-o", "name"), "configmap/c\nconfigmap/kube-root-ca.crt")
	k.run("delete", "configmaps", "--all")
	// The root CA's comes back.
	cluster.Eventually(k.t, 20*time.Second, func() error {
		return cluster.Want("config maps", k.run("get", "configmaps", "-o", "name"), "configmap/kube-root-ca.crt")
	})
	k.run("create", "namespace", k.ns+"-gone")
	k.run("create", "configmap", "a", "-n", k.ns+"-gone")
	k.run("delete", "namespace", k.ns+"-gone", "--timeout=60s")
	k.want("namespace", k.run("get", "namespace", k.ns+"-gone", "--ignore-not-found"), "")
}

func kubectlDeleteCascade(k *kube) {
	k.deployment("orphans", 1)
	k.run("delete", "deployment", "orphans", "--cascade=orphan")
	k.eventually("rs", "{.items[*].metadata.ownerReferences}", "")
	k.contains("replica set left", k.run("get", "rs", "-o", "name"), "replicaset.apps/orphans-")
	k.want("pod left", k.run("get", "pods", "-o", "jsonpath={.items[*].status.phase}"), "Running")
	// The same Deployment again takes over what was left.
	uid := k.get("rs", "{.items[0].metadata.uid}")
	k.deployment("orphans", 1)
	k.want("adopted", k.get("rs", "{.items[*].metadata.uid}"), uid)

	k.run("delete", "deployment", "orphans", "--cascade=foreground")
	k.want("nothing outlives a foreground deletion", k.run("get", "rs,pods", "-o", "name"), "")

	k.deployment("web", 1)
	k.run("delete", "deployment", "web", "--cascade=background")
	k.eventually("rs", "{.items[*].metadata.name}", "")
	k.eventually("pods", "{.items[*].metadata.name}", "")
}

func kubectlWait(k *kube) {
	k.run("run", "web", "--image=coracle/demo:v1", "--restart=Never")
	k.want("condition", k.run("wait", "--for=condition=Ready", "pod/web", "--timeout=60s"), "pod/web condition met")
	k.want("field", k.run("wait", "--for=jsonpath={.status.phase}=Running", "pod/web", "--timeout=10s"), "pod/web condition met")
	k.contains("timeout", k.fails("", "wait", "--for=condition=Ready=false", "pod/web", "--timeout=1s"), "timed out waiting for the condition on pods/web")
	k.run("delete", "pod", "web", "--wait=false")
	k.run("wait", "--for=delete", "pod/web", "--timeout=60s")
	k.want("gone", k.run("get", "pods", "-o", "name"), "")
	waiting := k.start("wait", "--for=create", "configmap/later", "--timeout=30s")
	k.run("create", "configmap", "later")
	waiting.expect(k.t, "configmap/later condition met")
}

func kubectlEvents(k *kube) {
	k.pod("web")
	for _, reason := range []string{"Scheduled", "Pulled", "Created", "Started"} {
		cluster.Eventually(k.t, 10*time.Second, func() error { return wantPart(k.run("events", "--for", "pod/web"), reason) })
	}
	k.contains("get events", k.run("get", "events", "--field-selector=involvedObject.name=web,reason=Scheduled"), "Successfully assigned "+k.ns+"/web to node")
	k.want("of another type", k.run("events", "--types=Warning"), "")
	k.contains("the other group", k.run("get", "events.v1.events.k8s.io", "-o", "name"), "event.events.k8s.io/web.")
}

func kubectlDiff(k *kube) {
	manifest := writeFile(k.t, "web.yaml", deployment("web", 0))
	r, _ := k.try("", "diff", "-f", manifest)
	if r.code != 1 {
		k.t.Fatalf("exit code %d for a new object, want 1\n%s", r.code, r.all())
	}
	k.contains("new", r.stdout, "+kind: Deployment")
	k.run("apply", "-f", manifest)
	k.want("no difference", k.run("diff", "-f", manifest), "")
	r, _ = k.try(deployment("web", 3), "diff", "-f", "-")
	if r.code != 1 {
		k.t.Fatalf("exit code %d, want 1\n%s", r.code, r.all())
	}
	k.contains("changed", r.stdout, "-  replicas: 0", "+  replicas: 3")
	k.want("nothing was applied", k.get("deployment/web", "{.spec.replicas}"), "0")
}

func kubectlAuth(k *kube) {
	k.want("admin", k.run("auth", "can-i", "delete", "nodes"), "yes")
	k.contains("who am I", k.run("auth", "whoami"), "system:masters")
	k.want("someone without rights", strings.TrimSpace(mustFail(k, "auth", "can-i", "list", "secrets", "--as=someone").stdout), "no")
	k.run("create", "serviceaccount", "robot")
	token := k.run("create", "token", "robot")
	r := mustFail(k, "--token="+token, "--kubeconfig="+k.tokenKubeconfig(), "get", "nodes")
	k.contains("a service account", r.stderr, `Error from server (Forbidden): nodes is forbidden: User "system:serviceaccount:`+k.ns+`:robot" cannot list resource "nodes" in API group "" at the cluster scope`)
	r = mustFail(k, "--token=nonsense", "--kubeconfig="+k.tokenKubeconfig(), "get", "nodes")
	k.contains("a bad token", r.stderr, "error: You must be logged in to the server")
}

// mustFail runs kubectl, which must not succeed.
func mustFail(k *kube, args ...string) result {
	k.t.Helper()
	r, ok := k.try("", args...)
	if ok {
		k.t.Fatalf("kubectl %s succeeded:\n%s", strings.Join(args, " "), r.all())
	}
	return r
}

// tokenKubeconfig is a kubeconfig without any credentials.
func (k *kube) tokenKubeconfig() string {
	k.t.Helper()
	text := k.run("config", "view", "--raw", "--flatten", "-o", "jsonpath={.clusters[0].cluster.certificate-authority-data} {.clusters[0].cluster.server}")
	ca, server, _ := strings.Cut(text, " ")
	return writeFile(k.t, "kubeconfig", `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "`+server+`", certificate-authority-data: `+ca+`}}]
contexts: [{name: c, context: {cluster: c, user: u, namespace: `+k.ns+`}}]
users: [{name: u, user: {}}]
current-context: c
`)
}

func kubectlDiscovery(k *kube) {
	k.contains("resources", k.run("api-resources"), "configmaps", "deployments", "Deployment", "cm", "replicationcontrollers", "endpointslices")
	k.want("group", k.run("api-resources", "--api-group=apps", "--namespaced=true", "-o", "name", "--verbs=list,watch", "--categories=all", "--sort-by=name"),
		"daemonsets.apps\ndeployments.apps\nreplicasets.apps\nstatefulsets.apps")
	k.contains("wide", k.run("api-resources", "-o", "wide"), "create,delete,deletecollection,get,list,patch,update,watch")
	k.contains("versions", k.run("api-versions"), "v1", "apps/v1", "coordination.k8s.io/v1", "discovery.k8s.io/v1", "events.k8s.io/v1", "scheduling.k8s.io/v1")
	k.contains("version", k.run("version"), "Client Version: v1.37", "Server Version: v1.37")
	k.contains("cluster-info", k.run("cluster-info"), "Kubernetes control plane")
}

func kubectlExpose(k *kube) {
	k.deployment("web", 2)
	k.run("expose", "deployment", "web", "--port=80", "--target-port=8080")
	k.eventually("endpointslices", "{.items[*].endpoints[*].conditions.ready}", "true true")
	k.pod("client")
	cluster.Eventually(k.t, 20*time.Second, func() error {
		r, _ := k.try("", "exec", "client", "--", "wget", "-qO-", "-T", "2", "http://web")
		return wantPart(r.all(), "Hello from demo v1")
	})
	k.contains("full name", k.run("exec", "client", "--", "wget", "-qO-", "http://web."+k.ns+".svc.cluster.local"), "Hello from demo v1")
	k.run("delete", "service", "web")
	k.eventually("endpointslices", "{.items[*].metadata.name}", "")
}
