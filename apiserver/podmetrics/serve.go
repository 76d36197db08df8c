package podmetrics

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// GroupVersion is what is served here.
var GroupVersion = metricsv1beta1.SchemeGroupVersion

// The resources served.
var (
	NodesResource = schema.GroupResource{Group: GroupVersion.Group, Resource: "nodes"}
	PodsResource  = schema.GroupResource{Group: GroupVersion.Group, Resource: "pods"}
)

// Kinds are the entries of the table of what is served.
func Kinds() []kinds.Kind {
	columns := []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: "Name of the resource"},
		{Name: "cpu", Type: "string", Format: "quantity"},
		{Name: "memory", Type: "string", Format: "quantity"},
		{Name: "Window", Type: "string", Format: "duration"},
	}
	row := func(name string, usage corev1.ResourceList, window metav1.Duration) []any {
		return []any{name, usage.Cpu().String(), usage.Memory().String(), window.Duration.String()}
	}
	reads := []string{"get", "list"}
	return []kinds.Kind{{
		GVK: GroupVersion.WithKind("NodeMetrics"), Resource: "nodes", Verbs: reads, NotStored: true,
		New:     func() runtime.Object { return &metricsv1beta1.NodeMetrics{} },
		NewList: func() runtime.Object { return &metricsv1beta1.NodeMetricsList{Items: []metricsv1beta1.NodeMetrics{}} },
		Columns: columns,
		Cells: func(obj runtime.Object, _ metav1.Time) []any {
			m, _ := obj.(*metricsv1beta1.NodeMetrics)
			return row(m.Name, m.Usage, m.Window)
		},
	}, {
		GVK: GroupVersion.WithKind("PodMetrics"), Resource: "pods", Namespaced: true, Verbs: reads, NotStored: true,
		New:     func() runtime.Object { return &metricsv1beta1.PodMetrics{} },
		NewList: func() runtime.Object { return &metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{}} },
		Columns: columns,
		Cells: func(obj runtime.Object, _ metav1.Time) []any {
			m, _ := obj.(*metricsv1beta1.PodMetrics)
			return row(m.Name, total(m), m.Window)
		},
	}}
}

func total(m *metricsv1beta1.PodMetrics) corev1.ResourceList {
	sum := corev1.ResourceList{}
	for _, c := range m.Containers {
		for name, q := range c.Usage {
			was := sum[name]
			was.Add(q)
			sum[name] = was
		}
	}
	return sum
}

// Nodes answers for nodes.metrics.k8s.io.
type Nodes struct{ *Collector }

// Get implements rest.Live.
func (n Nodes) Get(ctx context.Context, _, name string) (runtime.Object, error) {
	if err := n.await(ctx); err != nil {
		return nil, apierrors.NewServiceUnavailable(err.Error())
	}
	missing := apierrors.NewNotFound(schema.GroupResource{Group: GroupVersion.Group, Resource: "nodemetrics"}, name)
	obj, err := n.cfg.Reader.Get(ctx, schema.GroupResource{Resource: "nodes"}, "", name)
	if apierrors.IsNotFound(err) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	if m := n.nodeMetrics(obj); m != nil {
		return m, nil
	}
	return nil, missing
}

// List implements rest.Live.
func (n Nodes) List(ctx context.Context, _ string) ([]runtime.Object, error) {
	if err := n.await(ctx); err != nil {
		return nil, apierrors.NewServiceUnavailable(err.Error())
	}
	objs, _, err := n.cfg.Reader.List(ctx, schema.GroupResource{Resource: "nodes"}, "")
	var out []runtime.Object
	for _, obj := range objs {
		if m := n.nodeMetrics(obj); m != nil {
			out = append(out, m)
		}
	}
	return out, err
}

