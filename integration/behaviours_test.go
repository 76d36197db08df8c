package integration

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// testBehaviours shows what conformance asks of kubectl and of service accounts where pods run.
func testBehaviours(t *testing.T, c *cluster.Cluster) {
	for name, test := range map[string]func(*kube){
		"guestbook": guestbook, "describe-controller": describeController, "diff-image": diffImage, "label-pod": labelPod,
		"patch-pods": patchPods, "run-never": runNever, "dry-run": serverDryRun, "proxy-socket": proxySocket, "proxy-port": proxyPort,
		"controller": controllerLife, "log-filters": logFilters, "account-mount": accountMounts, "account-projected": accountProjected,
		"cluster-info": clusterInfo,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newKube(t, c))
		})
	}
}

// controllerManifest is a ReplicationController of the demo image.
func controllerManifest(name string, replicas int) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: ReplicationController
metadata: {name: %[1]s, labels: {app: %[1]s, role: primary}}
spec:
  replicas: %[2]d
  selector: {app: %[1]s, role: primary}
  template:
    metadata: {labels: {app: %[1]s, role: primary}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: web, image: "coracle/demo:v1", ports: [{name: http, containerPort: 8080}]}
`, name, replicas)
}

// running waits until a controller has so many running pods, and no others.
func (k *kube) running(app string, want int) {
	k.t.Helper()
	cluster.Eventually(k.t, time.Minute, func() error {
		r, _ := k.try("", "get", "pods", "-l", "app="+app, "-o", `jsonpath={.items[*].status.containerStatuses[*].ready}`)
		return cluster.Want("ready", r.all(), strings.TrimSpace(strings.Repeat("true ", want)))
	})
}

// guestbook is an application of three tiers: a store, copies of it and frontends, each behind a Service.
func guestbook(k *kube) {
	tier := func(app, role string, replicas int, args string, port int) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec:
  ports: [{port: %[5]d, targetPort: main}]
  selector: {app: %[1]s, role: %[2]s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[3]d
  selector: {matchLabels: {app: %[1]s, role: %[2]s}}
  template:
    metadata: {labels: {app: %[1]s, role: %[2]s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: coracle/demo:v1
        args: [%[4]s]
        resources: {requests: {cpu: 10m, memory: 20Mi}}
        ports: [{name: main, containerPort: %[5]d}]
---
`, app, role, replicas, args, port)
	}
	all := tier("store-primary", "primary", 1, "kv", 3306) + tier("store-replica", "replica", 2, "kv", 3306) + tier("frontend", "front", 3, "serve", 8080)
	out := k.apply(all)
	k.contains("created", out, "service/store-primary created", "service/store-replica created", "service/frontend created", "deployment.apps/frontend created")
	for app, replicas := range map[string]int{"store-primary": 1, "store-replica": 2, "frontend": 3} {
		k.rolledOut(app)
		k.running(app, replicas)
	}
	frontend := "deployment/frontend"
	cluster.Eventually(k.t, time.Minute, func() error {
		r, _ := k.try("", "exec", frontend, "--", "kv-set", "store-primary:3306", "messages", "TestEntry")
		return cluster.Want("entry", strings.TrimSpace(r.all()), "OK")
	})
	k.want("read back", k.run("exec", frontend, "--", "kv-get", "store-primary:3306", "messages"), "TestEntry")
	cluster.Eventually(k.t, time.Minute, func() error {
		r, _ := k.try("", "exec", frontend, "--", "wget", "-qO-", "-T", "2", "http://frontend:8080")
		return wantPart(r.all(), "Hello from demo v1 on frontend-")
	})
	k.contains("stopped", k.runIn(all, "delete", "--grace-period=0", "--force", "-f", "-"), `deployment.apps "frontend" force deleted`)
	cluster.Eventually(k.t, time.Minute, func() error {
		r, _ := k.try("", "get", "pods,services,deployments", "-o", "name")
		return cluster.Want("left", strings.TrimSpace(r.stdout), "")
	})
}

