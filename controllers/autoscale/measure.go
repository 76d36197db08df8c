package autoscale

import (
	"context"
	"errors"
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/controllers/autoscale/recommend"
)

// measured is what one metric asks for.
type measured struct {
	replicas int32
	// name is the metric's in events.
	name   string
	status autoscalingv2.MetricStatus
}

// unmeasured says why a metric asks for nothing.
type unmeasured struct {
	// reason is that of the condition ScalingActive, and of an event; both tell cause.
	reason string
	cause  error
	// whole is what is told of the metric among others.
	whole error
}

// measure reads one metric and proposes replicas.
func (c *Controller) measure(ctx context.Context, t *target, m *autoscalingv2.MetricSpec) (measured, *unmeasured) {
	switch {
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		p, name, current, err := c.resource(ctx, t, m.Resource.Name, "", &m.Resource.Target)
		if err != nil {
			return measured{}, &unmeasured{"FailedGetResourceMetric", err, fmt.Errorf("failed to get %s resource metric value: %w", m.Resource.Name, err)}
		}
		return measured{p, name, autoscalingv2.MetricStatus{Type: m.Type, Resource: &autoscalingv2.ResourceMetricStatus{Name: m.Resource.Name, Current: current}}}, nil
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		r := m.ContainerResource
		p, name, current, err := c.resource(ctx, t, r.Name, r.Container, &r.Target)
		if err != nil {
			return measured{}, &unmeasured{"FailedGetContainerResourceMetric", err, fmt.Errorf("failed to get %s container metric value: %w", r.Container, err)}
		}
		return measured{p, name, autoscalingv2.MetricStatus{Type: m.Type,
			ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{Name: r.Name, Container: r.Container, Current: current}}}, nil
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		return c.perPod(ctx, t, m.Pods)
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		return c.object(ctx, t, m.Object)
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		return c.outside(ctx, t, m.External)
	}
	err := fmt.Errorf("unknown metric source type %q", m.Type)
	return measured{}, &unmeasured{"InvalidMetricSourceType", err, err}
}

