package scheduler

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/scheduler/queue"
)

// bind writes the decision. The UID makes sure that it meets the pod it was made for.
func (s *Scheduler) bind(ctx context.Context, item *queue.Item, pod *corev1.Pod, node string) {
	err := s.cfg.Client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err == nil {
		s.recorder.Eventf(pod, nil, corev1.EventTypeNormal, "Scheduled", "Binding",
			"Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node)
		return
	}
	if ctx.Err() != nil {
		return
	}
	s.unbind(item, pod, err)
	s.log.Warn("binding failed", "namespace", pod.Namespace, "pod", pod.Name, "node", node, "error", err)
	s.recorder.Eventf(pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "binding rejected: %v", err)
}

// unbind takes back a decision whose write failed. Where the answer was lost but the pod is bound, the watch has
// told so or will, and the pod is then taken out of the queue again.
func (s *Scheduler) unbind(item *queue.Item, pod *corev1.Pod, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bindings[pod.UID] == nil {
		return // seen bound or deleted in the meantime
	}
	delete(s.bindings, pod.UID)
	s.cluster.RemovePod(pod.UID)
	if !apierrors.IsNotFound(err) {
		s.queue.Failed(item, s.cfg.Now())
	}
	s.signal()
}

// report tells the user why a pod is not placed: its condition and an event.
func (s *Scheduler) report(ctx context.Context, pod *corev1.Pod, message string) {
	s.recorder.Eventf(pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", message)
	condition := corev1.PodCondition{
		Type:               corev1.PodScheduled,
		Status:             corev1.ConditionFalse,
		Reason:             corev1.PodReasonUnschedulable,
		Message:            message,
		ObservedGeneration: pod.Generation,
	}
	if err := s.setCondition(ctx, pod, condition); err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		s.log.Warn("cannot write the PodScheduled condition", "namespace", pod.Namespace, "pod", pod.Name, "error", err)
	}
}

// setCondition writes one condition where it differs from what the pod shows.
func (s *Scheduler) setCondition(ctx context.Context, pod *corev1.Pod, c corev1.PodCondition) error {
	now := metav1.NewTime(s.cfg.Now())
	c.LastTransitionTime = now
	for _, old := range pod.Status.Conditions {
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		if old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message {
			return nil
		}
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"conditions": []corev1.PodCondition{c}},
	})
	if err != nil {
		return fmt.Errorf("encode condition: %w", err)
	}
	_, err = s.cfg.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}
