package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/scheduler/decide"
	"github.com/coracle-dev/coracle/scheduler/model"
	"github.com/coracle-dev/coracle/scheduler/queue"
)

// bind writes the decision. The UID makes sure that it meets the pod it was made for.
func (s *Scheduler) bind(ctx context.Context, f *framework, item *queue.Item, node string) {
	pod := item.Pod.Pod
	err := s.kube.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err != nil && !refused(err) {
		err = s.outcome(ctx, pod, node, err)
	}
	if err == nil {
		s.cfg.Metrics.bound(f.profile.Name, item, s.cfg.Now())
		f.recorder.Eventf(pod, nil, corev1.EventTypeNormal, "Scheduled", "Binding",
			"Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node)
		return
	}
	if ctx.Err() != nil {
		return
	}
	s.unbind(item, pod, err)
	s.cfg.Metrics.failed(f.profile.Name)
	s.log.Warn("binding failed", "namespace", pod.Namespace, "pod", pod.Name, "node", node, "error", err)
	f.recorder.Eventf(pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "binding rejected: %v", err)
}

// refused tells an answer that says for certain that nothing was written from one that may have been lost on its way.
func refused(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	code := status.Status().Code
	return code >= 400 && code < 500 && code != 408
}

// outcome finds out whether a binding was written whose answer was lost: nil where it was. Until that is known the node's room
// stays taken.
func (s *Scheduler) outcome(ctx context.Context, pod *corev1.Pod, node string, lost error) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		live, err := s.kube.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		switch {
		case err == nil && live.UID == pod.UID && live.Spec.NodeName == node:
			return nil
		case err == nil || refused(err) && !apierrors.IsTooManyRequests(err):
			return lost
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// unbind takes back a decision whose write failed.
func (s *Scheduler) unbind(item *queue.Item, pod *corev1.Pod, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inFlight[pod.UID] == nil {
		return // seen bound or deleted in the meantime
	}
	delete(s.inFlight, pod.UID)
	s.forget(pod.UID)
	if !apierrors.IsNotFound(err) {
		s.queue.Failed(item, s.cfg.Now())
	}
	s.signal()
}

// report tells the user why a pod is not placed: its condition and an event. clear takes off the node it was waiting for.
func (s *Scheduler) report(ctx context.Context, f *framework, pod *corev1.Pod, message string, clear bool) {
	s.cfg.Metrics.unschedulable(f.profile.Name)
	f.recorder.Eventf(pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", message)
	nominated := pod.Status.NominatedNodeName
	if clear {
		nominated = ""
	}
	s.writeStatus(ctx, pod, unschedulable(pod, message), nominated)
}

func unschedulable(pod *corev1.Pod, message string) *corev1.PodCondition {
	return &corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable,
		Message: message, ObservedGeneration: pod.Generation,
	}
}

// makeRoom removes a preemption's victims, then lets the pod be tried.
func (s *Scheduler) makeRoom(ctx context.Context, f *framework, pod *corev1.Pod, d decide.Decision) {
	for _, p := range d.Preempt.Displaced {
		s.writeStatus(ctx, p.Pod, nil, "")
	}
	s.cfg.Metrics.unschedulable(f.profile.Name)
	f.recorder.Eventf(pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", d.Message)
	s.writeStatus(ctx, pod, unschedulable(pod, d.Message), d.Preempt.Node)
	for _, victim := range d.Preempt.Victims {
		err := s.remove(ctx, f, pod, victim.Pod, d.Preempt.Node)
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
			s.log.Warn("cannot preempt", "namespace", victim.Pod.Namespace, "pod", victim.Pod.Name, "for", pod.Name, "error", err)
			s.spare(pod.UID, victim)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range d.Preempt.Displaced {
		if item := s.queue.Get(p.Pod.UID); item != nil {
			s.queue.Activate(item)
		}
	}
	s.queue.Release(pod.UID)
	s.signal()
}

// spare takes back a removal that failed: the pod looks for a node again.
func (s *Scheduler) spare(preemptor types.UID, victim *model.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.cluster.Pod(victim.Pod.UID); p != nil {
		p.Doomed = false
	}
	s.cluster.Nominate(preemptor, nil, "")
	if item := s.queue.Get(preemptor); item != nil {
		s.queue.Retry(item, s.cfg.Now())
	}
}

// remove marks a victim and deletes it.
func (s *Scheduler) remove(ctx context.Context, f *framework, preemptor, victim *corev1.Pod, node string) error {
	err := s.patchStatus(ctx, victim, map[string]any{"conditions": []corev1.PodCondition{{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
		Message:            f.profile.Name + ": preempting to accommodate a higher priority pod",
		LastTransitionTime: metav1.NewTime(s.cfg.Now()), ObservedGeneration: victim.Generation,
	}}})
	if err != nil {
		return err
	}
	err = s.kube.CoreV1().Pods(victim.Namespace).Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(victim.UID))})
	if err != nil {
		return err
	}
	f.recorder.Eventf(victim, preemptor, corev1.EventTypeNormal, "Preempted", "Preempting", "Preempted by pod %v on node %v", preemptor.UID, node)
	return nil
}

// writeStatus writes a condition, where it is given, and the nominated node, where they differ from what the pod shows.
func (s *Scheduler) writeStatus(ctx context.Context, pod *corev1.Pod, c *corev1.PodCondition, nominated string) {
	status := map[string]any{}
	if c != nil && s.news(pod, c) {
		status["conditions"] = []corev1.PodCondition{*c}
	}
	if nominated != pod.Status.NominatedNodeName {
		status["nominatedNodeName"] = nominated
		if nominated == "" {
			status["nominatedNodeName"] = nil
		}
	}
	if len(status) == 0 {
		return
	}
	if err := s.patchStatus(ctx, pod, status); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		s.log.Warn("cannot write the pod's status", "namespace", pod.Namespace, "pod", pod.Name, "error", err)
	}
}

// news tells whether the condition differs from what the pod shows, and dates it.
func (s *Scheduler) news(pod *corev1.Pod, c *corev1.PodCondition) bool {
	c.LastTransitionTime = metav1.NewTime(s.cfg.Now())
	for _, old := range pod.Status.Conditions {
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		return old.Status != c.Status || old.Reason != c.Reason || old.Message != c.Message
	}
	return true
}

// patchStatus changes some of a pod's status. The UID keeps it from meeting a namesake.
func (s *Scheduler) patchStatus(ctx context.Context, pod *corev1.Pod, status map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	_, err = s.kube.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}
