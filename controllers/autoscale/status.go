package autoscale

import (
	"context"
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Texts that several places use.
const (
	failedGetScale  = "FailedGetScale"
	cannotGetScale  = "the HPA controller was unable to get the target's current scale: %v"
	invalidSelector = "InvalidSelector"
)

// condition sets one of the autoscaler's conditions.
func (t *target) condition(kind autoscalingv2.HorizontalPodAutoscalerConditionType, is bool, reason, message string) {
	status := corev1.ConditionFalse
	if is {
		status = corev1.ConditionTrue
	}
	list := t.hpa.Status.Conditions
	i := 0
	for ; i < len(list) && list[i].Type != kind; i++ {
	}
	if i == len(list) {
		list = append(list, autoscalingv2.HorizontalPodAutoscalerCondition{Type: kind})
	}
	c := &list[i]
	if c.Status != status {
		c.LastTransitionTime = metav1.NewTime(t.now)
	}
	c.Status, c.Reason, c.Message, c.ObservedGeneration = status, reason, message, t.generation()
	t.hpa.Status.Conditions = list
}

// generation is that of the autoscaler as it was read; nil where it has none.
func (t *target) generation() *int64 {
	if t.hpa.Generation == 0 {
		return nil
	}
	g := t.hpa.Generation
	return &g
}

func (t *target) has(kind autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus) bool {
	for _, c := range t.hpa.Status.Conditions {
		if c.Type == kind {
			return c.Status == status || status == ""
		}
	}
	return false
}

// numbers sets what of the status is no condition.
func (t *target) numbers(current, desired int32, metrics []autoscalingv2.MetricStatus) {
	s := &t.hpa.Status
	s.CurrentReplicas, s.DesiredReplicas, s.CurrentMetrics, s.ObservedGeneration = current, desired, metrics, t.generation()
	if t.memory.scaled != nil {
		s.LastScaleTime = t.memory.scaled
	}
}

// write stores the status over the version that it was made from, if it says anything new.
func (c *Controller) write(ctx context.Context, t *target) error {
	if equality.Semantic.DeepEqual(t.before, &t.hpa.Status) {
		return nil
	}
	written, err := c.client.AutoscalingV2().HorizontalPodAutoscalers(t.hpa.Namespace).UpdateStatus(ctx, t.hpa, metav1.UpdateOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		if !apierrors.IsConflict(err) {
			c.events.Event(t.hpa, corev1.EventTypeWarning, "FailedUpdateStatus", err.Error())
		}
		return fmt.Errorf("failed to update status for %s: %w", t.hpa.Name, err)
	}
	c.lag.Wrote(t.key, written.ResourceVersion)
	return nil
}
