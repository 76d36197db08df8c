package job

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/pods"
)

// How long after its predecessor failed a pod is made: twice as long after each further failure.
const (
	firstBackoff = 10 * time.Second
	lastBackoff  = 6 * time.Minute
)

// backoff is how often pods have failed since one succeeded, and when last.
type backoff struct {
	failures int32
	last     time.Time
}

// after is the back-off once these pods have ended, too.
func (b backoff) after(succeeded, failed []*corev1.Pod) backoff {
	var success time.Time
	for _, pod := range succeeded {
		success = later(success, finishedAt(pod))
	}
	if len(succeeded) > 0 {
		b = backoff{}
	}
	for _, pod := range failed {
		if at := finishedAt(pod); len(succeeded) == 0 || at.After(success) {
			b.failures++
			b.last = later(b.last, at)
		}
	}
	return b
}

// remaining is how much longer to wait.
func (b backoff) remaining(now time.Time) time.Duration {
	if b.failures == 0 {
		return 0
	}
	wait := firstBackoff
	for i := int32(1); i < b.failures && wait < lastBackoff; i++ {
		wait *= 2
	}
	return max(0, min(wait, lastBackoff)-now.Sub(b.last))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// finishedAt is when the pod's last container ended; where that is not known, when it ceased to be ready, when it was deleted, or, last, when it was made.
func finishedAt(pod *corev1.Pod) time.Time {
	if at, ok := containersFinished(pod); ok {
		return at
	}
	if c := pods.Condition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if pod.DeletionTimestamp != nil {
		return pod.DeletionTimestamp.Add(-time.Duration(ptr.Deref(pod.DeletionGracePeriodSeconds, 0)) * time.Second)
	}
	return pod.CreationTimestamp.Time
}

func containersFinished(pod *corev1.Pod) (time.Time, bool) {
	statuses := slices.Clone(pod.Status.ContainerStatuses)
	for _, s := range pod.Status.InitContainerStatuses {
		if sidecar(pod, s.Name) { // they end after the others
			statuses = append(statuses, s)
		}
	}
	var last time.Time
	for _, s := range statuses {
		if s.State.Terminated == nil || s.State.Terminated.FinishedAt.IsZero() {
			return time.Time{}, false
		}
		last = later(last, s.State.Terminated.FinishedAt.Time)
	}
	return last, len(statuses) > 0
}

func sidecar(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
		return c.Name == name && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	})
}
