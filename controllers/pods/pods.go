// Package pods reads a pod's state the way controllers count it. It is pure.
package pods

import (
	"cmp"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Condition is the pod's condition of type t, or nil.
func Condition(pod *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == t {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// Ready tells whether the Ready condition is true.
func Ready(pod *corev1.Pod) bool {
	c := Condition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Terminal tells whether the pod has ended for good.
func Terminal(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Active tells whether the pod counts as a replica: neither ended nor being deleted.
func Active(pod *corev1.Pod) bool { return !Terminal(pod) && pod.DeletionTimestamp == nil }

// Terminating tells whether the pod is being deleted and may still run.
func Terminating(pod *corev1.Pod) bool { return !Terminal(pod) && pod.DeletionTimestamp != nil }

// AvailableIn is how long until the pod, if it stays ready, has been ready for minReadySeconds: zero when it has been, and
// ok false when it is not ready.
func AvailableIn(pod *corev1.Pod, minReadySeconds int32, now time.Time) (wait time.Duration, ok bool) {
	c := Condition(pod, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return 0, false
	}
	if minReadySeconds == 0 {
		return 0, true
	}
	if c.LastTransitionTime.IsZero() {
		return time.Duration(minReadySeconds) * time.Second, true
	}
	ready := c.LastTransitionTime.Add(time.Duration(minReadySeconds) * time.Second)
	return max(0, ready.Sub(now)), true
}

// Available tells whether the pod has been ready for minReadySeconds.
func Available(pod *corev1.Pod, minReadySeconds int32, now time.Time) bool {
	wait, ok := AvailableIn(pod, minReadySeconds, now)
	return ok && wait == 0
}

// CompareRestarts puts the pod first whose containers were restarted more often; sidecars count where that is equal.
func CompareRestarts(a, b *corev1.Pod) int {
	ac, as := restarts(a)
	bc, bs := restarts(b)
	return cmp.Or(cmp.Compare(bc, ac), cmp.Compare(bs, as))
}

// restarts are the greatest restart counts of the pod's containers, and of its sidecars.
func restarts(pod *corev1.Pod) (containers, sidecars int32) {
	for _, c := range pod.Status.ContainerStatuses {
		containers = max(containers, c.RestartCount)
	}
	for _, c := range pod.Status.InitContainerStatuses {
		if sidecar(pod, c.Name) {
			sidecars = max(sidecars, c.RestartCount)
		}
	}
	return containers, sidecars
}

func sidecar(pod *corev1.Pod, name string) bool {
	for _, c := range pod.Spec.InitContainers {
		if c.Name == name {
			return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		}
	}
	return false
}
