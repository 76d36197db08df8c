package apiserver_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	admissionreviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// hooks is a server of webhooks, each under its path.
type hooks struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
}

// answers is how a webhook answers a request; path is its own.
type answers func(path string, req *admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse

func serveHooks(t *testing.T, answer answers) *hooks {
	t.Helper()
	h := &hooks{}
	h.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var review admissionreviewv1.AdmissionReview
		if err := json.NewDecoder(req.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		h.mu.Lock()
		h.asked = append(h.asked, strings.TrimPrefix(req.URL.Path, "/"))
		h.mu.Unlock()
		review.Response = answer(req.URL.Path, review.Request)
		if review.Response == nil {
			http.Error(w, "out of order", http.StatusInternalServerError)
			return
		}
		if review.Response.UID == "" {
			review.Response.UID = review.Request.UID
		}
		review.Request = nil
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hooks) take() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	asked := strings.Join(h.asked, " ")
	h.asked = nil
	return asked
}

func (h *hooks) client(path string) admissionv1.WebhookClientConfig {
	return admissionv1.WebhookClientConfig{
		URL: ptr.To(h.URL + "/" + path), CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}),
	}
}

func ruleFor(group, version, resource string, ops ...admissionv1.OperationType) []admissionv1.RuleWithOperations {
	return []admissionv1.RuleWithOperations{{
		Operations: ops, Rule: admissionv1.Rule{APIGroups: []string{group}, APIVersions: []string{version}, Resources: []string{resource}},
	}}
}

func (h *hooks) mutate(t *testing.T, client kubernetes.Interface, names ...string) {
	t.Helper()
	c := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "hooks"}}
	for _, name := range names {
		c.Webhooks = append(c.Webhooks, admissionv1.MutatingWebhook{
			Name: name + ".example.org", ClientConfig: h.client(name), Rules: ruleFor("", "v1", "configmaps", admissionv1.Create, admissionv1.Update),
			SideEffects: ptr.To(admissionv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}, ReinvocationPolicy: ptr.To(admissionv1.IfNeededReinvocationPolicy),
		})
	}
	if _, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (h *hooks) validate(t *testing.T, client kubernetes.Interface, name string, rules []admissionv1.RuleWithOperations, change func(*admissionv1.ValidatingWebhook)) {
	t.Helper()
	w := admissionv1.ValidatingWebhook{
		Name: name + ".example.org", ClientConfig: h.client(name), Rules: rules,
		SideEffects: ptr.To(admissionv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
	}
	if change != nil {
		change(&w)
	}
	c := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: []admissionv1.ValidatingWebhook{w}}
	if _, err := client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"order": ""}}
}

func allow() *admissionreviewv1.AdmissionResponse {
	return &admissionreviewv1.AdmissionResponse{Allowed: true}
}

func patched(patch string) *admissionreviewv1.AdmissionResponse {
	return &admissionreviewv1.AdmissionResponse{Allowed: true, Patch: []byte(patch), PatchType: ptr.To(admissionreviewv1.PatchTypeJSONPatch)}
}

