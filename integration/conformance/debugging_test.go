package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/integration/cluster"
)

func ephemeralContainersRun(e *env) {
	pod := onePod("web", corev1.Container{Name: "app", Image: "coracle/demo:v1"})
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	e.create(pod)
	e.ready("web")
	add := func(c corev1.EphemeralContainer) {
		e.Helper()
		body, err := json.Marshal(map[string]any{"spec": map[string]any{"ephemeralContainers": []corev1.EphemeralContainer{c}}})
		e.must(err)
		_, err = e.kube.CoreV1().Pods(e.ns).Patch(e.ctx, "web", types.StrategicMergePatchType, body, metav1.PatchOptions{}, "ephemeralcontainers")
		e.must(err)
	}
	add(corev1.EphemeralContainer{TargetContainerName: "app", EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "one", Image: cluster.Busybox,
		Command: []string{"sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '; exit 3"}}})
	add(corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "two", Image: cluster.Busybox, Command: []string{"sleep", "1000"}}})
	var one *corev1.ContainerStateTerminated
	got := e.until("web", func(p *corev1.Pod) error {
		runs := false
		for _, st := range p.Status.EphemeralContainerStatuses {
			if st.Name == "one" {
				one = st.State.Terminated
			} else {
				runs = st.State.Running != nil
			}
		}
		if one == nil || !runs {
			return errUnready(p)
		}
		return nil
	})
	if log := e.log("web", "one"); !strings.HasPrefix(log, "demo") && !strings.HasPrefix(log, "/") || strings.HasPrefix(log, "sh") {
		e.Errorf("process 1 is %q", log)
	}
	if one.ExitCode != 3 || got.Status.ContainerStatuses[0].RestartCount != 0 {
		e.Errorf("status %s", describe(got))
	}
	e.ready("web")
	out, err := e.cluster.TryKubectl("echo says-$((40+2)); exit\n", "debug", "-n", e.ns, "web", "-i", "--image="+cluster.Busybox, "--target=app", "--profile=general", "--", "sh")
	if err != nil || !strings.Contains(out, "says-42") {
		e.Errorf("kubectl debug: %v\n%s", err, out)
	}
	got = e.ready("web")
	if n := len(got.Spec.EphemeralContainers); n != 3 {
		e.Errorf("%d ephemeral containers", n)
	}
	e.remove("web", 0)
}

func staticPodsRun(e *env) {
	file := filepath.Join(e.cluster.Layout.Manifests(), e.ns+".yaml")
	defer os.Remove(file)
	write := func(word string) {
		e.must(os.WriteFile(file, fmt.Appendf(nil, "apiVersion: v1\nkind: Pod\nmetadata: {name: own, namespace: %s}\nspec:\n  terminationGracePeriodSeconds: 0\n"+
			"  containers: [{name: main, image: %q, command: [sh, -c, \"echo %s; sleep 1000\"]}]\n", e.ns, cluster.Busybox, word), 0o600))
	}
	write("first")
	nodes, err := e.kube.CoreV1().Nodes().List(e.ctx, metav1.ListOptions{})
	e.must(err)
	name := "own-" + nodes.Items[0].Name
	e.eventually(func() error {
		_, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, name, metav1.GetOptions{})
		return err
	})
	mirror := e.ready(name)
	if log := e.log(name, "main"); log != "first\n" || len(mirror.OwnerReferences) != 1 || mirror.OwnerReferences[0].Kind != "Node" {
		e.Errorf("log %q, %+v", log, mirror.ObjectMeta)
	}
	e.remove(name, 0)
	e.until(name, func(p *corev1.Pod) error {
		if p.UID == mirror.UID || len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].ContainerID != mirror.Status.ContainerStatuses[0].ContainerID {
			return errUnready(p)
		}
		return nil
	})
	write("second")
	e.eventually(func() error {
		data, err := e.kube.CoreV1().Pods(e.ns).GetLogs(name, &corev1.PodLogOptions{}).DoRaw(e.ctx)
		if err == nil && string(data) != "second\n" {
			err = fmt.Errorf("log %q", data)
		}
		return err
	})
	e.must(os.Remove(file))
	e.removed(name)
}

func debugCopies(e *env) {
	e.create(onePod("app", corev1.Container{Name: "app", Image: "coracle/demo:v1"}))
	node := e.ready("app").Spec.NodeName
	out, err := e.cluster.TryKubectl("hostname; exit\n", "debug", "-n", e.ns, "app", "-i", "--image="+cluster.Busybox, "--copy-to=copy", "--share-processes", "--profile=general", "--", "sh")
	if err != nil || !strings.Contains(out, "copy") {
		e.Errorf("kubectl debug --copy-to: %v\n%s", err, out)
	}
	out, err = e.cluster.TryKubectl("ls -d /host/proc; echo end-$((1+1)); exit\n", "debug", "-n", e.ns, "node/"+node, "-i", "--image="+cluster.Busybox, "--profile=general", "--", "sh")
	if err != nil || !strings.Contains(out, "/host/proc") || !strings.Contains(out, "end-2") {
		e.Errorf("kubectl debug node: %v\n%s", err, out)
	}
	e.must(e.kube.CoreV1().Pods(e.ns).DeleteCollection(context.Background(), *metav1.NewDeleteOptions(0), metav1.ListOptions{}))
}
