package controllers_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers"
	"github.com/coracle-dev/coracle/controllers/autoscale"
)

// load stands in for the metrics APIs: it answers in their place, and leaves every other request to the API server.
type load struct {
	next http.RoundTripper
	mu   sync.Mutex
	// usage is what every container of every pod uses, by resource. The rest are custom and external metrics by their path behind the
	// namespace; "pods/*/M" is what each pod has of M.
	usage  map[string]string
	custom map[string]string
	asked  []string
	pods   func() []string
}

func (l *load) set(change func(*load)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
}

func (l *load) RoundTrip(r *http.Request) (*http.Response, error) {
	group, path, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/apis/"), "/")
	if !ok || !strings.HasSuffix(group, "metrics.k8s.io") {
		return l.next.RoundTrip(r)
	}
	var names []string
	if strings.Contains(path, "/pods") {
		names = l.pods()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := r.URL.Path
	if r.URL.RawQuery != "" {
		asked += "?" + r.URL.RawQuery
	}
	l.asked = append(l.asked, asked)
	_, path, _ = strings.Cut(path, "namespaces/default/")
	code, kind, body := http.StatusNotFound, "text/plain", []byte("404 page not found")
	if items := l.items(group, path, names); items != nil {
		var err error
		if body, err = json.Marshal(map[string]any{"metadata": map[string]any{}, "items": items}); err != nil {
			return nil, err
		}
		code, kind = http.StatusOK, "application/json"
	}
	return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
}

func (l *load) items(group, path string, names []string) []any {
	now := time.Now().UTC().Format(time.RFC3339)
	var items []any
	switch {
	case group == "metrics.k8s.io":
		for _, name := range names {
			if l.usage != nil {
				items = append(items, map[string]any{"metadata": map[string]any{"name": name}, "timestamp": now, "window": "30s",
					"containers": []any{map[string]any{"name": "c", "usage": l.usage}, map[string]any{"name": "side", "usage": map[string]string{"cpu": "0", "memory": "0"}}}})
			}
		}
	case l.custom[path] == "":
	case strings.HasPrefix(path, "pods/"):
		for _, name := range names {
			items = append(items, map[string]any{"describedObject": map[string]any{"kind": "Pod", "name": name}, "timestamp": now, "value": l.custom[path]})
		}
	default:
		items = []any{map[string]any{"describedObject": map[string]any{"name": "it"}, "timestamp": now, "value": l.custom[path]}}
	}
	return items
}

// autoscaled is a cluster whose controllers see load, and whose autoscalers look at it ten times a second.
func autoscaled(t *testing.T, change func(*autoscale.Config)) (*cluster, *load) {
	t.Helper()
	l := &load{custom: map[string]string{}, pods: func() []string { return nil }}
	c := start(t, func(cfg *controllers.Config) {
		cfg.Autoscaling = autoscale.Config{SyncPeriod: 100 * time.Millisecond, DownscaleStabilization: 300 * time.Millisecond}
		if change != nil {
			change(&cfg.Autoscaling)
		}
		cfg.RestConfig = rest.CopyConfig(cfg.RestConfig)
		cfg.RestConfig.Wrap(func(rt http.RoundTripper) http.RoundTripper { l.set(func(l *load) { l.next = rt }); return l })
	})
	l.set(func(l *load) {
		l.pods = func() []string {
			var names []string
			list, err := c.client.CoreV1().Pods("default").List(c.ctx, metav1.ListOptions{})
			if err != nil {
				return nil
			}
			for _, pod := range list.Items {
				if pod.Status.Phase == corev1.PodRunning {
					names = append(names, pod.Name)
				}
			}
			return names
		}
	})
	c.node("n1")
	return c, l
}

// requesting is a deployment whose pods request 100m and 100Mi each.
func requesting(replicas int32) *appsv1.Deployment {
	d := deployment(replicas)
	d.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("100Mi")}
	return d
}

var (
	webTarget  = autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}
	halfMemory = autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: "memory",
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](50)}}}
)

func averageValue(v string) autoscalingv2.MetricTarget {
	return autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse(v))}
}

func podsMetric(name, average string) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: name}, Target: averageValue(average)}}
}

// autoscaler makes one of 2 to 8 replicas.
func (c *cluster) autoscaler(name string, target autoscalingv2.CrossVersionObjectReference, metrics ...autoscalingv2.MetricSpec) {
	c.Helper()
	_, err := c.client.AutoscalingV2().HorizontalPodAutoscalers("default").Create(c.ctx, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{ScaleTargetRef: target, MinReplicas: ptr.To[int32](2), MaxReplicas: 8, Metrics: metrics}}, metav1.CreateOptions{})
	c.must(err)
}

