package job

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// syncStray frees a pod of the finalizer that no job will take off: it has no owner and nobody adopts it, or its job is over or gone.
func (c *Controller) syncStray(ctx context.Context, key string) error {
	obj, exists, err := c.pods.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok || !hasFinalizer(pod) {
		return nil
	}
	stray, err := c.isStray(ctx, pod)
	if err != nil || !stray {
		return err
	}
	return c.api.release(ctx, pod, true) // a change may be its adoption
}

func (c *Controller) isStray(ctx context.Context, pod *corev1.Pod) (bool, error) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return len(c.adopters(pod)) == 0, nil
	}
	if ref.Kind != kind.Kind || ref.APIVersion != kind.GroupVersion().String() {
		return false, nil
	}
	if job := c.ownerOf(pod); job != nil {
		return finished(job) && !managedElsewhere(job), nil
	}
	job, err := c.client.BatchV1().Jobs(pod.Namespace).Get(ctx, ref.Name, metav1.GetOptions{}) // the informer may not know it yet
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	return err == nil && job.UID != ref.UID, err
}
