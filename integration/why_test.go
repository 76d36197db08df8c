package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// TestWhy asks the real binary about pods in every state that docs/why.md names, and types that document.
func TestWhy(t *testing.T) {
	c := cluster.New(t)
	c.Up()
	t.Run("Document", func(t *testing.T) { whyDocument(t, c) })
	for name, test := range map[string]func(*kube){
		"Taint": whyTaint, "Affinity": whyAffinity, "PodAffinity": whyPodAffinity, "Claim": whyClaim, "Preemption": whyPreemption,
		"InitContainer": whyInitContainer, "Image": whyImage, "Finalizer": whyFinalizer, "Quota": whyQuota, "Ended": whyEnded, "Forbidden": whyForbidden, "JSON": whyJSON,
	} {
		t.Run(name, func(t *testing.T) { test(newKubeNamed(t, c, "why-"+strings.ToLower(name))) })
	}
}

func whyDocument(t *testing.T, c *cluster.Cluster) {
	text, err := os.ReadFile(filepath.Join(testenv.Repository(), "docs", "why.md"))
	if err != nil {
		t.Fatal(err)
	}
	k := &kube{t: t, c: c.For(t), ns: "default", kubeconfig: c.Kubeconfig}
	dir := checkout(t, k)
	steps := transcript(codeBlocks(string(text), "console"))
	if len(steps) < 10 {
		t.Fatalf("%d commands", len(steps))
	}
	for _, s := range steps {
		k.step(dir, s)
	}
}

// why runs the command in the test's namespace.
func (k *kube) why(args ...string) result {
	k.t.Helper()
	cmd := k.c.Command(cluster.Binary(k.t), append([]string{"why"}, args...)...)
	cmd.Env = append(cmd.Env, "KUBECONFIG="+k.kubeconfig)
	r, _ := k.execute(cmd, "")
	return r
}

// tells waits until the report has all the parts; events and statuses come when they come.
func (k *kube) tells(pod string, parts ...string) {
	k.t.Helper()
	cluster.Eventually(k.t, 30*time.Second, func() error {
		r := k.why(pod)
		for _, part := range parts {
			if !strings.Contains(r.stdout, part) {
				return fmt.Errorf("it does not tell %q (exit code %d):\n%s", part, r.code, r.all())
			}
		}
		return nil
	})
}

const whyPod = `{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {app: p}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: "coracle/demo:v1"}]`

func whyTaint(k *kube) {
	k.run("taint", "node", "node", "gpu=true:NoSchedule")
	defer k.run("taint", "node", "node", "gpu-")
	k.apply(whyPod + "}}")
	k.tells("p", "no node can run it", "1 node: node(s) had untolerated taint(s) (TaintToleration); nothing else", "gpu=true:NoSchedule", "Last said")
}

func whyAffinity(k *kube) {
	k.apply(whyPod + `, affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: [a, b]}]}]}}}}}`)
	k.tells("p", "node(s) didn't match Pod's node affinity/selector (NodeAffinity); nothing else", "it asks for zone In a,b")
}

func whyPodAffinity(k *kube) {
	k.apply(whyPod + `, affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: other}}}]}}}}`)
	k.tells("p", "node(s) didn't match pod affinity rules (InterPodAffinity); nothing else")
}

func whyClaim(k *kube) {
	k.apply(whyPod + `, volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}}`)
	k.tells("p", "claim data is missing: there is no such claim")
	k.apply(`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {storageClassName: nowhere, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}`)
	k.tells("p", `claim data is Pending: there is no storage class "nowhere"`)
}

func whyPreemption(k *kube) {
	k.apply(`{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: why-high}, value: 1000, preemptionPolicy: Never}`)
	defer k.run("delete", "priorityclass", "why-high")
	k.apply(strings.Replace(whyPod, `"coracle/demo:v1"`, `"coracle/demo:v1", resources: {requests: {cpu: "900"}}`, 1) + `, priorityClassName: why-high}}`)
	k.tells("p", "Insufficient cpu", "Preemption would not help: not eligible due to preemptionPolicy=Never.")
}

