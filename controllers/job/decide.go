package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/pods"
)

const (
	// burst is the most pods that one sync creates or deletes, so that one huge job cannot starve the others.
	burst = 500
	// maxUncounted bounds the UIDs in a status, which then stay below 20 KB.
	maxUncounted = 500
)

// plan is what to do about a job. Pods are created and deleted first; status is stored before a finalizer goes; settle says what is stored then.
type plan struct {
	create []newPod
	// remove are surplus pods: without their finalizer they are no failures. end are those of a job that is over, which are counted.
	remove, end []*corev1.Pod
	status      batchv1.JobStatus
	release     []*corev1.Pod
	// finish is the last condition of a job that is over, for when everything is counted and ended; nil while it is not.
	finish  *batchv1.JobCondition
	events  []event
	backoff backoff
	// wait is how long until time alone changes the decision; zero when it never does.
	wait time.Duration
}

// newPod is a pod to create, for an index unless that is noIndex, with how often the index has failed.
type newPod struct {
	index             int
	failures, ignored int32
}

type event struct{ kind, reason, message string }

// decide says what to do. It is pure.
func decide(s snapshot) plan {
	f := examine(s)
	p := plan{status: *s.job.Status.DeepCopy(), backoff: s.backoff.after(f.newSucceeded, f.newFailed)}
	if p.status.UncountedTerminatedPods == nil {
		p.status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	if p.status.StartTime == nil && !f.suspended() {
		p.status.StartTime = ptr.To(metav1.NewTime(s.now))
	}
	over := f.verdict(&p)
	if over != nil {
		p.end = f.active
	} else {
		over = f.manage(&p)
	}
	f.observe(&p)
	f.collect(&p, over)
	if over != nil {
		f.announce(&p, over)
	}
	return p
}

// verdict is the interim condition of a job that is over: FailureTarget or SuccessCriteriaMet. Nil while it is not.
func (f *facts) verdict(p *plan) *batchv1.JobCondition {
	spec, conditions := &f.job.Spec, f.job.Status.Conditions
	for _, t := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobFailureTarget} {
		if c := condition(conditions, t); c != nil && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	for _, pod := range f.pods {
		if f.hasFailed(pod) {
			if action, why := judge(spec.PodFailurePolicy, pod); action == batchv1.PodFailurePolicyActionFailJob {
				return f.failure(batchv1.JobReasonPodFailurePolicy, why)
			}
		}
	}
	if f.failed > int(ptr.Deref(spec.BackoffLimit, 6)) || f.restartsExceedLimit() {
		return f.failure(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	}
	if spec.ActiveDeadlineSeconds != nil && !f.suspended() {
		left := p.status.StartTime.Add(time.Duration(*spec.ActiveDeadlineSeconds) * time.Second).Sub(f.now)
		if left <= 0 {
			return f.failure(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
		}
		p.wait = left
	}
	return f.indexVerdict()
}

// indexVerdict is verdict as far as indexes tell.
func (f *facts) indexVerdict() *batchv1.JobCondition {
	if !f.indexed {
		return nil
	}
	spec, lost := &f.job.Spec, f.lost.total()
	switch {
	case f.perIndex && spec.MaxFailedIndexes != nil && lost > int(*spec.MaxFailedIndexes):
		return f.failure(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
	case f.perIndex && lost > 0 && lost+f.done.total() >= f.completions:
		return f.failure(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
	}
	if why, met := succeededBy(spec.SuccessPolicy, f.done, f.completions); met {
		return newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, why, f.now)
	}
	return nil
}

func (f *facts) failure(reason, message string) *batchv1.JobCondition {
	return newCondition(batchv1.JobFailureTarget, reason, message, f.now)
}

// restartsExceedLimit is about pods whose containers are restarted in place.
func (f *facts) restartsExceedLimit() bool {
	if f.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	var all int32
	for _, pod := range f.pods {
		if pod.Status.Phase == corev1.PodRunning || pod.Status.Phase == corev1.PodPending {
			all += restarts(pod)
		}
	}
	return all >= max(1, ptr.Deref(f.job.Spec.BackoffLimit, 6))
}

// restarts counts those of all the pod's containers.
func restarts(pod *corev1.Pod) int32 {
	var n int32
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		n += s.RestartCount
	}
	return n
}

// manage plans the pods of a job that is not over, and tells whether it is now: SuccessCriteriaMet, else nil.
func (f *facts) manage(p *plan) *batchv1.JobCondition {
	managed := f.job.DeletionTimestamp == nil
	if managed {
		f.planPods(p)
	}
	spec := &f.job.Spec
	active := len(f.active) + len(p.create) - len(p.remove)
	enough := f.succeeded > 0
	if spec.Completions != nil {
		enough = f.succeeded >= int(*spec.Completions)
	}
	if enough && active == 0 {
		return newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods", f.now)
	}
	if managed {
		f.suspend(p)
	}
	return nil
}

// suspend shows whether the job is suspended. Its time begins anew when it no longer is.
func (f *facts) suspend(p *plan) {
	c := condition(p.status.Conditions, batchv1.JobSuspended)
	was := c != nil && c.Status == corev1.ConditionTrue
	switch {
	case f.suspended():
		p.status.StartTime = nil
		if !was {
			p.status.Conditions = with(p.status.Conditions, newCondition(batchv1.JobSuspended, "JobSuspended", "Job suspended", f.now))
			p.events = append(p.events, event{corev1.EventTypeNormal, "Suspended", "Job suspended"})
		}
	case was:
		resumed := newCondition(batchv1.JobSuspended, "JobResumed", "Job resumed", f.now)
		resumed.Status = corev1.ConditionFalse
		p.status.Conditions = with(p.status.Conditions, resumed)
		p.status.StartTime = ptr.To(metav1.NewTime(f.now))
		p.events = append(p.events, event{corev1.EventTypeNormal, "Resumed", "Job resumed"})
	}
}

// observe puts into status how many pods there are once the plan is carried out.
func (f *facts) observe(p *plan) {
	gone := map[types.UID]bool{}
	for _, pod := range slices.Concat(p.remove, p.end) {
		gone[pod.UID] = true
	}
	ready := int32(0)
	for _, pod := range f.active {
		if !gone[pod.UID] && pods.Ready(pod) {
			ready++
		}
	}
	p.status.Active = int32(len(f.active) - len(gone) + len(p.create))
	p.status.Ready = &ready
	p.status.Terminating = ptr.To(int32(len(f.terminating) + len(gone)))
}

// collect plans which finalizers go, and puts the pods that had them into status as ended and not counted yet.
func (f *facts) collect(p *plan, over *batchv1.JobCondition) {
	uncounted := p.status.UncountedTerminatedPods
	*uncounted = batchv1.UncountedTerminatedPods{Succeeded: slices.Clone(uncounted.Succeeded), Failed: slices.Clone(uncounted.Failed)}
	allFail := over != nil && over.Type == batchv1.JobFailureTarget // what a failed job ends has failed
	for _, pod := range f.pods {
		if !f.tracked(pod) || !f.releasable(pod, over != nil) {
			continue
		}
		p.release = append(p.release, pod)
		counted := !f.indexed || f.index(pod) != noIndex
		switch {
		case pod.Status.Phase == corev1.PodSucceeded && !f.uncountedFailed[pod.UID]:
			if !f.indexed && !f.uncountedSucceeded[pod.UID] { // of an index the index is enough
				uncounted.Succeeded = append(uncounted.Succeeded, pod.UID)
			}
		case counted && (f.hasFailed(pod) || allFail) && !f.uncountedFailed[pod.UID] && f.counts(pod):
			uncounted.Failed = append(uncounted.Failed, pod.UID)
		}
		if len(uncounted.Succeeded)+len(uncounted.Failed) >= maxUncounted {
			break // the status just written wakes the job again
		}
	}
	if f.indexed {
		p.status.CompletedIndexes, p.status.Succeeded = f.done.String(), int32(f.done.total())
		p.status.FailedIndexes = nil
		if f.perIndex {
			p.status.FailedIndexes = ptr.To(f.lost.String())
		}
	}
}

// releasable tells whether nothing needs the pod's finalizer any more but its count.
func (f *facts) releasable(pod *corev1.Pod, over bool) bool {
	if f.job.DeletionTimestamp != nil || over || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	if !f.hasFailed(pod) {
		return false
	}
	last, waits := f.replaced[f.index(pod)]
	return !waits || last.UID != pod.UID
}

// announce puts the interim condition into status and plans the last one.
func (f *facts) announce(p *plan, over *batchv1.JobCondition) {
	p.status.Conditions = with(p.status.Conditions, over)
	last := batchv1.JobComplete
	if over.Type == batchv1.JobFailureTarget {
		last = batchv1.JobFailed
	}
	p.finish = newCondition(last, over.Reason, over.Message, f.now)
}

// settle is the status once the plan's finalizers have gone, tracked being the UIDs of pods that have one still: what has lost it is counted. A job
// that is over ends once nothing is left to count or to end. It is pure.
func settle(p plan, tracked map[types.UID]bool) (status batchv1.JobStatus, finished bool) {
	status = *p.status.DeepCopy()
	uncounted := status.UncountedTerminatedPods
	counted := func(list []types.UID) (rest []types.UID, n int32) {
		for _, uid := range list {
			if tracked[uid] {
				rest = append(rest, uid)
			}
		}
		return rest, int32(len(list) - len(rest))
	}
	var succeeded, failed int32
	uncounted.Succeeded, succeeded = counted(uncounted.Succeeded)
	uncounted.Failed, failed = counted(uncounted.Failed)
	status.Succeeded += succeeded
	status.Failed += failed
	if p.finish == nil || len(tracked) > 0 || len(uncounted.Succeeded)+len(uncounted.Failed) > 0 || *status.Terminating > 0 {
		return status, false
	}
	status.Conditions = with(status.Conditions, p.finish)
	if p.finish.Type == batchv1.JobComplete {
		status.CompletionTime = ptr.To(p.finish.LastTransitionTime)
	}
	return status, true
}

func newCondition(t batchv1.JobConditionType, reason, message string, now time.Time) *batchv1.JobCondition {
	at := metav1.NewTime(now)
	return &batchv1.JobCondition{Type: t, Status: corev1.ConditionTrue, LastProbeTime: at, LastTransitionTime: at, Reason: reason, Message: message}
}

func condition(list []batchv1.JobCondition, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range list {
		if list[i].Type == t {
			return &list[i]
		}
	}
	return nil
}

// with is the list with c in the place of the condition of its type, which is left as it is when it says the same.
func with(list []batchv1.JobCondition, c *batchv1.JobCondition) []batchv1.JobCondition {
	have := condition(list, c.Type)
	switch {
	case have == nil:
		return append(slices.Clone(list), *c)
	case have.Status == c.Status && have.Reason == c.Reason && have.Message == c.Message:
		return list
	}
	list = slices.Clone(list)
	*condition(list, c.Type) = *c
	return list
}
