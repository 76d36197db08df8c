package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/retry"
)

var operationTests = map[string]func(*env){
	"every kind": everyKind,
}

// manifests are one object of every kind, for namespace.
func (e *env) manifests() []*unstructured.Unstructured {
	e.Helper()
	files, err := filepath.Glob("../testdata/kinds/*.yaml")
	e.must(err)
	var all []*unstructured.Unstructured
	for _, f := range files {
		data, err := os.ReadFile(f)
		e.must(err)
		data = bytes.ReplaceAll(data, []byte("namespace: default"), []byte("namespace: "+e.ns))
		d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
		for {
			var u unstructured.Unstructured
			err := d.Decode(&u.Object)
			if errors.Is(err, io.EOF) {
				break
			}
			e.must(err)
			all = append(all, &u)
		}
	}
	if len(all) < 50 {
		e.Fatalf("only %d manifests", len(all))
	}
	return all
}

// everyKind takes each kind through the operations its discovery promises.
func everyKind(e *env) {
	lists, err := e.kube.Discovery().ServerPreferredResources()
	e.must(err)
	for _, obj := range e.manifests() {
		gvk := obj.GroupVersionKind()
		var found bool
		for _, list := range lists {
			for _, r := range list.APIResources {
				if list.GroupVersion == gvk.GroupVersion().String() && r.Kind == gvk.Kind {
					found = true
					e.operations(obj, gvk.GroupVersion().WithResource(r.Name), r)
				}
			}
		}
		if !found {
			e.Errorf("discovery does not know %v", gvk)
		}
	}
}

func (e *env) operations(obj *unstructured.Unstructured, gvr schema.GroupVersionResource, r metav1.APIResource) {
	e.Helper()
	var client dynamic.ResourceInterface = e.dynamic.Resource(gvr)
	if r.Namespaced {
		client = e.dynamic.Resource(gvr).Namespace(e.ns)
	}
	labels := obj.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels["conformance"] = e.ns
	obj.SetLabels(labels)
	opts := metav1.ListOptions{LabelSelector: "conformance=" + e.ns}
	fail := func(what string, err error) {
		e.Helper()
		if err != nil {
			e.Errorf("%s: %s: %v", gvr, what, err)
		}
	}
	// Controllers make objects with the labels of others: only this one counts.
	w, err := client.Watch(e.ctx, metav1.ListOptions{LabelSelector: opts.LabelSelector, FieldSelector: "metadata.name=" + obj.GetName()})
	if err != nil {
		fail("watch", err)
		return
	}
	defer w.Stop()
	made, err := client.Create(e.ctx, obj, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		fail("create", err)
		return
	}
	name := made.GetName()
	e.sees(w, watch.Added)
	got, err := client.Get(e.ctx, name, metav1.GetOptions{})
	fail("get", err)
	if err == nil && got.GetUID() != made.GetUID() {
		e.Errorf("%s: got another object", gvr)
	}
	list, err := e.dynamic.Resource(gvr).List(e.ctx, opts)
	fail("list", err)
	if err == nil && (len(list.Items) == 0 || list.Items[0].GetKind() != r.Kind) {
		e.Errorf("%s: %d listed", gvr, len(list.Items))
	}
	_, err = client.Patch(e.ctx, name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"yes"}}}`), metav1.PatchOptions{})
	fail("patch", err)
	e.sees(w, watch.Modified)
	fail("update", retry.RetryOnConflict(retry.DefaultRetry, func() error {
		got, err := client.Get(e.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got.GetAnnotations()["patched"] != "yes" {
			return fmt.Errorf("annotations %v", got.GetAnnotations())
		}
		got.SetAnnotations(map[string]string{"patched": "yes", "updated": "yes"})
		got, err = client.Update(e.ctx, got, metav1.UpdateOptions{})
		if err == nil && got.GetAnnotations()["updated"] != "yes" {
			err = fmt.Errorf("annotations %v", got.GetAnnotations())
		}
		return err
	}))
	applied := obj.DeepCopy()
	applied.SetAnnotations(map[string]string{"applied": "yes"})
	got, err = client.Apply(e.ctx, name, applied, metav1.ApplyOptions{FieldManager: "conformance", Force: true})
	fail("apply", err)
	if err == nil && !slices.ContainsFunc(got.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool { return m.Manager == "conformance" }) {
		e.Errorf("%s: managed fields %v", gvr, got.GetManagedFields())
	}
	e.status(client, gvr, name)
	if slices.Contains(r.Verbs, "deletecollection") {
		fail("delete collection", client.DeleteCollection(e.ctx, metav1.DeleteOptions{}, opts))
	} else {
		fail("delete", client.Delete(e.ctx, name, metav1.DeleteOptions{}))
	}
	e.eventually(func() error {
		_, err := client.Get(e.ctx, name, metav1.GetOptions{})
		if err == nil || !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s is still there: %v", gvr, err)
		}
		return nil
	})
}

// status reads and changes the status where there is one.
func (e *env) status(client dynamic.ResourceInterface, gvr schema.GroupVersionResource, name string) {
	e.Helper()
	list, err := e.kube.Discovery().ServerResourcesForGroupVersion(gvr.GroupVersion().String())
	e.must(err)
	if !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == gvr.Resource+"/status" }) {
		return
	}
	if _, err := client.Get(e.ctx, name, metav1.GetOptions{}, "status"); err != nil {
		e.Errorf("%s: get status: %v", gvr, err)
	}
	if _, err := client.Patch(e.ctx, name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"statuspatched":"yes"}}}`), metav1.PatchOptions{}, "status"); err != nil {
		e.Errorf("%s: patch status: %v", gvr, err)
	}
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		got, err := client.Get(e.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		_, err = client.UpdateStatus(e.ctx, got, metav1.UpdateOptions{})
		return err
	})
	if err != nil && !strings.Contains(err.Error(), "the server could not find the requested resource") {
		e.Errorf("%s: update status: %v", gvr, err)
	}
}
