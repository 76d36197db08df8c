package job

import (
	"context"
	"encoding/json"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/controllers/pods"
)

// api is what a decision is carried out on.
type api interface {
	// create and delete come back when their outcome is known; a pod that is gone is deleted.
	create(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error)
	delete(ctx context.Context, pod *corev1.Pod) error
	// release takes the tracking finalizer off the pod, if asked only when the pod has not changed; one that is gone has none.
	release(ctx context.Context, pod *corev1.Pod, unchanged bool) error
	// list gives the job's pods past every cache.
	list(ctx context.Context, job *batchv1.Job) ([]*corev1.Pod, error)
	// updateStatus is refused when the job has changed.
	updateStatus(ctx context.Context, job *batchv1.Job) (*batchv1.Job, error)
}

// server is the API server.
type server struct{ client kubernetes.Interface }

func (s server) create(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	return pods.Create(ctx, s.client, pod)
}

func (s server) delete(ctx context.Context, pod *corev1.Pod) error {
	return pods.Delete(ctx, s.client, pod)
}

func (s server) release(ctx context.Context, pod *corev1.Pod, unchanged bool) error {
	metadata := map[string]any{"uid": pod.UID, "$deleteFromPrimitiveList/finalizers": []string{batchv1.JobTrackingFinalizer}}
	if unchanged {
		metadata["resourceVersion"] = pod.ResourceVersion
	}
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (s server) list(ctx context.Context, job *batchv1.Job) ([]*corev1.Pod, error) {
	all, err := s.client.CoreV1().Pods(job.Namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(job.Spec.Selector)})
	if err != nil {
		return nil, err
	}
	var own []*corev1.Pod
	for i := range all.Items {
		if metav1.IsControlledBy(&all.Items[i], job) {
			own = append(own, &all.Items[i])
		}
	}
	return own, nil
}

func (s server) updateStatus(ctx context.Context, job *batchv1.Job) (*batchv1.Job, error) {
	return s.client.BatchV1().Jobs(job.Namespace).UpdateStatus(ctx, job, metav1.UpdateOptions{})
}
