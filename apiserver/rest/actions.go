package rest

import (
	"errors"
	"fmt"
	"maps"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// decodeAction reads the body of an action on an object: its name, if given, is the URL's.
func (c *call) decodeAction(gvk schema.GroupVersionKind, obj runtime.Object) error {
	body, err := readBody(c.req)
	if err != nil {
		return err
	}
	if err := c.writeOptions("CreateOptions", ""); err != nil {
		return err
	}
	if err := c.decodeObject(body, gvk, obj); err != nil {
		return err
	}
	return c.matchNamespace(accessor(obj))
}

// bind answers pods/binding.
func (c *call) bind() error {
	b := &corev1.Binding{}
	if err := c.decodeAction(corev1.SchemeGroupVersion.WithKind("Binding"), b); err != nil {
		return err
	}
	if b.Name != "" && b.Name != c.info.Name {
		return c.matchName(b)
	}
	return c.bindPod(b)
}

var podsGVR = corev1.SchemeGroupVersion.WithResource("pods")

// createBinding answers a POST to the collection "bindings", the older way to bind: the body names the pod.
func (c *call) createBinding(b *corev1.Binding) error {
	pods := c.find(podsGVR)
	if pods == nil {
		return notFoundPath()
	}
	if err := c.matchNamespace(b); err != nil {
		return err
	}
	info := *c.info
	info.Name, info.Resource, info.Subresource = b.Name, "pods", "binding"
	one := *c
	one.info, one.r = &info, pods
	return one.bindPod(b)
}

// bindPod gives a pod its node.
func (c *call) bindPod(b *corev1.Binding) error {
	if errs := kinds.ValidateBinding(b); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "Binding"}, b.Name, errs)
	}
	if err := c.mutate(admission.Create, b, nil); err != nil {
		return err
	}
	if err := c.validate(admission.Create, b, nil); err != nil {
		return err
	}
	_, err := c.apply(change{
		unconditional: true, admitted: true, silent: true, uid: b.UID,
		make: func(cur *current) (runtime.Object, error) { return c.boundPod(b, cur.obj) },
	})
	if err != nil {
		return err
	}
	return c.respondStatus(http.StatusCreated, nil)
}

// boundPod is the pod once bound. Preconditions in the binding's metadata hold against the pod's.
func (c *call) boundPod(b *corev1.Binding, old runtime.Object) (runtime.Object, error) {
	pod, ok := old.DeepCopyObject().(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("unexpected object: %T", old)
	}
	refuse := func(format string, args ...any) (runtime.Object, error) {
		return nil, apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, pod.Name, fmt.Errorf(format, args...))
	}
	if b.ResourceVersion != "" && b.ResourceVersion != pod.ResourceVersion {
		return nil, conflict(c)
	}
	switch {
	case pod.DeletionTimestamp != nil:
		return refuse("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return refuse("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return refuse("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	pod.Spec.NodeName = b.Target.Name
	if len(b.Annotations) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		maps.Copy(pod.Annotations, b.Annotations)
	}
	if len(b.Labels) > 0 {
		if pod.Labels == nil {
			pod.Labels = map[string]string{}
		}
		maps.Copy(pod.Labels, b.Labels)
	}
	setScheduled(pod, c.now())
	return pod, nil
}

// setScheduled sets the condition PodScheduled to True.
func setScheduled(pod *corev1.Pod, now metav1.Time) {
	setCondition(pod, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: now, ObservedGeneration: pod.Generation})
}

// setCondition sets a condition. One that is the same has been since it began.
func setCondition(pod *corev1.Pod, want corev1.PodCondition) {
	for i := range pod.Status.Conditions {
		have := &pod.Status.Conditions[i]
		if have.Type != want.Type {
			continue
		}
		if have.Status == want.Status {
			want.LastTransitionTime = have.LastTransitionTime
		}
		*have = want
		return
	}
	pod.Status.Conditions = append(pod.Status.Conditions, want)
}

// finalize answers namespaces/finalize: only spec.finalizers may change.
func (c *call) finalize() error {
	path := kinds.NamespaceFinalize()
	return c.put(change{unconditional: true, prepare: path.PrepareUpdate, validate: path.ValidateUpdate}, false)
}

var errNoTokens = errors.New("this server issues no service account tokens")

// issueToken answers serviceaccounts/token.
func (c *call) issueToken() error {
	t := &authenticationv1.TokenRequest{}
	gvk := authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
	if err := c.decodeAction(gvk, t); err != nil {
		return err
	}
	if t.Name != "" && t.Name != c.info.Name {
		return apierrors.NewBadRequest(fmt.Sprintf("expected name %s, got %s", c.info.Name, t.Name))
	}
	if c.Tokens == nil {
		return apierrors.NewInternalError(errNoTokens)
	}
	if err := c.mutate(admission.Create, t, nil); err != nil {
		return err
	}
	if err := c.validate(admission.Create, t, nil); err != nil {
		return err
	}
	issued, err := c.Tokens.Issue(c.ctx(), c.info.Namespace, c.info.Name, t)
	if err != nil {
		return err
	}
	return c.respondFresh(http.StatusCreated, gvk, issued)
}
