package job

import (
	"cmp"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/controllers/pods"
)

// planPods plans which pods to create or to remove; never both, for a pod to remove may be the reason to create one.
func (f *facts) planPods(p *plan) {
	if f.suspended() {
		p.remove = f.active
		return
	}
	want := f.want()
	p.remove = f.surplus(len(f.active) - want)
	if len(p.remove) > 0 {
		p.remove = p.remove[:min(len(p.remove), burst)]
		return
	}
	missing := want - len(f.active)
	if f.replacesOnlyFailed() {
		missing -= len(f.terminating)
	}
	if missing > 0 {
		f.planCreations(p, min(missing, burst))
	}
}

// want is how many pods should be active.
func (f *facts) want() int {
	completions := f.job.Spec.Completions
	switch {
	case completions != nil:
		return max(0, min(int(*completions)-f.succeeded, f.parallelism))
	case f.succeeded > 0:
		return len(f.active) // whichever succeeds first says that the work is done; the others may end theirs
	}
	return f.parallelism
}

// surplus are the active pods to remove: those of no index or of another's index, and as many of the rest as there are too many.
func (f *facts) surplus(tooMany int) []*corev1.Pod {
	rest := slices.Clone(f.active)
	slices.SortStableFunc(rest, f.compareProgress)
	var remove []*corev1.Pod
	if f.indexed {
		taken := map[int]bool{}
		for at := len(rest) - 1; at >= 0; at-- { // of each index the one that has come furthest stays
			i := f.index(rest[at])
			if i == noIndex || taken[i] {
				remove = append(remove, rest[at])
				rest = slices.Delete(rest, at, at+1)
			}
			taken[i] = true
		}
	}
	if more := tooMany - len(remove); more > 0 {
		remove = append(remove, rest[:more]...)
	}
	return remove
}

// compareProgress puts the pod that has come less far first: not on a node, pending, not ready, ready for a shorter time, restarted more often, younger.
func (f *facts) compareProgress(a, b *corev1.Pod) int {
	return cmp.Or(
		pods.FalseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
		pods.FalseFirst(a.Status.Phase != corev1.PodPending, b.Status.Phase != corev1.PodPending),
		pods.FalseFirst(a.Status.Phase == corev1.PodRunning, b.Status.Phase == corev1.PodRunning),
		pods.FalseFirst(pods.Ready(a), pods.Ready(b)),
		readySince(b).Compare(readySince(a)),
		pods.CompareRestarts(a, b),
		b.CreationTimestamp.Compare(a.CreationTimestamp.Time),
	)
}

func readySince(pod *corev1.Pod) time.Time {
	if !pods.Ready(pod) {
		return time.Time{}
	}
	return pods.Condition(pod, corev1.PodReady).LastTransitionTime.Time
}

// planCreations plans up to n pods, as far as their back-off is over.
func (f *facts) planCreations(p *plan, n int) {
	if !f.perIndex {
		if wait := p.backoff.remaining(f.now); wait > 0 {
			p.wake(wait)
			return
		}
	}
	if !f.indexed {
		p.create = slices.Repeat([]newPod{{index: noIndex}}, n)
		return
	}
	busy := f.indexesOf(f.active)
	if f.replacesOnlyFailed() {
		for i := range f.indexesOf(f.terminating) {
			busy[i] = true
		}
	}
	taken := setOf(busy).union(f.done).union(f.lost)
	for _, i := range taken.missing(n+len(f.replaced), f.completions) {
		pod, wait := f.successor(i)
		switch {
		case wait > 0:
			p.wake(wait)
		case len(p.create) < n:
			p.create = append(p.create, pod)
		}
	}
}

// successor is the next pod of an index, and how long it still has to wait for the index's own back-off.
func (f *facts) successor(i int) (newPod, time.Duration) {
	last := f.replaced[i]
	if last == nil {
		return newPod{index: i}, 0
	}
	next := newPod{index: i, failures: number(last, batchv1.JobIndexFailureCountAnnotation), ignored: number(last, batchv1.JobIndexIgnoredFailureCountAnnotation)}
	if f.counts(last) {
		next.failures++
	} else {
		next.ignored++
	}
	return next, backoff{failures: next.failures + next.ignored, last: finishedAt(last)}.remaining(f.now)
}

// wake plans a look at the job in d, or earlier.
func (p *plan) wake(d time.Duration) {
	if p.wait == 0 || d < p.wait {
		p.wait = d
	}
}
