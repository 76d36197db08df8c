package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// testKubectl drives kubectl's commands, each with its effect checked.
func testKubectl(t *testing.T, c *cluster.Cluster) {
	tests := map[string]func(*kube){
		"create": kubectlCreate, "apply": kubectlApply, "kustomize": kubectlKustomize, "get": kubectlGet, "get-watch": kubectlGetWatch,
		"describe": kubectlDescribe, "explain": kubectlExplain, "logs": kubectlLogs, "logs-previous": kubectlLogsPrevious,
		"exec": kubectlExec, "exec-tty": kubectlExecTTY, "cp": kubectlCp, "run-attach": kubectlRunAttach,
		"scale": kubectlScale, "rollout": kubectlRollout, "rollout-pause": kubectlRolloutPause,
		"label": kubectlLabel, "annotate": kubectlAnnotate, "patch": kubectlPatch, "edit": kubectlEdit, "replace": kubectlReplace, "set": kubectlSet,
		"delete": kubectlDelete, "delete-cascade": kubectlDeleteCascade, "wait": kubectlWait, "port-forward": kubectlPortForward,
		"proxy": kubectlProxy, "events": kubectlEvents, "diff": kubectlDiff, "auth": kubectlAuth, "discovery": kubectlDiscovery,
		"expose": kubectlExpose,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newKube(t, c))
		})
	}
	t.Run("stock", func(t *testing.T) {
		t.Parallel()
		stock, err := exec.LookPath("kubectl")
		if err != nil {
			t.Skip("skipped: this machine has no kubectl of its own")
		}
		k := newKube(t, c)
		k.binary = stock
		stockSmoke(k)
	})
}

// stockSmoke is one round through an application's life, for a kubectl that is not ours.
func stockSmoke(k *kube) {
	k.contains("version", k.run("version"), "Server Version: v1.37")
	k.deployment("web", 1)
	k.contains("apply again", k.apply(deployment("web", 1)), "deployment.apps/web unchanged")
	k.contains("wide", k.run("get", "pods", "-o", "wide"), "NODE", "Running")
	k.run("scale", "deployment/web", "--replicas=2")
	k.rolledOut("web")
	k.run("set", "image", "deployment/web", "web=coracle/demo:v2")
	k.rolledOut("web")
	k.contains("exec", k.run("exec", "deploy/web", "--", "env"), "VERSION=v2")
	k.contains("logs", k.run("logs", "deploy/web"), "demo v2 listens on :8080")
	k.contains("describe", k.run("describe", "deployment", "web"), "ScalingReplicaSet")
	k.contains("explain", k.run("explain", "deployment.spec.replicas"), "FIELD: replicas <integer>")
	pod := strings.TrimPrefix(k.run("get", "pods", "-o", "name"), "pod/")
	pod, _, _ = strings.Cut(pod, "\n")
	from := writeFile(k.t, "note", "from outside")
	k.run("cp", from, pod+":/tmp/note")
	k.want("copied file", k.run("exec", pod, "--", "cat", "/tmp/note"), "from outside")
	k.forwarded("deploy/web", "8080", "demo v2")
	k.run("delete", "deployment", "web", "--cascade=foreground")
	k.want("pods left", k.run("get", "pods", "-o", "name"), "")
}

// writeFile makes a file in a folder of the test's own.
func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func kubectlCreate(k *kube) {
	manifest := writeFile(k.t, "web.yaml", deployment("web", 2))
	k.want("create", k.run("create", "-f", manifest), "deployment.apps/web created")
	k.want("again", k.fails("", "create", "-f", manifest),
		`Error from server (AlreadyExists): error when creating "`+manifest+`": deployments.apps "web" already exists`)
	k.eventually("deployment/web", "{.status.readyReplicas}", "2")

	k.run("create", "configmap", "settings", "--from-literal=colour=blue", "--from-file=web="+manifest)
	k.want("configmap", k.get("configmap/settings", "{.data.colour}"), "blue")
	k.run("create", "secret", "generic", "login", "--from-literal=password=sesame")
	k.want("secret", k.get("secret/login", "{.data.password}"), "c2VzYW1l")
	k.run("create", "service", "clusterip", "web", "--tcp=80:8080")
	k.want("service", k.get("service/web", "{.spec.ports[0].targetPort}"), "8080")
	k.run("create", "serviceaccount", "robot")
	k.contains("token", k.run("create", "token", "robot"), "eyJ")
	k.run("create", "priorityclass", k.ns+"-high", "--value=1000")
	k.run("delete", "priorityclass", k.ns+"-high")

	k.contains("dry run", k.run("create", "configmap", "ghost", "--dry-run=server", "-o", "yaml"), "uid:")
	k.want("after a dry run", k.run("get", "configmap", "ghost", "--ignore-not-found"), "")
}

