package apiserver_test

import (
	"encoding/json"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver/apiservertest"
)

// applier applies a Deployment called web.
type applier struct {
	*testing.T
	kube kubernetes.Interface
}

func (a *applier) apply(manager string, force bool, manifest string, path ...string) (*appsv1.Deployment, error) {
	return a.kube.AppsV1().Deployments("default").Patch(a.Context(), "web", types.ApplyPatchType, []byte(manifest),
		metav1.PatchOptions{FieldManager: manager, Force: &force}, path...)
}

func (a *applier) must(d *appsv1.Deployment, err error) *appsv1.Deployment {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
	return d
}

// owns tells whether a manager's entry for a path names a field.
func owns(d *appsv1.Deployment, manager, subresource, field string) bool {
	for _, m := range d.ManagedFields {
		if m.Manager == manager && m.Subresource == subresource && strings.Contains(m.FieldsV1.GetRawString(), field) {
			return true
		}
	}
	return false
}

const webManifest = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, labels: {a: b}}, spec: {replicas: 1, selector: {matchLabels: {app: web}},
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i, env: [{name: A, value: a}]}]}}}}`

func TestApply(t *testing.T) {
	a := &applier{t, kubernetes.NewForConfigOrDie(apiservertest.Start(t))}
	d := a.must(a.apply("one", false, webManifest))
	if d.UID == "" || !owns(d, "one", "", `"f:replicas"`) || !owns(d, "one", "", `k:{\"name\":\"A\"}`) || owns(d, "one", "", "f:status") {
		t.Fatalf("created with %v", d.ManagedFields)
	}
	again := a.must(a.apply("one", false, webManifest))
	if again.ResourceVersion != d.ResourceVersion || again.Generation != 1 {
		t.Errorf("the same again wrote revision %s over %s", again.ResourceVersion, d.ResourceVersion)
	}
	_, err := a.apply("two", false, strings.Replace(webManifest, "replicas: 1", "replicas: 3", 1))
	var status apierrors.APIStatus
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `Apply failed with 1 conflict: conflict with "one": .spec.replicas`) {
		t.Fatalf("conflict: %v", err)
	}
	if status, _ = err.(apierrors.APIStatus); status.Status().Details.Causes[0].Field != ".spec.replicas" {
		t.Errorf("causes %v", status.Status().Details)
	}
	d = a.must(a.apply("two", true, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 3}}`))
	if *d.Spec.Replicas != 3 || owns(d, "one", "", `"f:replicas"`) || !owns(d, "two", "", `"f:replicas"`) || d.Generation != 2 {
		t.Errorf("forced: %d, %v", *d.Spec.Replicas, d.ManagedFields)
	}
	less := strings.Replace(strings.Replace(webManifest, "replicas: 1, ", "", 1), ", env: [{name: A, value: a}]", "", 1)
	d = a.must(a.apply("one", false, less))
	if len(d.Spec.Template.Spec.Containers[0].Env) != 0 || *d.Spec.Replicas != 3 {
		t.Errorf("what is no longer applied stays: %v, or more went: %d", d.Spec.Template.Spec.Containers[0].Env, *d.Spec.Replicas)
	}
}

func TestApplyPaths(t *testing.T) {
	a := &applier{t, kubernetes.NewForConfigOrDie(apiservertest.Start(t))}
	deployments := a.kube.AppsV1().Deployments("default")
	a.must(a.apply("one", false, webManifest))
	d := a.must(a.apply("watcher", false, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, status: {observedGeneration: 1}, spec: {replicas: 9}}`, "status"))
	if d.Status.ObservedGeneration != 1 || *d.Spec.Replicas != 1 || !owns(d, "watcher", "status", "f:observedGeneration") || owns(d, "watcher", "status", "f:replicas") {
		t.Errorf("status applied: %v %v", d.Status, d.ManagedFields)
	}
	d.Spec.Replicas = new(int32(5))
	d = a.must(deployments.Update(t.Context(), d, metav1.UpdateOptions{FieldManager: "editor"}))
	if !owns(d, "editor", "", "f:replicas") || owns(d, "one", "", `"f:replicas"`) {
		t.Errorf("an update by another changes the owner: %v", d.ManagedFields)
	}
	scale, err := deployments.GetScale(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scale.Spec.Replicas = 6
	if _, err = deployments.UpdateScale(t.Context(), "web", scale, metav1.UpdateOptions{FieldManager: "scaler"}); err != nil {
		t.Fatal(err)
	}
	d = a.must(deployments.Get(t.Context(), "web", metav1.GetOptions{}))
	if *d.Spec.Replicas != 6 || !owns(d, "scaler", "scale", "f:replicas") || owns(d, "editor", "", "f:replicas") {
		t.Errorf("scaled: %v", d.ManagedFields)
	}
	_, err = a.apply("other", false, `{apiVersion: autoscaling/v1, kind: Scale, metadata: {name: web, namespace: default}, spec: {replicas: 7}}`, "scale")
	if !apierrors.IsConflict(err) {
		t.Errorf("a scale that another manages: %v", err)
	}
	d = a.must(deployments.Patch(t.Context(), "web", types.MergePatchType, []byte(`{"metadata":{"managedFields":[{}]}}`), metav1.PatchOptions{}))
	if len(d.ManagedFields) != 0 {
		t.Errorf("managed fields are not reset: %v", d.ManagedFields)
	}
}