// TestMutatingWebhooks: they see each other's changes in order, and those asked before a change are asked once more: also where the change
// is the second pass's own.
func TestMutatingWebhooks(t *testing.T) {
	client, _ := admitting(t)
	h := serveHooks(t, func(path string, req *admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse {
		var m corev1.ConfigMap
		if err := json.Unmarshal(req.Object.Raw, &m); err != nil {
			return nil
		}
		if path == "/third" { // only looks
			return allow()
		}
		return patched(fmt.Sprintf(`[{"op":"replace","path":"/data/order","value":%q}]`, m.Data["order"]+path))
	})
	h.mutate(t, client, "first", "second", "third")
	made, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("m"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if asked := h.take(); asked != "first second third first second third" {
		t.Errorf("asked %q", asked)
	}
	if got := made.Data["order"]; got != "/first/second/first/second" {
		t.Errorf("order %q", got)
	}
}

// TestWebhookEquivalent: a rule for one version sees writes of another, converted.
func TestWebhookEquivalent(t *testing.T) {
	client, _ := admitting(t)
	h := serveHooks(t, func(path string, req *admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse {
		var seen struct {
			APIVersion string
			Spec       struct{ Metrics []any }
		}
		if err := json.Unmarshal(req.Object.Raw, &seen); err != nil {
			return nil
		}
		return &admissionreviewv1.AdmissionResponse{Result: &metav1.Status{Message: fmt.Sprintf("%s %s %s of %s with %d metrics", path, req.Kind.Version, seen.APIVersion, req.RequestKind.Version, len(seen.Spec.Metrics))}}
	})
	h.validate(t, client, "exact", ruleFor("autoscaling", "v2", "horizontalpodautoscalers", admissionv1.Create), func(w *admissionv1.ValidatingWebhook) {
		w.MatchPolicy = ptr.To(admissionv1.Exact)
	})
	hpa := &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "h"}, Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{Kind: "Deployment", Name: "d", APIVersion: "apps/v1"}, MaxReplicas: 3, TargetCPUUtilizationPercentage: ptr.To(int32(50)),
	}}
	create := func() error {
		_, err := client.AutoscalingV1().HorizontalPodAutoscalers("default").Create(t.Context(), hpa, metav1.CreateOptions{DryRun: []string{"All"}})
		return err
	}
	if err := create(); err != nil {
		t.Errorf("exact: %v", err)
	}
	h.validate(t, client, "equivalent", ruleFor("autoscaling", "v2", "horizontalpodautoscalers", admissionv1.Create), nil)
	const want = `admission webhook "equivalent.example.org" denied the request: /equivalent v2 autoscaling/v2 of v1 with 1 metrics`
	if err := create(); err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

// TestWebhookFailures: what cannot be asked, and answers that are none.
func TestWebhookFailures(t *testing.T) {
	client, warnings := admitting(t)
	h := serveHooks(t, func(path string, _ *admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse {
		switch path {
		case "/silent":
			return &admissionreviewv1.AdmissionResponse{}
		case "/teapot":
			return &admissionreviewv1.AdmissionResponse{Result: &metav1.Status{Code: 418, Reason: "Teapot"}}
		case "/foreign":
			return &admissionreviewv1.AdmissionResponse{UID: "another", Allowed: true}
		case "/patching":
			return patched(`[]`)
		case "/warning":
			return &admissionreviewv1.AdmissionResponse{Allowed: true, Warnings: []string{"mind the gap"}}
		}
		return nil
	})
	rules := ruleFor("", "*", "configmaps", admissionv1.OperationAll)
	configs := client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	for name, c := range map[string]struct {
		change func(*admissionv1.ValidatingWebhook)
		dryRun []string
		want   string // part of the error; empty admits
		code   int
	}{
		"silent":   {want: `admission webhook "silent.example.org" denied the request without explanation`, code: 400},
		"teapot":   {want: `admission webhook "teapot.example.org" denied the request: Teapot`, code: 418},
		"foreign":  {want: `failed calling webhook "foreign.example.org": received invalid webhook response: expected response.uid=`, code: 500},
		"patching": {want: `failed calling webhook "patching.example.org": received invalid webhook response: validating webhook may not return response.patch`, code: 500},
		"broken":   {want: `failed calling webhook "broken.example.org": failed to call webhook: an error on the server ("out of order") has prevented the request from succeeding`, code: 500},
		"warning":  {},
		"ignored":  {change: func(w *admissionv1.ValidatingWebhook) { w.FailurePolicy = ptr.To(admissionv1.Ignore) }},
		"service": {change: func(w *admissionv1.ValidatingWebhook) {
			w.ClientConfig = admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: "default", Name: "none"}}
		}, want: `failed calling webhook "service.example.org": failed to call webhook: Post "https://none.default.svc:443/?timeout=10s": `, code: 500},
		"old": {change: func(w *admissionv1.ValidatingWebhook) {
			w.AdmissionReviewVersions, w.ClientConfig = []string{"v0", "v1beta1"}, h.client("foreign")
		}},
		"selecting": {change: func(w *admissionv1.ValidatingWebhook) {
			w.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"no": "such"}}
		}},
		"elsewhere": {change: func(w *admissionv1.ValidatingWebhook) {
			w.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: "kube-system"}}
		}},
		"conditional": {change: func(w *admissionv1.ValidatingWebhook) {
			w.MatchConditions = []admissionv1.MatchCondition{{Name: "never", Expression: "request.userInfo.username == 'nobody'"}}
		}},
		"failing condition": {change: func(w *admissionv1.ValidatingWebhook) {
			w.Name = "condition.example.org"
			w.MatchConditions = []admissionv1.MatchCondition{{Name: "fails", Expression: "object.data.none == ''"}}
		}, want: "no such key: none", code: 403},
	} {
		name := strings.ReplaceAll(name, " ", "-")
		h.validate(t, client, name, rules, c.change)
		_, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap(name), metav1.CreateOptions{DryRun: c.dryRun})
		status, _ := err.(interface{ Status() metav1.Status }) //nolint:errorlint // as the client gives it
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || int(status.Status().Code) != c.code):
			t.Errorf("%s: %v\nwant %d %s", name, err, c.code, c.want)
		}
		if heard := warnings.take(); (heard == "mind the gap") != (name == "warning") {
			t.Errorf("%s: warned %q", name, heard)
		}
		if err := configs.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWebhookOperations: deletions, connections and subresources reach them, their own configurations do not.
