package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	podresource "k8s.io/component-helpers/resource"
)

// podResize refuses a resize to more than the pod's node has, which no waiting would help.
type podResize struct{ reader Reader }

func (podResize) Name() string { return "PodResizeValidator" }

func (podResize) Mutate(context.Context, *Request) error { return nil }

func (p podResize) Validate(ctx context.Context, r *Request) error {
	pod, isNew := r.Object.(*corev1.Pod)
	old, isOld := r.Old.(*corev1.Pod)
	if !isNew || !isOld || r.Operation != Update || !r.is("", "pods", "resize") || pod.Spec.NodeName == "" || apiequality.Semantic.DeepEqual(pod.Spec, old.Spec) {
		return nil
	}
	node, err := get[*corev1.Node](ctx, p.reader, schema.GroupResource{Resource: "nodes"}, "", pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return r.forbid(fmt.Errorf("node %q not found", pod.Spec.NodeName))
	}
	if err != nil {
		return err
	}
	if os, ok := node.Labels[corev1.LabelOSStable]; ok && os != string(corev1.Linux) {
		return p.refuse(r, "UnsupportedPlatform", fmt.Sprintf("pod resize is only supported on linux nodes, node %q is %q", node.Name, os))
	}
	if short := beyond(pod, node.Status.Allocatable); len(short) > 0 {
		return p.refuse(r, "NodeCapacity", "node didn't have enough allocatable resources: "+strings.Join(short, "; "))
	}
	return nil
}

// beyond tells of what the pod asks for more than there is.
func beyond(pod *corev1.Pod, have corev1.ResourceList) []string {
	var out []string
	want := podresource.PodRequests(pod, podresource.PodResourcesOptions{})
	if want.Cpu().Cmp(*have.Cpu()) > 0 {
		out = append(out, fmt.Sprintf("cpu, requested: %d, allocatable: %d", want.Cpu().MilliValue(), have.Cpu().MilliValue()))
	}
	if want.Memory().Cmp(*have.Memory()) > 0 {
		out = append(out, fmt.Sprintf("memory, requested: %d, allocatable: %d", want.Memory().Value(), have.Memory().Value()))
	}
	return out
}

// refuse forbids for a cause that programs can tell.
func (p podResize) refuse(r *Request, cause metav1.CauseType, message string) error {
	err := r.forbid(errors.New(message))
	var status *apierrors.StatusError
	if errors.As(err, &status) && status.ErrStatus.Details != nil {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
	}
	return err
}
