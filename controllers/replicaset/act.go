package replicaset

import (
	"context"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/controllers/owner"
	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/internal/run"
)

// parallel is how many requests of one set are under way at once.
const parallel = 32

// newPod is a pod of the set's template, owned by the set.
func (c *Controller) newPod(set *appsv1.ReplicaSet) *corev1.Pod {
	template := &set.Spec.Template
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       set.Namespace,
			GenerateName:    set.Name + "-",
			Labels:          maps.Clone(template.Labels),
			Annotations:     maps.Clone(template.Annotations),
			Finalizers:      slices.Clone(template.Finalizers),
			OwnerReferences: []metav1.OwnerReference{*owner.Reference(set, c.source.kind())},
		},
		Spec: *template.Spec.DeepCopy(),
	}
}

// create makes n pods; all tells whether it has.
func (c *Controller) create(ctx context.Context, key string, set *appsv1.ReplicaSet, n int) (all bool, err error) {
	err = run.Batches(n, parallel, func(int) error { return c.createOne(ctx, key, set) })
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return false, nil // nothing can be created there any more, and the set is about to go
	}
	return err == nil, err
}

func (c *Controller) createOne(ctx context.Context, key string, set *appsv1.ReplicaSet) error {
	pod, err := pods.Create(ctx, c.client, c.newPod(set))
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			c.events.Eventf(c.reference(set), corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	}
	c.lag.Wrote(key, pod.ResourceVersion)
	c.events.Eventf(c.reference(set), corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", pod.Name)
	return nil
}

// delete removes the pods, all at once.
func (c *Controller) delete(ctx context.Context, key string, set *appsv1.ReplicaSet, doomed []*corev1.Pod) error {
	return run.Each(len(doomed), parallel, func(i int) error {
		pod := doomed[i]
		if err := pods.Delete(ctx, c.client, pod); err != nil {
			c.events.Eventf(c.reference(set), corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
			return err
		}
		c.lag.Deleted(key, pod.UID)
		c.events.Eventf(c.reference(set), corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
		return nil
	})
}
