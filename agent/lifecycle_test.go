package agent

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// TestReportedEndStands: the runtime has lost how a container ended that was reported as terminated, as after a loss of power.
func TestReportedEndStands(t *testing.T) {
	e := newEnv(t)
	p := simplePod("once")
	p.Spec.RestartPolicy = v1.RestartPolicyNever
	p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "other", Image: "demo:v1"})
	uid := string(e.create(p).UID)
	e.awaitPod("once", "ready", isReady)
	e.node.exit(uid+"-app-0", 3)
	ended := func(p *v1.Pod) bool {
		tm := p.Status.ContainerStatuses[0].State.Terminated
		return tm != nil && tm.ExitCode == 3
	}
	before := e.awaitPod("once", "terminated", ended)
	e.stop()
	e.node.mu.Lock()
	c := e.node.containers[uid+"-app-0"]
	c.State, c.ExitCode = runtime.StateCreated, 0
	e.node.mu.Unlock()
	e.start()
	e.node.exit(uid+"-other-0", 0)
	got := e.awaitPod("once", "failed", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	if !ended(got) || *got.Status.ContainerStatuses[0].State.Terminated != *before.Status.ContainerStatuses[0].State.Terminated {
		t.Errorf("reported %+v, then %+v", before.Status.ContainerStatuses[0].State, got.Status.ContainerStatuses[0].State)
	}
	starts := slices.DeleteFunc(e.node.transcript(), func(l string) bool { return l != "start once/app-0" })
	if len(starts) != 1 {
		t.Errorf("started %d times", len(starts))
	}
}

func TestEphemeralContainers(t *testing.T) {
	e := newEnv(t)
	pod := e.create(simplePod("web"))
	uid := string(pod.UID)
	e.awaitPod("web", "ready", isReady)
	for _, c := range []v1.EphemeralContainer{
		{TargetContainerName: "app", EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "one", Image: "demo:v1", Stdin: true, TTY: true}},
		{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "two", Image: "demo:v1"}},
	} {
		err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
			pod := e.pod("web")
			pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, c)
			_, err := e.client.CoreV1().Pods("default").UpdateEphemeralContainers(t.Context(), "web", pod, metav1.UpdateOptions{})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	runs := func(p *v1.Pod, i int) bool {
		return len(p.Status.EphemeralContainerStatuses) > i && p.Status.EphemeralContainerStatuses[i].State.Running != nil
	}
	e.awaitPod("web", "both run", func(p *v1.Pod) bool { return runs(p, 0) && runs(p, 1) })
	e.node.mu.Lock()
	one, two := e.node.configs[uid+"-one-0"], e.node.configs[uid+"-two-0"]
	e.node.mu.Unlock()
	if one.ProcessesOf != uid+"-app-0" || !one.TTY || !one.Stdin || two.ProcessesOf != "" {
		t.Errorf("target %q, of the other %q", one.ProcessesOf, two.ProcessesOf)
	}
	e.node.exit(uid+"-one-0", 1)
	got := e.awaitPod("web", "one ended", func(p *v1.Pod) bool { return p.Status.EphemeralContainerStatuses[0].State.Terminated != nil })
	if !isReady(got) || got.Status.EphemeralContainerStatuses[0].RestartCount != 0 {
		t.Errorf("status %+v", got.Status)
	}
	e.stop()
	e.start()
	e.node.exit(uid+"-app-0", 0) // it is restarted, and they are not
	e.awaitPod("web", "restarted", func(p *v1.Pod) bool {
		return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 && runs(p, 1)
	})
	if log := e.node.transcript(); slices.Contains(log, "start web/one-1") {
		t.Errorf("an ephemeral container was restarted: %q", log)
	}
}
