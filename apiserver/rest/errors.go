package rest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/store"
)

// optimisticLock is the text behind every conflict of resource versions; clients compare it.
const optimisticLock = "the object has been modified; please apply your changes to the latest version and try again"

func statusError(code int, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	}}
}

func notAcceptable(types []string) error {
	return statusError(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
		"only the following media types are accepted: "+strings.Join(types, ", "))
}

func unsupportedMediaType(types []string) error {
	return statusError(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		"the body of the request was in an unknown format - accepted media types include: "+strings.Join(types, ", "))
}

// notFoundPath answers paths that lead nowhere.
func notFoundPath() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusNotFound,
		Reason:  metav1.StatusReasonNotFound,
		Message: "the server could not find the requested resource",
		Details: &metav1.StatusDetails{},
	}}
}

// invalidOptions reports bad query options (CreateOptions, ListOptions, ...).
func invalidOptions(kind string, errs field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

// statusOf turns any error into what the client sees.
func statusOf(err error) *metav1.Status {
	var api apierrors.APIStatus
	switch {
	case errors.As(err, &api):
		s := api.Status()
		s.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
		if s.Status == "" {
			s.Status = metav1.StatusFailure
		}
		if s.Code == 0 {
			s.Code = http.StatusInternalServerError
		}
		return &s
	case errors.Is(err, context.DeadlineExceeded):
		return statusOf(apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0))
	case errors.Is(err, context.Canceled):
		return statusOf(apierrors.NewTimeoutError("request was cancelled by the client", 0))
	}
	slog.Error("request failed", "component", "apiserver", "error", err)
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure,
		Code:     http.StatusInternalServerError,
		Reason:   metav1.StatusReasonUnknown,
		Message:  err.Error(),
	}
}

// readError words a failure of the cache or the store to read; name is empty for lists.
func readError(gr schema.GroupResource, name string, revision int64, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return apierrors.NewNotFound(gr, name)
	case errors.Is(err, store.ErrCompacted), errors.Is(err, cache.ErrTooOld):
		return apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	case errors.Is(err, store.ErrFuture), errors.Is(err, cache.ErrTooNew):
		return tooLargeVersion(revision)
	case errors.Is(err, store.ErrUnavailable):
		return apierrors.NewServiceUnavailable(err.Error())
	case errors.Is(err, cache.ErrRemoved):
		return notFoundPath()
	}
	return err
}

// tooLargeVersion tells clients to retry in a second: the revision they ask for is not here yet.
func tooLargeVersion(revision int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d", revision), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version",
	}}
	return err
}

// writeError words a failed write that is not a conflict.
func writeError(gr schema.GroupResource, name string, err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return apierrors.NewNotFound(gr, name)
	case errors.Is(err, store.ErrTooLarge):
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("etcdserver: request is too large (%s %q)", gr, name))
	case errors.Is(err, store.ErrUnavailable):
		return apierrors.NewServerTimeout(gr, "write", 2)
	}
	return err
}

// Forbidden words a refusal of the authorizer as upstream does; client tools show it as it is.
func Forbidden(a authorizer.AttributesRecord, reason string) error {
	text := fmt.Sprintf("User %q cannot %s", a.User.GetName(), describe(a))
	if reason != "" {
		text += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.APIGroup, Resource: a.Resource}, a.Name, errors.New(text))
}

func describe(a authorizer.AttributesRecord) string {
	if !a.ResourceRequest {
		return fmt.Sprintf("%s path %q", a.Verb, a.Path)
	}
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	text := fmt.Sprintf("%s resource %q in API group %q", a.Verb, resource, a.APIGroup)
	if a.Namespace != "" {
		return fmt.Sprintf("%s in the namespace %q", text, a.Namespace)
	}
	return text + " at the cluster scope"
}

// MethodNotAllowed is the 405 of a method that a path does not have.
func MethodNotAllowed() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
		Message: "the server does not allow this method on the requested resource",
	}}
}
