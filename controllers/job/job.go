// Package job runs pods until enough of them have succeeded.
//
// Invariants: a pod is counted once, whatever is lost or crashes in between: its UID is stored in the status as not counted yet, then its finalizer is
// taken off, then it is counted and the UID leaves the status; what is counted rests on a status that this process wrote last, or
// else on pods read past every cache. Pods are created only once the informer has shown the creations of the sync before. A job ends only
// once everything it owns has ended and is counted.
package job

import (
	"context"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/owner"
	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/run"
)

var kind = batchv1.SchemeGroupVersion.WithKind("Job")

// pace is how far apart a job is looked at during a burst of pod changes, so that the burst makes few status writes: the more pods the job runs,
// the more of their changes fit into one.
func pace(job *batchv1.Job) time.Duration {
	return min(10*time.Millisecond+time.Duration(job.Status.Active)*time.Millisecond, 100*time.Millisecond)
}

// parallel is how many requests of one job are under way at once.
const parallel = 32

// Controller serves Jobs, and frees pods of their finalizer whose job is gone.
type Controller struct {
	client kubernetes.Interface
	api    api
	jobs   batchlisters.JobLister
	pods   cache.Indexer
	events record.EventRecorder
	clock  clock.Clock
	// lag is about pods, jobLag about the jobs themselves.
	lag, jobLag  *loop.Lag
	loop, strays *loop.Loop
	mu           sync.Mutex
	memories     map[string]*memory
	parallel     int
}

// memory is what the controller remembers of a job from one sync to the next. Only the job's worker touches it. Without it, as after a restart,
// pods are read live and a back-off starts from the pods there are.
type memory struct {
	uid types.UID
	// version is the job's whose status this process wrote last.
	version string
	// released are pods whose finalizer is known to be off though the informer does not show it yet.
	released map[types.UID]bool
	backoff  backoff
}

// New makes the controller.
func New(e env.Env) (*Controller, error) {
	podInformer := e.Informers.Core().V1().Pods().Informer()
	if err := pods.IndexByController(podInformer); err != nil {
		return nil, err
	}
	jobInformer := e.Informers.Batch().V1().Jobs()
	c := &Controller{client: e.Client, api: server{e.Client}, jobs: jobInformer.Lister(), pods: podInformer.GetIndexer(), events: e.Recorder("job-controller"),
		clock: e.Clock, lag: loop.NewLag(e.Clock), jobLag: loop.NewLag(e.Clock), memories: map[string]*memory{}, parallel: parallel}
	c.loop = e.Loop(loop.Config{Name: "job", Sync: c.sync})
	c.strays = e.Loop(loop.Config{Name: "job-pods", Sync: c.syncStray})
	loop.On(c.loop, jobInformer.Informer(), c.jobChanged)
	loop.On(c.loop, podInformer, c.podChanged)
	c.strays.Wait(jobInformer.Informer())
	c.strays.Wait(podInformer)
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return run.All(ctx, c.loop.Run, c.strays.Run) }

func (c *Controller) jobChanged(old, cur *batchv1.Job) {
	if cur != nil {
		c.jobLag.Saw(cur.ResourceVersion)
		c.loop.AddObject(cur)
	}
	if old == nil || cur != nil && cur.UID == old.UID && !finished(cur) {
		return
	}
	c.loop.AddObject(old)
	wait := time.Duration(0)
	if cur != nil {
		wait = time.Second // none should be left: what the informer shows is most likely late
	}
	for _, pod := range append(pods.Of(c.pods, old.UID), pods.Orphans(c.pods, old.Namespace)...) {
		if hasFinalizer(pod) {
			c.strays.AddAfter(pod.Namespace+"/"+pod.Name, wait)
		}
	}
}

// podChanged wakes the jobs that a pod's change concerns: its owner before and now, or those that may adopt it.
func (c *Controller) podChanged(old, cur *corev1.Pod) {
	if cur == nil {
		c.lag.Saw(old.ResourceVersion)
		c.wakeOwner(old)
		return
	}
	c.lag.Saw(cur.ResourceVersion)
	if !concerns(cur) && (old == nil || !concerns(old)) || old != nil && !matters(old, cur) {
		return
	}
	job := c.wakeOwner(cur)
	if old != nil && c.ownerOf(old) != job {
		c.wakeOwner(old)
	}
	if (job == nil || finished(job)) && hasFinalizer(cur) {
		c.strays.AddObject(cur)
	}
	if metav1.GetControllerOfNoCopy(cur) == nil {
		for _, job := range c.adopters(cur) {
			c.loop.AddObject(job)
		}
	}
}

// concerns tells whether the pod may be a job's now or later.
func concerns(pod *corev1.Pod) bool {
	ref := metav1.GetControllerOfNoCopy(pod)
	return ref == nil || ref.Kind == kind.Kind || hasFinalizer(pod)
}

// matters tells whether a decision about a job may rest on what has changed.
func matters(old, cur *corev1.Pod) bool {
	same := apiequality.Semantic.DeepEqual
	return pods.Terminal(cur) || old.Status.Phase != cur.Status.Phase || (old.DeletionTimestamp == nil) != (cur.DeletionTimestamp == nil) ||
		pods.Ready(old) != pods.Ready(cur) || restarts(old) != restarts(cur) || hasFinalizer(old) != hasFinalizer(cur) ||
		!same(old.OwnerReferences, cur.OwnerReferences) || !same(old.Labels, cur.Labels) || !same(old.Annotations, cur.Annotations)
}

