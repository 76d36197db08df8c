package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

var priorityClasses = schema.GroupResource{Group: schedulingv1.GroupName, Resource: "priorityclasses"}

// priority turns a pod's class into numbers, and keeps the default class the only one.
type priority struct{ reader Reader }

func (priority) Name() string { return "Priority" }

func (p priority) Mutate(ctx context.Context, r *Request) error {
	pod, ok := r.Object.(*corev1.Pod)
	if !ok || !r.is("", "pods", "") {
		return nil
	}
	switch r.Operation {
	case Create:
		return p.create(ctx, r, pod)
	case Update:
		// Clients that do not know these fields must be able to send the pod back.
		if old, ok := r.Old.(*corev1.Pod); ok {
			if pod.Spec.Priority == nil {
				pod.Spec.Priority = old.Spec.Priority
			}
			if pod.Spec.PreemptionPolicy == nil {
				pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
			}
		}
	}
	return nil
}

func (p priority) create(ctx context.Context, r *Request, pod *corev1.Pod) error {
	class, err := p.class(ctx, r, pod.Spec.PriorityClassName)
	if err != nil {
		return err
	}
	if have := pod.Spec.Priority; have != nil && *have != class.Value {
		return r.forbid(fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *have, class.Value))
	}
	policy := ptr.Deref(class.PreemptionPolicy, corev1.PreemptLowerPriority)
	if have := pod.Spec.PreemptionPolicy; have != nil && *have != policy {
		return r.forbid(fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *have, policy))
	}
	pod.Spec.PriorityClassName = class.Name
	pod.Spec.Priority = ptr.To(class.Value)
	pod.Spec.PreemptionPolicy = ptr.To(policy)
	return nil
}

// class is the named one, else the default one, else an empty one.
func (p priority) class(ctx context.Context, r *Request, name string) (*schedulingv1.PriorityClass, error) {
	if name == "" {
		def, err := p.defaultClass(ctx)
		if err != nil || def != nil {
			return def, err
		}
		return &schedulingv1.PriorityClass{}, nil
	}
	class, err := get[*schedulingv1.PriorityClass](ctx, p.reader, priorityClasses, "", name)
	if apierrors.IsNotFound(err) {
		return nil, r.forbid(fmt.Errorf("no PriorityClass with name %v was found", name))
	}
	return class, err
}

// defaultClass is the one marked so; of several, which only a race can make, the lowest.
func (p priority) defaultClass(ctx context.Context) (*schedulingv1.PriorityClass, error) {
	classes, _, err := p.reader.List(ctx, priorityClasses, "")
	if err != nil {
		return nil, err
	}
	var def *schedulingv1.PriorityClass
	for _, obj := range classes {
		if c, ok := obj.(*schedulingv1.PriorityClass); ok && c.GlobalDefault && (def == nil || c.Value < def.Value) {
			def = c
		}
	}
	return def, nil
}

func (p priority) Validate(ctx context.Context, r *Request) error {
	class, ok := r.Object.(*schedulingv1.PriorityClass)
	if !ok || !class.GlobalDefault || r.Operation != Create && r.Operation != Update {
		return nil
	}
	def, err := p.defaultClass(ctx)
	if err != nil || def == nil || def.Name == class.Name {
		return err
	}
	return r.forbid(fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", def.Name))
}
