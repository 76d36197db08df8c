package conformance

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var webhookTests = map[string]func(*env){
	"a validating one denies pods and config maps": webhookDeny,
	"one denies attaching":                         webhookAttach,
	"a mutating one changes, and defaults follow":  webhookMutate,
	"conditions spare one object":                  webhookConditions,
	"conditions that do not compile are refused":   webhookBadConditions,
	"a timeout is honoured":                        webhookTimeout,
	"one that cannot be reached closes":            webhookClosed,
	"configurations are listed and deleted":        webhookList,
}

// review answers an admission request.
type review func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse

// hook serves reviews over TLS inside the cluster's network.
func (e *env) hook(answer review) admissionregistrationv1.WebhookClientConfig {
	e.Helper()
	l, err := e.cluster.Listen("tcp", "127.0.0.1:0")
	e.must(err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Request == nil {
			http.Error(w, "no review", http.StatusBadRequest)
			return
		}
		in.Response = answer(in.Request)
		in.Response.UID, in.Request = in.Request.UID, nil
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(in)
	}))
	e.must(server.Listener.Close())
	server.Listener = l
	server.StartTLS()
	e.Cleanup(server.Close)
	url := "https://" + l.Addr().String() + "/review"
	return admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})}
}

func rules(group string, operations []admissionregistrationv1.OperationType, resources ...string) []admissionregistrationv1.RuleWithOperations {
	return []admissionregistrationv1.RuleWithOperations{{
		Operations: operations,
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{"v1"}, Resources: resources},
	}}
}

var writes = []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update}

// here selects the test's namespace.
func (e *env) here() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: e.ns}}
}

func (e *env) validating(config admissionregistrationv1.WebhookClientConfig, rules []admissionregistrationv1.RuleWithOperations, change func(*admissionregistrationv1.ValidatingWebhook)) {
	e.Helper()
	none := admissionregistrationv1.SideEffectClassNone
	w := admissionregistrationv1.ValidatingWebhook{
		Name: "check.example.org", ClientConfig: config, Rules: rules, NamespaceSelector: e.here(), SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
	}
	if change != nil {
		change(&w)
	}
	configs := e.kube.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	_, err := configs.Create(e.ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: e.ns}, Webhooks: []admissionregistrationv1.ValidatingWebhook{w},
	}, metav1.CreateOptions{})
	e.must(err)
	e.Cleanup(func() { _ = configs.Delete(context.Background(), e.ns, metav1.DeleteOptions{}) })
}

func (e *env) mutating(config admissionregistrationv1.WebhookClientConfig, rules []admissionregistrationv1.RuleWithOperations, change func(*admissionregistrationv1.MutatingWebhook)) {
	e.Helper()
	none := admissionregistrationv1.SideEffectClassNone
	w := admissionregistrationv1.MutatingWebhook{
		Name: "change.example.org", ClientConfig: config, Rules: rules, NamespaceSelector: e.here(), SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
	}
	if change != nil {
		change(&w)
	}
	configs := e.kube.AdmissionregistrationV1().MutatingWebhookConfigurations()
	_, err := configs.Create(e.ctx, &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: e.ns}, Webhooks: []admissionregistrationv1.MutatingWebhook{w},
	}, metav1.CreateOptions{})
	e.must(err)
	e.Cleanup(func() { _ = configs.Delete(context.Background(), e.ns, metav1.DeleteOptions{}) })
}

func deny(text string) review {
	return func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: text, Reason: "Because"}}
	}
}

func patchWith(patch string) review {
	return func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		kind := admissionv1.PatchTypeJSONPatch
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: &kind, Patch: []byte(patch)}
	}
}

// tryMap creates a config map until the webhooks work, for a server takes its time to see them.
func (e *env) tryMap(name string) (*corev1.ConfigMap, error) {
	return e.kube.CoreV1().ConfigMaps(e.ns).Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"n": "0"}}, metav1.CreateOptions{})
}

// denied waits until a config map is denied.
func (e *env) denied() {
	e.Helper()
	i := 0
	e.eventually(func() error {
		i++
		if _, err := e.tryMap(fmt.Sprint("probe-", i)); err == nil {
			return fmt.Errorf("admitted")
		}
		return nil
	})
}

func webhookDeny(e *env) {
	e.configMap("before", nil)
	e.validating(e.hook(deny("not here")), rules("", writes, "pods", "configmaps"), nil)
	e.denied()
	_, err := e.tryMap("one")
	e.refused(err, `admission webhook "check.example.org" denied the request: not here`)
	_, err = e.kube.CoreV1().Pods(e.ns).Create(e.ctx, pod("one"), metav1.CreateOptions{})
	e.refused(err, "not here")
	_, err = e.kube.CoreV1().ConfigMaps(e.ns).Patch(e.ctx, "before", types.MergePatchType, []byte(`{"data":{"n":"9"}}`), metav1.PatchOptions{})
	e.refused(err, "not here")
	e.must(e.kube.CoreV1().ConfigMaps(e.ns).Delete(e.ctx, "before", metav1.DeleteOptions{}))
}

