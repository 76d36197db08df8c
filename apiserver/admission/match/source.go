package match

import (
	"context"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/apiserver/admission"
)

// Source gives what is compiled from the objects of one resource, in the order of their names. An object is compiled
// when it is first needed, and again only after it has changed.
type Source[T any] struct {
	reader   admission.Reader
	resource schema.GroupResource
	compile  func(runtime.Object) []T

	mu      sync.Mutex
	objects []runtime.Object
	parts   map[runtime.Object][]T
	all     []T
}

// NewSource reads resource. compile is called for one object at a time.
func NewSource[T any](reader admission.Reader, resource schema.GroupResource, compile func(runtime.Object) []T) *Source[T] {
	return &Source[T]{reader: reader, resource: resource, compile: compile}
}

// All is what the objects there are now give. It must not be changed.
func (s *Source[T]) All(ctx context.Context) ([]T, error) {
	objects, _, err := s.reader.List(ctx, s.resource, "")
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(objects, s.objects) { // objects are immutable, so a change is another one
		return s.all, nil
	}
	parts := make(map[runtime.Object][]T, len(objects))
	var all []T
	for _, obj := range objects {
		of, ok := s.parts[obj]
		if !ok {
			of = s.compile(obj)
		}
		parts[obj] = of
		all = append(all, of...)
	}
	s.objects, s.parts, s.all = objects, parts, all
	return all, nil
}
