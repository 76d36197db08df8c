package faults

import (
	"fmt"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// jobRecord is what became of a job's pods, those that are gone among them.
type jobRecord struct {
	succeeded map[int]bool // by index
	done      int          // pods that succeeded
	// failed are by index; each is when the pod failed, in order. Pods that something disturbed are not counted.
	failed map[int][]loss
}

// index is a pod's completion index; -1 without one.
func index(pod *corev1.Pod) int {
	n, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil {
		return -1
	}
	return n
}

// noteJob remembers a pod's end.
func (w *World) noteJob(s Step, pod *corev1.Pod) {
	_, job := controlled[*batchv1.Job](s, pod)
	before, _ := s.Before.(*corev1.Pod)
	if job == nil || !terminal(pod) || before != nil && terminal(before) {
		return
	}
	r := w.jobs[job.UID]
	if r == nil {
		r = &jobRecord{succeeded: map[int]bool{}, failed: map[int][]loss{}}
		w.jobs[job.UID] = r
	}
	switch {
	case pod.DeletionTimestamp != nil && !replacesOnlyFailed(job): // counted as failed when its deletion began, and replaced
	case pod.Status.Phase == corev1.PodSucceeded:
		r.done++
		r.succeeded[index(pod)] = true
	case !disrupted(pod) && pod.DeletionTimestamp == nil && !w.Foreign[pod.UID]:
		r.failed[index(pod)] = append(r.failed[index(pod)], loss{at: s.At, pod: pod.UID})
	}
}

func parallelism(job *batchv1.Job) int {
	n := int(ptr.Deref(job.Spec.Parallelism, 1))
	if job.Spec.Suspend != nil && *job.Spec.Suspend {
		return 0
	}
	if ptr.Deref(job.Spec.CompletionMode, "") == batchv1.IndexedCompletion && job.Spec.Completions != nil {
		n = min(n, int(*job.Spec.Completions))
	}
	return n
}

// jobParallelism: a pod is made for a job only while fewer than its parallelism run, and fewer than it still needs.
func jobParallelism(s Step) []string {
	pod, job := created[*batchv1.Job](s)
	if pod == nil {
		return nil
	}
	var broken []string
	running, limit := len(s.podsOf(job.UID, active)), most(possible(s.World, job), parallelism)
	if running > limit {
		broken = append(broken, fmt.Sprintf("job %s runs %d pods with %s, may run %d", job.Name, running, pod.Name, limit))
	}
	r := s.jobs[job.UID]
	if job.Spec.Completions == nil || r == nil {
		return broken
	}
	if need := int(*job.Spec.Completions); r.done+running > need {
		broken = append(broken, fmt.Sprintf("job %s has %d pods done and %d running with %s, needs %d", job.Name, r.done, running, pod.Name, need))
	}
	return broken
}

// jobIndexOnce: an index runs in one pod at a time, and not again once it has succeeded.
func jobIndexOnce(s Step) []string {
	pod, job := created[*batchv1.Job](s)
	if pod == nil || ptr.Deref(job.Spec.CompletionMode, "") != batchv1.IndexedCompletion {
		return nil
	}
	var broken []string
	n := index(pod)
	if n < 0 || n >= int(ptr.Deref(job.Spec.Completions, 0)) {
		broken = append(broken, fmt.Sprintf("job %s has no index %d", job.Name, n))
	}
	for _, other := range s.podsOf(job.UID, func(p *corev1.Pod) bool { return !terminal(p) && index(p) == n && p.UID != pod.UID }) {
		if active(other) || replacesOnlyFailed(job) {
			broken = append(broken, fmt.Sprintf("index %d of job %s runs in %s and in %s", n, job.Name, other.Name, pod.Name))
		}
	}
	if r := s.jobs[job.UID]; r != nil && r.succeeded[n] {
		broken = append(broken, fmt.Sprintf("index %d of job %s runs again in %s, after it had succeeded", n, job.Name, pod.Name))
	}
	return broken
}

// replacesOnlyFailed tells whether the job waits for a pod's end before it makes another in its place.
func replacesOnlyFailed(job *batchv1.Job) bool {
	if job.Spec.PodReplacementPolicy != nil {
		return *job.Spec.PodReplacementPolicy == batchv1.Failed
	}
	return job.Spec.PodFailurePolicy != nil
}

// jobBackoff: an index, or a job, whose pods have failed more often than its policy lets them gets no further pod.
func jobBackoff(s Step) []string {
	pod, job := created[*batchv1.Job](s)
	if pod == nil || job.Spec.PodFailurePolicy != nil {
		return nil
	}
	r := s.jobs[job.UID]
	if r == nil {
		return nil
	}
	if limit := job.Spec.BackoffLimitPerIndex; limit != nil {
		// Another try of an index follows from the failure of the one before, which the controller has therefore seen.
		if failed := len(r.failed[index(pod)]); failed > int(*limit) {
			return []string{fmt.Sprintf("index %d of job %s is tried again in %s after %d failures", index(pod), job.Name, pod.Name, failed)}
		}
		return nil
	}
	failed := 0
	for _, list := range r.failed {
		failed += s.failedFor(list)
	}
	if limit := int(ptr.Deref(job.Spec.BackoffLimit, 6)); failed > limit {
		return []string{fmt.Sprintf("job %s tries again in %s after %d failures, may fail %d times", job.Name, pod.Name, failed, limit)}
	}
	return nil
}

// failedFor counts the failures that a controller has had time to see.
func (w *World) failedFor(list []loss) int {
	n := 0
	for _, l := range list {
		if w.Now.Sub(l.at) > window {
			n++
		}
	}
	return n
}

// jobEnded: a job that is complete or has failed gets no further pod.
func jobEnded(s Step) []string {
	pod, job := created[*batchv1.Job](s)
	if pod == nil {
		return nil
	}
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return []string{fmt.Sprintf("job %s got %s after its condition %s", job.Name, pod.Name, c.Type)}
		}
	}
	return nil
}
