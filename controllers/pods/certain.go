package pods

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/controllers/owner"
)

// Create makes the pod as owner.Create does: it comes back only when it is known whether the pod exists.
//
// A pod with only a generateName gets its name here: a repetition then meets what the first attempt made.
func Create(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) (*corev1.Pod, error) {
	want := *pod
	for {
		if pod.Name == "" {
			want.Name = generate(pod.GenerateName)
		}
		made, err := owner.Create(ctx, &want, func() (*corev1.Pod, error) {
			return client.CoreV1().Pods(pod.Namespace).Create(ctx, &want, metav1.CreateOptions{})
		}, get(ctx, client, &want))
		if pod.Name != "" || !apierrors.IsAlreadyExists(err) {
			return made, err
		}
		// Another's; names are random.
	}
}

// Delete deletes the pod with its grace period and comes back only when it is known whether it is being deleted or gone, which
// is no error. Any namesake is left alone.
func Delete(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) error {
	return deleteIf(ctx, client, pod, metav1.NewUIDPreconditions(string(pod.UID)))
}

// DeleteAsSeen is Delete for a pod that goes because of its status: where it has changed since, it stays, and the error is a conflict.
func DeleteAsSeen(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) error {
	return deleteIf(ctx, client, pod, &metav1.Preconditions{UID: &pod.UID, ResourceVersion: &pod.ResourceVersion})
}

func deleteIf(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, is *metav1.Preconditions) error {
	options := metav1.DeleteOptions{Preconditions: is}
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, options)
		switch {
		case err == nil || apierrors.IsNotFound(err):
			return nil
		case owner.OutcomeOf(err) == owner.Refused && !apierrors.IsConflict(err): // a conflict may be about a namesake
			return err
		}
		found, getErr := owner.Live(ctx, get(ctx, client, pod))
		switch {
		case getErr != nil:
			return errors.Join(err, getErr)
		case found == nil || found.UID != pod.UID || found.DeletionTimestamp != nil:
			return nil
		case owner.OutcomeOf(err) != owner.Unanswered:
			return err
		}
		if owner.Sleep(ctx, wait) != nil {
			return err
		}
	}
}

func get(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) func() (*corev1.Pod, error) {
	return func() (*corev1.Pod, error) {
		return client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	}
}

// generate makes a name as the API server does.
func generate(base string) string {
	const random, longest = 5, 63
	return base[:min(len(base), longest-random)] + rand.String(random)
}
