package owner

import (
	"context"
	"errors"
	"reflect"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// How long to wait between two questions about an unknown outcome.
const (
	firstWait = 20 * time.Millisecond
	lastWait  = time.Second
)

// Outcome is what the error of a request says about its effect.
type Outcome int

// Refused requests had no effect. Failed ones have been ended by the server; whether they had an effect is to be read. Unanswered ones
// may still be under way.
const (
	Refused Outcome = iota
	Failed
	Unanswered
)

// OutcomeOf tells what an error means.
func OutcomeOf(err error) Outcome {
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &status) && status.Status().Code >= 500:
		return Failed
	case errors.As(err, &status) || utilnet.IsConnectionRefused(err):
		return Refused
	}
	return Unanswered
}

// Create makes an object of a fixed name and comes back only when it is known whether it exists. A lost answer, as of a connection that
// breaks, thus neither makes a second one nor hides the first, which is what a controller that counts rests on. Its error means that
// there is no such object of want's controller, unless ctx has ended; it is AlreadyExists where another was there from the start.
func Create[T metav1.Object](ctx context.Context, want T, create, get func() (T, error)) (T, error) {
	var none T
	lost := false
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		made, err := create()
		if err == nil {
			return made, nil
		}
		if !lost && OutcomeOf(err) == Refused {
			return none, err
		}
		found, getErr := Live(ctx, get)
		switch {
		case getErr != nil:
			return none, errors.Join(err, getErr)
		case exists(found) && sameController(found, want):
			return found, nil
		case exists(found) || OutcomeOf(err) != Unanswered:
			return none, err
		}
		lost = true // it may still be on its way: the repetition settles it
		if Sleep(ctx, wait) != nil {
			return none, err
		}
	}
}

// Live asks for an object until there is an answer or ctx ends; the zero T means that there is none.
func Live[T metav1.Object](ctx context.Context, get func() (T, error)) (T, error) {
	var none T
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		found, err := get()
		switch {
		case err == nil:
			return found, nil
		case apierrors.IsNotFound(err):
			return none, nil
		case apierrors.IsForbidden(err):
			return none, err
		}
		if Sleep(ctx, wait) != nil {
			return none, err
		}
	}
}

// Sleep is an error once ctx has ended.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func exists(o metav1.Object) bool { return o != nil && !reflect.ValueOf(o).IsNil() }

func sameController(a, b metav1.Object) bool {
	x, y := metav1.GetControllerOfNoCopy(a), metav1.GetControllerOfNoCopy(b)
	return x != nil && y != nil && x.UID == y.UID
}
