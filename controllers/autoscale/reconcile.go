package autoscale

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// wish is how many replicas are asked for.
type wish struct {
	replicas int32
	reason   string
	metrics  []autoscalingv2.MetricStatus
}

// reconcile scales the autoscaler's target once, and writes what came of it.
func (c *Controller) reconcile(ctx context.Context, t *target) error {
	if err := c.find(ctx, t); err != nil {
		return errors.Join(err, c.write(ctx, t))
	}
	current := t.scale.Spec.Replicas
	if u := t.memory.unsure; u != nil && u.to == current {
		t.memory.history.Scaled(t.bounds(c), u.from, u.to, u.at)
	}
	t.memory.unsure = nil
	t.showZero()
	t.memory.history.Begin(current, t.now)
	w, err := c.wish(ctx, t)
	if err != nil {
		t.numbers(current, t.hpa.Status.DesiredReplicas, w.metrics)
		c.events.Event(t.hpa, corev1.EventTypeWarning, "FailedComputeMetricsReplicas", err.Error())
		return errors.Join(err, c.write(ctx, t))
	}
	if w.replicas == current {
		t.numbers(current, current, w.metrics)
		return c.write(ctx, t)
	}
	if err := c.rescale(ctx, t, w); apierrors.IsConflict(err) {
		return err // somebody has scaled it meanwhile
	} else if err != nil {
		t.numbers(current, t.hpa.Status.DesiredReplicas, w.metrics)
		return errors.Join(err, c.write(ctx, t))
	}
	t.numbers(current, w.replicas, w.metrics)
	return c.write(ctx, t)
}

// rescale asks for another number of replicas.
func (c *Controller) rescale(ctx context.Context, t *target, w wish) error {
	current := t.scale.Spec.Replicas
	changed := t.scale.DeepCopy()
	changed.Spec.Replicas = w.replicas
	if err := c.scales.Update(ctx, t.resource, changed); err != nil {
		if apierrors.IsConflict(err) {
			return err
		}
		t.memory.unsure = &rescaled{current, w.replicas, t.now}
		c.events.Eventf(t.hpa, corev1.EventTypeWarning, "FailedRescale", "New size: %d; reason: %s; error: %v", w.replicas, w.reason, err)
		t.condition(autoscalingv2.AbleToScale, false, "FailedUpdateScale", fmt.Sprintf("the HPA controller was unable to update the target scale: %v", err))
		return err
	}
	t.condition(autoscalingv2.AbleToScale, true, "SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", w.replicas))
	c.events.Eventf(t.hpa, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", w.replicas, w.reason)
	t.memory.history.Scaled(t.bounds(c), current, w.replicas, t.now)
	t.memory.scaled = &metav1.Time{Time: t.now}
	t.noteZero(current, w.replicas)
	return nil
}

// noteZero remembers in the status that it was the autoscaler that took the last replica: one that a person took stays away.
func (t *target) noteZero(from, to int32) {
	b := t.hpa.Spec.MinReplicas
	if b == nil || *b != 0 && !t.has(autoscalingv2.ScaledToZero, "") {
		return
	}
	took := from > 0 && to == 0 && t.fromOutside()
	t.memory.tookLast = &took
	t.showZero()
}

// showZero puts that into the conditions, again where a status that said so was refused.
func (t *target) showZero() {
	switch took := t.memory.tookLast; {
	case took == nil:
	case *took:
		t.condition(autoscalingv2.ScaledToZero, true, "ScaledToZero", "the HPA controller scaled the workload to zero")
	default:
		t.condition(autoscalingv2.ScaledToZero, false, "NotScaledToZero", "the HPA controller did not scale the workload to zero")
	}
}

// fromOutside tells whether there is a metric that can be measured without pods.
func (t *target) fromOutside() bool {
	for _, m := range t.hpa.Spec.Metrics {
		if m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType {
			return true
		}
	}
	return false
}

