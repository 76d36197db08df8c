package admission

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// namespaceLifecycle keeps new objects out of namespaces that are missing or going, and the three
// namespaces that a cluster needs from being deleted.
type namespaceLifecycle struct{ reader Reader }

func (namespaceLifecycle) Name() string { return "NamespaceLifecycle" }

func (namespaceLifecycle) Validate(context.Context, *Request) error { return nil }

func (p namespaceLifecycle) Mutate(ctx context.Context, r *Request) error {
	if r.Resource.Group == "" && r.Resource.Resource == "namespaces" {
		if r.Operation == Delete && immortal(r.Name) {
			return apierrors.NewForbidden(r.Resource.GroupResource(), r.Name, errors.New("this namespace may not be deleted"))
		}
		return nil
	}
	if r.Operation != Create || r.Namespace == "" || r.Kind.Kind == "LocalSubjectAccessReview" {
		return nil
	}
	ns, err := get[*corev1.Namespace](ctx, p.reader, schema.GroupResource{Resource: "namespaces"}, "", r.Namespace)
	if err != nil {
		return err
	}
	if ns.Status.Phase != corev1.NamespaceTerminating && ns.DeletionTimestamp == nil {
		return nil
	}
	refusal := r.forbid(fmt.Errorf("unable to create new content in namespace %s because it is being terminated", r.Namespace))
	if status := (*apierrors.StatusError)(nil); errors.As(refusal, &status) {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{
			Type:    corev1.NamespaceTerminatingCause,
			Message: fmt.Sprintf("namespace %s is being terminated", r.Namespace),
			Field:   "metadata.namespace",
		})
	}
	return refusal
}

func immortal(name string) bool {
	return name == metav1.NamespaceDefault || name == metav1.NamespaceSystem || name == metav1.NamespacePublic
}
