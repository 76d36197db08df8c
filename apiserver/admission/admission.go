// Package admission is the ordered chain every write passes after authorisation. chain.go shows the order.
package admission

import (
	"context"
	"fmt"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Operation is the verb class a plug-in sees.
type Operation string

// The operations.
const (
	Create  Operation = "CREATE"
	Update  Operation = "UPDATE"
	Delete  Operation = "DELETE"
	Connect Operation = "CONNECT"
)

// Request is one write on its way. Object may be changed by mutating plug-ins; Old must not be.
type Request struct {
	Operation   Operation
	Kind        schema.GroupVersionKind
	Resource    schema.GroupVersionResource
	Subresource string
	Namespace   string
	Name        string
	Object      runtime.Object // nil for Delete
	Old         runtime.Object // nil for Create
	User        user.Info
	DryRun      bool
	Options     runtime.Object // CreateOptions, UpdateOptions, DeleteOptions or nil
	// Warn collects Warning headers for the client. It and Annotate may be called by several goroutines.
	Warn func(text string)
	// Annotate, if set, adds to the request's audit events; the first value of a key stays.
	Annotate func(key, value string)
	// OnFailure, if set, takes what is to be undone where the object is not stored after all.
	OnFailure func(undo func(context.Context))

	// Again is set in the second pass of mutating admission; see Reconsider.
	Again bool
	// Notes are what plug-ins keep of a request from the first pass to the second, each under a key of its own.
	Notes        map[any]any
	reconsidered bool
}

// Reconsider asks for a second pass of mutating admission, because a plug-in that is no part of the server changed the
// object: the others are to see that too. There is one such pass at most.
func (r *Request) Reconsider() { r.reconsidered = true }

// Note is the request's note under key, made by the first who asks for it.
func Note[T any](r *Request, key any) *T {
	if n, ok := r.Notes[key].(*T); ok {
		return n
	}
	if r.Notes == nil {
		r.Notes = map[any]any{}
	}
	n := new(T)
	r.Notes[key] = n
	return n
}

// SetObject puts the contents of obj, which is of the same type, into the request's object: its owner holds on to that one.
func (r *Request) SetObject(obj runtime.Object) error {
	to, from := reflect.ValueOf(r.Object), reflect.ValueOf(obj)
	if to.Type() != from.Type() || to.Kind() != reflect.Pointer {
		return apierrors.NewInternalError(fmt.Errorf("a %T cannot take the place of a %T", obj, r.Object))
	}
	to.Elem().Set(from.Elem())
	return nil
}

// Plugin is one link. Either method may do nothing. Errors are API status errors.
type Plugin interface {
	Name() string
	// Mutate runs before defaulting is final and before validation; plug-ins run in the chain's order.
	Mutate(ctx context.Context, r *Request) error
	// Validate runs after validation of the object and must not change it.
	Validate(ctx context.Context, r *Request) error
}

// Reader is how plug-ins look at other objects: from the watch cache, immutable.
type Reader interface {
	// Get returns the object or a NotFound status error; namespace is empty for cluster-scoped resources. A miss is
	// confirmed by the store: whoever got a write acknowledged may build on it at once.
	Get(ctx context.Context, resource schema.GroupResource, namespace, name string) (runtime.Object, error)
	// List returns the objects of a namespace (empty: all).
	List(ctx context.Context, resource schema.GroupResource, namespace string) ([]runtime.Object, metav1.ListMeta, error)
}