func whyInitContainer(k *kube) {
	k.apply(whyPod + `, initContainers: [{name: setup, image: "coracle/demo:v1", command: [sh, -c, "sleep 1"]}]}}`)
	k.tells("p", "init container setup started", "init container setup ended, exit code 0", "initialized", "container c started", "ready\n", "is number 1")
}

func whyImage(k *kube) {
	k.apply(strings.Replace(whyPod, "coracle/demo:v1", "localhost:1/none:v1", 1) + "}}")
	k.tells("p", "ImagePullBackOff on node", "container c: ImagePullBackOff: Back-off pulling image")
}

func whyFinalizer(k *kube) {
	k.apply(strings.Replace(whyPod, "labels:", "finalizers: [example.com/backup], labels:", 1) + "}}")
	k.run("delete", "pod", "p", "--wait=false")
	k.tells("p", "Terminating for", "waits for finalizers: example.com/backup; who set them removes them")
	k.run("patch", "pod", "p", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
}

func whyQuota(k *kube) {
	k.run("create", "quota", "small", "--hard=pods=0")
	k.run("create", "deployment", "web", "--image=coracle/demo:v1")
	k.tells("web", "who may have failed to create it", "FailedCreate: ", "exceeded quota: small")
}

func whyEnded(k *kube) {
	k.apply(strings.Replace(whyPod, `"coracle/demo:v1"`, `"coracle/demo:v1", command: [sh, -c, "exit 7"]`, 1) + `, restartPolicy: Never}}`)
	k.tells("p", "p: Failed on node", "ended last with exit code 7, Error", "container c ended, exit code 7")
}

// whyForbidden asks as one who may read pods and events of a namespace only.
func whyForbidden(k *kube) {
	k.run("create", "serviceaccount", "jane")
	k.run("create", "rolebinding", "jane", "--clusterrole=view", "--serviceaccount="+k.ns+":jane")
	k.apply(whyPod + `, nodeSelector: {disk: ssd}}}`)
	k.tells("p", "Last said")
	config, err := os.ReadFile(k.kubeconfig)
	if err != nil {
		k.t.Fatal(err)
	}
	jane := *k
	jane.kubeconfig = k.kubeconfig + "-jane"
	if err := os.WriteFile(jane.kubeconfig, config, 0o600); err != nil {
		k.t.Fatal(err)
	}
	jane.run("config", "set-credentials", "jane", "--token="+k.run("create", "token", "jane"))
	jane.run("config", "set-context", "--current", "--user=jane")
	r := jane.why("p")
	k.contains("jane's report", r.stdout, "it has no node", "Last said", "0/1 nodes are available", "Not read", `nodes: nodes is forbidden: User "system:serviceaccount:`)
}

func whyJSON(k *kube) {
	k.apply(whyPod + `, nodeSelector: {disk: ssd}}}`)
	k.tells("p", "Last said")
	var report struct {
		State   string
		Filters struct {
			Total, Passing int
			Groups         []struct {
				Filter, Reason string
				Nodes          []string
			}
		}
	}
	r := k.why("pod/p", "-o", "json", "-n", k.ns)
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		k.t.Fatalf("%v: %s", err, r.all())
	}
	g := report.Filters.Groups
	if report.State != "Pending" || report.Filters.Total != 1 || len(g) != 1 || g[0].Filter != "NodeAffinity" || len(g[0].Nodes) != 1 || g[0].Nodes[0] != "node" {
		k.t.Errorf("%+v", report)
	}
	for _, bad := range [][]string{{"nobody"}, {"p", "-o", "yaml"}, {}} {
		if r := k.why(bad...); r.code == 0 || !strings.HasPrefix(r.stderr, "coracle: ") {
			k.t.Errorf("why %v: exit code %d, %s", bad, r.code, r.all())
		}
	}
}
