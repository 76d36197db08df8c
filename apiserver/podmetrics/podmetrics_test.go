package podmetrics_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	apiregistration "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	"k8s.io/kube-openapi/pkg/spec3"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/openapi"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// nodes are two nodes that can be reached and one that cannot. Node n1 uses half a core, its pods a tenth each; its counters follow the clock.
type nodes struct {
	mu    sync.Mutex
	asked int
	begin time.Time
}

func (n *nodes) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

func (n *nodes) DialNode(_ context.Context, node string) (net.Conn, error) {
	if node == "lost" {
		return nil, errors.New("no tunnel")
	}
	n.mu.Lock()
	n.asked++
	n.mu.Unlock()
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		req, err := http.ReadRequest(bufio.NewReader(there))
		if err != nil || req.URL.Path != "/metrics/resource" {
			return
		}
		body := n.metrics()
		fmt.Fprintf(there, "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}()
	return here, nil
}

func (n *nodes) metrics() string {
	now := time.Now()
	var b bytes.Buffer
	value := func(name string, v float64) { fmt.Fprintf(&b, "%s %f %d\n", name, v, now.UnixMilli()) }
	ran := float64(now.UnixMilli()-n.begin.UnixMilli()) / 1000
	value("node_cpu_usage_seconds_total", ran/2)
	value("node_memory_working_set_bytes", 1<<30)
	for _, pod := range []string{"web", "db", "gone"} {
		for _, container := range []string{"side", "c"} {
			labels := fmt.Sprintf(`{container=%q,namespace="default",pod=%q}`, container, pod)
			value("container_cpu_usage_seconds_total"+labels, ran/10)
			value("container_memory_working_set_bytes"+labels, 64<<20)
		}
	}
	return b.String()
}

func fixture(t *testing.T) (*nodes, *apiserver.Server) {
	t.Helper()
	n := &nodes{begin: time.Now().Add(-time.Hour)}
	s := apiservertest.StartServer(t, apiserver.Config{Store: memory.New(), Nodes: n})
	client := kubernetes.NewForConfigOrDie(s.LocalConfig(apiservertest.Admin))
	ctx := t.Context()
	for _, name := range []string{"n1", "n2", "lost"} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}}}
		if _, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, node := range map[string]string{"web": "n1", "db": "n1", "far": "lost", "waits": ""} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": name}}, Spec: corev1.PodSpec{
			NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}, {Name: "side", Image: "i"}}}}
		made, err := client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if made.Status.Phase = corev1.PodRunning; node == "" {
			continue
		}
		if _, err := client.CoreV1().Pods("default").UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// A consistent read comes back once the cache shows all that was written.
	if _, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	return n, s
}

func TestTop(t *testing.T) {
	fake, s := fixture(t)
	config := s.LocalConfig(apiservertest.Admin)
	client := metricsclient.NewForConfigOrDie(config)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if n := fake.count(); n != 0 {
		t.Fatalf("nodes were asked %d times before anybody wanted to know", n)
	}
	list, err := client.MetricsV1beta1().NodeMetricses().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 2 || list.Items[0].Name != "n1" || list.Items[0].Labels["kubernetes.io/hostname"] != "n1" {
		t.Fatalf("nodes %+v", list.Items)
	}
	if n := list.Items[0]; n.Usage.Cpu().MilliValue() != 500 || n.Usage.Memory().String() != "1Gi" || n.Window.Duration < 900*time.Millisecond || time.Since(n.Timestamp.Time) > 30*time.Second {
		t.Errorf("node %+v", n)
	}
	pods, err := client.MetricsV1beta1().PodMetricses("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(pods.Items) != 2 {
		t.Fatalf("pods %+v", pods.Items)
	}
	web, err := client.MetricsV1beta1().PodMetricses("default").Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(web.Containers) != 2 || web.Containers[0].Name != "c" || web.Containers[0].Usage.Cpu().MilliValue() != 100 || web.Containers[1].Usage.Memory().String() != "64Mi" {
		t.Errorf("pod %+v", web)
	}
	for label, options := range map[string]metav1.ListOptions{
		"labels": {LabelSelector: "app=web"}, "fields": {FieldSelector: "metadata.name=web"}, "both": {LabelSelector: "app=web", FieldSelector: "metadata.namespace=default"},
	} {
		got, err := client.MetricsV1beta1().PodMetricses("default").List(ctx, options)
		if err != nil || len(got.Items) != 1 || got.Items[0].Name != "web" {
			t.Errorf("by %s: %v %v", label, got, err)
		}
	}
	if other, err := client.MetricsV1beta1().PodMetricses("kube-system").List(ctx, metav1.ListOptions{}); err != nil || len(other.Items) != 0 {
		t.Errorf("another namespace: %v %v", other, err)
	}
	if n := fake.count(); n != 4 {
		t.Errorf("two nodes were asked %d times for all of this, not twice each", n)
	}
	_, err = client.MetricsV1beta1().PodMetricses("default").Get(ctx, "far", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) || !strings.Contains(err.Error(), `podmetrics.metrics.k8s.io "default/far" not found`) {
		t.Errorf("a pod of a node that is lost: %v", err)
	}
	_, err = client.MetricsV1beta1().NodeMetricses().Get(ctx, "lost", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) || !strings.Contains(err.Error(), `nodemetrics.metrics.k8s.io "lost" not found`) {
		t.Errorf("a node that is lost: %v", err)
	}
	resource := schema.GroupVersionResource{Group: "metrics.k8s.io", Version: "v1beta1", Resource: "pods"}
	partial, err := metadata.NewForConfigOrDie(config).Resource(resource).Namespace("default").List(ctx, metav1.ListOptions{})
	if err != nil || len(partial.Items) != 2 {
		t.Errorf("metadata alone: %v %v", partial, err)
	}
}

