package apiserver

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/kinds"
	"github.com/coracle-dev/coracle/apiserver/store"
)

// Reader looks at objects in the watch cache; what it returns must not be changed. It implements what
// admission, auth and openapi ask for.
type Reader struct {
	cache *cache.Cache
	kinds map[schema.GroupResource]*kinds.Kind
}

// NewReader reads from c.
func NewReader(c *cache.Cache) *Reader {
	r := &Reader{cache: c, kinds: map[schema.GroupResource]*kinds.Kind{}}
	table := kinds.All()
	for i := range table {
		if k := &table[i]; !k.NotStored && k.FromStorage == nil {
			r.kinds[k.GroupResource()] = k
		}
	}
	return r
}

// Get returns an object, or a NotFound status error. An object that the cache lacks is looked for in the store
// as well: it may have been created a moment ago.
func (r *Reader) Get(ctx context.Context, gr schema.GroupResource, namespace, name string) (runtime.Object, error) {
	k := r.kinds[gr]
	if k == nil {
		return nil, fmt.Errorf("resource %s is not served", gr)
	}
	key := store.Root + k.Prefix + "/"
	if k.Namespaced {
		key += namespace + "/"
	}
	key += name
	o, err := r.cache.Get(ctx, gr.String(), key, 0)
	if errors.Is(err, store.ErrNotFound) {
		o, err = r.cache.Get(ctx, gr.String(), key, cache.Newest)
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, apierrors.NewNotFound(gr, name)
	}
	if err != nil {
		return nil, err
	}
	return o.Object, nil
}

// List returns the objects of a namespace; empty is all. A resource that is not served has none.
func (r *Reader) List(ctx context.Context, gr schema.GroupResource, namespace string) ([]runtime.Object, metav1.ListMeta, error) {
	k := r.kinds[gr]
	if k == nil {
		return nil, metav1.ListMeta{}, nil
	}
	var opts cache.ListOptions
	if k.Namespaced && namespace != "" {
		opts.Scope = namespace + "/"
	}
	l, err := r.cache.List(ctx, gr.String(), opts)
	if err != nil {
		return nil, metav1.ListMeta{}, err
	}
	objs := make([]runtime.Object, len(l.Objects))
	for i, o := range l.Objects {
		objs[i] = o.Object
	}
	return objs, metav1.ListMeta{ResourceVersion: fmt.Sprint(l.Revision)}, nil
}
