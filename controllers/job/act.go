package job

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/owner"
	"github.com/coracle-dev/coracle/internal/run"
)

// turn is one job's sync once its decision is made.
type turn struct {
	*Controller
	key string
	// job is what was decided on, later what was written last.
	job *batchv1.Job
	// pods are those decided on.
	pods   []*corev1.Pod
	memory *memory
}

// act carries the plan out. A step that fails ends it, but for creations, as the status shows those that were made; whatever is
// left is decided anew.
func (t *turn) act(ctx context.Context, p plan) error {
	if p.wait > 0 {
		t.loop.AddAfter(t.key, p.wait)
	}
	if err := t.remove(ctx, p.remove); err != nil {
		return err
	}
	if err := t.delete(ctx, p.end); err != nil {
		return err
	}
	made, createErr := t.create(ctx, p.create)
	p.status.Active -= int32(len(p.create) - made)
	if len(p.release) > 0 { // what is to be counted is stored before the finalizer goes that keeps it
		if err := t.write(ctx, p.status); err != nil {
			return errors.Join(createErr, err)
		}
		t.say(p.events)
		p.events = nil
	}
	t.memory.backoff = p.backoff
	releaseErr := t.release(ctx, p.release, false)
	status, finished := settle(p, t.tracked())
	if err := t.write(ctx, status); err != nil {
		return errors.Join(createErr, releaseErr, err)
	}
	t.say(p.events)
	if finished {
		t.say(ending(t.job, p.finish))
	}
	return errors.Join(createErr, releaseErr)
}

func (t *turn) say(list []event) {
	for _, e := range list {
		t.events.Event(t.job, e.kind, e.reason, e.message)
	}
}

// ending says how the job ended.
func ending(job *batchv1.Job, c *batchv1.JobCondition) []event {
	if c.Type == batchv1.JobFailed {
		return []event{{corev1.EventTypeWarning, c.Reason, c.Message}}
	}
	completed := event{corev1.EventTypeNormal, "Completed", "Job completed"}
	if job.Spec.Completions != nil && job.Status.Succeeded > *job.Spec.Completions {
		return []event{{corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached"}, completed}
	}
	return []event{completed}
}

// write stores the status, provided nobody has changed the job since it was read, and unless it says that already.
func (t *turn) write(ctx context.Context, status batchv1.JobStatus) error {
	if apiequality.Semantic.DeepEqual(t.job.Status, status) {
		return nil
	}
	update := *t.job // a shallow copy: only status is replaced
	update.Status = status
	written, err := t.api.updateStatus(ctx, &update)
	if err != nil {
		return err
	}
	t.job = written
	t.memory.version = written.ResourceVersion
	t.jobLag.Wrote(t.key, written.ResourceVersion)
	return nil
}

// tracked are the pods that have their finalizer still.
func (t *turn) tracked() map[types.UID]bool {
	left := map[types.UID]bool{}
	for _, pod := range t.pods {
		if hasFinalizer(pod) && !t.memory.released[pod.UID] {
			left[pod.UID] = true
		}
	}
	return left
}

// release takes the finalizer off the pods, all at once; off unchanged ones only if asked.
func (t *turn) release(ctx context.Context, list []*corev1.Pod, unchanged bool) error {
	gone := make([]bool, len(list))
	err := run.Each(len(list), t.parallel, func(i int) error {
		if t.memory.released[list[i].UID] || !hasFinalizer(list[i]) {
			return nil
		}
		err := t.api.release(ctx, list[i], unchanged)
		gone[i] = err == nil
		return err
	})
	for i, pod := range list {
		if gone[i] {
			t.memory.released[pod.UID] = true
		}
	}
	return err
}

// remove deletes pods that are not to be counted: their finalizer goes first, unless they have ended meanwhile.
func (t *turn) remove(ctx context.Context, list []*corev1.Pod) error {
	if err := t.release(ctx, list, true); err != nil {
		return err
	}
	return t.delete(ctx, list)
}

// delete deletes the pods, all at once.
func (t *turn) delete(ctx context.Context, list []*corev1.Pod) error {
	return run.Each(len(list), t.parallel, func(i int) error {
		if err := t.api.delete(ctx, list[i]); err != nil {
			t.events.Eventf(t.job, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
			return err
		}
		t.lag.Deleted(t.key, list[i].UID)
		t.events.Eventf(t.job, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", list[i].Name)
		return nil
	})
}

// create makes the pods, and tells how many were made.
func (t *turn) create(ctx context.Context, list []newPod) (int, error) {
	var made atomic.Int32
	err := run.Batches(len(list), t.parallel, func(i int) error {
		err := t.createOne(ctx, list[i])
		if err == nil {
			made.Add(1)
		}
		return err
	})
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		err = nil // nothing can be created there any more, and the job is about to go
	}
	return int(made.Load()), err
}

func (t *turn) createOne(ctx context.Context, n newPod) error {
	pod, err := t.api.create(ctx, podOf(t.job, n))
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			t.events.Eventf(t.job, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	}
	t.lag.Wrote(t.key, pod.ResourceVersion)
	t.events.Eventf(t.job, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", pod.Name)
	return nil
}

// podOf is a pod of the job's template, owned by the job and kept by its finalizer until it is counted.
func podOf(job *batchv1.Job, n newPod) *corev1.Pod {
	template := job.Spec.Template.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: job.Namespace, GenerateName: job.Name + "-", Labels: template.Labels, Annotations: template.Annotations,
			Finalizers: template.Finalizers, OwnerReferences: []metav1.OwnerReference{*owner.Reference(job, kind)},
		},
		Spec: template.Spec,
	}
	if !slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer) {
		pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if n.index == noIndex {
		return pod
	}
	const longest = 58 // what the API server keeps of a prefix
	index := strconv.Itoa(n.index)
	pod.GenerateName = job.Name[:min(len(job.Name), longest-len(index)-2)] + "-" + index + "-"
	pod.Spec.Hostname = fmt.Sprintf("%s-%s", job.Name, index)
	pod.Labels, pod.Annotations = grown(pod.Labels), grown(pod.Annotations)
	pod.Labels[batchv1.JobCompletionIndexAnnotation] = index
	pod.Annotations[batchv1.JobCompletionIndexAnnotation] = index
	if job.Spec.BackoffLimitPerIndex != nil {
		pod.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(n.failures))
		if n.ignored > 0 {
			pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(int(n.ignored))
		}
	}
	tellIndex(pod.Spec.InitContainers)
	tellIndex(pod.Spec.Containers)
	return pod
}

func grown(m map[string]string) map[string]string {
	return maps.Collect(maps.All(m))
}

// tellIndex gives the containers their index, unless they set the variable themselves.
func tellIndex(list []corev1.Container) {
	const name = "JOB_COMPLETION_INDEX"
	for i := range list {
		if slices.ContainsFunc(list[i].Env, func(v corev1.EnvVar) bool { return v.Name == name }) {
			continue
		}
		list[i].Env = append(list[i].Env, corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{
			FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']"},
		}})
	}
}

// managedElsewhere tells whether another controller has the job.
func managedElsewhere(job *batchv1.Job) bool {
	return ptr.Deref(job.Spec.ManagedBy, batchv1.JobControllerName) != batchv1.JobControllerName
}

func finished(job *batchv1.Job) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
	})
}