func kubectlApply(k *kube) {
	k.want("first", k.apply(deployment("web", 1)), "deployment.apps/web created")
	k.want("second", k.apply(deployment("web", 1)), "deployment.apps/web unchanged")
	k.want("changed", k.apply(deployment("web", 2)), "deployment.apps/web configured")
	k.want("replicas", k.get("deployment/web", "{.spec.replicas}"), "2")
	k.eventually("deployment/web", "{.status.readyReplicas}", "2")

	// What someone else set stays; what was applied before and is left out goes.
	k.run("label", "deployment/web", "by=hand")
	k.apply(strings.Replace(deployment("web", 2), "labels: {app: web}", "labels: {tier: front}", 1))
	k.want("labels", k.get("deployment/web", "{.metadata.labels}"), `{"by":"hand","tier":"front"}`)

	dir := k.t.TempDir()
	for _, name := range []string{"one", "two"} {
		text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", labels: {set: a}}\n"
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(text), 0o644); err != nil {
			k.t.Fatal(err)
		}
	}
	k.want("folder", k.run("apply", "-f", dir), "configmap/one created\nconfigmap/two created")
	if err := os.Remove(filepath.Join(dir, "two.yaml")); err != nil {
		k.t.Fatal(err)
	}
	out := k.run("apply", "-f", dir, "--prune", "-l", "set=a", "--prune-allowlist=core/v1/ConfigMap")
	k.contains("prune", out, "configmap/one unchanged", "configmap/two pruned")
}

func kubectlKustomize(k *kube) {
	dir := k.t.TempDir()
	files := map[string]string{
		"web.yaml": deployment("web", 1),
		"kustomization.yaml": `
resources: [web.yaml]
namePrefix: my-
images:
- name: coracle/demo
  newTag: v2
configMapGenerator:
- name: settings
  literals: [colour=blue]
`}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			k.t.Fatal(err)
		}
	}
	k.contains("apply -k", k.run("apply", "-k", dir), "deployment.apps/my-web created", "configmap/my-settings-")
	k.want("image", k.get("deployment/my-web", "{.spec.template.spec.containers[0].image}"), "coracle/demo:v2")
}

func kubectlGet(k *kube) {
	k.pod("web")
	k.run("label", "pod", "web", "app=web")
	k.run("create", "configmap", "settings", "--from-literal=colour=blue")

	table := strings.Fields(strings.Split(k.run("get", "pods"), "\n")[0])
	k.want("columns", strings.Join(table, " "), "NAME READY STATUS RESTARTS AGE")
	wide := strings.Split(k.run("get", "pods", "-o", "wide"), "\n")
	k.want("wide columns", strings.Join(strings.Fields(wide[0]), " "), "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES")
	k.contains("wide", wide[1], "web", "1/1", "Running", k.get("pod/web", "{.status.podIP}"), "node")
	k.contains("labels", k.run("get", "pods", "--show-labels", "-L", "app"), "LABELS", "APP", "app=web,run=web")
	k.contains("yaml", k.run("get", "pod", "web", "-o", "yaml"), "apiVersion: v1\nkind: Pod\n", "  phase: Running\n")
	k.contains("json", k.run("get", "pod", "web", "-o", "json"), `"kind": "Pod"`)
	k.want("jsonpath", k.get("pods", "{.items[*].metadata.name}"), "web")
	k.want("custom columns", strings.Join(strings.Fields(k.run("get", "pods", "-o", "custom-columns=N:.metadata.name,P:.status.phase")), " "), "N P web Running")
	k.want("template", k.run("get", "pod", "web", "-o", "go-template={{.spec.nodeName}}"), "node")
	k.want("name", k.run("get", "pods,configmaps", "-o", "name", "--field-selector=metadata.name!=kube-root-ca.crt"), "pod/web\nconfigmap/settings")
	k.want("selector", k.run("get", "pods", "-l", "app in (web),run", "-o", "name"), "pod/web")
	k.want("no match", k.run("get", "pods", "-l", "app!=web", "-o", "name"), "")
	k.want("field selector", k.run("get", "pods", "--field-selector=spec.nodeName=node,status.phase=Running", "-o", "name"), "pod/web")
	k.contains("all namespaces", k.run("get", "pods", "-A"), "NAMESPACE", k.ns)
	k.contains("all", k.run("get", "all"), "pod/web")
	k.contains("node", k.run("get", "nodes", "-o", "wide"), "Ready", "v1.37", "containerd://2")
	k.contains("sorted", k.run("get", "configmaps", "--sort-by=.metadata.name"), "settings")
	k.contains("raw", k.run("get", "--raw", "/readyz"), "ok")
	k.want("chunks", k.run("get", "configmaps", "--chunk-size=1", "-o", "name"), "configmap/kube-root-ca.crt\nconfigmap/settings")
	k.want("not found", k.fails("", "get", "pod", "nobody"), `Error from server (NotFound): pods "nobody" not found`)
}