func describeController(k *kube) {
	k.apply(controllerManifest("primary", 1))
	k.run("expose", "rc", "primary", "--port=6379", "--target-port=http")
	k.running("primary", 1)
	pod := k.get("pods", "{.items[0].metadata.name}")
	k.contains("pod", k.run("describe", "pod", pod), "Name:", "Namespace:", "Service Account:", "Controlled By:  ReplicationController/primary",
		"Image:", "State:          Running", "QoS Class:")
	k.contains("rc", k.run("describe", "rc", "primary"), "Name:", "Namespace:", "Selector:", "app=primary,role=primary", "Labels:", "Replicas:     1 current / 1 desired",
		"Pods Status:", "1 Running / 0 Waiting / 0 Succeeded / 0 Failed", "Pod Template:", "Image:", "Events:")
	k.contains("service", k.run("describe", "service", "primary"), "Name:", "Namespace:", "Labels:", "app=primary", "role=primary", "Annotations:", "Selector:",
		"Type:", "ClusterIP", "IP:", "Port:", "6379/TCP", "Endpoints:", "Session Affinity:")
	k.contains("node", k.run("describe", "node", "node"), "Name:", "Labels:", "Annotations:", "CreationTimestamp:", "Conditions:", "Type", "Status", "LastHeartbeatTime",
		"LastTransitionTime", "Reason", "Message", "Addresses:", "Capacity:", "Version:", "Kubelet Version:", "Pods:", pod)
	k.contains("namespace", k.run("describe", "namespace", k.ns), "Name:", "Labels:", "Annotations:", "Status:", "Active")
}

func diffImage(k *kube) {
	k.apply(deployment("web", 0))
	r, _ := k.try(strings.Replace(deployment("web", 0), "coracle/demo:v1", "busybox:1", 1), "diff", "-f", "-")
	if r.code != 1 {
		k.t.Fatalf("exit code %d, want 1\n%s", r.code, r.all())
	}
	k.contains("diff", r.stdout, "-      - image: coracle/demo:v1", "+      - image: busybox:1")
}

func labelPod(k *kube) {
	k.pod("pause")
	k.want("labelled", k.run("label", "pods", "pause", "testing-label=testing-label-value"), "pod/pause labeled")
	k.contains("with it", k.run("get", "pod", "pause", "-L", "testing-label"), "testing-label-value")
	k.want("selected", k.run("get", "pods", "-l", "testing-label=testing-label-value", "-o", "name"), "pod/pause")
	k.run("label", "pods", "pause", "testing-label-")
	k.want("selected after", k.run("get", "pods", "-l", "testing-label", "-o", "name"), "")
}

func patchPods(k *kube) {
	k.apply(controllerManifest("primary", 2))
	k.running("primary", 2)
	for _, pod := range strings.Fields(k.get("pods", "{.items[*].metadata.name}")) {
		k.run("patch", "pod", pod, "-p", `{"metadata":{"annotations":{"x":"y"}}}`)
	}
	k.want("annotations", k.get("pods", "{.items[*].metadata.annotations.x}"), "y y")
}

func runNever(k *kube) {
	k.want("run", k.run("run", "e2e", "--restart=Never", "--image=coracle/demo:v1"), "pod/e2e created")
	k.want("image", k.get("pod/e2e", "{.spec.containers[*].image} {.spec.restartPolicy}"), "coracle/demo:v1 Never")
	k.ready("pod/e2e")
}

func serverDryRun(k *kube) {
	k.pod("e2e")
	k.contains("patch", k.run("patch", "pod", "e2e", "--dry-run=server", "-o", "yaml", "-p", `{"spec":{"containers":[{"name":"e2e","image":"busybox:1"}]}}`), "image: busybox:1")
	k.want("image", k.get("pod/e2e", "{.spec.containers[0].image}"), "coracle/demo:v1")
}

func proxySocket(k *kube) {
	path := filepath.Join(k.t.TempDir(), "p.sock")
	k.start("proxy", "--unix-socket="+path)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	cluster.Eventually(k.t, 30*time.Second, func() error {
		body, err := request(context.Background(), client, "http://localhost/api/")
		if err != nil {
			return err
		}
		return wantPart(body, `"v1"`)
	})
}

func proxyPort(k *kube) {
	b := k.start("proxy", "-p", "0", "--disable-filter")
	b.expect(k.t, "Starting to serve on 127.0.0.1:")
	_, port, _ := strings.Cut(b.output.String(), "127.0.0.1:")
	body, err := fetch(context.Background(), k.c, "http://127.0.0.1:"+strings.TrimSpace(port)+"/api/")
	if err != nil {
		k.t.Fatal(err)
	}
	k.contains("versions", body, `"versions"`, `"v1"`)
}

// controllerLife is the update demo: two copies, one, two, none.
func controllerLife(k *kube) {
	k.want("create", k.runIn(controllerManifest("update-demo", 2), "create", "-f", "-"), "replicationcontroller/update-demo created")
	k.running("update-demo", 2)
	for _, replicas := range []int{1, 2} {
		k.run("scale", "rc", "update-demo", fmt.Sprintf("--replicas=%d", replicas), "--timeout=5m")
		k.running("update-demo", replicas)
	}
	k.runIn(controllerManifest("update-demo", 2), "delete", "--grace-period=0", "--force", "-f", "-")
	k.want("left", k.run("get", "rc,services", "-l", "app=update-demo", "--no-headers"), "")
	k.eventually("pods", "{.items[*].metadata.name}", "")
}

