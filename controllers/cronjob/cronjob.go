// Package cronjob creates Jobs at the times of a schedule.
//
// Invariants: a job is named after its CronJob and its minute, so a start is made once, whoever makes it and whatever crashes in between; what is due follows
// from the last start in status, never from how long this process has run; a schedule at rest costs one timer.
package cronjob

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
	_ "time/tzdata" // time zones are known on machines that have none, too

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/owner"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
)

var kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// Controller serves CronJobs.
type Controller struct {
	client kubernetes.Interface
	crons  batchlisters.CronJobLister
	jobs   cache.Indexer
	events record.EventRecorder
	clock  clock.Clock
	// lag is about jobs, cronLag about the CronJobs themselves.
	lag, cronLag *loop.Lag
	loop         *loop.Loop

	mu sync.Mutex
	// edits are when schedules were changed, by key: what is past then starts nothing.
	edits map[string]time.Time
}

// New makes the controller.
func New(e env.Env) (*Controller, error) {
	jobs, crons := e.Informers.Batch().V1().Jobs().Informer(), e.Informers.Batch().V1().CronJobs()
	if err := owner.Index(jobs); err != nil {
		return nil, err
	}
	c := &Controller{client: e.Client, crons: crons.Lister(), jobs: jobs.GetIndexer(), events: e.Recorder("cronjob-controller"), clock: e.Clock,
		lag: loop.NewLag(e.Clock), cronLag: loop.NewLag(e.Clock), edits: map[string]time.Time{}}
	c.loop = e.Loop(loop.Config{Name: "cronjob", Sync: c.sync})
	loop.On(c.loop, crons.Informer(), c.cronChanged)
	loop.On(c.loop, jobs, c.jobChanged)
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) cronChanged(old, cur *batchv1.CronJob) {
	if cur == nil {
		c.loop.AddObject(old)
		return
	}
	if old != nil && (old.Spec.Schedule != cur.Spec.Schedule || !ptr.Equal(old.Spec.TimeZone, cur.Spec.TimeZone)) {
		c.mu.Lock()
		c.edits[cur.Namespace+"/"+cur.Name] = c.clock.Now()
		c.mu.Unlock()
	}
	c.cronLag.Saw(cur.ResourceVersion)
	c.loop.AddObject(cur)
}

// edited is when the schedule was changed last, zero when that is not known.
func (c *Controller) edited(key string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.edits[key]
}

func (c *Controller) forget(key string) {
	c.lag.Forget(key)
	c.cronLag.Forget(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.edits, key)
}