func kubectlGetWatch(k *kube) {
	pods := k.start("get", "pods", "-w")
	objects := k.start("get", "configmaps", "-w", "--output-watch-events", "-o", "jsonpath={.type} {.object.metadata.name} {.object.data.colour}{\"\\n\"}")
	objects.expect(k.t, "ADDED kube-root-ca.crt")
	k.pod("web")
	pods.expect(k.t, "ContainerCreating")
	pods.expect(k.t, "Running")
	k.run("create", "configmap", "settings", "--from-literal=colour=blue")
	objects.expect(k.t, "ADDED settings blue")
	k.run("patch", "configmap", "settings", "-p", `{"data":{"colour":"red"}}`)
	objects.expect(k.t, "MODIFIED settings red")
	k.run("delete", "configmap", "settings")
	objects.expect(k.t, "DELETED settings red")
	k.run("delete", "pod", "web", "--now")
	pods.expect(k.t, "Terminating")
}

func kubectlDescribe(k *kube) {
	k.deployment("web", 1)
	k.run("expose", "deployment", "web", "--port=80", "--target-port=8080")
	k.run("create", "configmap", "settings", "--from-literal=colour=blue")
	k.run("create", "secret", "generic", "login", "--from-literal=password=sesame")
	pod := k.get("pods", "{.items[0].metadata.name}")
	k.contains("pod", k.run("describe", "pod", pod), "Name:             "+pod, "Node:             node/", "Controlled By:  ReplicaSet/web-",
		"Image:          coracle/demo:v1", "State:          Running", "QoS Class:                   BestEffort",
		"Successfully assigned "+k.ns+"/"+pod+" to node", `Container image "coracle/demo:v1" already present on machine`, "Created", "Started")
	k.contains("deployment", k.run("describe", "deployment", "web"), "1 desired | 1 updated | 1 total | 1 available | 0 unavailable",
		"StrategyType:           RollingUpdate", "Scaled up replica set web-")
	k.contains("replicaset", k.run("describe", "replicaset"), "Created pod: "+pod)
	cluster.Eventually(k.t, 20*time.Second, func() error {
		r, _ := k.try("", "describe", "service", "web")
		return wantPart(r.all(), k.get("pod/"+pod, "{.status.podIP}")+":8080")
	})
	k.contains("configmap", k.run("describe", "configmap", "settings"), "colour:\n----\nblue")
	k.contains("secret", k.run("describe", "secret", "login"), "password:  6 bytes")
	k.contains("node", k.run("describe", "node", "node"), "PodCIDR:", "KubeletReady", "Allocated resources", "MemoryPressure")
	k.contains("namespace", k.run("describe", "namespace", k.ns), "Status:       Active")
}

func kubectlExplain(k *kube) {
	k.contains("pod", k.run("explain", "pod"), "KIND:       Pod", "VERSION:    v1", "spec\t<PodSpec>")
	k.contains("field", k.run("explain", "pod.spec.containers.livenessProbe.httpGet"), "FIELD: httpGet <HTTPGetAction>", "DESCRIPTION:", "port\t<IntOrString> -required-")
	k.contains("group", k.run("explain", "deployments"), "GROUP:      apps", "KIND:       Deployment")
	k.contains("recursive", k.run("explain", "service.spec", "--recursive"), "sessionAffinityConfig\t<SessionAffinityConfig>", "      timeoutSeconds\t<integer>")
	k.contains("unknown", k.fails("", "explain", "pod.spec.nothing"), `field "nothing" does not exist`)
}

