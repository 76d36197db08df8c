package rest

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/kinds"
	"github.com/coracle-dev/coracle/apiserver/store"
)

// resource is one served kind with what rest derives from its entry once.
type resource struct {
	*kinds.Kind
	gvr      schema.GroupVersionResource
	gr       schema.GroupResource
	prefix   string    // of its keys: "/registry/pods/"
	storage  string    // its name in the watch cache: that of the kind whose version is stored
	stored   *resource // that kind
	hook     Hook
	codec    codec
	fields   map[string]bool // supported field labels
	verbs    map[string]bool
	parts    parts
	packings [2]packing // of JSON and of protobuf
	// deprecation is the warning on every request; mostly empty.
	deprecation string
	list        schema.GroupVersionKind // of lists
	// life ends when another takes the place of a dynamic resource; nil for the others.
	life context.Context
	end  context.CancelFunc
}

// key is where an object lies in the store.
func (r *resource) key(namespace, name string) string {
	if r.Namespaced {
		return r.prefix + namespace + "/" + name
	}
	return r.prefix + name
}

// scope is the key prefix below the resource's own that a request for namespace covers.
func (r *resource) scope(namespace string) string {
	if r.Namespaced && namespace != "" {
		return namespace + "/"
	}
	return ""
}

// convert gives the object in the version that the resource serves. It copies nothing where that is the stored one.
func (r *resource) convert(stored runtime.Object) (runtime.Object, error) {
	if r.FromStorage == nil {
		return stored, nil
	}
	obj, err := r.FromStorage(stored)
	if err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(r.GVK)
	return obj, nil
}

// allVerbs are served unless an entry names its own.
var allVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// Verbs lists what a kind serves, sorted as discovery shows it.
func Verbs(k *kinds.Kind) []string {
	if k.Verbs != nil {
		return k.Verbs
	}
	return allVerbs
}

func newResource(k *kinds.Kind, scheme *runtime.Scheme, hook Hook) *resource {
	r := &resource{
		Kind:   k,
		gvr:    k.GVK.GroupVersion().WithResource(k.Resource),
		gr:     k.GroupResource(),
		prefix: store.Root + k.Prefix + "/",
		hook:   hook,
		fields: map[string]bool{"metadata.name": true},
		verbs:  map[string]bool{},
	}
	if k.Namespaced {
		r.fields["metadata.namespace"] = true
	}
	if k.Fields != nil {
		for label := range k.Fields(k.New()) {
			r.fields[label] = true
		}
	}
	verbs := Verbs(k)
	if k.Dynamic != nil { // discovery may show fewer
		verbs = allVerbs
	}
	for _, v := range verbs {
		r.verbs[v] = true
	}
	r.codec = newCodec(k, scheme)
	r.parts = partsOf(k.New())
	r.list = k.GVK
	r.list.Kind += "List"
	if r.deprecation = k.Deprecation(); k.Dynamic != nil {
		r.deprecation = k.Dynamic.Warning
		r.list = k.NewList().GetObjectKind().GroupVersionKind()
		r.life, r.end = context.WithCancel(context.Background())
	}
	return r
}

// stored tells whether the entry has objects of its own (reviews and the like have none).
func stored(k *kinds.Kind) bool { return !k.NotStored }

// CacheResources gives the watch cache one entry for every stored prefix of the table.
func CacheResources(table []kinds.Kind, scheme *runtime.Scheme) []cache.Resource {
	var all []cache.Resource
	for i := range table {
		k := &table[i]
		if !stored(k) || k.FromStorage != nil {
			continue
		}
		r := newResource(k, scheme, Hook{})
		all = append(all, cache.Resource{
			Name:   r.gr.String(),
			Prefix: r.prefix,
			Decode: r.decodeStored,
			Fields: r.fieldSet,
		})
		if k.Dynamic != nil {
			all[len(all)-1].LateField = k.Dynamic.LateField
		}
	}
	return all
}

// decodeStored turns a stored value into the object in the stored version.
func (r *resource) decodeStored(value []byte, revision int64) (runtime.Object, error) {
	obj, err := r.codec.decode(value)
	if err != nil {
		return nil, fmt.Errorf("decode stored %s: %w", r.Resource, err)
	}
	if r.Default != nil {
		r.Default(obj)
	}
	if r.Dynamic == nil { // those say themselves which version they are in
		obj.GetObjectKind().SetGroupVersionKind(r.GVK)
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	m.SetResourceVersion(formatRevision(revision))
	return obj, nil
}

// fieldSet is what field selectors see.
func (r *resource) fieldSet(obj runtime.Object) fields.Set {
	var set fields.Set
	if r.Kind.Fields != nil {
		set = r.Kind.Fields(obj)
	}
	if set == nil {
		set = fields.Set{}
	}
	if m, err := meta.Accessor(obj); err == nil {
		set["metadata.name"] = m.GetName()
		if r.Namespaced {
			set["metadata.namespace"] = m.GetNamespace()
		}
	}
	return set
}

// accessor panics for objects without metadata: the table holds none that are stored.
func accessor(obj runtime.Object) metav1.Object {
	m, err := meta.Accessor(obj)
	if err != nil {
		panic(err)
	}
	return m
}