// ownerOf is the job that owns the pod, nil when the informer has none.
func (c *Controller) ownerOf(pod *corev1.Pod) *batchv1.Job {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != kind.Kind {
		return nil
	}
	job, err := c.jobs.Jobs(pod.Namespace).Get(ref.Name)
	if err != nil || job.UID != ref.UID {
		return nil
	}
	return job
}

func (c *Controller) wakeOwner(pod *corev1.Pod) *batchv1.Job {
	job := c.ownerOf(pod)
	if job != nil {
		c.loop.AddSpaced(job.Namespace+"/"+job.Name, pace(job))
	}
	return job
}

// adopters are the jobs under way that select the pod.
func (c *Controller) adopters(pod *corev1.Pod) []*batchv1.Job {
	all, err := c.jobs.Jobs(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	var found []*batchv1.Job
	for _, job := range all {
		if finished(job) || job.DeletionTimestamp != nil || managedElsewhere(job) {
			continue
		}
		if selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector); err == nil && !selector.Empty() && selector.Matches(labels.Set(pod.Labels)) {
			found = append(found, job)
		}
	}
	return found
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // a key that is none cannot become one
	}
	job, err := c.jobs.Jobs(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (finished(job) || managedElsewhere(job)) {
		c.forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	if wait := max(c.jobLag.Behind(key), c.lag.Behind(key)); wait > 0 {
		c.loop.AddAfter(key, wait) // the informer's next event comes long before
		return nil
	}
	owned, err := c.claim(ctx, job)
	if err != nil {
		return err
	}
	return c.reconcile(ctx, key, job, owned)
}

// reconcile decides about the job and carries it out.
func (c *Controller) reconcile(ctx context.Context, key string, job *batchv1.Job, owned []*corev1.Pod) error {
	m := c.memoryOf(key, job)
	if job.ResourceVersion != m.version && !apiequality.Semantic.DeepEqual(job.Status, batchv1.JobStatus{}) {
		live, err := c.api.list(ctx, job)
		if err != nil {
			return err
		}
		owned = c.trust(key, m, live, owned)
		if m.version == "" {
			m.backoff = backoffOf(owned)
		}
	} else {
		m.forget(owned)
	}
	t := &turn{Controller: c, key: key, job: job, pods: pods.MarkDoomed(c.lag, key, owned, c.clock.Now()), memory: m}
	return t.act(ctx, decide(snapshot{job: job, pods: t.pods, released: m.released, backoff: m.backoff, now: c.clock.Now()}))
}

// memoryOf is what is remembered of the job.
func (c *Controller) memoryOf(key string, job *batchv1.Job) *memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.memories[key]
	if m == nil || m.uid != job.UID {
		m = &memory{uid: job.UID, released: map[types.UID]bool{}}
		c.memories[key] = m
	}
	return m
}

func (c *Controller) forget(key string) {
	c.lag.Forget(key)
	c.jobLag.Forget(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.memories, key)
}

// trust puts live pods in the place of what the informer shows, and remembers what it shows too late.
func (c *Controller) trust(key string, m *memory, live, shown []*corev1.Pod) []*corev1.Pod {
	keeps := map[types.UID]bool{}
	for _, pod := range live {
		keeps[pod.UID] = hasFinalizer(pod)
		c.lag.Wrote(key, pod.ResourceVersion) // so that the next sync finds the informer as new as this
	}
	for _, pod := range append(live, shown...) {
		if !keeps[pod.UID] {
			m.released[pod.UID] = true
		}
	}
	return live
}

// forget drops pods that the informer shows without their finalizer, or no longer.
func (m *memory) forget(shown []*corev1.Pod) {
	late := map[types.UID]bool{}
	for _, pod := range shown {
		if m.released[pod.UID] && hasFinalizer(pod) {
			late[pod.UID] = true
		}
	}
	m.released = late
}

// backoffOf is the back-off that follows from the pods that are counted already.
func backoffOf(owned []*corev1.Pod) backoff {
	var succeeded, failed []*corev1.Pod
	for _, pod := range owned {
		switch {
		case hasFinalizer(pod):
		case pod.Status.Phase == corev1.PodSucceeded:
			succeeded = append(succeeded, pod)
		case pod.Status.Phase == corev1.PodFailed:
			failed = append(failed, pod)
		}
	}
	return backoff{}.after(succeeded, failed)
}

// claim gives the pods of the job, ended and terminating ones among them. An orphan that has ended is only taken back while it has
// its finalizer, for without that it has been counted.
func (c *Controller) claim(ctx context.Context, job *batchv1.Job) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil || selector.Empty() {
		return nil, err // validation lets none in
	}
	candidates := pods.Of(c.pods, job.UID)
	for _, pod := range pods.Orphans(c.pods, job.Namespace) {
		if pods.Active(pod) || hasFinalizer(pod) {
			candidates = append(candidates, pod)
		}
	}
	owned, err := owner.Claim(ctx, owner.Claimer{
		Owner: job, Kind: kind, Selector: selector, Finalizer: batchv1.JobTrackingFinalizer,
		Live: func(ctx context.Context) (metav1.Object, error) {
			return c.client.BatchV1().Jobs(job.Namespace).Get(ctx, job.Name, metav1.GetOptions{})
		},
		Patch: func(ctx context.Context, obj metav1.Object, patch []byte) error {
			_, err := c.client.CoreV1().Pods(obj.GetNamespace()).Patch(ctx, obj.GetName(), types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}, candidates)
	for i, pod := range owned {
		if metav1.GetControllerOfNoCopy(pod) == nil && !hasFinalizer(pod) { // adopted now
			adopted := *pod
			adopted.Finalizers = append(append([]string{}, pod.Finalizers...), batchv1.JobTrackingFinalizer)
			owned[i] = &adopted
		}
	}
	return owned, err
}
