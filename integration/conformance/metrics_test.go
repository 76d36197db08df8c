package conformance

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// burner is a pod of which one container keeps a core busy, as far as it may, and one holds memory.
const burner = `
apiVersion: v1
kind: Pod
metadata: {name: burner, labels: {app: burner}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: cpu, image: "coracle/demo:v1", command: [stress, -c, "1"], resources: {limits: {cpu: 300m}}}
  - {name: memory, image: "coracle/demo:v1", command: [stress, -m, "64"]}
---
apiVersion: v1
kind: Pod
metadata: {name: idle, labels: {app: idle}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "coracle/demo:v1", command: [sleep, "3600"]}
`

// TestPartsMetrics asks controllers that run alone what they do: on the loopback, once they lead.
func TestPartsMetrics(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.StartServer()
	const address = "127.0.0.1:10257"
	if out, err := c.Coracle("controllers", "--config", "/dev/null", "--metrics", "0.0.0.0:10257"); err == nil || !strings.Contains(out, "loopback") {
		t.Errorf("metrics for everybody: %v %s", err, out)
	}
	c.Start(append([]string{"controllers", "--config", "/dev/null", "--metrics", address}, c.Flags()...)...)
	get := func(path string) (string, error) {
		resp, err := c.HTTP(5*time.Second, false).Get("http://" + address + path)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	cluster.Eventually(t, 30*time.Second, func() error {
		body, err := get("/metrics")
		if err == nil && (!strings.Contains(body, `leader_election_master_status{name="coracle-controllers"} 1`) || !strings.Contains(body, `workqueue_adds_total{name="namespace"}`)) {
			err = fmt.Errorf("%s", body)
		}
		return err
	})
	if body, err := get("/healthz"); err != nil || body != "ok" {
		t.Errorf("healthz: %s %v", body, err)
	}
}

// TestMetrics asks a cluster with a real node what its pods use, as kubectl top does.
func TestMetrics(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up()
	e := &env{suite: newSuite(t, c), T: t, ctx: t.Context(), ns: "default"}
	c.KubectlIn(burner, "apply", "-f", "-")
	c.Kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/burner", "pod/idle")

	metrics := metricsclient.NewForConfigOrDie(e.config).MetricsV1beta1()
	atLeast := func(what string, got *resource.Quantity, least, most string) error {
		if got.Cmp(resource.MustParse(least)) < 0 || got.Cmp(resource.MustParse(most)) > 0 {
			return fmt.Errorf("%s is %s, want %s to %s", what, got, least, most)
		}
		return nil
	}
	e.eventually(func() error {
		list, err := metrics.PodMetricses("default").List(e.ctx, metav1.ListOptions{LabelSelector: "app=burner"})
		if err != nil || len(list.Items) != 1 || len(list.Items[0].Containers) != 2 {
			return fmt.Errorf("%v %v", list, err)
		}
		m := list.Items[0]
		if age := time.Since(m.Timestamp.Time); age > 30*time.Second || m.Window.Duration <= 0 || m.Window.Duration > 2*time.Minute {
			return fmt.Errorf("%v old, a window of %v", age, m.Window.Duration)
		}
		if err := atLeast("CPU", m.Containers[0].Usage.Cpu(), "100m", "360m"); err != nil {
			return err
		}
		return atLeast("memory", m.Containers[1].Usage.Memory(), "64Mi", "100Mi")
	})
	node, err := metrics.NodeMetricses().Get(e.ctx, "node", metav1.GetOptions{})
	e.must(err)
	e.must(atLeast("the node's CPU", node.Usage.Cpu(), "100m", "1k"))
	e.must(atLeast("the node's memory", node.Usage.Memory(), "100Mi", "1Ti"))

	for name, args := range map[string][]string{
		"NAME CPU(cores) CPU(%) MEMORY(bytes) MEMORY(%) node ":    {"top", "nodes"},
		"POD NAME CPU(cores) MEMORY(bytes) burner cpu ":           {"top", "pods", "--containers", "-l", "app=burner"},
		"NAME CPU(cores) MEMORY(bytes) burner ":                   {"top", "pods", "--sort-by=cpu"},
		"NAME CPU(cores) MEMORY(bytes) idle ":                     {"top", "pods", "--field-selector=metadata.name=idle"},
		"NAMESPACE NAME CPU(cores) MEMORY(bytes) default burner ": {"top", "pods", "-A", "--sort-by=memory"},
		"NAME CPU MEMORY WINDOW burner ":                          {"get", "pods.metrics.k8s.io"},
		"NAME SERVICE AVAILABLE AGE v1beta1.metrics.k8s.io Local": {"get", "apiservice", "v1beta1.metrics.k8s.io"},
	} {
		if out := c.Kubectl(args...); !strings.HasPrefix(strings.Join(strings.Fields(out), " "), name) {
			t.Errorf("kubectl %s:\n%s", strings.Join(args, " "), out)
		}
	}
	if out := c.Kubectl("explain", "pods.containers", "--api-version=metrics.k8s.io/v1beta1"); !strings.Contains(out, "KIND:       PodMetrics") || !strings.Contains(out, "usage\t<map[string]string> -required-") {
		t.Errorf("kubectl explain:\n%s", out)
	}
	if out := c.Kubectl("get", "--raw", "/api/v1/nodes/node/proxy/metrics/resource"); !strings.Contains(out, `container_memory_working_set_bytes{container="memory",namespace="default",pod="burner"}`) || !strings.Contains(out, "resource_scrape_error 0") {
		t.Errorf("/metrics/resource:\n%s", out)
	}
	if out := c.Kubectl("get", "--raw", "/api/v1/nodes/node/proxy/stats/summary"); !strings.Contains(out, `"usageCoreNanoSeconds"`) || !strings.Contains(out, `"rxBytes"`) {
		t.Errorf("/stats/summary:\n%s", out)
	}
	if out := c.Kubectl("get", "--raw", "/metrics"); !strings.Contains(out, `workqueue_adds_total{name="replicaset"}`) || !strings.Contains(out, `workqueue_longest_running_processor_seconds{name="podgc"} 0`) {
		t.Errorf("/metrics lacks the controllers")
	}
	c.Kubectl("create", "serviceaccount", "viewer")
	c.Kubectl("create", "rolebinding", "viewer", "--clusterrole=view", "--serviceaccount=default:viewer")
	const viewer = "--as=system:serviceaccount:default:viewer"
	e.eventually(func() error {
		out, err := c.TryKubectl("", "auth", "can-i", "list", "pods.metrics.k8s.io", viewer)
		if err != nil {
			return fmt.Errorf("%s %w", out, err)
		}
		return nil
	})
	if out, err := c.TryKubectl("", "top", "nodes", viewer); err == nil || !strings.Contains(out, `cannot list resource "nodes" in API group "metrics.k8s.io"`) {
		t.Errorf("a viewer of one namespace sees nodes: %s", out)
	}
}