func TestWebhookOperations(t *testing.T) {
	client, _ := admitting(t)
	var mu sync.Mutex
	var seen []string
	h := serveHooks(t, func(_ string, req *admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, fmt.Sprintf("%s %s/%s %s new=%t old=%t options=%t dry=%t", req.Operation, req.Resource.Resource, req.SubResource, req.Kind.Kind,
			len(req.Object.Raw) > 4, len(req.OldObject.Raw) > 4, len(req.Options.Raw) > 4, *req.DryRun))
		return allow()
	})
	h.validate(t, client, "all", []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{"*"},
		Rule: admissionv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*/*"}}}}, nil)
	ctx := t.Context()
	take := func() string {
		mu.Lock()
		defer mu.Unlock()
		all := strings.Join(slices.Compact(seen), "\n")
		seen = nil
		return all
	}
	maps := client.CoreV1().ConfigMaps("default")
	for want, do := range map[string]func() error{
		"CREATE configmaps/ ConfigMap new=true old=false options=true dry=true": func() error {
			_, err := maps.Create(ctx, configMap("dry"), metav1.CreateOptions{DryRun: []string{"All"}})
			return err
		},
		"CREATE configmaps/ ConfigMap new=true old=false options=true dry=false\nDELETE configmaps/ ConfigMap new=false old=true options=true dry=false": func() error {
			if _, err := maps.Create(ctx, configMap("gone"), metav1.CreateOptions{}); err != nil {
				return err
			}
			return maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
		},
		"CREATE pods/ Pod new=true old=false options=true dry=false\nCREATE pods/eviction Eviction new=true old=false options=true dry=true": func() error {
			if _, err := client.CoreV1().Pods("default").Create(ctx, podOf("evicted", corev1.ResourceRequirements{}), metav1.CreateOptions{}); err != nil {
				return err
			}
			return client.PolicyV1().Evictions("default").Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "evicted", Namespace: "default"}, DeleteOptions: &metav1.DeleteOptions{DryRun: []string{"All"}}})
		},
		"": func() error {
			return client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(ctx, "all", metav1.DeleteOptions{DryRun: []string{"All"}})
		},
	} {
		err := do()
		if got := take(); got != want {
			t.Errorf("saw %q\nwant %q", got, want)
		}
		if err != nil {
			t.Error(err)
		}
	}
}
