package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// runtimeClass gives a pod the overhead of its RuntimeClass, and the places where that class can run.
type runtimeClass struct{ reader Reader }

func (runtimeClass) Name() string { return "RuntimeClass" }

// class is the pod's; nil for requests that are not the creation of a pod, and for pods without class.
func (p runtimeClass) class(ctx context.Context, r *Request) (*corev1.Pod, *nodev1.RuntimeClass, error) {
	pod, ok := r.Object.(*corev1.Pod)
	if !ok || r.Operation != Create || !r.is("", "pods", "") {
		return nil, nil, nil
	}
	if pod.Spec.RuntimeClassName == nil {
		return pod, nil, nil
	}
	name := *pod.Spec.RuntimeClassName
	class, err := get[*nodev1.RuntimeClass](ctx, p.reader, schema.GroupResource{Group: nodev1.GroupName, Resource: "runtimeclasses"}, "", name)
	if apierrors.IsNotFound(err) {
		return nil, nil, r.forbid(fmt.Errorf("pod rejected: RuntimeClass %q not found", name))
	}
	return pod, class, err
}

var errOverhead = errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")

func (p runtimeClass) Mutate(ctx context.Context, r *Request) error {
	pod, class, err := p.class(ctx, r)
	if err != nil || class == nil {
		return err
	}
	if class.Overhead != nil {
		if len(pod.Spec.Overhead) > 0 && !apiequality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return r.forbid(errOverhead)
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	if err := mergeSelector(pod, class.Scheduling.NodeSelector); err != nil {
		return r.forbid(err)
	}
	pod.Spec.Tolerations = mergeTolerations(pod.Spec.Tolerations, class.Scheduling.Tolerations)
	return nil
}

func (p runtimeClass) Validate(ctx context.Context, r *Request) error {
	pod, class, err := p.class(ctx, r)
	switch {
	case err != nil || pod == nil:
		return err
	case class != nil && class.Overhead != nil:
		if !apiequality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return r.forbid(errOverhead)
		}
	case len(pod.Spec.Overhead) > 0:
		return r.forbid(errors.New("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
	}
	return nil
}

// mergeSelector adds the class's labels to the pod's selector; a label with two values is refused.
func mergeSelector(pod *corev1.Pod, selector map[string]string) error {
	if len(selector) == 0 {
		return nil
	}
	merged := maps.Clone(pod.Spec.NodeSelector)
	if merged == nil {
		merged = map[string]string{}
	}
	for key, value := range selector {
		if have, ok := merged[key]; ok && have != value {
			return fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, have)
		}
		merged[key] = value
	}
	pod.Spec.NodeSelector = merged
	return nil
}

// mergeTolerations is the union without those that others imply; of equal ones the first stays.
func mergeTolerations(a, b []corev1.Toleration) []corev1.Toleration {
	all := append(append([]corev1.Toleration(nil), a...), b...)
	var merged []corev1.Toleration
	for i := range all {
		if !implied(&all[i], merged, false) && !implied(&all[i], all[i+1:], true) {
			merged = append(merged, all[i])
		}
	}
	return merged
}

// implied tells whether another toleration tolerates at least what t does; strict leaves equal ones out.
func implied(t *corev1.Toleration, others []corev1.Toleration, strict bool) bool {
	for i := range others {
		same := apiequality.Semantic.DeepEqual(t, &others[i])
		if same && !strict || !same && covers(&others[i], t) {
			return true
		}
	}
	return false
}

func covers(wide, t *corev1.Toleration) bool {
	if t.Key != wide.Key && (wide.Key != "" || wide.Operator != corev1.TolerationOpExists) {
		return false
	}
	if t.Effect != wide.Effect && wide.Effect != "" {
		return false
	}
	if wide.Effect == corev1.TaintEffectNoExecute && wide.TolerationSeconds != nil &&
		(t.TolerationSeconds == nil || *t.TolerationSeconds > *wide.TolerationSeconds) {
		return false
	}
	switch wide.Operator {
	case corev1.TolerationOpEqual, "":
		return (t.Operator == corev1.TolerationOpEqual || t.Operator == "") && t.Value == wide.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}
