package controllers_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/polymorphichelpers"
)

// TestKubectlRollout runs what kubectl rollout status, history and undo are made of.
func TestKubectlRollout(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	d := deployment(2)
	d.Annotations = map[string]string{"kubernetes.io/change-cause": "first"}
	c.deploy(d)
	c.change("web", func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers[0].Image = "v2"
		d.Annotations["kubernetes.io/change-cause"] = "second"
	})
	c.rolledOut("web")
	c.rolloutStatus()

	kind := appsv1.SchemeGroupVersion.WithKind("Deployment").GroupKind()
	history, err := polymorphichelpers.HistoryViewerFor(kind, c.client)
	c.must(err)
	table, err := history.ViewHistory("default", "web", 0)
	c.must(err)
	if lines := strings.Fields(table); strings.Join(lines, " ") != "REVISION CHANGE-CAUSE 1 first 2 second" {
		t.Fatal(table)
	}
	undo, err := polymorphichelpers.RollbackerFor(kind, c.client)
	c.must(err)
	live, err := c.client.AppsV1().Deployments("default").Get(c.ctx, "web", metav1.GetOptions{})
	c.must(err)
	said, err := undo.Rollback(live, nil, 1, cmdutil.DryRunNone)
	if err != nil || said != "rolled back" {
		t.Fatal(said, err)
	}
	c.rolledOut("web")
	c.rolloutStatus()
	for _, pod := range c.pods("") {
		if image := pod.Spec.Containers[0].Image; image != "v1" && pod.DeletionTimestamp == nil {
			t.Fatalf("%s runs %s", pod.Name, image)
		}
	}
	table, err = history.ViewHistory("default", "web", 0)
	c.must(err)
	if lines := strings.Fields(table); strings.Join(lines, " ") != "REVISION CHANGE-CAUSE 2 second 3 first" {
		t.Fatal(table)
	}
}

func (c *cluster) rolloutStatus() {
	c.Helper()
	live, err := c.client.AppsV1().Deployments("default").Get(c.ctx, "web", metav1.GetOptions{})
	c.must(err)
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(live)
	c.must(err)
	said, done, err := (&polymorphichelpers.DeploymentStatusViewer{}).Status(unstructuredOf(content), 0)
	if err != nil || !done || said != "deployment \"web\" successfully rolled out\n" {
		c.Fatal(said, done, err)
	}
}

func unstructuredOf(content map[string]any) runtime.Unstructured {
	return &unstructured.Unstructured{Object: content}
}
