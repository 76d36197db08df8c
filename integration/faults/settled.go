package faults

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// Unsettled says what is not as asked for, once the faults are over. Empty: everything has converged and nothing is orphaned.
func (w *World) Unsettled() []string {
	var list []string
	for _, o := range w.sorted() {
		if o.GetDeletionTimestamp() != nil {
			list = append(list, fmt.Sprintf("%T %s is still being deleted", o, o.GetName()))
			continue
		}
		list = append(list, w.orphaned(o)...)
		list = append(list, w.unsettled(o)...)
	}
	return list
}

// sorted are all objects, by name.
func (w *World) sorted() []metav1.Object {
	var all []metav1.Object
	for _, o := range w.objects {
		all = append(all, o)
	}
	for _, pod := range w.pods {
		all = append(all, pod)
	}
	return byName(all)
}

// orphaned says which owners of an object are gone, and whether it lacks one that it must have.
func (w *World) orphaned(o metav1.Object) []string {
	var list []string
	for _, ref := range o.GetOwnerReferences() {
		if !slices.Contains([]string{"ReplicaSet", "Deployment", "StatefulSet", "DaemonSet", "Job"}, ref.Kind) {
			continue
		}
		if w.objects[ref.UID] == nil {
			list = append(list, fmt.Sprintf("%T %s is an orphan: its %s %s is gone", o, o.GetName(), ref.Kind, ref.Name))
		}
	}
	if pod, ok := o.(*corev1.Pod); ok && metav1.GetControllerOfNoCopy(pod) == nil {
		list = append(list, fmt.Sprintf("pod %s belongs to nobody", pod.Name))
	}
	if pod, ok := o.(*corev1.Pod); ok && pod.Spec.NodeName != "" && w.node(pod.Spec.NodeName) == nil {
		list = append(list, fmt.Sprintf("pod %s is on %s, which is gone", pod.Name, pod.Spec.NodeName))
	}
	return list
}

// counted compares what an object has with what it asks for.
func counted(o metav1.Object, have, ready, want int, observed int64) []string {
	var list []string
	if have != want || ready != want {
		list = append(list, fmt.Sprintf("%T %s has %d pods, %d of them ready, wants %d", o, o.GetName(), have, ready, want))
	}
	if observed != o.GetGeneration() {
		list = append(list, fmt.Sprintf("%T %s: generation %d, observed %d", o, o.GetName(), o.GetGeneration(), observed))
	}
	return list
}

func (w *World) unsettled(o metav1.Object) []string {
	count := func(uid types.UID) (int, int) { return len(w.podsOf(uid, notTerminal)), len(w.podsOf(uid, available)) }
	switch o := o.(type) {
	case *appsv1.ReplicaSet:
		have, ready := count(o.UID)
		list := counted(o, have, ready, replicasOf(o), o.Status.ObservedGeneration)
		if s := o.Status; int(s.Replicas) != have || int(s.AvailableReplicas) != ready {
			list = append(list, fmt.Sprintf("set %s says %d pods, %d of them available, and has %d and %d", o.Name, s.Replicas, s.AvailableReplicas, have, ready))
		}
		return list
	case *appsv1.Deployment:
		return w.unsettledDeployment(o)
	case *appsv1.StatefulSet:
		have, ready := count(o.UID)
		list := counted(o, have, ready, int(ptr.Deref(o.Spec.Replicas, 1)), o.Status.ObservedGeneration)
		for _, pod := range w.podsOf(o.UID, active) {
			if hash := pod.Labels[appsv1.ControllerRevisionHashLabelKey]; hash != o.Status.UpdateRevision {
				list = append(list, fmt.Sprintf("pod %s is of revision %s, not %s", pod.Name, hash, o.Status.UpdateRevision))
			}
		}
		return list
	case *appsv1.DaemonSet:
		have, ready := count(o.UID)
		return counted(o, have, ready, w.takers(o), o.Status.ObservedGeneration)
	case *batchv1.Job:
		return w.unsettledJob(o)
	}
	return nil
}

func notTerminal(pod *corev1.Pod) bool { return !terminal(pod) }

// unsettledDeployment: only the set of its template has pods, as many as asked for.
func (w *World) unsettledDeployment(d *appsv1.Deployment) []string {
	want, total, newest := int(ptr.Deref(d.Spec.Replicas, 1)), 0, 0
	for _, set := range w.setsOf(d.UID) {
		n := len(w.podsOf(set.UID, available))
		total += n
		if sameTemplate(&set.Spec.Template, &d.Spec.Template) {
			newest += n
		}
	}
	list := counted(d, total, newest, want, d.Status.ObservedGeneration)
	if s := d.Status; int(s.Replicas) != want || int(s.UpdatedReplicas) != want || int(s.AvailableReplicas) != want {
		list = append(list, fmt.Sprintf("deployment %s says %d pods, %d updated, %d available, wants %d", d.Name, s.Replicas, s.UpdatedReplicas, s.AvailableReplicas, want))
	}
	return list
}

// takers counts the nodes that a daemon without selector or tolerations of its own is for.
func (w *World) takers(*appsv1.DaemonSet) int {
	n := 0
	for _, o := range w.objects {
		if node, ok := o.(*corev1.Node); ok && !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
			return t.Effect != corev1.TaintEffectPreferNoSchedule && t.Key != corev1.TaintNodeUnschedulable
		}) {
			n++
		}
	}
	return n
}

// unsettledJob: it has ended, and its counts say so.
func (w *World) unsettledJob(job *batchv1.Job) []string {
	ended := slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
	})
	if !ended {
		return []string{fmt.Sprintf("job %s has not ended: %d active, %d done, %d failed", job.Name, job.Status.Active, job.Status.Succeeded, job.Status.Failed)}
	}
	var list []string
	if n := len(w.podsOf(job.UID, notTerminal)); n > 0 || job.Status.Active > 0 {
		list = append(list, fmt.Sprintf("job %s has ended, %d of its pods run, it says %d", job.Name, n, job.Status.Active))
	}
	r := w.jobs[job.UID]
	complete := slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == batchv1.JobComplete && c.Status == corev1.ConditionTrue
	})
	if complete && r != nil && job.Spec.Completions != nil && job.Spec.SuccessPolicy == nil && int(job.Status.Succeeded) != int(*job.Spec.Completions) {
		list = append(list, fmt.Sprintf("job %s is complete and counts %d of %d pods, %d were seen to succeed", job.Name, job.Status.Succeeded, *job.Spec.Completions, r.done))
	}
	return list
}
