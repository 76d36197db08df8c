package kinds

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// bindings is the old way to bind a pod to a node, by a create in its namespace; pods/binding does the same.
func bindings() []Kind {
	return []Kind{{
		GVK:        corev1.SchemeGroupVersion.WithKind("Binding"),
		Resource:   "bindings",
		Singular:   "binding",
		Namespaced: true,
		Verbs:      []string{"create"},
		NotStored:  true,
		New:        func() runtime.Object { return &corev1.Binding{} },
		Validate:   check(ValidateBinding),
	}}
}

// ValidateBinding checks what a pod is to be bound to.
func ValidateBinding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	target := field.NewPath("target")
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(target.Child("kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(target.Child("name"), ""))
	}
	return errs
}