// jobChanged wakes the job's CronJob when it comes, ends or goes.
func (c *Controller) jobChanged(old, cur *batchv1.Job) {
	if cur != nil {
		c.lag.Saw(cur.ResourceVersion)
	}
	if old != nil && cur != nil {
		_, was := finished(old)
		_, is := finished(cur)
		if was == is && apiequality.Semantic.DeepEqual(old.OwnerReferences, cur.OwnerReferences) {
			return
		}
	}
	for _, job := range []*batchv1.Job{old, cur} {
		if job == nil {
			continue
		}
		if ref := metav1.GetControllerOfNoCopy(job); ref != nil && ref.Kind == kind.Kind {
			c.loop.Add(job.Namespace + "/" + ref.Name)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // a key that is none cannot become one
	}
	cron, err := c.crons.CronJobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	for _, lag := range []*loop.Lag{c.cronLag, c.lag} {
		if wait := lag.Behind(key); wait > 0 {
			c.loop.AddAfter(key, wait) // the informer's next event comes long before
			return nil
		}
	}
	s := snapshot{cron: cron, jobs: owner.Owned[*batchv1.Job](c.jobs, cron.UID), edited: c.edited(key), now: c.clock.Now()}
	if s.gone, err = c.gone(ctx, s); err != nil {
		return err
	}
	return c.act(ctx, key, cron, decide(s))
}

// gone asks for the active jobs that the informer does not show.
func (c *Controller) gone(ctx context.Context, s snapshot) (map[types.UID]bool, error) {
	gone := map[types.UID]bool{}
	for _, ref := range s.cron.Status.Active {
		if slices.ContainsFunc(s.jobs, func(job *batchv1.Job) bool { return job.UID == ref.UID }) {
			continue
		}
		job, err := c.client.BatchV1().Jobs(s.cron.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
		gone[ref.UID] = err != nil || job.UID != ref.UID || !metav1.IsControlledBy(job, s.cron)
	}
	return gone, nil
}

// act carries the plan out.
func (c *Controller) act(ctx context.Context, key string, cron *batchv1.CronJob, p plan) error {
	if p.wait > 0 {
		c.loop.AddAfter(key, p.wait)
	}
	var errs []error
	for _, job := range p.expired {
		errs = append(errs, c.delete(ctx, cron, job))
	}
	var replaceErr error
	for _, job := range p.replaced {
		if err := c.delete(ctx, cron, job); err != nil {
			replaceErr = fmt.Errorf("could not replace job %s/%s: %w", job.Namespace, job.Name, err)
			break
		}
		p.status.Active = without(p.status.Active, job.UID)
	}
	errs = append(errs, replaceErr)
	if p.start != nil && replaceErr == nil {
		errs = append(errs, c.start(ctx, key, cron, &p))
	}
	errs = append(errs, c.write(ctx, key, cron, p.status))
	for _, e := range p.events {
		c.events.Event(cron, e.kind, e.reason, e.message)
	}
	return errors.Join(errs...)
}

// start creates the job that is due and puts it into the plan's status.
func (c *Controller) start(ctx context.Context, key string, cron *batchv1.CronJob, p *plan) error {
	want, err := jobOf(cron, *p.start)
	if err != nil {
		return err
	}
	jobs := c.client.BatchV1().Jobs(cron.Namespace)
	job, err := jobs.Create(ctx, want, metav1.CreateOptions{})
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // nothing can be created there any more, and the CronJob is about to go
	case apierrors.IsAlreadyExists(err): // made before a crash, or by somebody
		if job, err = jobs.Get(ctx, want.Name, metav1.GetOptions{}); err != nil {
			return err
		}
		if !metav1.IsControlledBy(job, cron) || isActive(p.status.Active, job.UID) {
			return nil
		}
	case err != nil:
		p.warn("FailedCreate", "Error creating job: %v", err)
		return err
	default:
		c.lag.Wrote(key, job.ResourceVersion)
		p.note("SuccessfulCreate", "Created job %v", job.Name)
	}
	p.status.Active = append(p.status.Active, corev1.ObjectReference{
		Kind: "Job", APIVersion: batchv1.SchemeGroupVersion.String(), Namespace: job.Namespace, Name: job.Name, UID: job.UID, ResourceVersion: job.ResourceVersion,
	})
	p.status.LastScheduleTime = ptr.To(metav1.NewTime(*p.start))
	return nil
}

// delete deletes the job and, after it, its pods.
func (c *Controller) delete(ctx context.Context, cron *batchv1.CronJob, job *batchv1.Job) error {
	err := c.client.BatchV1().Jobs(job.Namespace).Delete(ctx, job.Name, metav1.DeleteOptions{
		PropagationPolicy: ptr.To(metav1.DeletePropagationBackground), Preconditions: metav1.NewUIDPreconditions(string(job.UID)),
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		c.events.Eventf(cron, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return err
	}
	c.events.Eventf(cron, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", job.Name)
	return nil
}

// write stores the status, provided nobody has changed the CronJob since it was read, and unless it says that already.
func (c *Controller) write(ctx context.Context, key string, cron *batchv1.CronJob, status batchv1.CronJobStatus) error {
	if apiequality.Semantic.DeepEqual(cron.Status, status) {
		return nil
	}
	update := *cron // a shallow copy: only status is replaced
	update.Status = status
	written, err := c.client.BatchV1().CronJobs(cron.Namespace).UpdateStatus(ctx, &update, metav1.UpdateOptions{})
	if err == nil {
		c.cronLag.Wrote(key, written.ResourceVersion)
	}
	return err
}
