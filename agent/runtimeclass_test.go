package agent

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRuntimeClass(t *testing.T) {
	e := newEnv(t)
	classes := e.client.NodeV1().RuntimeClasses()
	create := func() {
		if _, err := classes.Create(t.Context(), &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Handler: "crun",
			Overhead: &nodev1.Overhead{PodFixed: v1.ResourceList{v1.ResourceCPU: resource.MustParse("50m"), v1.ResourceMemory: resource.MustParse("8Mi")}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create()
	p := sizedPod("web", "100m", "64Mi")
	p.Spec.NodeName, p.Spec.RuntimeClassName = "", new("fast")
	p.Spec.Overhead = v1.ResourceList{v1.ResourceCPU: resource.MustParse("50m"), v1.ResourceMemory: resource.MustParse("8Mi")} // as admission has it
	p = e.create(p)
	if err := classes.Delete(t.Context(), "fast", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := e.client.CoreV1().Pods("default").Bind(t.Context(), &v1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Target: v1.ObjectReference{Kind: "Node", Name: testNode}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	e.await("the event", func() bool {
		return slices.Contains(e.events("web"), `FailedCreatePodSandBox: Failed to create pod sandbox: RuntimeClass "fast" not found`)
	})
	create()
	e.awaitPod("web", "ready", isReady)
	if !slices.Contains(e.node.transcript(), "handler crun") {
		t.Errorf("got %q", e.node.transcript())
	}
	e.node.mu.Lock()
	defer e.node.mu.Unlock()
	if r := e.node.sandboxes[string(p.UID)].Resources; r.CPUQuota != 15000 || r.MemoryLimit != 72<<20 {
		t.Errorf("without its overhead: %+v", r)
	}
}
