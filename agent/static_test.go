package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

func writeManifest(t *testing.T, dir, image string) {
	t.Helper()
	text := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: own}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 1\n  containers: [{name: app, image: %q}]\n", image)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "own.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestStaticPods(t *testing.T) {
	e := newEnv(t)
	dir := e.layout.Manifests()
	writeManifest(t, dir, "demo:v1")
	const name = "own-" + testNode
	first := e.awaitPod(name, "ready", isReady)
	owner := first.OwnerReferences
	if len(owner) != 1 || owner[0].Kind != "Node" || owner[0].Name != testNode || first.Annotations["kubernetes.io/config.source"] != "file" ||
		first.Annotations["kubernetes.io/config.hash"] == "" || first.Annotations["kubernetes.io/config.hash"] != first.Annotations["kubernetes.io/config.mirror"] {
		t.Errorf("mirror %+v", first.ObjectMeta)
	}
	// Whatever is done to the mirror, the pod runs on.
	if err := e.client.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	second := e.awaitPod(name, "made again", func(p *v1.Pod) bool { return p.UID != first.UID && isReady(p) })
	e.stop()
	e.start()
	e.node.exit(string(second.Annotations["kubernetes.io/config.hash"])+"-app-0", 1)
	e.awaitPod(name, "restarted", func(p *v1.Pod) bool {
		return p.UID == second.UID && isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 && p.Status.StartTime.Equal(second.Status.StartTime)
	})
	// Another file is another pod, after the end of the one before.
	writeManifest(t, dir, "demo:v2")
	e.awaitPod(name, "replaced", func(p *v1.Pod) bool {
		return p.UID != second.UID && isReady(p) && p.Spec.Containers[0].Image == "demo:v2"
	})
	if err := os.Remove(filepath.Join(dir, "own.yaml")); err != nil {
		t.Fatal(err)
	}
	e.await("removed", func() bool { return e.pod(name) == nil })
	starts := slices.DeleteFunc(e.node.transcript(), func(l string) bool { return l[:5] != "start" })
	want := []string{"start " + name + "/app-0", "start " + name + "/app-1", "start " + name + "/app-0"}
	if !slices.Equal(starts, want) {
		t.Errorf("started %q", starts)
	}
	if left := e.node.Pod(second.Annotations["kubernetes.io/config.hash"]); left.Sandbox != nil || len(left.Containers) > 0 {
		t.Errorf("left: %+v", left)
	}
}

// TestStaticPodsNeedNoServer: they run where the API server was never reached.
func TestStaticPodsNeedNoServer(t *testing.T) {
	e := &env{t: t, rest: &rest.Config{Host: "http://127.0.0.1:1"}, node: newDouble()}
	e.layout.Data, e.layout.Run = t.TempDir(), t.TempDir()
	writeManifest(t, e.layout.Manifests(), "demo:v1")
	e.start()
	defer func() { e.stop() }()
	e.await("start", func() bool { return slices.Contains(e.node.transcript(), "start own-"+testNode+"/app-0") })
	pods, err := e.node.List(context.Background())
	if err != nil || len(pods) != 1 {
		t.Fatal(pods, err)
	}
	for uid := range pods {
		e.node.exit(uid+"-app-0", 0)
	}
	e.await("restart", func() bool { return slices.Contains(e.node.transcript(), "start own-"+testNode+"/app-1") })
	time.Sleep(10 * time.Millisecond)
}