func TestApplyOverWhatWasThere(t *testing.T) {
	a := &applier{t, kubernetes.NewForConfigOrDie(apiservertest.Start(t))}
	maps := a.kube.CoreV1().ConfigMaps("default")
	if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Data: map[string]string{"a": "1"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	manifest := func(value string) []byte {
		b, _ := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "m"}, "data": map[string]any{"a": value}})
		return b
	}
	_, err := maps.Patch(t.Context(), "m", types.ApplyPatchType, manifest("2"), metav1.PatchOptions{FieldManager: "one"})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "before-first-apply" using v1: .data.a`) {
		t.Errorf("conflict: %v", err)
	}
	m, err := maps.Patch(t.Context(), "m", types.ApplyPatchType, manifest("1"), metav1.PatchOptions{FieldManager: "one"})
	if err != nil || len(m.ManagedFields) != 2 {
		t.Errorf("the same value is shared: %v %v", err, m.ManagedFields)
	}
	for what, try := range map[string]struct {
		body, manager, want string
	}{
		"no manager":     {string(manifest("1")), "", "fieldManager: Required value: is required for apply patch"},
		"unknown field":  {`{apiVersion: v1, kind: ConfigMap, metadata: {name: m}, dada: {}}`, "one", ".dada: field not declared in schema"},
		"twice":          {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: b, a: c}\n", "one", `"a" already set in map`},
		"managed fields": {`{apiVersion: v1, kind: ConfigMap, metadata: {name: m, managedFields: [{manager: x}]}}`, "one", "metadata.managedFields must be nil"},
		"other name":     {`{apiVersion: v1, kind: ConfigMap, metadata: {name: other}}`, "one", "does not match the name on the URL"},
		"other kind":     {`{apiVersion: v1, kind: Secret, metadata: {name: m}}`, "one", "Secret"},
		"no YAML":        {`{`, "one", "error decoding YAML"},
	} {
		_, err := maps.Patch(t.Context(), "m", types.ApplyPatchType, []byte(try.body), metav1.PatchOptions{FieldManager: try.manager, FieldValidation: metav1.FieldValidationStrict})
		if err == nil || !strings.Contains(err.Error(), try.want) {
			t.Errorf("%s: %v, want %q", what, err, try.want)
		}
	}
	if _, err := maps.Patch(t.Context(), "new", types.ApplyPatchType, []byte(`{apiVersion: v1, kind: ConfigMap, metadata: {name: new}}`),
		metav1.PatchOptions{FieldManager: "one", DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Error(err)
	}
	if _, err := maps.Get(t.Context(), "new", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run created: %v", err)
	}
}
