package faults

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// String is the event in one line, as much of it as the rules look at.
func (e Event) String() string {
	kind := strings.TrimPrefix(fmt.Sprintf("%T", e.Object), "*v1.")
	text := fmt.Sprintf("%s %d %s %s", e.At.Format("15:04:05.000"), e.Revision, kind, e.Object.GetName())
	if e.Gone {
		return text + " is gone"
	}
	if e.Object.GetDeletionTimestamp() != nil {
		text += fmt.Sprintf(" deleting(%ds, finalizers %v)", ptr.Deref(e.Object.GetDeletionGracePeriodSeconds(), -1), e.Object.GetFinalizers())
	}
	if kind != "Pod" {
		text += fmt.Sprintf(" generation %d/%d", e.Object.GetGeneration(), observedGeneration(e.Object))
	}
	switch o := e.Object.(type) {
	case *corev1.Pod:
		text += fmt.Sprintf(" %s on %q", o.Status.Phase, o.Spec.NodeName)
		for _, c := range o.Status.Conditions {
			if c.Type == corev1.PodReady || c.Type == corev1.DisruptionTarget {
				text += fmt.Sprintf(" %s=%s(%s)", c.Type, c.Status, c.Reason)
			}
		}
	case *appsv1.ReplicaSet:
		text += fmt.Sprintf(" wants %d: has %d, %d ready, %d available", replicasOf(o), o.Status.Replicas, o.Status.ReadyReplicas, o.Status.AvailableReplicas)
	case *appsv1.Deployment:
		text += fmt.Sprintf(" wants %d of %s, paused %v: has %d, %d updated, %d available", ptr.Deref(o.Spec.Replicas, 1), image(&o.Spec.Template), o.Spec.Paused, o.Status.Replicas, o.Status.UpdatedReplicas, o.Status.AvailableReplicas)
	case *appsv1.StatefulSet:
		text += fmt.Sprintf(" wants %d of %s: has %d, %d ready, %d updated", ptr.Deref(o.Spec.Replicas, 1), image(&o.Spec.Template), o.Status.Replicas, o.Status.ReadyReplicas, o.Status.UpdatedReplicas)
	case *appsv1.DaemonSet:
		text += fmt.Sprintf(" %s on %d: has %d, %d ready, %d updated", image(&o.Spec.Template), o.Status.DesiredNumberScheduled, o.Status.CurrentNumberScheduled, o.Status.NumberReady, o.Status.UpdatedNumberScheduled)
	case *batchv1.Job:
		text += fmt.Sprintf(" %d by %d: %d active, %d done, %d failed", ptr.Deref(o.Spec.Completions, 1), ptr.Deref(o.Spec.Parallelism, 1), o.Status.Active, o.Status.Succeeded, o.Status.Failed)
	case *coordinationv1.Lease:
		text += " of " + ptr.Deref(o.Spec.HolderIdentity, "")
	}
	return text
}

func image(t *corev1.PodTemplateSpec) string {
	if len(t.Spec.Containers) == 0 {
		return ""
	}
	return t.Spec.Containers[0].Image
}