// scaledTo waits until the deployment web is to have n replicas.
func (c *cluster) scaledTo(n int32) {
	c.Helper()
	c.eventually("the scale", func() error {
		d, err := c.client.AppsV1().Deployments("default").Get(c.ctx, "web", metav1.GetOptions{})
		c.must(err)
		if *d.Spec.Replicas != n {
			return fmt.Errorf("%d replicas, want %d", *d.Spec.Replicas, n)
		}
		return nil
	})
}

// conditions waits until each of the conditions, "type=status reason: message", is the autoscaler's, and gives it.
func (c *cluster) conditions(name string, want ...string) *autoscalingv2.HorizontalPodAutoscaler {
	c.Helper()
	var hpa *autoscalingv2.HorizontalPodAutoscaler
	c.eventually("conditions", func() error {
		var err error
		hpa, err = c.client.AutoscalingV2().HorizontalPodAutoscalers("default").Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		var have strings.Builder
		for _, cond := range hpa.Status.Conditions {
			fmt.Fprintf(&have, "\n%s=%s %s: %s\n", cond.Type, cond.Status, cond.Reason, cond.Message)
		}
		for _, w := range want {
			if !strings.Contains(have.String(), "\n"+w+"\n") {
				return fmt.Errorf("%s\nwant %s", have.String(), w)
			}
		}
		return nil
	})
	return hpa
}

func TestAutoscalingByMemory(t *testing.T) {
	c, l := autoscaled(t, nil)
	c.deploy(requesting(1))
	l.set(func(l *load) { l.usage = map[string]string{"cpu": "10m", "memory": "50Mi"} })
	c.autoscaler("web", webTarget, halfMemory)
	c.scaledTo(2)
	c.event("web", "SuccessfulRescale", "New size: 2; reason: Current number of replicas below Spec.MinReplicas")

	l.set(func(l *load) { l.usage = map[string]string{"cpu": "10m", "memory": "100Mi"} })
	c.scaledTo(8)
	c.event("web", "SuccessfulRescale", "New size: 4; reason: memory resource utilization (percentage of request) above target")
	c.rolledOut("web")
	hpa := c.conditions("web", "AbleToScale=True ReadyForNewScale: recommended size matches current size",
		"ScalingActive=True ValidMetricFound: the HPA was able to successfully calculate a replica count from memory resource utilization (percentage of request)",
		"ScalingLimited=True TooManyReplicas: the desired replica count is more than the maximum replica count")
	m := hpa.Status.CurrentMetrics
	if len(m) != 1 || m[0].Resource == nil || m[0].Resource.Name != "memory" || *m[0].Resource.Current.AverageUtilization != 100 || m[0].Resource.Current.AverageValue.Value() != 100<<20 {
		t.Fatalf("%+v", m)
	}
	if s := hpa.Status; s.CurrentReplicas != 8 || s.DesiredReplicas != 8 || s.LastScaleTime == nil {
		t.Fatalf("%+v", s)
	}
	l.set(func(l *load) { l.usage = map[string]string{"cpu": "10m", "memory": "1Mi"} })
	c.conditions("web", "AbleToScale=True ScaleDownStabilized: recent recommendations were higher than current one, applying the highest recent recommendation")
	c.scaledTo(2)
	c.event("web", "SuccessfulRescale", "New size: 2; reason: All metrics below target")
	c.conditions("web", "ScalingLimited=True TooFewReplicas: the desired replica count is less than the minimum replica count")
}

// TestAutoscalingByCPU has pods that have worked for long, and others that have only begun, whose CPU says nothing yet.
func TestAutoscalingByCPU(t *testing.T) {
	c, l := autoscaled(t, nil)
	c.deploy(requesting(2))
	l.set(func(l *load) { l.usage = map[string]string{"cpu": "200m", "memory": "1Mi"} })
	c.autoscaler("web", webTarget, autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{
		Name: "cpu", Container: "c", Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](100)}}})
	const unready = "failed to get cpu utilization: did not receive metrics for targeted pods (pods might be unready)"
	c.event("web", "FailedGetContainerResourceMetric", unready)
	c.event("web", "FailedComputeMetricsReplicas", "invalid metrics (1 invalid out of 1), first error is: failed to get c container metric value: "+unready)
	c.conditions("web", "ScalingActive=False FailedGetContainerResourceMetric: the HPA was unable to compute the replica count: "+unready)
	c.scaledTo(2)
	patch := fmt.Sprintf(`{"status":{"startTime":%q}}`, time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))
	for _, pod := range c.pods("") {
		_, err := c.client.CoreV1().Pods("default").Patch(c.ctx, pod.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
		c.must(err)
	}
	c.scaledTo(4) // twice as much as there should be; the new pods count as idle, hence no further
	time.Sleep(300 * time.Millisecond)
	c.scaledTo(4)
	hpa := c.conditions("web", "ScalingActive=True ValidMetricFound: the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)")
	if m := hpa.Status.CurrentMetrics[0].ContainerResource; m == nil || m.Container != "c" || *m.Current.AverageUtilization != 200 {
		t.Fatalf("%+v", m)
	}
}

