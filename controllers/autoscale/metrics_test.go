package autoscale

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/autoscale/recommend"
)

// groups is discovery that knows versions of custom metrics.
type groups []string

func (g groups) ServerGroups() (*metav1.APIGroupList, error) {
	list := &metav1.APIGroupList{Groups: []metav1.APIGroup{{Name: "apps"}}}
	if len(g) > 0 {
		custom := metav1.APIGroup{Name: customGroup}
		for _, v := range g {
			custom.Versions = append(custom.Versions, metav1.GroupVersionForDiscovery{Version: v, GroupVersion: customGroup + "/" + v})
		}
		list.Groups = append(list.Groups, custom)
	}
	return list, nil
}

// serving answers each path with a body; others are not found.
func serving(t *testing.T, known groups, answers map[string]string) *metrics {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		uri := r.URL.Path
		if r.URL.RawQuery != "" {
			uri += "?" + r.URL.RawQuery
		}
		body, ok := answers[uri]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if strings.HasPrefix(body, "503") {
			w.WriteHeader(http.StatusServiceUnavailable)
			body = body[3:]
		}
		fmt.Fprint(w, body)
	}))
	t.Cleanup(server.Close)
	m, err := newMetrics(&rest.Config{Host: server.URL}, known, meta.NewDefaultRESTMapper(nil))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func selector(t *testing.T, text string) labels.Selector {
	t.Helper()
	s, err := labels.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestResourceMetrics(t *testing.T) {
	m := serving(t, nil, map[string]string{
		"/apis/metrics.k8s.io/v1beta1/namespaces/ns/pods?labelSelector=a%3Db": `{"items":[
			{"metadata":{"name":"one"},"timestamp":"2026-03-01T12:00:00Z","window":"30s","containers":[{"name":"c","usage":{"cpu":"250m","memory":"10Mi"}},{"name":"d","usage":{"cpu":"5n","memory":"1Ki"}}]},
			{"metadata":{"name":"half"},"timestamp":"2026-03-01T12:00:00Z","window":"30s","containers":[{"name":"c","usage":{"memory":"10Mi"}},{"name":"d","usage":{"cpu":"1"}}]},
			{"metadata":{"name":"none"},"timestamp":"2026-03-01T12:00:00Z","window":"30s","containers":[]}]}`,
		"/apis/metrics.k8s.io/v1beta1/namespaces/empty/pods?labelSelector=a%3Db": `{"items":[]}`,
		"/apis/metrics.k8s.io/v1beta1/namespaces/down/pods?labelSelector=a%3Db":  `503{"kind":"Status","apiVersion":"v1","status":"Failure","message":"the server is currently unable to handle the request","reason":"ServiceUnavailable","code":503}`,
	})
	for _, c := range []struct {
		namespace, container string
		name                 corev1.ResourceName
		want                 map[string]int64
		err                  string
	}{
		{"ns", "", "cpu", map[string]int64{"one": 251}, ""}, // what is less than a thousandth is rounded up
		{"ns", "", "memory", map[string]int64{"one": (10<<20 + 1<<10) * 1000}, ""},
		{"ns", "d", "cpu", map[string]int64{"one": 1, "half": 1000}, ""},
		{"ns", "other", "cpu", map[string]int64{}, ""},
		{"empty", "", "cpu", nil, "no metrics returned from resource metrics API"},
		{"down", "", "cpu", nil, "unable to fetch metrics from resource metrics API: the server is currently unable to handle the request (get pods.metrics.k8s.io)"},
		{"absent", "", "cpu", nil, "unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)"},
	} {
		got, err := m.ofResource(context.Background(), c.namespace, selector(t, "a=b"), c.name, c.container)
		check(t, fmt.Sprintf("%s %s of %q", c.namespace, c.name, c.container), values(got), c.want, err, c.err)
		for _, s := range got {
			if !s.At.Equal(at) || s.Window != 30*time.Second {
				t.Errorf("%+v", s)
			}
		}
	}
}

func values(s recommend.Samples) map[string]int64 {
	if s == nil {
		return nil
	}
	v := map[string]int64{}
	for name, sample := range s {
		v[name] = sample.Value
	}
	return v
}

func check(t *testing.T, what string, got, want any, err error, wantErr string) {
	t.Helper()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != wantErr || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %v %q, want %v %q", what, got, text, want, wantErr)
	}
}