// wish decides on the replicas. An error is a lack of metrics.
func (c *Controller) wish(ctx context.Context, t *target) (wish, error) {
	b, current := t.bounds(c), t.scale.Spec.Replicas
	switch {
	case current == 0 && !t.wakes(b.Min):
		t.condition(autoscalingv2.ScalingActive, false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
		return wish{}, nil
	case current > b.Max:
		return wish{replicas: b.Max, reason: "Current number of replicas above Spec.MaxReplicas"}, nil
	case current < b.Min && current != 0:
		return wish{replicas: b.Min, reason: "Current number of replicas below Spec.MinReplicas"}, nil
	}
	desired, name, statuses, err := c.desired(ctx, t)
	if err != nil {
		return wish{metrics: statuses}, err
	}
	w := wish{metrics: statuses, reason: "All metrics below target"}
	if desired > current {
		w.reason = name + " above target"
	}
	v := t.memory.history.Judge(b, current, desired, t.now)
	t.condition(autoscalingv2.AbleToScale, true, v.Reason, v.Message)
	t.condition(autoscalingv2.ScalingLimited, v.Limited, v.LimitedReason, v.LimitedDetail)
	w.replicas = v.Replicas
	return w, nil
}

// wakes tells whether the autoscaler may take the target away from zero replicas: if it took the last one itself.
func (t *target) wakes(least int32) bool {
	return t.has(autoscalingv2.ScaledToZero, corev1.ConditionTrue) && (least != 0 || t.fromOutside())
}

// desired is the most that any of the metrics asks for. With some of them missing, it is an error if it would take replicas away.
func (c *Controller) desired(ctx context.Context, t *target) (replicas int32, name string, statuses []autoscalingv2.MetricStatus, err error) {
	if err := c.selectPods(t); err != nil {
		return 0, "", nil, err
	}
	specs := t.hpa.Spec.Metrics
	statuses = make([]autoscalingv2.MetricStatus, len(specs))
	var first *unmeasured
	failed := 0
	for i := range specs {
		m, lack := c.measure(ctx, t, &specs[i])
		if lack != nil {
			c.events.Event(t.hpa, corev1.EventTypeWarning, lack.reason, lack.cause.Error())
			if failed++; first == nil {
				first = lack
			}
			continue
		}
		statuses[i] = m.status
		if replicas == 0 || m.replicas > replicas {
			replicas, name = m.replicas, m.name
		}
	}
	if failed >= len(specs) || failed > 0 && replicas < t.scale.Spec.Replicas {
		if first == nil {
			return 0, "", statuses, errors.New("no metrics") // defaulting gives every autoscaler one
		}
		t.condition(autoscalingv2.ScalingActive, false, first.reason, fmt.Sprintf("the HPA was unable to compute the replica count: %v", first.cause))
		return 0, "", statuses, fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", failed, len(specs), first.whole)
	}
	t.condition(autoscalingv2.ScalingActive, true, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from "+name)
	return replicas, name, statuses, nil
}

// selectPods finds the target's pods, which no other autoscaler may aim at.
func (c *Controller) selectPods(t *target) error {
	text := t.scale.Status.Selector
	if text == "" {
		err := errors.New("selector is required")
		c.events.Event(t.hpa, corev1.EventTypeWarning, "SelectorRequired", err.Error())
		t.condition(autoscalingv2.ScalingActive, false, invalidSelector, "the HPA target's scale is missing a selector")
		return err
	}
	selector, err := labels.Parse(text)
	if err != nil {
		err = fmt.Errorf("couldn't convert selector into a corresponding internal selector object: %w", err)
		c.events.Event(t.hpa, corev1.EventTypeWarning, invalidSelector, err.Error())
		t.condition(autoscalingv2.ScalingActive, false, invalidSelector, err.Error())
		return err
	}
	if t.pods, err = c.pods.Pods(t.hpa.Namespace).List(selector); err != nil {
		return fmt.Errorf("unable to get pods while calculating replica count: %w", err)
	}
	t.selector = selector
	if all := c.aimers(t); len(all) > 1 {
		err := fmt.Errorf("pods by selector %s are controlled by multiple HPAs: %s", text, all)
		c.events.Event(t.hpa, corev1.EventTypeWarning, "AmbiguousSelector", err.Error())
		t.condition(autoscalingv2.ScalingActive, false, "AmbiguousSelector", err.Error())
		return err
	}
	return nil
}

// aimers are the autoscalers whose targets have one of the target's pods; it notes the selector for the others.
func (c *Controller) aimers(t *target) []string {
	c.mu.Lock()
	t.memory.selector = t.selector
	selectors := map[string]labels.Selector{}
	for key, m := range c.known {
		if m.selector != nil && strings.HasPrefix(key, t.hpa.Namespace+"/") {
			selectors[key] = m.selector
		}
	}
	c.mu.Unlock()
	var all []string
	for key, s := range selectors {
		for _, pod := range t.pods {
			if s.Matches(labels.Set(pod.Labels)) {
				all = append(all, key)
				break
			}
		}
	}
	sort.Strings(all)
	return all
}
