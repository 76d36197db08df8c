package job

import (
	"math"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/pods"
)

// noIndex is the index of a pod that has none.
const noIndex = -1

// snapshot is what one decision rests on.
type snapshot struct {
	job *batchv1.Job
	// pods are the job's, ended and terminating ones among them.
	pods []*corev1.Pod
	// released are pods whose finalizer has been taken off, though pods may not show it.
	released map[types.UID]bool
	backoff  backoff
	now      time.Time
}

// facts are what follows from a snapshot alone.
type facts struct {
	snapshot
	indexed, perIndex bool
	// completions of an Indexed job, parallelism of any.
	completions, parallelism int
	active, terminating      []*corev1.Pod
	// uncountedSucceeded and uncountedFailed are in status, to be counted once their finalizer is off.
	uncountedSucceeded, uncountedFailed map[types.UID]bool
	// newSucceeded and newFailed have ended and are in no count yet.
	newSucceeded, newFailed []*corev1.Pod
	// succeeded and failed count all pods, those among them that are in no count yet.
	succeeded, failed int
	// done and lost are the indexes of an Indexed job that have succeeded and failed, the new ones among them.
	done, lost indexes
	// replaced are the failed pods whose successors are not made yet, by index: they stay until then, for they say how often their index has failed.
	replaced map[int]*corev1.Pod
}

func examine(s snapshot) *facts {
	spec := &s.job.Spec
	f := &facts{snapshot: s, indexed: ptr.Deref(spec.CompletionMode, "") == batchv1.IndexedCompletion, parallelism: int(ptr.Deref(spec.Parallelism, 1))}
	if f.indexed {
		f.completions = int(ptr.Deref(spec.Completions, 0))
		f.perIndex = spec.BackoffLimitPerIndex != nil
	}
	for _, pod := range s.pods {
		switch {
		case pods.Active(pod):
			f.active = append(f.active, pod)
		case pods.Terminating(pod):
			f.terminating = append(f.terminating, pod)
		}
	}
	uncounted := ptr.Deref(s.job.Status.UncountedTerminatedPods, batchv1.UncountedTerminatedPods{})
	f.uncountedSucceeded, f.uncountedFailed = uids(uncounted.Succeeded), uids(uncounted.Failed)
	for _, pod := range s.pods {
		if !f.tracked(pod) || f.indexed && f.index(pod) == noIndex {
			continue
		}
		switch {
		case pod.Status.Phase == corev1.PodSucceeded:
			// One that was deleted may count as failed and succeed after all. Its index is done then; without one, it stays failed.
			if !f.uncountedSucceeded[pod.UID] && (f.indexed || !f.uncountedFailed[pod.UID]) {
				f.newSucceeded = append(f.newSucceeded, pod)
			}
		case f.hasFailed(pod) && !f.uncountedFailed[pod.UID]:
			f.newFailed = append(f.newFailed, pod)
		}
	}
	f.count()
	return f
}

func uids(list []types.UID) map[types.UID]bool {
	set := make(map[types.UID]bool, len(list))
	for _, uid := range list {
		set[uid] = true
	}
	return set
}

// count sums up what has ended.
func (f *facts) count() {
	status := &f.job.Status
	f.succeeded = int(status.Succeeded) + len(f.uncountedSucceeded) + len(f.newSucceeded)
	f.failed = int(status.Failed) + len(f.uncountedFailed)
	for _, pod := range f.newFailed {
		if f.counts(pod) {
			f.failed++
		}
	}
	if !f.indexed {
		return
	}
	done, lost := map[int]bool{}, map[int]bool{}
	for _, pod := range f.newSucceeded {
		done[f.index(pod)] = true
	}
	f.done = parseIndexes(status.CompletedIndexes, f.completions).union(setOf(done))
	f.succeeded = f.done.total()
	if !f.perIndex {
		return
	}
	for _, pod := range f.pods {
		if i := f.index(pod); i != noIndex && f.tracked(pod) && f.losesIndex(pod) && !f.done.has(i) {
			lost[i] = true
		}
	}
	f.lost = parseIndexes(ptr.Deref(status.FailedIndexes, ""), f.completions).union(setOf(lost))
	f.awaitReplacement()
}

// awaitReplacement finds the last failed pod of each index that is to be tried again and has no pod yet.
func (f *facts) awaitReplacement() {
	busy := f.indexesOf(f.active)
	f.replaced = map[int]*corev1.Pod{}
	for _, pod := range f.pods {
		i := f.index(pod)
		if i == noIndex || !f.tracked(pod) || !f.hasFailed(pod) || busy[i] || f.done.has(i) || f.lost.has(i) {
			continue
		}
		if have := f.replaced[i]; have == nil || attempts(have) <= attempts(pod) && !finishedAt(pod).Before(finishedAt(have)) {
			f.replaced[i] = pod
		}
	}
}

// tracked tells whether the pod is still to be counted, or its count to be settled.
func (f *facts) tracked(pod *corev1.Pod) bool { return hasFinalizer(pod) && !f.released[pod.UID] }

func hasFinalizer(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

// hasFailed tells whether the pod counts as failed. One that is being deleted does, unless replacements wait for its end:
// a pod whose node is lost may never show one.
func (f *facts) hasFailed(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodFailed {
		return true
	}
	return !f.replacesOnlyFailed() && pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded
}

func (f *facts) replacesOnlyFailed() bool {
	return ptr.Deref(f.job.Spec.PodReplacementPolicy, "") == batchv1.Failed || f.job.Spec.PodFailurePolicy != nil
}

// counts tells whether the failed pod counts against the limits.
func (f *facts) counts(pod *corev1.Pod) bool {
	action, _ := judge(f.job.Spec.PodFailurePolicy, pod)
	return action != batchv1.PodFailurePolicyActionIgnore
}

// losesIndex tells whether the pod is the last attempt of its index.
func (f *facts) losesIndex(pod *corev1.Pod) bool {
	if !f.hasFailed(pod) {
		return false
	}
	switch action, _ := judge(f.job.Spec.PodFailurePolicy, pod); action {
	case batchv1.PodFailurePolicyActionFailIndex:
		return true
	case batchv1.PodFailurePolicyActionIgnore:
		return false
	}
	return number(pod, batchv1.JobIndexFailureCountAnnotation) >= *f.job.Spec.BackoffLimitPerIndex
}

// index is the pod's completion index when the job has such a one, else noIndex.
func (f *facts) index(pod *corev1.Pod) int {
	i, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 || i >= f.completions {
		return noIndex
	}
	return i
}

func (f *facts) indexesOf(list []*corev1.Pod) map[int]bool {
	found := map[int]bool{}
	for _, pod := range list {
		if i := f.index(pod); i != noIndex {
			found[i] = true
		}
	}
	return found
}

// attempts is how many pods of its index failed before this one.
func attempts(pod *corev1.Pod) int32 {
	return number(pod, batchv1.JobIndexFailureCountAnnotation) + number(pod, batchv1.JobIndexIgnoredFailureCountAnnotation)
}

// number reads an annotation; what is no count is zero.
func number(pod *corev1.Pod, annotation string) int32 {
	n, err := strconv.ParseInt(pod.Annotations[annotation], 10, 32)
	if err != nil || n < 0 {
		return 0
	}
	return int32(min(n, math.MaxInt32/2))
}

func (f *facts) suspended() bool { return ptr.Deref(f.job.Spec.Suspend, false) }
