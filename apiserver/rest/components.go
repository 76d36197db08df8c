package rest

import (
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var componentStatuses = schema.GroupResource{Resource: "componentstatuses"}

// component answers with what is found of one component now.
func (c *call) component() error {
	for _, s := range c.components() {
		if s.Name != c.info.Name {
			continue
		}
		if c.out.table() {
			return c.respondTable(http.StatusOK, []runtime.Object{&s}, metav1.ListMeta{})
		}
		return c.respondFresh(http.StatusOK, c.r.GVK, &s)
	}
	return apierrors.NewNotFound(c.r.gr, c.info.Name)
}

// componentList answers with all components that the selectors select.
func (c *call) componentList() error {
	o, err := c.listOptions()
	if err != nil {
		return err
	}
	if o.Watch {
		return MethodNotAllowed()
	}
	list := &corev1.ComponentStatusList{Items: []corev1.ComponentStatus{}}
	for _, s := range c.components() {
		name := labels.Set{"metadata.name": s.Name}
		if o.LabelSelector.Matches(labels.Set(s.Labels)) && o.FieldSelector.Matches(name) {
			list.Items = append(list.Items, s)
		}
	}
	if c.out.table() {
		objs, err := meta.ExtractList(list)
		if err != nil {
			return err
		}
		return c.respondTable(http.StatusOK, objs, metav1.ListMeta{})
	}
	return c.respondFresh(http.StatusOK, c.r.list, list)
}

func (c *call) components() []corev1.ComponentStatus {
	if c.Components == nil {
		return nil
	}
	found := c.Components(c.ctx())
	for i := range found {
		found[i].SetGroupVersionKind(c.r.GVK)
	}
	return found
}

// Healthy is the status of a component that was asked.
func Healthy(name string, err error) corev1.ComponentStatus {
	condition := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if err != nil {
		condition.Status, condition.Message, condition.Error = corev1.ConditionFalse, "", fmt.Sprint(err)
	}
	return corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Conditions: []corev1.ComponentCondition{condition}}
}
