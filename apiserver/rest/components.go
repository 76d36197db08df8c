package rest

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Components finds out how the parts of the control plane are: it answers for componentstatuses.
type Components func(context.Context) []corev1.ComponentStatus

// Get implements Live.
func (f Components) Get(ctx context.Context, _, name string) (runtime.Object, error) {
	for _, s := range f(ctx) {
		if s.Name == name {
			return &s, nil
		}
	}
	return nil, apierrors.NewNotFound(corev1.Resource("componentstatuses"), name)
}

// List implements Live.
func (f Components) List(ctx context.Context, _ string) ([]runtime.Object, error) {
	var out []runtime.Object
	for _, s := range f(ctx) {
		out = append(out, &s)
	}
	return out, nil
}

// Healthy is the status of a component that was asked.
func Healthy(name string, err error) corev1.ComponentStatus {
	condition := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if err != nil {
		condition.Status, condition.Message, condition.Error = corev1.ConditionFalse, "", fmt.Sprint(err)
	}
	return corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Conditions: []corev1.ComponentCondition{condition}}
}