func kubectlLogs(k *kube) {
	k.apply(`
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: two}}
spec:
  containers:
  - {name: web, image: "coracle/demo:v1"}
  - {name: count, image: "coracle/demo:v1", command: [sh, -c, "for i in 1 2 3; do echo line $i; done; sleep 0.2; echo problem >&2; sleep 1000"]}
  terminationGracePeriodSeconds: 1
`)
	k.ready("pod/two")
	cluster.Eventually(k.t, 10*time.Second, func() error {
		return cluster.Want("logs", k.run("logs", "two", "-c", "count"), "line 1\nline 2\nline 3\nproblem")
	})
	k.want("tail", k.run("logs", "two", "-c", "count", "--tail=1"), "problem")
	k.want("bytes", k.run("logs", "two", "-c", "count", "--limit-bytes=6"), "line 1")
	k.contains("timestamps", k.run("logs", "two", "-c", "count", "--timestamps", "--tail=1"), "T", "Z problem")
	k.contains("since", k.run("logs", "two", "-c", "count", "--since=1h"), "line 1")
	k.want("since now", k.run("logs", "two", "-c", "count", "--since-time=2199-01-01T00:00:00Z"), "")
	k.contains("all containers", k.run("logs", "-l", "app=two", "--all-containers", "--prefix"), "[pod/two/count] line 1", "[pod/two/web] ")
	k.contains("default container", k.run("logs", "two"), "listens on :8080")

	follow := k.start("logs", "-f", "two", "-c", "web")
	follow.expect(k.t, "listens on :8080")
	k.run("exec", "two", "-c", "count", "--", "wget", "-qO-", "http://localhost:8080/log?line=hello-follower")
	follow.expect(k.t, "hello-follower")
	k.run("delete", "pod", "two")
	select {
	case <-follow.done:
	case <-time.After(20 * time.Second):
		k.t.Fatal("logs -f did not end with its container")
	}
	k.contains("unknown container", k.fails("", "logs", "two", "-c", "web"), `pods "two" not found`)
}

func kubectlLogsPrevious(k *kube) {
	k.apply(`
apiVersion: v1
kind: Pod
metadata: {name: again}
spec:
  containers:
  - {name: web, image: "coracle/demo:v1"}
`)
	k.ready("pod/again")
	k.contains("no previous", k.fails("", "logs", "-p", "again"), `previous terminated container "web" in pod "again" not found`)
	first := k.get("pod/again", "{.status.containerStatuses[0].containerID}")
	k.run("exec", "again", "--", "wget", "-qO-", "http://localhost:8080/log?line=first-life")
	k.run("exec", "again", "--", "wget", "-qO-", "http://localhost:8080/exit?code=3")
	k.eventually("pod/again", "{.status.containerStatuses[0].restartCount}", "1")
	k.want("exit code", k.get("pod/again", "{.status.containerStatuses[0].lastState.terminated.exitCode}"), "3")
	k.want("last container", k.get("pod/again", "{.status.containerStatuses[0].lastState.terminated.containerID}"), first)
	k.ready("pod/again")
	k.contains("previous", k.run("logs", "-p", "again"), "first-life")
	if out := k.run("logs", "again"); strings.Contains(out, "first-life") {
		k.t.Fatalf("the new container's log has the old one's lines:\n%s", out)
	}
}

func kubectlExec(k *kube) {
	k.pod("web")
	k.want("output", k.run("exec", "web", "--", "echo", "a  b", "$HOME"), "a  b $HOME")
	k.want("host name", k.run("exec", "web", "--", "hostname"), "web")
	k.want("input", k.runIn("from outside\n", "exec", "-i", "web", "--", "cat"), "from outside")
	r, _ := k.try("", "exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 42")
	k.want("standard output", r.stdout, "out\n")
	k.want("standard error", r.stderr, "err\ncommand terminated with exit code 42\n")
	if r.code != 42 {
		k.t.Fatalf("exit code %d, want 42", r.code)
	}
	big := strings.Repeat("0123456789abcdef", 1<<16) // a MiB there and back
	k.want("a MiB", k.runIn(big, "exec", "-i", "web", "--", "cat"), big)
	k.contains("no such program", k.fails("", "exec", "web", "--", "nothing"), `exec: "nothing": executable file not found in $PATH`)
	k.contains("no such container", k.fails("", "exec", "web", "-c", "nobody", "--", "true"), `error: container nobody is not valid for pod web out of: web`)
	k.contains("no such pod", k.fails("", "exec", "nobody", "--", "true"), `pods "nobody" not found`)
}