func TestMetricsThatAreMissing(t *testing.T) {
	c, l := autoscaled(t, nil)
	c.deploy(requesting(4))
	c.autoscaler("web", webTarget, halfMemory, podsMetric("requests", "10"))
	const (
		memory = "failed to get memory utilization: unable to get metrics for resource memory: unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)"
		custom = "unable to get metric requests: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered"
	)
	c.event("web", "FailedGetResourceMetric", memory)
	c.event("web", "FailedGetPodsMetric", custom)
	c.event("web", "FailedComputeMetricsReplicas", "invalid metrics (2 invalid out of 2), first error is: failed to get memory resource metric value: "+memory)
	c.conditions("web", "AbleToScale=True SucceededGetScale: the HPA controller was able to get the target's current scale",
		"ScalingActive=False FailedGetResourceMetric: the HPA was unable to compute the replica count: "+memory)

	l.set(func(l *load) { l.custom["pods/*/requests"] = "1" }) // little to do, but who knows about the memory
	c.eventually("the metric to be read", func() error {
		hpa := c.conditions("web")
		if m := hpa.Status.CurrentMetrics; len(m) != 2 || m[1].Pods == nil || m[1].Pods.Current.AverageValue.Value() != 1 {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})
	c.scaledTo(4)
	l.set(func(l *load) { l.custom["pods/*/requests"] = "15" }) // up it may go all the same
	c.scaledTo(6)
	c.event("web", "SuccessfulRescale", "New size: 6; reason: pods metric requests above target")
}

func TestTheGreatestOfSeveralMetrics(t *testing.T) {
	c, l := autoscaled(t, nil)
	c.deploy(requesting(2))
	l.set(func(l *load) {
		l.usage = map[string]string{"cpu": "10m", "memory": "50Mi"}
		l.custom = map[string]string{"pods/*/requests": "10", "services/shop/orders": "90", "queue": "70", "metrics/weight": "3"}
	})
	value := func(v string) autoscalingv2.MetricTarget {
		return autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: ptr.To(resource.MustParse(v))}
	}
	c.autoscaler("web", webTarget, halfMemory, podsMetric("requests", "10"),
		autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{
			DescribedObject: autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Service", Name: "shop"}, Metric: autoscalingv2.MetricIdentifier{Name: "orders"}, Target: averageValue("45")}},
		autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{
			DescribedObject: autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Namespace", Name: "default"}, Metric: autoscalingv2.MetricIdentifier{Name: "weight"}, Target: value("3")}},
		autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: "queue", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"of": "web"}}}, Target: averageValue("20")}})
	c.scaledTo(4)
	c.event("web", "SuccessfulRescale", "New size: 4; reason: external metric queue(&LabelSelector{MatchLabels:map[string]string{of: web,},MatchExpressions:[]LabelSelectorRequirement{},}) above target")
	c.rolledOut("web")
	l.set(func(l *load) { l.custom["services/shop/orders"] = "300" })
	c.scaledTo(7)
	c.rolledOut("web")
	c.eventually("what is measured", func() error {
		m := c.conditions("web").Status.CurrentMetrics
		if len(m) != 5 || m[0].Resource == nil || m[1].Pods == nil || m[2].Object == nil || m[3].Object == nil || m[4].External == nil {
			return fmt.Errorf("%+v", m)
		}
		// 300 and 70 among 7 pods, and 3 as a whole
		if m[2].Object.Current.AverageValue.MilliValue() != 42858 || m[2].Object.DescribedObject.Name != "shop" || m[3].Object.Current.Value.Value() != 3 || m[4].External.Current.AverageValue.Value() != 10 {
			return fmt.Errorf("%+v %+v %+v", m[2].Object.Current, m[3].Object.Current, m[4].External.Current)
		}
		return nil
	})
	var asked string
	l.set(func(l *load) { asked = strings.Join(l.asked, "\n") + "\n" })
	for _, path := range []string{
		"/apis/metrics.k8s.io/v1beta1/namespaces/default/pods?labelSelector=app%3Dweb",
		"/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/*/requests?labelSelector=app%3Dweb",
		"/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/services/shop/orders",
		"/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/metrics/weight",
		"/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue?labelSelector=of%3Dweb",
	} {
		if !strings.Contains(asked, path+"\n") {
			t.Errorf("%s was not asked", path)
		}
	}
}

