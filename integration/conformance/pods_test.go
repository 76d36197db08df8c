package conformance

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// TestPods looks at pods from inside: real containers on one node, each area's tests side by side.
func TestPods(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up("--allowed-unsafe-sysctls", "net.core.*")
	c.ImportBusybox()
	c.ImportProgram(escapeImage, "integration/escape")
	s := newSuite(t, c)
	t.Run("drivers", func(t *testing.T) { s.parallel(t, driverTests) })
	t.Run("containers", func(t *testing.T) { s.parallel(t, containerTests) })
	t.Run("resources", func(t *testing.T) { s.parallel(t, resourceTests) })
	t.Run("lifecycle", func(t *testing.T) { s.parallel(t, lifecycleTests) })
	t.Run("images", func(t *testing.T) { s.parallel(t, imageTests) })
	t.Run("files", func(t *testing.T) { s.parallel(t, fileTests) })
	t.Run("disks", func(t *testing.T) { s.parallel(t, diskTests) })
	t.Run("reach", func(t *testing.T) { s.parallel(t, reachTests) })
	t.Run("dns", func(t *testing.T) { s.parallel(t, dnsTests) })
	t.Run("network", func(t *testing.T) { s.parallel(t, networkTests) })
	t.Run("security", func(t *testing.T) { s.parallel(t, securityTests) })
	t.Run("escape", func(t *testing.T) { s.parallel(t, escapeTests) })
}

// shell is a container that runs a script of busybox.
func shell(name, script string) corev1.Container {
	return corev1.Container{Name: name, Image: cluster.Busybox, Command: []string{"sh", "-c", script}}
}

// onePod is a pod of such containers that are not restarted.
func onePod(name string, containers ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: containers,
		TerminationGracePeriodSeconds: new(int64)}}
}

// create makes a pod in the test's namespace.
func (e *env) create(pod *corev1.Pod) *corev1.Pod {
	e.Helper()
	created, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, pod, metav1.CreateOptions{})
	e.must(err)
	return created
}

// until waits up to two minutes for a pod to be as wanted, and gives it; what it is not goes into the error.
func (e *env) until(name string, ok func(*corev1.Pod) error) *corev1.Pod {
	e.Helper()
	var pod *corev1.Pod
	cluster.Eventually(e.T, 2*time.Minute, func() (err error) {
		if pod, err = e.kube.CoreV1().Pods(e.ns).Get(e.ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		return ok(pod)
	})
	return pod
}

// ready waits for a pod to be Ready.
func (e *env) ready(name string) *corev1.Pod {
	e.Helper()
	return e.until(name, func(p *corev1.Pod) error {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return errors.New("not ready: " + describe(p))
	})
}

// finish makes a pod, waits for its end, and gives the log of its first container.
func (e *env) finish(pod *corev1.Pod) string {
	e.Helper()
	e.create(pod)
	e.until(pod.Name, func(p *corev1.Pod) error {
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			return errors.New("not ended: " + describe(p))
		}
		return nil
	})
	return e.log(pod.Name, pod.Spec.Containers[0].Name)
}

// log is what a container has printed.
func (e *env) log(pod, container string) string {
	e.Helper()
	data, err := e.kube.CoreV1().Pods(e.ns).GetLogs(pod, &corev1.PodLogOptions{Container: container}).DoRaw(e.ctx)
	e.must(err)
	return string(data)
}

// inside runs a script in a pod's first container, and gives what it prints.
func (e *env) inside(pod, script string) string {
	e.Helper()
	out, err := e.tryInside(pod, script)
	if err != nil {
		e.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

func (e *env) tryInside(pod, script string) (string, error) {
	return e.cluster.TryKubectl("", "exec", "-n", e.ns, pod, "--", "sh", "-c", script)
}

// describe is a pod's status, for an error's text.
func describe(p *corev1.Pod) string {
	text, err := json.Marshal(p.Status)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
