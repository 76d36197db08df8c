package pods

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
)

// How long to wait between two questions about an unknown outcome.
const (
	firstWait = 20 * time.Millisecond
	lastWait  = time.Second
)

// Create makes the pod and comes back only when it is known whether the pod exists. A lost answer, as of a connection that
// breaks, thus neither makes a second pod nor hides the first, which is what a controller that counts pods rests on. Its error
// means that there is no such pod, unless ctx has ended.
//
// A pod with only a generateName gets its name here: a repetition then meets what the first attempt made.
func Create(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) (*corev1.Pod, error) {
	want := *pod
	lost := false
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		if pod.Name == "" && !lost {
			want.Name = generate(pod.GenerateName)
		}
		made, err := client.CoreV1().Pods(pod.Namespace).Create(ctx, &want, metav1.CreateOptions{})
		switch {
		case err == nil:
			return made, nil
		case !lost && pod.Name == "" && apierrors.IsAlreadyExists(err):
			continue // another's; names are random
		case !lost && outcomeOf(err) == refused:
			return nil, err
		}
		found, getErr := live(ctx, client, &want)
		switch {
		case getErr != nil:
			return nil, errors.Join(err, getErr)
		case found != nil && sameController(found, &want):
			return found, nil
		case found != nil || outcomeOf(err) != unanswered:
			return nil, err
		}
		lost = true // it may still be on its way: the repetition settles it
		if sleep(ctx, wait) != nil {
			return nil, err
		}
	}
}

// Delete deletes the pod with its grace period and comes back only when it is known whether it is being deleted or gone, which
// is no error. Any namesake is left alone.
func Delete(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) error {
	options := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))}
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		err := client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, options)
		switch {
		case err == nil || apierrors.IsNotFound(err):
			return nil
		case outcomeOf(err) == refused && !apierrors.IsConflict(err): // a conflict may be about a namesake
			return err
		}
		found, getErr := live(ctx, client, pod)
		switch {
		case getErr != nil:
			return errors.Join(err, getErr)
		case found == nil || found.UID != pod.UID || found.DeletionTimestamp != nil:
			return nil
		case outcomeOf(err) != unanswered:
			return err
		}
		if sleep(ctx, wait) != nil {
			return err
		}
	}
}

// outcome is what an error says about the effect of a request.
type outcome int

const (
	refused    outcome = iota // it had none
	failed                    // the server has ended it; whether it had any is to be read
	unanswered                // it may still be under way
)

func outcomeOf(err error) outcome {
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &status) && status.Status().Code >= 500:
		return failed
	case errors.As(err, &status) || utilnet.IsConnectionRefused(err):
		return refused
	}
	return unanswered
}

// live asks for the pod until there is an answer or ctx ends; nil means that there is none.
func live(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) (*corev1.Pod, error) {
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		found, err := client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		switch {
		case err == nil:
			return found, nil
		case apierrors.IsNotFound(err):
			return nil, nil
		case apierrors.IsForbidden(err):
			return nil, err
		}
		if sleep(ctx, wait) != nil {
			return nil, err
		}
	}
}

func sameController(a, b *corev1.Pod) bool {
	x, y := metav1.GetControllerOfNoCopy(a), metav1.GetControllerOfNoCopy(b)
	return x != nil && y != nil && x.UID == y.UID
}

// generate makes a name as the API server does.
func generate(base string) string {
	const random, longest = 5, 63
	return base[:min(len(base), longest-random)] + rand.String(random)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
