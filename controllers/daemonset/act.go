package daemonset

import (
	"context"
	"errors"
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

// act carries a plan out. That pods cannot be created is no reason to keep others.
func (c *Controller) act(ctx context.Context, key string, set *appsv1.DaemonSet, hash string, p plan) error {
	created := run.Batches(len(p.create), parallel, func(i int) error { return c.create(ctx, key, set, newPod(set, hash, p.create[i])) })
	deleted := run.Each(len(p.delete), parallel, func(i int) error { return c.delete(ctx, key, set, p.delete[i]) })
	return errors.Join(pods.IgnoreEnd(created), deleted)
}

func (c *Controller) create(ctx context.Context, key string, set *appsv1.DaemonSet, pod *corev1.Pod) error {
	made, err := pods.Create(ctx, c.client, pod)
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			c.events.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	}
	c.lag.Wrote(key, made.ResourceVersion)
	c.events.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", made.Name)
	return nil
}

// newPod is the set's pod for a node.
func newPod(set *appsv1.DaemonSet, hash, node string) *corev1.Pod {
	template := &set.Spec.Template
	marked := maps.Clone(template.Labels)
	if marked == nil {
		marked = map[string]string{}
	}
	marked[appsv1.DefaultDaemonSetUniqueLabelKey] = hash
	if generation, ok := generationOf(set); ok {
		marked[templateGeneration] = generation
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: set.Namespace, GenerateName: set.Name + "-", Labels: marked,
			Annotations: maps.Clone(template.Annotations), Finalizers: slices.Clone(template.Finalizers),
			OwnerReferences: []metav1.OwnerReference{*owner.Reference(set, kind)},
		},
		Spec: *template.Spec.DeepCopy(),
	}
	pod.Spec.Tolerations, pod.Spec.Affinity = tolerations(&template.Spec), toNode(template.Spec.Affinity, node)
	return pod
}

func (c *Controller) delete(ctx context.Context, key string, set *appsv1.DaemonSet, r removal) error {
	node := nodeOf(r.pod)
	switch r.ended {
	case corev1.PodFailed:
		c.backoff.failed(backoffKey(set, node), c.clock.Now())
		c.events.Eventf(set, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", r.pod.Namespace, r.pod.Name, node)
	case corev1.PodSucceeded:
		c.events.Eventf(set, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", r.pod.Namespace, r.pod.Name, node)
	}
	remove := pods.Delete
	if r.asSeen {
		remove = pods.DeleteAsSeen
	}
	if err := remove(ctx, c.client, r.pod); err != nil {
		if !r.asSeen || !apierrors.IsConflict(err) { // else it has changed, which is no trouble; the set is looked at again
			c.events.Eventf(set, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		}
		return err
	}
	c.lag.Deleted(key, r.pod.UID)
	c.events.Eventf(set, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", r.pod.Name)
	return nil
}
