package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/integration/cluster"
)

const (
	namespace = "default"
	// second is another name of the same image.
	second = "docker.io/library/busybox:2"
	// patience is how long a pod may take for a step of its life while parts are killed: a container that is killed again and
	// again waits 10 seconds for its second start, 20 for its third and so on.
	patience = 3 * time.Minute
)

// life is one pod's, from its creation to its end, as its owner brings it about.
type life struct {
	*crash
	random *rand.Rand
	pod    *corev1.Pod
}

// lives are the kinds, by name.
var lives = map[string]func(*life) error{
	"serve":   (*life).serve,
	"update":  (*life).update,
	"finish":  (*life).finish,
	"retry":   (*life).retry,
	"doomed":  (*life).doomed,
	"replace": (*life).replace,
}

// serve is made ready, entered, and deleted while its preStop hook and its process take their time.
func (l *life) serve() error {
	l.pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	l.pod.Spec.InitContainers = append(l.pod.Spec.InitContainers, l.container("init", "-for", "200ms"), l.sidecar())
	l.pod.Spec.Containers = []corev1.Container{l.server("main"), l.container("other")}
	if err := l.first(l.create, l.becomesReady, l.enter, l.pause); err != nil {
		return err
	}
	return l.delete(int64(l.random.IntN(4)))
}

// update gets another image, and more CPU time, while it runs.
func (l *life) update() error {
	l.pod.Spec.Containers = []corev1.Container{l.server("main")}
	return l.first(l.create, l.becomesReady, l.changeImage, l.pause, l.deleteSoon)
}

// finish runs to its end once, whatever is killed.
func (l *life) finish() error {
	l.pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	code := l.random.IntN(3)
	l.pod.Spec.InitContainers = []corev1.Container{l.container("init", "-for", "100ms")}
	l.pod.Spec.Containers = []corev1.Container{
		l.container("main", "-for", l.upTo(2000), "-code", fmt.Sprint(code)), l.container("other", "-for", l.upTo(500)),
	}
	return l.first(l.create, l.ends, l.deleteSoon)
}

// retry fails once and is started again.
func (l *life) retry() error {
	l.pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	l.pod.Spec.ShareProcessNamespace = ptr.To(true)
	l.pod.Spec.Containers = []corev1.Container{l.container("main", "-for", l.upTo(1000), "-fails-first")}
	return l.first(l.create, l.ends, l.deleteSoon)
}

// doomed is deleted while it starts.
func (l *life) doomed() error {
	l.pod.Spec.InitContainers = []corev1.Container{l.container("init", "-for", "300ms")}
	l.pod.Spec.Containers = []corev1.Container{l.server("main")}
	return l.first(l.create, l.pause, l.deleteSoon)
}

// replace is deleted and made again at once under its name.
func (l *life) replace() error {
	l.pod.Spec.Containers = []corev1.Container{l.container("main", "-dies", "100ms")}
	fresh := l.pod.DeepCopy()
	if err := l.first(l.create, l.becomesReady, l.deleteSoon); err != nil {
		return err
	}
	l.pod = fresh
	return l.first(l.create, l.becomesReady, l.deleteSoon)
}

func (l *life) first(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (c *crash) newPod(name string) *corev1.Pod {
	directory := corev1.HostPathDirectory
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To(int64(3)),
			Volumes: []corev1.Volume{
				{Name: "record", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: c.record, Type: &directory}}},
				{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
			},
		},
	}
}

// container runs the witness.
func (c *crash) container(name string, args ...string) corev1.Container {
	return corev1.Container{
		Name: name, Image: cluster.Busybox, Command: append([]string{"/record/witness", "-of", c.Dir, "-name", name}, args...),
		Env:          []corev1.EnvVar{{Name: "POD_UID", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.uid"}}}},
		VolumeMounts: []corev1.VolumeMount{{Name: "record", MountPath: "/record"}, {Name: "memory", MountPath: "/memory"}},
	}
}

// server is a container with hooks and probes.
func (c *crash) server(name string) corev1.Container {
	run := c.container(name, "-dies", "200ms")
	hook := func(what string) *corev1.LifecycleHandler {
		return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/record/witness", "-name", name, what}}}
	}
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}, PeriodSeconds: 1, TimeoutSeconds: 5, FailureThreshold: 10}
	run.Lifecycle = &corev1.Lifecycle{PostStart: hook("postStart"), PreStop: hook("preStop")}
	run.ReadinessProbe, run.LivenessProbe, run.StartupProbe = probe, probe, probe
	return run
}