func TestTargetsThatCannotBeScaled(t *testing.T) {
	c, l := autoscaled(t, nil)
	l.set(func(l *load) { l.usage = map[string]string{"memory": "50Mi"} })
	const cannot = "AbleToScale=False FailedGetScale: the HPA controller was unable to get the target's current scale: "
	c.autoscaler("absent", autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "absent"}, halfMemory)
	c.conditions("absent", cannot+`deployments.apps "absent" not found`)
	c.event("absent", "FailedGetScale", `deployments.apps "absent" not found`)
	c.autoscaler("unknown", autoscalingv2.CrossVersionObjectReference{APIVersion: "nowhere.example.com/v1", Kind: "Nothing", Name: "x"}, halfMemory)
	c.conditions("unknown", cannot+`no matches for kind "Nothing" in group "nowhere.example.com"`)

	c.deploy(requesting(3))
	for _, name := range []string{"one", "two"} {
		c.autoscaler(name, webTarget, halfMemory)
	}
	const both = "pods by selector app=web are controlled by multiple HPAs: [default/one default/two]"
	c.conditions("one", "ScalingActive=False AmbiguousSelector: "+both)
	c.conditions("two", "ScalingActive=False AmbiguousSelector: "+both)
	c.event("two", "AmbiguousSelector", both)
	c.must(c.client.AutoscalingV2().HorizontalPodAutoscalers("default").Delete(c.ctx, "two", metav1.DeleteOptions{}))
	c.conditions("one", "ScalingActive=True ValidMetricFound: the HPA was able to successfully calculate a replica count from memory resource utilization (percentage of request)")

	c.change("web", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](0) })
	c.conditions("one", "ScalingActive=False ScalingDisabled: scaling is disabled since the replica count of the target is zero")
	c.change("web", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](12) })
	c.event("one", "SuccessfulRescale", "New size: 8; reason: Current number of replicas above Spec.MaxReplicas")
}

// TestAutoscalingOfOtherKinds scales an object of a kind that is defined later; its selector is what its status says.
func TestAutoscalingOfOtherKinds(t *testing.T) {
	c, l := autoscaled(t, nil)
	l.set(func(l *load) { l.custom["pods/*/requests"] = "20" })
	c.autoscaler("fleet", autoscalingv2.CrossVersionObjectReference{APIVersion: "example.com/v1", Kind: "Boat", Name: "of-boats"}, podsMetric("requests", "10"))
	c.conditions("fleet", `AbleToScale=False FailedGetScale: the HPA controller was unable to get the target's current scale: no matches for kind "Boat" in group "example.com"`)
	c.define("boats", "Boat", true)
	boat := c.custom("boats", "Boat", map[string]any{"replicas": int64(3)})
	for i := range 3 {
		c.ownedPod(fmt.Sprintf("crew-%d", i), boat)
	}
	c.must(c.client.AutoscalingV2().HorizontalPodAutoscalers("default").Delete(c.ctx, "fleet", metav1.DeleteOptions{}))
	c.restart() // a kind that was not found is looked for again after half a minute only
	c.autoscaler("fleet", autoscalingv2.CrossVersionObjectReference{APIVersion: "example.com/v1", Kind: "Boat", Name: "of-boats"}, podsMetric("requests", "10"))
	c.conditions("fleet", "ScalingActive=False InvalidSelector: the HPA target's scale is missing a selector")
	c.event("fleet", "SelectorRequired", "selector is required")
	_, err := c.dynamic().Resource(customs("boats")).Namespace("default").Patch(c.ctx, "of-boats", types.MergePatchType, []byte(`{"status":{"replicas":3,"selector":"app=web"}}`), metav1.PatchOptions{})
	c.must(err)
	c.eventually("the boat", func() error {
		obj, err := c.dynamic().Resource(customs("boats")).Namespace("default").Get(c.ctx, "of-boats", metav1.GetOptions{})
		c.must(err)
		if n, _, err := unstructured.NestedInt64(obj.Object, "spec", "replicas"); err != nil || n != 6 {
			return fmt.Errorf("%d replicas: %v", n, err)
		}
		return nil
	})
}

