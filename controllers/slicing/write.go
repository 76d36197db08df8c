package slicing

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Write carries a plan out, additions before removals, so that no endpoint is missing in between. It reports the version
// of every slice written.
func Write(ctx context.Context, client kubernetes.Interface, p Plan, wrote func(resourceVersion string)) error {
	var errs []error
	note := func(slice *discoveryv1.EndpointSlice, err error) {
		if err != nil {
			errs = append(errs, err)
			return
		}
		wrote(slice.ResourceVersion)
	}
	for _, slice := range p.Create {
		made, err := client.DiscoveryV1().EndpointSlices(slice.Namespace).Create(ctx, slice, metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // nothing can be created there any more, and the slices' owner is about to go
		}
		note(made, err)
	}
	for _, slice := range p.Update {
		note(client.DiscoveryV1().EndpointSlices(slice.Namespace).Update(ctx, slice, metav1.UpdateOptions{}))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, slice := range p.Remove {
		err := client.DiscoveryV1().EndpointSlices(slice.Namespace).Delete(ctx, slice.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(slice.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