func TestTableAndForms(t *testing.T) {
	_, s := fixture(t)
	get := func(path, accept string) (int, string) {
		t.Helper()
		config := s.LocalConfig(apiservertest.Admin)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://coracle.local"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := config.Transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, b.String()
	}
	const table, pods = "application/json;as=Table;v=v1;g=meta.k8s.io", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods"
	for _, c := range []struct {
		path, accept string
		code         int
		has          string
	}{
		{pods, table, 200, `"cells":["web","200`},
		{pods + "/web", table, 200, `{"name":"Window","type":"string","format":"duration"`},
		{"/apis/metrics.k8s.io/v1beta1/nodes", table, 200, `"1Gi"`},
		{pods, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", 200, `"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1"`},
		{pods + "/web", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", 200, `"kind":"PartialObjectMetadata"`},
		{pods, "application/vnd.kubernetes.protobuf", 200, "k8s\x00"},
		{pods, "application/json", 200, `"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1"`},
		{"/apis/metrics.k8s.io/v1beta1/namespaces/none/pods", "application/json", 200, `"items":[]`},
		{pods + "?watch=true", "application/json", 405, "MethodNotAllowed"},
		{pods + "?fieldSelector=spec.nodeName%3Dn1", "application/json", 400, `is not a known field selector: only \"metadata.name\", \"metadata.namespace\"`},
		{"/apis/metrics.k8s.io/v1beta1", "application/json", 200, `{"name":"nodes","singularName":"","namespaced":false,"kind":"NodeMetrics","verbs":["get","list"]}`},
	} {
		if code, body := get(c.path, c.accept); code != c.code || !strings.Contains(body, c.has) {
			t.Errorf("%s as %s: %d %s", c.path, c.accept, code, body)
		}
	}
}

// TestOpenAPI: kubectl explain finds kinds by paths, and schemas by kinds.
func TestOpenAPI(t *testing.T) {
	spec, err := openapi.New()
	if err != nil {
		t.Fatal(err)
	}
	s := apiservertest.StartServer(t, apiserver.Config{Store: memory.New(), OpenAPI: spec})
	paths, err := kubernetes.NewForConfigOrDie(s.LocalConfig(apiservertest.Admin)).Discovery().OpenAPIV3().Paths()
	if err != nil {
		t.Fatal(err)
	}
	group, ok := paths["apis/metrics.k8s.io/v1beta1"]
	if !ok {
		t.Fatal("no document")
	}
	raw, err := group.Schema("application/json")
	if err != nil {
		t.Fatal(err)
	}
	var doc spec3.OpenAPI
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for name, schema := range doc.Components.Schemas {
		if of, ok := schema.Extensions["x-kubernetes-group-version-kind"]; ok {
			kinds[fmt.Sprint(of)] = true
		} else if !strings.HasSuffix(name, ".ContainerMetrics") {
			t.Errorf("%s is of no kind", name)
		}
	}
	for path, item := range doc.Paths.Paths {
		if of := fmt.Sprintf("[%v]", item.Get.Extensions["x-kubernetes-group-version-kind"]); !kinds[of] {
			t.Errorf("%s is of %s", path, of)
		}
	}
	if len(doc.Paths.Paths) != 5 || len(kinds) != 4 {
		t.Errorf("%d paths, kinds %v", len(doc.Paths.Paths), kinds)
	}
}

// TestAddOnTakesOver puts an APIService as metrics-server's in the place of the server's own, and takes it away again.
func TestAddOnTakesOver(t *testing.T) {
	_, s := fixture(t)
	config := s.LocalConfig(apiservertest.Admin)
	services := apiregistration.NewForConfigOrDie(config).APIServices()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	own, err := services.Get(ctx, "v1beta1.metrics.k8s.io", metav1.GetOptions{})
	if err != nil || own.Spec.Service != nil || own.Spec.GroupPriorityMinimum != 100 || own.Spec.VersionPriority != 100 || len(own.Labels) != 0 {
		t.Fatalf("%+v %v", own, err)
	}
	client := metricsclient.NewForConfigOrDie(config).MetricsV1beta1().NodeMetricses()
	if _, err := client.List(ctx, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := services.Patch(ctx, own.Name, "application/merge-patch+json",
		[]byte(`{"spec":{"insecureSkipTLSVerify":true,"service":{"namespace":"kube-system","name":"metrics-server"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	answers := func(want bool) {
		t.Helper()
		for {
			_, err := client.List(ctx, metav1.ListOptions{})
			if (err == nil) == want {
				return
			}
			select {
			case <-ctx.Done():
				t.Fatalf("it answers: not %v: %v", want, err)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	answers(false) // the Service is not there
	if err := services.Delete(ctx, own.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	answers(true)
}
