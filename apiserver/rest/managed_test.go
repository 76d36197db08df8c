package rest_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/csaupgrade"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// noteField is where kubectl notes what it applied.
var noteField = fieldpath.NewSet(fieldpath.MakePathOrDie("metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"))

// TestApplyAfterClientSideApply: kubectl's server-side apply takes over what kubectl applied on the client, no more: what the
// server completed stays when the same is applied again.
func TestApplyAfterClientSideApply(t *testing.T) {
	f := newFixture(t, nil)
	const (
		path     = "/apis/batch/v1/namespaces/default/jobs"
		old      = "kubectl-client-side-apply"
		applying = "?fieldManager=kubectl&force=true"
		applied  = "application/apply-patch+yaml"
	)
	manifest := func(label string) string {
		return `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"a","namespace":"default","labels":{"` + label + `":"x"}},"spec":{"suspend":true,` +
			`"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}`
	}
	noted, err := json.Marshal(manifest("gone"))
	if err != nil {
		t.Fatal(err)
	}
	f.must("POST", path, strings.Replace(manifest("gone"), `"labels"`, fmt.Sprintf(`"annotations":{"kubectl.kubernetes.io/last-applied-configuration":%s},"labels"`, noted), 1))
	f.must("PATCH", path+"/a", `{"metadata":{"labels":{"kept":"x"}}}`, "Content-Type", mergeType)
	job := f.must("PATCH", path+"/a"+applying, manifest("new"), "Content-Type", applied).obj
	owners := csaupgrade.FindFieldsOwners(job.GetManagedFields(), metav1.ManagedFieldsOperationUpdate, noteField)
	if len(owners) != 1 || owners[0].Manager != old {
		t.Fatalf("the note belongs to %v", owners)
	}
	patch, err := csaupgrade.UpgradeManagedFieldsPatch(job, sets.New(old), "kubectl")
	if err != nil {
		t.Fatal(err)
	}
	f.must("PATCH", path+"/a", string(patch), "Content-Type", "application/json-patch+json")
	again := f.must("PATCH", path+"/a"+applying, manifest("new"), "Content-Type", applied).obj
	labels := again.GetLabels()
	if _, gone := labels["gone"]; gone || labels["kept"] != "x" || labels["new"] != "x" {
		t.Errorf("labels %v", labels)
	}
	if selector, has, _ := unstructured.NestedMap(again.Object, "spec", "selector"); !has || len(selector) == 0 {
		t.Error("the selector that the server made is gone")
	}
}