func TestBehaviorOfAnAutoscaler(t *testing.T) {
	c, l := autoscaled(t, nil)
	c.deploy(requesting(4))
	l.set(func(l *load) { l.custom["pods/*/requests"] = "12" }) // a fifth above the target
	spec := podsMetric("requests", "10")
	_, err := c.client.AutoscalingV2().HorizontalPodAutoscalers("default").Create(c.ctx, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{ScaleTargetRef: webTarget, MinReplicas: ptr.To[int32](1), MaxReplicas: 100, Metrics: []autoscalingv2.MetricSpec{spec},
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{
				ScaleUp:   &autoscalingv2.HPAScalingRules{Tolerance: ptr.To(resource.MustParse("0.3")), Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 3, PeriodSeconds: 1800}}},
				ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To[int32](0), Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 50, PeriodSeconds: 1800}}},
			}}}, metav1.CreateOptions{})
	c.must(err)
	c.conditions("web", "ScalingActive=True ValidMetricFound: the HPA was able to successfully calculate a replica count from pods metric requests")
	time.Sleep(300 * time.Millisecond)
	c.scaledTo(4)
	l.set(func(l *load) { l.custom["pods/*/requests"] = "50" })
	c.scaledTo(7)
	c.rolledOut("web")
	c.conditions("web", "ScalingLimited=True ScaleUpLimit: the desired replica count is increasing faster than the maximum scale rate")
	c.scaledTo(7)
	l.set(func(l *load) { l.custom["pods/*/requests"] = "1" })
	c.scaledTo(2) // half of the four that there were half an hour ago
	c.conditions("web", "ScalingLimited=True ScaleDownLimit: the desired replica count is decreasing faster than the maximum scale rate")
	c.scaledTo(2)
}

// TestEveryWorkload scales each kind of workload, and counts the pods of all of them in one budget.
func TestEveryWorkload(t *testing.T) {
	c, l := autoscaled(t, nil)
	l.set(func(l *load) { l.custom["pods/*/requests"] = "10" })
	of := func(name string) (map[string]string, corev1.PodTemplateSpec) {
		all := map[string]string{"app": "web", "part": name}
		return all, template(all, "v1")
	}
	set, pods := of("set")
	_, err := c.client.AppsV1().ReplicaSets("default").Create(c.ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "set"},
		Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: set}, Template: pods}}, metav1.CreateOptions{})
	c.must(err)
	stateful, pods := of("stateful")
	_, err = c.client.AppsV1().StatefulSets("default").Create(c.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "stateful"},
		Spec: appsv1.StatefulSetSpec{Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: stateful}, Template: pods}}, metav1.CreateOptions{})
	c.must(err)
	controller, pods := of("controller")
	_, err = c.client.CoreV1().ReplicationControllers("default").Create(c.ctx, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "controller"},
		Spec: corev1.ReplicationControllerSpec{Replicas: ptr.To[int32](2), Selector: controller, Template: &pods}}, metav1.CreateOptions{})
	c.must(err)
	c.deploy(func() *appsv1.Deployment {
		d := deployment(2)
		labels, pods := of("web")
		d.Spec.Selector, d.Spec.Template = &metav1.LabelSelector{MatchLabels: labels}, pods
		return d
	}())
	c.budget("", "25%")
	c.counted(8, 6, 8, 2)
	for _, target := range []autoscalingv2.CrossVersionObjectReference{
		{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "set"}, {APIVersion: "apps/v1", Kind: "StatefulSet", Name: "stateful"},
		{APIVersion: "v1", Kind: "ReplicationController", Name: "controller"}, webTarget,
	} {
		c.autoscaler(target.Name, target, podsMetric("requests", "10"))
		c.conditions(target.Name, "ScalingActive=True ValidMetricFound: the HPA was able to successfully calculate a replica count from pods metric requests")
	}
	l.set(func(l *load) { l.custom["pods/*/requests"] = "15" })
	for _, name := range []string{"set", "stateful", "controller", "web"} {
		c.event(name, "SuccessfulRescale", "New size: 3; reason: pods metric requests above target")
	}
	l.set(func(l *load) { l.custom["pods/*/requests"] = "10" })
	c.eventually("pods", func() error {
		if n := len(c.pods("app=web")); n < 12 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
}
