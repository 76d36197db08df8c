package agent

import (
	"context"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// report is what a worker remembers of telling the API server its pod's status.
type report struct {
	writing  bool
	failures int
	notUntil time.Time
	// sent is what was last written, and sentVersion the version that gave: where the server keeps something else
	// of it, writing it again would not help.
	sent        *v1.PodStatus
	sentVersion string
}

// reported tells whether the API server has the status of the last step. The caller holds mu.
func (w *worker) reported() bool {
	s, object := &w.state, w.object()
	if object == nil || equality.Semantic.DeepEqual(object.Status, s.Last) {
		return true
	}
	r := &w.report
	return r.sent != nil && r.sentVersion == object.ResourceVersion && equality.Semantic.DeepEqual(*r.sent, s.Last)
}

// sendReport writes the status if it has to be written and no write is under way: what changes meanwhile goes
// with the next one. It returns when to try again. The caller holds mu.
func (w *worker) sendReport(ctx context.Context, wg *sync.WaitGroup) time.Time {
	r := &w.report
	if w.state.Gone || w.state.Deleted || r.writing || w.object() == nil || w.reported() {
		return time.Time{}
	}
	if time.Now().Before(r.notUntil) {
		return r.notUntil
	}
	r.writing = true
	pod := *w.object() // the status alone is replaced
	pod.Status = *w.state.Last.DeepCopy()
	pod.ManagedFields = nil
	wg.Go(func() { w.writeStatus(ctx, &pod) })
	return time.Time{}
}

// writeStatus is one update with the version and UID that were last seen as its precondition. Where somebody else was
// quicker, the pod is read anew and the next step decides again.
func (w *worker) writeStatus(ctx context.Context, pod *v1.Pod) {
	pods := w.a.client.CoreV1().Pods(pod.Namespace)
	got, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	var fresh *v1.Pod
	if apierrors.IsConflict(err) {
		if fresh, err = pods.Get(ctx, pod.Name, metav1.GetOptions{}); err == nil && fresh.UID != pod.UID {
			fresh, err = nil, apierrors.NewNotFound(v1.Resource("pods"), pod.Name)
		}
	}
	w.mu.Lock()
	defer w.poke()
	defer w.mu.Unlock()
	r := &w.report
	r.writing = false
	switch {
	case apierrors.IsNotFound(err):
		w.lost(pod.UID)
	case apierrors.IsInvalid(err):
		// Writing it again would not help; a change of the pod or of the status gives it another chance.
		w.log.Error("status refused", "error", err)
		r.sent, r.sentVersion = &pod.Status, pod.ResourceVersion
	case err != nil:
		r.failures++
		r.notUntil = time.Now().Add(min(100*time.Millisecond<<min(r.failures, 10), 10*time.Second))
		if ctx.Err() == nil {
			w.log.Debug("status not written", "error", err)
		}
	case fresh != nil:
		r.failures = 0
		w.takeObject(fresh)
	default:
		r.failures = 0
		r.sent, r.sentVersion = &pod.Status, got.ResourceVersion
		got.ManagedFields = nil
		w.takeObject(got)
	}
}