func webhookAttach(e *env) {
	_, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, pod("one"), metav1.CreateOptions{})
	e.must(err)
	e.validating(e.hook(deny("attaching is not wanted")), rules("", []admissionregistrationv1.OperationType{admissionregistrationv1.Connect}, "pods/attach"), nil)
	e.eventually(func() error {
		_, err := e.raw("POST", "/api/v1/namespaces/"+e.ns+"/pods/one/attach?container=c&stdin=true", "", "")
		if err == nil {
			return fmt.Errorf("attached")
		}
		if !strings.Contains(err.Error(), "attaching is not wanted") {
			return err
		}
		return nil
	})
}

func webhookMutate(e *env) {
	e.mutating(e.hook(patchWith(`[{"op":"add","path":"/spec/initContainers","value":[{"name":"added","image":"example.org/init"}]}]`)), rules("", writes[:1], "pods"), nil)
	var p *corev1.Pod
	i := 0
	e.eventually(func() (err error) {
		i++
		if p, err = e.kube.CoreV1().Pods(e.ns).Create(e.ctx, pod(fmt.Sprint("p", i)), metav1.CreateOptions{}); err != nil {
			return err
		}
		return same(len(p.Spec.InitContainers), 1)
	})
	c := p.Spec.InitContainers[0]
	equal(e, "name", c.Name, "added")
	equal(e, "default of the policy", c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	equal(e, "default of pulling", c.ImagePullPolicy, corev1.PullAlways)
}

func webhookConditions(e *env) {
	e.mutating(e.hook(patchWith(`[{"op":"add","path":"/data/mutated","value":"yes"}]`)), rules("", writes[:1], "configmaps"), func(w *admissionregistrationv1.MutatingWebhook) {
		w.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "skip-me", Expression: "object.metadata.name != 'skip-me'"}}
	})
	i := 0
	e.eventually(func() error {
		i++
		m, err := e.tryMap(fmt.Sprint("m", i))
		e.must(err)
		return same(m.Data["mutated"], "yes")
	})
	m, err := e.tryMap("skip-me")
	e.must(err)
	equal(e, "mutated", m.Data["mutated"], "")
	config, err := e.kube.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(e.ctx, e.ns, metav1.GetOptions{})
	e.must(err)
	equal(e, "stored condition", config.Webhooks[0].MatchConditions[0].Expression, "object.metadata.name != 'skip-me'")
}

func webhookBadConditions(e *env) {
	none, url := admissionregistrationv1.SideEffectClassNone, "https://127.0.0.1:1/"
	bad := []admissionregistrationv1.MatchCondition{{Name: "bad", Expression: "... [] bad expression"}}
	client := admissionregistrationv1.WebhookClientConfig{URL: &url}
	_, err := e.kube.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(e.ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: e.ns},
		Webhooks:   []admissionregistrationv1.ValidatingWebhook{{Name: "a.example.org", ClientConfig: client, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}, MatchConditions: bad}},
	}, metav1.CreateOptions{})
	e.refused(err, "compilation failed")
	_, err = e.kube.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(e.ctx, &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: e.ns},
		Webhooks:   []admissionregistrationv1.MutatingWebhook{{Name: "a.example.org", ClientConfig: client, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}, MatchConditions: bad}},
	}, metav1.CreateOptions{})
	e.refused(err, "compilation failed")
}

func webhookTimeout(e *env) {
	second, ignore := int32(1), admissionregistrationv1.Ignore
	slow := e.hook(func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		time.Sleep(2 * time.Second)
		return &admissionv1.AdmissionResponse{Allowed: true}
	})
	e.validating(slow, rules("", writes, "configmaps"), func(w *admissionregistrationv1.ValidatingWebhook) { w.TimeoutSeconds = &second })
	e.denied()
	_, err := e.tryMap("late")
	e.refused(err, "deadline exceeded")
	_, err = e.kube.AdmissionregistrationV1().ValidatingWebhookConfigurations().Patch(e.ctx, e.ns, types.JSONPatchType,
		fmt.Appendf(nil, `[{"op":"replace","path":"/webhooks/0/failurePolicy","value":%q}]`, ignore), metav1.PatchOptions{})
	e.must(err)
	e.eventually(func() error {
		_, err := e.tryMap("late")
		return err
	})
}

func webhookClosed(e *env) {
	config := e.hook(deny("never asked"))
	config.CABundle = nil
	e.validating(config, rules("", writes[:1], "configmaps"), nil)
	e.denied()
	_, err := e.tryMap("one")
	e.refused(err, `Internal error occurred: failed calling webhook "check.example.org"`, "x509")
}

func webhookList(e *env) {
	configs := e.kube.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	none, url := admissionregistrationv1.SideEffectClassNone, "https://127.0.0.1:1/"
	for i := range 5 {
		_, err := configs.Create(e.ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(e.ns, "-", i), Labels: map[string]string{"listed": e.ns}},
			Webhooks: []admissionregistrationv1.ValidatingWebhook{{
				Name: "a.example.org", ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &url}, SideEffects: &none,
				AdmissionReviewVersions: []string{"v1"}, NamespaceSelector: e.here(), Rules: rules("", writes, "configmaps"),
			}},
		}, metav1.CreateOptions{})
		e.must(err)
	}
	opts := metav1.ListOptions{LabelSelector: "listed=" + e.ns}
	l, err := configs.List(e.ctx, opts)
	e.must(err)
	equal(e, "configurations", len(l.Items), 5)
	e.denied()
	e.must(configs.DeleteCollection(e.ctx, metav1.DeleteOptions{}, opts))
	e.eventually(func() error {
		_, err := e.tryMap("after")
		return err
	})
}
