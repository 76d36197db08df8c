// Package admission is the ordered chain every write passes after authorisation. chain.go shows the order.
package admission

import (
	"context"

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
	// Warn collects Warning headers for the client.
	Warn func(text string)
	// Annotate, if set, adds to the request's audit events; the first value of a key stays.
	Annotate func(key, value string)
	// OnFailure, if set, takes what is to be undone where the object is not stored after all.
	OnFailure func(undo func(context.Context))
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
