package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the Progressing condition that decisions rest on.
const (
	reasonAvailable = "NewReplicaSetAvailable"
	reasonTimedOut  = "ProgressDeadlineExceeded"
	reasonPaused    = "DeploymentPaused"
	reasonResumed   = "DeploymentResumed"
)

func (w *work) hasDeadline() bool {
	deadline := w.deploy.Spec.ProgressDeadlineSeconds
	return deadline != nil && *deadline != math.MaxInt32
}

// setCondition sets a condition unless it has that status and reason already.
func (w *work) setCondition(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(w.now)
	next := appsv1.DeploymentCondition{Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now}
	if have := condition(&w.status, t); have != nil {
		if have.Status == status && have.Reason == reason {
			return
		}
		if have.Status == status {
			next.LastTransitionTime = have.LastTransitionTime
		}
	}
	w.dropCondition(t)
	w.status.Conditions = append(w.status.Conditions, next)
}

func (w *work) dropCondition(t appsv1.DeploymentConditionType) {
	w.status.Conditions = slices.DeleteFunc(w.status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}

// notePause shows in the Progressing condition that the deployment was paused or resumed, which also starts its deadline anew.
func (w *work) notePause() {
	if !w.hasDeadline() {
		return
	}
	have := condition(&w.status, appsv1.DeploymentProgressing)
	if have != nil && have.Reason == reasonTimedOut {
		return
	}
	paused := have != nil && have.Reason == reasonPaused
	switch {
	case w.deploy.Spec.Paused && !paused:
		w.setCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	case !w.deploy.Spec.Paused && paused:
		w.setCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed")
	}
}

// observe counts the sets' pods into the status.
func (w *work) observe() {
	s := &w.status
	terminating, known := int32(0), true
	s.Replicas, s.UpdatedReplicas, s.ReadyReplicas = 0, 0, 0
	for _, r := range w.all() {
		s.Replicas += r.is.Status.Replicas
		s.ReadyReplicas += r.is.Status.ReadyReplicas
		if n := r.is.Status.TerminatingReplicas; n != nil {
			terminating += *n
		} else {
			known = known && r.was == nil // a set about to be created has none
		}
	}
	if w.newest != nil {
		s.UpdatedReplicas = w.newest.is.Status.Replicas
	}
	s.AvailableReplicas = available(w.all())
	s.UnavailableReplicas = max(0, total(w.all())-s.AvailableReplicas)
	s.TerminatingReplicas = nil
	if known {
		s.TerminatingReplicas = &terminating
	}
	s.ObservedGeneration = w.deploy.Generation
	if s.AvailableReplicas >= w.want()-maxUnavailable(w.deploy) {
		w.setCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		w.setCondition(appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
}

// observeRollout is observe and the rollout's progress.
func (w *work) observeRollout() {
	w.observe()
	if w.hasDeadline() {
		w.observeProgress()
		w.plan.again = w.untilDeadline()
	} else {
		w.dropCondition(appsv1.DeploymentProgressing)
	}
	w.observeFailure()
}

func (w *work) observeProgress() {
	have := condition(&w.status, appsv1.DeploymentProgressing)
	if w.status.Replicas == w.status.UpdatedReplicas && have != nil && have.Reason == reasonAvailable {
		return // finished before; a lost pod is not a rollout
	}
	subject := fmt.Sprintf("Deployment %q", w.deploy.Name)
	if w.newest != nil {
		subject = fmt.Sprintf("ReplicaSet %q", w.newest.is.Name)
	}
	switch {
	case complete(w.deploy, &w.status):
		w.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, subject+" has successfully progressed.")
	case w.progressed():
		w.touchProgress(subject + " is progressing.")
	case w.timedOut():
		w.setCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, subject+" has timed out progressing.")
	}
}

// touchProgress renews the condition, so that the deadline counts from now.
func (w *work) touchProgress(message string) {
	now := metav1.NewTime(w.now)
	next := appsv1.DeploymentCondition{
		Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "ReplicaSetUpdated", Message: message, LastUpdateTime: now, LastTransitionTime: now,
	}
	if have := condition(&w.status, appsv1.DeploymentProgressing); have != nil && have.Status == corev1.ConditionTrue {
		next.LastTransitionTime = have.LastTransitionTime
	}
	w.dropCondition(appsv1.DeploymentProgressing)
	w.status.Conditions = append(w.status.Conditions, next)
}

// complete tells whether status shows every pod updated and available, and no old one left.
func complete(d *appsv1.Deployment, status *appsv1.DeploymentStatus) bool {
	want := wanted(d)
	return status.UpdatedReplicas == want && status.Replicas == want && status.AvailableReplicas == want && status.ObservedGeneration >= d.Generation
}

// progressed tells whether the pods moved on since the status before: more updated, ready or available ones, or fewer old ones.
func (w *work) progressed() bool {
	before, now := &w.deploy.Status, &w.status
	return now.UpdatedReplicas > before.UpdatedReplicas ||
		now.Replicas-now.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		now.ReadyReplicas > before.ReadyReplicas ||
		now.AvailableReplicas > before.AvailableReplicas
}

func (w *work) timedOut() bool {
	have := condition(&w.status, appsv1.DeploymentProgressing)
	switch {
	case have == nil || have.Reason == reasonAvailable:
		return false
	case have.Reason == reasonTimedOut:
		return true
	}
	return w.deadline(have).Before(w.now)
}

func (w *work) deadline(c *appsv1.DeploymentCondition) time.Time {
	return c.LastUpdateTime.Add(time.Duration(*w.deploy.Spec.ProgressDeadlineSeconds) * time.Second)
}

// untilDeadline is how long until the deadline may have passed; zero when it cannot pass.
func (w *work) untilDeadline() time.Duration {
	have := condition(&w.status, appsv1.DeploymentProgressing)
	if have == nil || have.Reason == reasonTimedOut || have.Reason == reasonAvailable || complete(w.deploy, &w.status) {
		return 0
	}
	return max(time.Second, w.deadline(have).Sub(w.now)+time.Second) // times in the API are whole seconds
}

// observeFailure shows why the newest set cannot make its pods, or, if it can, why an old one cannot.
func (w *work) observeFailure() {
	sets := w.old
	if w.newest != nil {
		sets = append([]*replicas{w.newest}, w.old...)
	}
	for _, r := range sets {
		for _, c := range r.is.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				w.setCondition(appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message)
				return
			}
		}
	}
	w.dropCondition(appsv1.DeploymentReplicaFailure)
}