func kubectlCp(k *kube) {
	k.pod("web")
	dir := k.t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "site", "deep"), 0o755); err != nil {
		k.t.Fatal(err)
	}
	files := map[string]string{"index.html": "hello", "deep/page.html": strings.Repeat("page ", 100_000)}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, "site", name), []byte(text), 0o644); err != nil {
			k.t.Fatal(err)
		}
	}
	k.run("cp", filepath.Join(dir, "site"), "web:/tmp/site")
	k.want("copied in", k.run("exec", "web", "--", "cat", "/tmp/site/index.html"), "hello")
	k.run("exec", "web", "--", "sh", "-c", "echo more > /tmp/site/more.html")
	k.run("cp", k.ns+"/web:/tmp/site", filepath.Join(dir, "back"))
	files["more.html"] = "more\n"
	for name, text := range files {
		got, err := os.ReadFile(filepath.Join(dir, "back", name))
		if err != nil || string(got) != text {
			k.t.Fatalf("copied out: %s has %d bytes (%v), want %d", name, len(got), err, len(text))
		}
	}
	k.contains("no such file", mustFail(k, "cp", "web:/tmp/nothing", filepath.Join(dir, "nothing")).all(), "/tmp/nothing: no such file")
}

func kubectlRunAttach(k *kube) {
	out := k.runIn("typed\n", "run", "once", "--image=coracle/demo:v1", "--restart=Never", "-i", "--rm", "--quiet", "--", "cat")
	k.contains("run -i", out, "typed")
	k.gone("pod/once")
	k.contains("code", k.fails("", "run", "fail", "--image=coracle/demo:v1", "--restart=Never", "-i", "--rm", "--", "sh", "-c", "sleep 1; exit 1"), "terminated")
	k.pod("web")
	attached := k.start("attach", "web")
	time.Sleep(300 * time.Millisecond) // attach shows what comes after it
	cluster.Eventually(k.t, 20*time.Second, func() error {
		k.run("exec", "web", "--", "wget", "-qO-", "http://localhost:8080/log?line=to-the-attached")
		return wantPart(attached.output.String(), "to-the-attached")
	})
}

func kubectlPortForward(k *kube) {
	k.deployment("web", 1)
	k.run("expose", "deployment", "web", "--port=80", "--target-port=8080")
	k.forwarded("deployment/web", "8080", "Hello from demo v1")
	k.forwarded("service/web", "80", "Hello from demo v1")
	k.apply(`
apiVersion: v1
kind: Pod
metadata: {name: store}
spec:
  containers:
  - {name: store, image: "coracle/demo:v1", args: [kv]}
`)
	k.ready("pod/store")
	port, _ := k.forward("pod/store", "3306")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, exchange := range [][2]string{{"SET a b\n", "OK\n"}, {"GET a\n", "b\n"}} {
		conn, err := k.c.Dial(ctx, "tcp", "127.0.0.1:"+port)
		if err != nil {
			k.t.Fatal(err)
		}
		answer := make([]byte, 16)
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Write([]byte(exchange[0])); err != nil {
			k.t.Fatal(err)
		}
		n, err := conn.Read(answer)
		conn.Close()
		if err != nil {
			k.t.Fatal(err)
		}
		k.want("answer", string(answer[:n]), exchange[1])
	}
}

// forward starts a port-forward and gives the local port.
func (k *kube) forward(target, port string) (string, *background) {
	k.t.Helper()
	b := k.start("port-forward", target, ":"+port)
	b.expect(k.t, "Forwarding from 127.0.0.1:")
	_, rest, _ := strings.Cut(b.output.String(), "Forwarding from 127.0.0.1:")
	local, _, _ := strings.Cut(rest, " ")
	return local, b
}

// forwarded checks that an HTTP server answers through a port-forward.
func (k *kube) forwarded(target, port, want string) {
	k.t.Helper()
	local, b := k.forward(target, port)
	defer b.stop()
	for range 3 {
		body, err := fetch(context.Background(), k.c, "http://127.0.0.1:"+local+"/")
		if err != nil {
			k.t.Fatalf("%s: %v\n%s", target, err, b.output)
		}
		k.contains(target, body, want)
	}
}

func kubectlProxy(k *kube) {
	b := k.start("proxy", "--port=0")
	b.expect(k.t, "Starting to serve on 127.0.0.1:")
	_, rest, _ := strings.Cut(b.output.String(), "127.0.0.1:")
	body, err := fetch(context.Background(), k.c, "http://127.0.0.1:"+strings.TrimSpace(rest)+"/api/v1/namespaces/"+k.ns)
	if err != nil {
		k.t.Fatal(err)
	}
	k.contains("namespace", body, `"name":"`+k.ns+`"`)
}