func TestCustomMetrics(t *testing.T) {
	const path = "/namespaces/ns/pods/*/requests?labelSelector=a%3Db&metricLabelSelector=verb%3DGET"
	const newer = `{"items":[{"describedObject":{"kind":"Pod","name":"one"},"metric":{"name":"requests"},"timestamp":"2026-03-01T12:00:00Z","windowSeconds":10,"value":"1500m"}]}`
	const older = `{"items":[{"describedObject":{"kind":"Pod","name":"one"},"metricName":"requests","timestamp":"2026-03-01T12:00:00Z","window":20,"value":"3"},
		{"describedObject":{"kind":"Pod","name":"two"},"metricName":"requests","timestamp":"2026-03-01T12:00:00Z","value":"4"}]}`
	const missing = "unable to fetch metrics from custom metrics API: "
	for name, c := range map[string]struct {
		known   groups
		answers map[string]string
		want    map[string]time.Duration
		err     string
	}{
		"the newer version": {groups{"v1beta2", "v1beta1"}, map[string]string{"/apis/custom.metrics.k8s.io/v1beta2" + path: newer}, map[string]time.Duration{"one": 10 * time.Second}, ""},
		"the older version": {groups{"v1beta1"}, map[string]string{"/apis/custom.metrics.k8s.io/v1beta1" + path: older}, map[string]time.Duration{"one": 20 * time.Second, "two": time.Minute}, ""},
		"no such metric":    {groups{"v1beta1", "v1beta2"}, nil, nil, missing + "the server could not find the requested resource (get pods.custom.metrics.k8s.io *)"},
		"no such API":       {nil, nil, nil, missing + "no custom metrics API (custom.metrics.k8s.io) registered"},
		"nothing measured":  {nil, map[string]string{"/apis/custom.metrics.k8s.io/v1beta2" + path: `{"items":[]}`}, nil, "no metrics returned from custom metrics API"},
	} {
		got, err := serving(t, c.known, c.answers).ofPods(context.Background(), "ns", "requests", selector(t, "a=b"), selector(t, "verb=GET"))
		windows := map[string]time.Duration{}
		for pod, s := range got {
			windows[pod] = s.Window
		}
		check(t, name, windows, c.want, err, c.err)
	}
}

func TestObjectAndExternalMetrics(t *testing.T) {
	m := serving(t, groups{"v1beta2"}, map[string]string{
		"/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns/metrics/weight":                         `{"items":[{"value":"7"}]}`,
		"/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns/metrics/twins":                          `{"items":[{"value":"7"},{"value":"8"}]}`,
		"/apis/external.metrics.k8s.io/v1beta1/namespaces/ns/queue?labelSelector=topic+in+%28x%29": `{"items":[{"metricName":"queue","value":"1500m"},{"metricName":"queue","value":"2"}]}`,
		"/apis/external.metrics.k8s.io/v1beta1/namespaces/ns/nothing":                              `{"items":[]}`,
	})
	ctx, all := context.Background(), labels.Everything()
	ns := &autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Namespace", Name: "ns"}
	v, err := m.ofObject(ctx, "ns", "weight", ns, all)
	check(t, "a namespace's", v, 7000, err, "")
	v, err = m.ofObject(ctx, "ns", "twins", ns, all)
	check(t, "two answers", v, 0, err, "unable to fetch metrics from custom metrics API: the custom metrics API server returned 2 results when we asked for exactly one")
	v, err = m.ofObject(ctx, "ns", "weight", &autoscalingv2.CrossVersionObjectReference{APIVersion: "x/v1", Kind: "What", Name: "a"}, all)
	check(t, "an unknown kind's", v, 0, err, `unable to fetch metrics from custom metrics API: unable to map kind What.x to resource: no matches for kind "What" in group "x"`)
	v, err = m.fromOutside(ctx, "ns", "queue", selector(t, "topic in (x)"))
	check(t, "outside", v, 3500, err, "")
	v, err = m.fromOutside(ctx, "ns", "nothing", all)
	check(t, "nothing outside", v, 0, err, "no metrics returned from external metrics API")
	v, err = m.fromOutside(ctx, "ns", "absent", all)
	check(t, "absent outside", v, 0, err, "unable to fetch metrics from external metrics API: the server could not find the requested resource (get absent.external.metrics.k8s.io)")
}

// TestZero is about autoscalers that may take the last replica: only such a one brings it back.
func TestZero(t *testing.T) {
	queue := autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType}
	cpu := autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType}
	for name, c := range map[string]struct {
		least   int32
		metric  autoscalingv2.MetricSpec
		from    int32
		to      int32
		noted   string
		wakes   bool
		wakesTo int32 // with this minReplicas later
	}{
		"took the last":            {0, queue, 1, 0, "True", true, 0},
		"and is to have one since": {0, queue, 1, 0, "True", true, 1},
		"did not":                  {0, queue, 3, 1, "False", false, 0},
		"cannot measure none":      {0, cpu, 1, 0, "False", false, 0},
		"may not":                  {1, queue, 2, 1, "", false, 1},
	} {
		target := &target{hpa: &autoscalingv2.HorizontalPodAutoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: ptr.To(c.least), Metrics: []autoscalingv2.MetricSpec{c.metric}}}, memory: &memory{}, now: at}
		target.noteZero(c.from, c.to)
		noted := ""
		for _, cond := range target.hpa.Status.Conditions {
			noted = string(cond.Status)
		}
		if noted != c.noted || target.wakes(c.wakesTo) != c.wakes {
			t.Errorf("%s: %q, wakes %v", name, noted, target.wakes(c.wakesTo))
		}
		if shown := target.hpa.Status.Conditions; shown != nil { // a status that was refused
			target.hpa.Status.Conditions = nil
			target.showZero()
			if again := target.hpa.Status.Conditions; len(again) != 1 || again[0] != shown[0] {
				t.Errorf("%s: %+v, then %+v", name, shown, again)
			}
		}
		target.noteZero(0, 2)
		if target.wakes(c.wakesTo) {
			t.Errorf("%s: still at zero", name)
		}
	}
}