func (c *crash) sidecar() corev1.Container {
	s := c.container("sidecar")
	s.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	return s
}

func (l *life) upTo(milliseconds int) string {
	return fmt.Sprint(time.Duration(l.random.IntN(milliseconds)+1) * time.Millisecond)
}

func (l *life) pause() error {
	time.Sleep(time.Duration(l.random.IntN(1500)) * time.Millisecond)
	return nil
}

// try calls f until it succeeds: the server may be away.
func (c *crash) try(what string, f func(ctx context.Context) error) error {
	return c.until(what, func(ctx context.Context) (bool, error) { return true, f(ctx) })
}

// until calls f until it is true without an error.
func (c *crash) until(what string, f func(ctx context.Context) (bool, error)) error {
	deadline := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
		ok, err := f(ctx)
		cancel()
		if ok && err == nil {
			return nil
		}
		if c.ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %v: %w", what, patience, errors.Join(err, c.ctx.Err()))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (l *life) create() error {
	return l.try("create "+l.pod.Name, func(ctx context.Context) error {
		created, err := l.client.CoreV1().Pods(namespace).Create(ctx, l.pod, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			if created, err = l.get(ctx); err == nil && created.DeletionTimestamp != nil {
				return errors.New("its predecessor is still there")
			}
		}
		if err == nil {
			l.pod = created
		}
		return err
	})
}

func (l *life) get(ctx context.Context) (*corev1.Pod, error) {
	return l.client.CoreV1().Pods(namespace).Get(ctx, l.pod.Name, metav1.GetOptions{})
}

// becomes waits until the pod's status is as wanted.
func (l *life) becomes(what string, ok func(*corev1.Pod) bool) error {
	return l.until(l.pod.Name+" "+what, func(ctx context.Context) (bool, error) {
		pod, err := l.get(ctx)
		if err != nil {
			return false, err
		}
		l.pod = pod
		if !ok(pod) {
			return false, errors.New(describe(pod))
		}
		return true, nil
	})
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func (l *life) becomesReady() error { return l.becomes("is ready", isReady) }

func (l *life) ends() error {
	if err := l.becomes("has ended", terminal); err != nil {
		return err
	}
	l.keepEnd(l.pod)
	return nil
}

// enter runs a command in the first container.
func (l *life) enter() error {
	return l.until("exec in "+l.pod.Name, func(context.Context) (bool, error) {
		out, err := l.TryKubectl("", "exec", l.pod.Name, "-c", "main", "--", "hostname")
		if err == nil && strings.TrimSpace(out) != l.pod.Name {
			err = errors.New("its host name is another")
		}
		if err != nil {
			return false, fmt.Errorf("%w: %s", err, out)
		}
		return true, nil
	})
}

func (l *life) changeImage() error {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"containers": []map[string]string{{"name": "main", "image": second}}}})
	if err != nil {
		return err
	}
	if err := l.try("change the image of "+l.pod.Name, func(ctx context.Context) error {
		_, err := l.client.CoreV1().Pods(namespace).Patch(ctx, l.pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		return err
	}); err != nil {
		return err
	}
	return l.becomes("has its new image", func(pod *corev1.Pod) bool {
		s := pod.Status.ContainerStatuses
		return len(s) == 1 && s[0].Image == second && s[0].RestartCount > 0 && s[0].Ready
	})
}

func (l *life) deleteSoon() error { return l.delete(3) }

// delete deletes the pod and waits until it is gone.
func (l *life) delete(grace int64) error {
	options := metav1.DeleteOptions{GracePeriodSeconds: &grace, Preconditions: metav1.NewUIDPreconditions(string(l.pod.UID))}
	gone := func(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }
	if err := l.try("delete "+l.pod.Name, func(ctx context.Context) error {
		if err := l.client.CoreV1().Pods(namespace).Delete(ctx, l.pod.Name, options); !gone(err) {
			return err
		}
		return nil
	}); err != nil {
		return err
	}
	l.history.note("deleted %s %s, grace %d", l.pod.Name, l.pod.UID[:8], grace)
	return l.until(l.pod.Name+" is gone", func(ctx context.Context) (bool, error) {
		pod, err := l.get(ctx)
		if apierrors.IsNotFound(err) || err == nil && pod.UID != l.pod.UID {
			return true, nil
		}
		if err == nil {
			err = errors.New(describe(pod))
		}
		return false, err
	})
}