// nodeMetrics is what a node uses; nil where that is not known.
func (c *Collector) nodeMetrics(obj runtime.Object) *metricsv1beta1.NodeMetrics {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return nil
	}
	prev, last := c.of(node.Name)
	if prev == nil {
		return nil
	}
	u, ok := between(&prev.node, &last.node)
	if !ok {
		return nil
	}
	return &metricsv1beta1.NodeMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: maps.Clone(node.Labels), CreationTimestamp: metav1.NewTime(c.cfg.Now())},
		Timestamp:  metav1.NewTime(u.at), Window: metav1.Duration{Duration: u.window}, Usage: u.list(),
	}
}

// Pods answers for pods.metrics.k8s.io.
type Pods struct{ *Collector }

// Get implements rest.Live.
func (p Pods) Get(ctx context.Context, namespace, name string) (runtime.Object, error) {
	if err := p.await(ctx); err != nil {
		return nil, apierrors.NewServiceUnavailable(err.Error())
	}
	missing := apierrors.NewNotFound(schema.GroupResource{Group: GroupVersion.Group, Resource: "podmetrics"}, namespace+"/"+name)
	obj, err := p.cfg.Reader.Get(ctx, schema.GroupResource{Resource: "pods"}, namespace, name)
	if apierrors.IsNotFound(err) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	if m := p.podMetrics(obj); m != nil {
		return m, nil
	}
	return nil, missing
}

// List implements rest.Live.
func (p Pods) List(ctx context.Context, namespace string) ([]runtime.Object, error) {
	if err := p.await(ctx); err != nil {
		return nil, apierrors.NewServiceUnavailable(err.Error())
	}
	objs, _, err := p.cfg.Reader.List(ctx, schema.GroupResource{Resource: "pods"}, namespace)
	var out []runtime.Object
	for _, obj := range objs {
		if m := p.podMetrics(obj); m != nil {
			out = append(out, m)
		}
	}
	return out, err
}

// podMetrics is what a pod uses; nil where that is not known of each of its running containers.
func (c *Collector) podMetrics(obj runtime.Object) *metricsv1beta1.PodMetrics {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" || pod.Status.Phase != corev1.PodRunning {
		return nil
	}
	prev, last := c.of(pod.Spec.NodeName)
	if last == nil {
		return nil
	}
	name := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	out := &metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{
		Name: pod.Name, Namespace: pod.Namespace, Labels: maps.Clone(pod.Labels), CreationTimestamp: metav1.NewTime(c.cfg.Now()),
	}}
	var oldest use
	for container, now := range last.pods[name] {
		var before *point
		if prev != nil {
			before = prev.pods[name][container]
		}
		u, ok := between(before, now)
		if !ok {
			return nil
		}
		if oldest.at.IsZero() || u.at.Before(oldest.at) {
			oldest = u
		}
		out.Containers = append(out.Containers, metricsv1beta1.ContainerMetrics{Name: container, Usage: u.list()})
	}
	if len(out.Containers) == 0 {
		return nil
	}
	slices.SortFunc(out.Containers, func(a, b metricsv1beta1.ContainerMetrics) int {
		return cmp.Or(cmp.Compare(position(pod, a.Name), position(pod, b.Name)), strings.Compare(a.Name, b.Name))
	})
	out.Timestamp, out.Window = metav1.NewTime(oldest.at), metav1.Duration{Duration: oldest.window}
	return out
}

// position orders containers as the pod has them; sidecars and others follow.
func position(pod *corev1.Pod, name string) int {
	if i := slices.IndexFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == name }); i >= 0 {
		return i
	}
	return len(pod.Spec.Containers)
}

// list is the use as the API shows it: CPU in billionths of a core, memory in powers of 1024.
func (u use) list() corev1.ResourceList {
	cpu := resource.NewScaledQuantity(int64(math.Round(u.cores*1e9)), resource.Nano)
	cpu.Format = resource.DecimalSI
	return corev1.ResourceList{corev1.ResourceCPU: *cpu, corev1.ResourceMemory: *resource.NewQuantity(int64(u.memory), resource.BinarySI)}
}