func logFilters(k *kube) {
	k.pod("logger", "sh", "-c", "for i in 1 2 3 4 5; do echo line $i of the log; done; sleep 1000")
	cluster.Eventually(k.t, 30*time.Second, func() error { return wantPart(k.run("logs", "logger", "logger"), "line 5 of the log") })
	k.want("tail", k.run("logs", "logger", "logger", "--tail=1"), "line 5 of the log")
	k.want("bytes", k.run("logs", "logger", "logger", "--limit-bytes=1"), "l")
	line := k.run("logs", "logger", "logger", "--tail=1", "--timestamps")
	at, text, _ := strings.Cut(line, " ")
	if _, err := time.Parse(time.RFC3339Nano, at); err != nil || text != "line 5 of the log" {
		k.t.Errorf("with its time: %q, %v", line, err)
	}
	time.Sleep(2500 * time.Millisecond) // what is since one second ago is to be less than all
	k.want("since a second", k.run("logs", "logger", "logger", "--since=1s"), "")
	if n := bytes.Count([]byte(k.run("logs", "logger", "logger", "--since=24h")), []byte("\n")); n != 4 {
		k.t.Errorf("since a day: %d further lines, want 4", n)
	}
}

const accountFolder = "/var/run/secrets/kubernetes.io/serviceaccount"

// accountMounts looks from inside pods at every combination of what the pod and its account say.
func accountMounts(k *kube) {
	for name, says := range map[string]string{"default": "", "mount": "automountServiceAccountToken: true", "nomount": "automountServiceAccountToken: false"} {
		if name != "default" {
			k.apply(fmt.Sprintf("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %s}\n%s\n", name, says))
		}
	}
	k.eventually("serviceaccount/default", "{.metadata.name}", "default")
	type combination struct {
		account, pod string
		mounted      bool
	}
	all := []combination{
		{"default", "", true}, {"mount", "", true}, {"nomount", "", false},
		{"default", "true", true}, {"mount", "true", true}, {"nomount", "true", true},
		{"default", "false", false}, {"mount", "false", false}, {"nomount", "false", false},
	}
	name := func(c combination) string { return strings.TrimSuffix("pod-"+c.account+"-"+c.pod, "-") }
	for _, c := range all {
		automount := ""
		if c.pod != "" {
			automount = "automountServiceAccountToken: " + c.pod
		}
		k.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  serviceAccountName: %s
  %s
  terminationGracePeriodSeconds: 1
  containers: [{name: web, image: "coracle/demo:v1"}]
`, name(c), c.account, automount))
	}
	for _, c := range all {
		k.ready("pod/" + name(c))
		r, ok := k.try("", "exec", name(c), "--", "ls", accountFolder)
		if ok != c.mounted {
			k.t.Errorf("%s: mounted is %v, want %v: %s", name(c), ok, c.mounted, r.all())
		}
		if ok {
			k.want("files", strings.Join(strings.Fields(r.stdout), " "), "ca.crt namespace token")
			k.want("namespace", k.run("exec", name(c), "--", "cat", accountFolder+"/namespace"), k.ns)
		}
	}
}

// accountProjected mounts a token of another audience beside the usual files, and shows whose it is.
func accountProjected(k *kube) {
	k.apply(`
apiVersion: v1
kind: Pod
metadata: {name: holder}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: coracle/demo:v1
    volumeMounts: [{name: token, mountPath: /token}]
  volumes:
  - name: token
    projected:
      sources:
      - serviceAccountToken: {path: other, audience: somebody-else, expirationSeconds: 3600}
`)
	k.ready("pod/holder")
	other := k.run("exec", "holder", "--", "cat", "/token/other")
	usual := k.run("exec", "holder", "--", "cat", accountFolder+"/token")
	review := func(token, audiences string) string {
		return k.runIn(fmt.Sprintf(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":%q%s}}`, token, audiences),
			"create", "-f", "-", "-o", "jsonpath={.status.authenticated} {.status.user.username} {.status.audiences[0]}")
	}
	user := "system:serviceaccount:" + k.ns + ":default"
	k.want("for another", review(other, `,"audiences":["somebody-else"]`), "true "+user+" somebody-else")
	k.contains("for the server", review(usual, ""), "true "+user)
	if got := review(other, ""); strings.HasPrefix(got, "true") {
		k.t.Errorf("another's token is good for the server: %s", got)
	}
}

func clusterInfo(k *kube) {
	k.contains("cluster-info", k.run("cluster-info"), "Kubernetes control plane", "is running at")
	versions := strings.Fields(k.run("api-versions"))
	found := false
	for _, v := range versions {
		found = found || v == "v1"
	}
	if !found {
		k.t.Errorf("no v1 among %v", versions)
	}
}
