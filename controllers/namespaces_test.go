package controllers_test

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// TestNamespaceDeletesPodsFirst is KEP 5080: what a pod runs on stays until the pod is gone.
func TestNamespaceDeletesPodsFirst(t *testing.T) {
	c := start(t, nil)
	core := c.client.CoreV1()
	_, err := core.Namespaces().Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}, metav1.CreateOptions{})
	c.must(err)
	pod := plainPod("held", "")
	pod.Finalizers = []string{"example.org/hold"}
	_, err = core.Pods("team").Create(c.ctx, pod, metav1.CreateOptions{})
	c.must(err)
	_, err = core.ConfigMaps("team").Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "needed"}}, metav1.CreateOptions{})
	c.must(err)
	c.must(core.Namespaces().Delete(c.ctx, "team", metav1.DeleteOptions{}))
	c.eventually("conditions", func() error {
		ns, err := core.Namespaces().Get(c.ctx, "team", metav1.GetOptions{})
		c.must(err)
		return conditionSays(ns, map[corev1.NamespaceConditionType]string{
			"NamespaceDeletionDiscoveryFailure":           "All resources successfully discovered",
			"NamespaceDeletionGroupVersionParsingFailure": "All legacy kube types successfully parsed",
			"NamespaceDeletionContentFailure":             "All content successfully deleted, may be waiting on finalization",
			"NamespaceContentRemaining":                   "Some resources are remaining: pods. has 1 resource instances",
			"NamespaceFinalizersRemaining":                "Some content in the namespace has finalizers remaining: example.org/hold in 1 resource instances",
		})
	})
	needed, err := core.ConfigMaps("team").Get(c.ctx, "needed", metav1.GetOptions{})
	if err != nil || needed.DeletionTimestamp != nil {
		t.Errorf("deleted before the pod: %v", err)
	}
	for {
		held, err := core.Pods("team").Get(c.ctx, "held", metav1.GetOptions{})
		c.must(err)
		held.Finalizers = nil
		if _, err = core.Pods("team").Update(c.ctx, held, metav1.UpdateOptions{}); err == nil {
			break
		}
	}
	c.eventually("the end", func() error {
		if _, err := core.Namespaces().Get(c.ctx, "team", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %v", err)
		}
		return nil
	})
	if _, err := core.ConfigMaps("team").Get(c.ctx, "needed", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("left behind: %v", err)
	}
}

func conditionSays(ns *corev1.Namespace, want map[corev1.NamespaceConditionType]string) error {
	for kind, text := range want {
		i := slices.IndexFunc(ns.Status.Conditions, func(c corev1.NamespaceCondition) bool { return c.Type == kind })
		if i < 0 || ns.Status.Conditions[i].Message != text {
			return fmt.Errorf("%s: %+v", kind, ns.Status)
		}
	}
	return nil
}

// widgets serves a custom resource and gives its client.
func (c *cluster) widgets() dynamic.NamespaceableResourceInterface {
	c.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}}}},
		},
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(crd)
	c.must(err)
	obj := &unstructured.Unstructured{Object: content}
	obj.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	d, err := dynamic.NewForConfig(c.config)
	c.must(err)
	crds := d.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	_, err = crds.Create(c.ctx, obj, metav1.CreateOptions{})
	c.must(err)
	widgets := d.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"})
	c.eventually("widgets", func() error {
		_, err := widgets.Namespace("default").List(c.ctx, metav1.ListOptions{})
		return err
	})
	return widgets
}

func widget(name string) *unstructured.Unstructured {
	w := &unstructured.Unstructured{Object: map[string]any{}}
	w.SetGroupVersionKind(schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"})
	w.SetName(name)
	return w
}

// TestNamespaceDeletesCustomResources: what discovery shows is emptied, whoever defined it.
func TestNamespaceDeletesCustomResources(t *testing.T) {
	t.Parallel()
	c := admitting(t, memory.New())
	c.control("namespace")
	widgets := c.widgets()
	_, err := c.client.CoreV1().Namespaces().Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}, metav1.CreateOptions{})
	c.must(err)
	for _, ns := range []string{"team", "default"} {
		_, err = widgets.Namespace(ns).Create(c.ctx, widget("w"), metav1.CreateOptions{})
		c.must(err)
	}
	c.must(c.client.CoreV1().Namespaces().Delete(c.ctx, "team", metav1.DeleteOptions{}))
	c.eventually("the end", func() error {
		if _, err := c.client.CoreV1().Namespaces().Get(c.ctx, "team", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %v", err)
		}
		return nil
	})
	if _, err := widgets.Namespace("team").Get(c.ctx, "w", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("left behind: %v", err)
	}
	if _, err := widgets.Namespace("default").Get(c.ctx, "w", metav1.GetOptions{}); err != nil {
		t.Errorf("another namespace's: %v", err)
	}
	for _, name := range []string{"default", "kube-system", "kube-public"} {
		err := c.client.CoreV1().Namespaces().Delete(c.ctx, name, metav1.DeleteOptions{})
		if want := fmt.Sprintf("namespaces %q is forbidden: this namespace may not be deleted", name); err == nil || err.Error() != want {
			t.Errorf("%v", err)
		}
	}
}