// resource proposes replicas by what pods, or one container of each, use of a resource.
func (c *Controller) resource(ctx context.Context, t *target, name corev1.ResourceName, container string, aim *autoscalingv2.MetricTarget) (int32, string, autoscalingv2.MetricValueStatus, error) {
	l := t.load(c)
	l.Resource, l.Container = name, container
	what := "utilization"
	if aim.AverageValue != nil {
		what = "usage"
	}
	fail := func(err error) (int32, string, autoscalingv2.MetricValueStatus, error) {
		return 0, "", autoscalingv2.MetricValueStatus{}, fmt.Errorf("failed to get %s %s: %w", name, what, err)
	}
	if aim.AverageValue == nil && aim.AverageUtilization == nil {
		return 0, "", autoscalingv2.MetricValueStatus{}, errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	samples, err := c.metrics.ofResource(ctx, t.hpa.Namespace, t.selector, name, container)
	if err != nil {
		return fail(fmt.Errorf("unable to get metrics for resource %s: %w", name, err))
	}
	if aim.AverageValue != nil {
		p, err := recommend.Average(l, samples, aim.AverageValue.MilliValue())
		if err != nil {
			return fail(err)
		}
		return p.Replicas, fmt.Sprintf("%s resource", name), autoscalingv2.MetricValueStatus{AverageValue: milli(p.Value)}, nil
	}
	p, err := recommend.Utilization(l, samples, *aim.AverageUtilization)
	if err != nil {
		return fail(err)
	}
	return p.Replicas, fmt.Sprintf("%s resource utilization (percentage of request)", name),
		autoscalingv2.MetricValueStatus{AverageUtilization: &p.Utilization, AverageValue: milli(p.Value)}, nil
}

func milli(v int64) *resource.Quantity { return resource.NewMilliQuantity(v, resource.DecimalSI) }

// perPod proposes replicas by the average of a metric of the pods.
func (c *Controller) perPod(ctx context.Context, t *target, m *autoscalingv2.PodsMetricSource) (measured, *unmeasured) {
	fail := func(err error) (measured, *unmeasured) {
		return measured{}, &unmeasured{"FailedGetPodsMetric", err, fmt.Errorf("failed to get pods metric value: %w", err)}
	}
	labelled, err := metav1.LabelSelectorAsSelector(selectAll(m.Metric.Selector))
	if err != nil {
		return fail(err)
	}
	samples, err := c.metrics.ofPods(ctx, t.hpa.Namespace, m.Metric.Name, t.selector, labelled)
	if err != nil {
		return fail(fmt.Errorf("unable to get metric %s: %w", m.Metric.Name, err))
	}
	p, err := recommend.Average(t.load(c), samples, m.Target.AverageValue.MilliValue())
	if err != nil {
		return fail(err)
	}
	return measured{p.Replicas, "pods metric " + m.Metric.Name, autoscalingv2.MetricStatus{Type: autoscalingv2.PodsMetricSourceType,
		Pods: &autoscalingv2.PodsMetricStatus{Metric: m.Metric, Current: autoscalingv2.MetricValueStatus{AverageValue: milli(p.Value)}}}}, nil
}

// selectAll makes no selector one that selects everything.
func selectAll(s *metav1.LabelSelector) *metav1.LabelSelector {
	if s == nil {
		return &metav1.LabelSelector{}
	}
	return s
}

// object proposes replicas by a metric of one object: its whole value, or that divided by the pods.
func (c *Controller) object(ctx context.Context, t *target, m *autoscalingv2.ObjectMetricSource) (measured, *unmeasured) {
	fail := func(err, whole error) (measured, *unmeasured) {
		return measured{}, &unmeasured{"FailedGetObjectMetric", err, fmt.Errorf("failed to get object metric value: %w", whole)}
	}
	labelled, err := metav1.LabelSelectorAsSelector(selectAll(m.Metric.Selector))
	if err != nil {
		return fail(err, err)
	}
	if m.Target.Value == nil && m.Target.AverageValue == nil {
		err := errors.New("invalid object metric source: neither a value target nor an average value target was set")
		return fail(err, err)
	}
	value, err := c.metrics.ofObject(ctx, t.hpa.Namespace, m.Metric.Name, &m.DescribedObject, labelled)
	if err != nil {
		err = fmt.Errorf("unable to get metric %s: %s on %s %s/%w", m.Metric.Name, m.DescribedObject.Kind, t.hpa.Namespace, m.DescribedObject.Name, err)
		return fail(err, err)
	}
	status := &autoscalingv2.ObjectMetricStatus{DescribedObject: m.DescribedObject, Metric: m.Metric}
	whole := autoscalingv2.MetricStatus{Type: autoscalingv2.ObjectMetricSourceType, Object: status}
	if m.Target.Type == autoscalingv2.AverageValueMetricType && m.Target.AverageValue != nil || m.Target.Value == nil {
		p := recommend.PerPod(t.load(c).Tolerances, t.scale.Status.Replicas, value, m.Target.AverageValue.MilliValue())
		status.Current.AverageValue = milli(p.Value)
		return measured{p.Replicas, fmt.Sprintf("external metric %s(%+v)", m.Metric.Name, m.Metric.Selector), whole}, nil
	}
	p, err := recommend.Total(t.load(c), value, m.Target.Value.MilliValue())
	if err != nil {
		return fail(err, err)
	}
	status.Current.Value = milli(p.Value)
	return measured{p.Replicas, fmt.Sprintf("%s metric %s", m.DescribedObject.Kind, m.Metric.Name), whole}, nil
}

// outside proposes replicas by a metric that belongs to no object: its whole value, or that divided by the pods.
func (c *Controller) outside(ctx context.Context, t *target, m *autoscalingv2.ExternalMetricSource) (measured, *unmeasured) {
	fail := func(err error) (measured, *unmeasured) {
		return measured{}, &unmeasured{"FailedGetExternalMetric", err, fmt.Errorf("failed to get %s external metric value: %w", m.Metric.Name, err)}
	}
	labelled, err := metav1.LabelSelectorAsSelector(selectAll(m.Metric.Selector))
	if err != nil {
		return fail(err)
	}
	if m.Target.Value == nil && m.Target.AverageValue == nil {
		return fail(errors.New("invalid external metric source: neither a value target nor an average value target was set"))
	}
	value, err := c.metrics.fromOutside(ctx, t.hpa.Namespace, m.Metric.Name, labelled)
	if err != nil {
		return fail(fmt.Errorf("unable to get external metric %s/%s/%+v: %w", t.hpa.Namespace, m.Metric.Name, m.Metric.Selector, err))
	}
	status := &autoscalingv2.ExternalMetricStatus{Metric: m.Metric}
	result := measured{name: fmt.Sprintf("external metric %s(%+v)", m.Metric.Name, m.Metric.Selector),
		status: autoscalingv2.MetricStatus{Type: autoscalingv2.ExternalMetricSourceType, External: status}}
	if m.Target.AverageValue != nil {
		p := recommend.PerPod(t.load(c).Tolerances, t.scale.Status.Replicas, value, m.Target.AverageValue.MilliValue())
		result.replicas, status.Current.AverageValue = p.Replicas, milli(p.Value)
		return result, nil
	}
	p, err := recommend.Total(t.load(c), value, m.Target.Value.MilliValue())
	if err != nil {
		return fail(err)
	}
	result.replicas, status.Current.Value = p.Replicas, milli(p.Value)
	return result, nil
}
