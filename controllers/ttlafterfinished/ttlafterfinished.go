// Package ttlafterfinished deletes jobs some time after they have finished, as their ttlSecondsAfterFinished says.
//
// Invariants: a job is deleted only as it was read live, under a precondition on its UID and version; one that is still to wait
// costs a timer.
package ttlafterfinished

import (
	"context"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
)

// Controller deletes finished jobs.
type Controller struct {
	client kubernetes.Interface
	jobs   batchlisters.JobLister
	clock  clock.Clock
	loop   *loop.Loop
}

// New makes the controller.
func New(e env.Env) *Controller {
	informer := e.Informers.Batch().V1().Jobs()
	c := &Controller{client: e.Client, jobs: informer.Lister(), clock: e.Clock}
	c.loop = e.Loop(loop.Config{Name: "ttl-after-finished", Sync: c.sync})
	loop.On(c.loop, informer.Informer(), func(_, cur *batchv1.Job) {
		if cur == nil {
			return
		}
		if wait, ok := remaining(cur, c.clock.Now()); ok {
			c.loop.AddAfter(cur.Namespace+"/"+cur.Name, wait)
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// remaining is how long the job still has; not ok when it is not to be deleted at all. It is pure.
func remaining(job *batchv1.Job, now time.Time) (wait time.Duration, ok bool) {
	if job.Spec.TTLSecondsAfterFinished == nil || job.DeletionTimestamp != nil {
		return 0, false
	}
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue && !c.LastTransitionTime.IsZero() {
			end := c.LastTransitionTime.Add(time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second)
			return max(0, end.Sub(now)), true
		}
	}
	return 0, false
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // a key that is none cannot become one
	}
	job, err := c.jobs.Jobs(namespace).Get(name)
	if err != nil || !c.due(key, job) {
		return ignoreNotFound(err)
	}
	job, err = c.client.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil || !c.due(key, job) {
		return ignoreNotFound(err)
	}
	return ignoreNotFound(c.client.BatchV1().Jobs(namespace).Delete(ctx, name, metav1.DeleteOptions{
		PropagationPolicy: ptr.To(metav1.DeletePropagationForeground),
		Preconditions:     &metav1.Preconditions{UID: &job.UID, ResourceVersion: &job.ResourceVersion},
	}))
}

// due tells whether the job's time has come, and sets a timer if that is still to come.
func (c *Controller) due(key string, job *batchv1.Job) bool {
	wait, ok := remaining(job, c.clock.Now())
	if ok && wait > 0 {
		c.loop.AddAfter(key, wait)
	}
	return ok && wait == 0
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
