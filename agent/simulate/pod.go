package simulate

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// syncPod takes a pod as far as it has come by now, writes that, and asks to be woken for what comes next.
func (r *runner) syncPod(ctx context.Context, key string) error {
	pod := r.pod(key)
	rec := r.record(key)
	if rec != nil && (pod == nil || pod.UID != rec.uid) {
		r.forget(key, rec)
		rec = nil
	}
	if pod == nil {
		return nil
	}
	n := r.nodes[pod.Spec.NodeName]
	if n == nil || n.down.Load() {
		return nil
	}
	if wait := r.lag.Behind(key); wait > 0 {
		r.podLoop.AddAfter(key, wait) // or as soon as the watch shows what was written
		return nil
	}
	if rec == nil {
		rec = adopt(&r.cfg, n, pod)
		r.keep(key, rec)
	}
	if rec.settled(pod, time.Now()) {
		r.wakeFor(key, rec) // woken for a time that was asked for before: of several the queue keeps the earliest only
		return nil
	}
	return r.proceed(ctx, key, rec, pod)
}

// proceed writes until the API server has what the pod has come to.
func (r *runner) proceed(ctx context.Context, key string, rec *record, pod *v1.Pod) error {
	for {
		step := rec.advance(pod, time.Now())
		if !rec.written(pod, &step.status) {
			next, err := r.write(ctx, key, rec, pod, &step.status)
			if next == nil || err != nil {
				return err
			}
			pod = next
			continue
		}
		if step.remove {
			return r.remove(ctx, key, rec, pod)
		}
		rec.rested, rec.wake = pod.ResourceVersion, step.wake
		r.wakeFor(key, rec)
		return nil
	}
}

// wakeFor asks for the pod to be looked at when time changes something of it.
func (r *runner) wakeFor(key string, rec *record) {
	if !rec.wake.IsZero() {
		r.podLoop.AddAfter(key, time.Until(rec.wake))
	}
}

func (r *runner) pod(key string) *v1.Pod {
	obj, _, _ := r.pods.GetByKey(key)
	pod, _ := obj.(*v1.Pod)
	return pod
}

func (r *runner) record(key string) *record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.records[key]
}

func (r *runner) keep(key string, rec *record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records[key] = rec
}

func (r *runner) forget(key string, rec *record) {
	rec.releaseIP()
	r.lag.Forget(key)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.records, key)
}

// write sends the status with the version it was decided on, and gives the pod as it is then; none where it is gone.
func (r *runner) write(ctx context.Context, key string, rec *record, pod *v1.Pod, status *v1.PodStatus) (*v1.Pod, error) {
	// The status alone is taken from this; the server keeps the spec.
	got, err := r.kube.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, &v1.Pod{ObjectMeta: pod.ObjectMeta, Status: *status}, metav1.UpdateOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case apierrors.IsInvalid(err):
		r.cfg.Log.Error("status refused", "pod", key, "error", err)
		rec.sent, rec.sentVersion = status, pod.ResourceVersion
		return pod, nil
	case err != nil:
		return nil, err
	}
	r.lag.Wrote(key, got.ResourceVersion)
	rec.sent, rec.sentVersion = status, got.ResourceVersion
	obj, err := r.trim(got)
	if err != nil {
		return nil, err
	}
	return obj.(*v1.Pod), nil
}

// remove is the final deletion of a pod that has ended.
func (r *runner) remove(ctx context.Context, key string, rec *record, pod *v1.Pod) error {
	opts := metav1.NewDeleteOptions(0)
	opts.Preconditions = metav1.NewUIDPreconditions(string(pod.UID))
	if err := ignoreGone(r.kube.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, *opts)); err != nil {
		return err
	}
	rec.deleted = true // finalizers may keep it for longer
	return nil
}
