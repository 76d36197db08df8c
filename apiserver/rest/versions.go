package rest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"github.com/coracle-dev/coracle/apiserver/admission/match"
	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/store"
)

// Equivalents implements match.Versions: the other resources that are served from the same store.
func (h *Handler) Equivalents(gvr schema.GroupVersionResource, subresource string) []match.Target {
	own := h.find(gvr)
	if own == nil || own.NotStored {
		return nil
	}
	var others []match.Target
	for other, r := range *h.routes.Load() {
		if other != gvr && r.prefix == own.prefix {
			t := match.Target{Resource: other, Kind: r.GVK}
			if subresource == "scale" {
				t.Kind = scaleGVK
			}
			others = append(others, t)
		}
	}
	slices.SortFunc(others, func(a, b match.Target) int { return strings.Compare(a.Resource.String(), b.Resource.String()) })
	return others
}

// ofKind finds the resource that serves a kind; nil for kinds that only subresources have.
func (h *Handler) ofKind(kind schema.GroupVersionKind) *resource {
	for _, r := range *h.routes.Load() {
		if r.GVK == kind {
			return r
		}
	}
	return nil
}

// ConvertObject implements match.Versions.
func (h *Handler) ConvertObject(obj runtime.Object, from, to schema.GroupVersionKind) (runtime.Object, error) {
	if from == to {
		return obj, nil
	}
	source, target := h.ofKind(from), h.ofKind(to)
	if source == nil || target == nil || source.prefix != target.prefix {
		return nil, fmt.Errorf("%v cannot be converted to %v", from, to)
	}
	stored := obj.DeepCopyObject()
	if source.ToStorage != nil {
		var err error
		if stored, err = source.ToStorage(stored); err != nil {
			return nil, err
		}
		stored.GetObjectKind().SetGroupVersionKind(source.stored.GVK)
	}
	return target.convert(stored)
}

// DecodeObject implements match.Versions.
func (h *Handler) DecodeObject(data []byte, kind schema.GroupVersionKind) (runtime.Object, error) {
	d := decoding{mediaType: typeJSON, scheme: h.Scheme}
	r := h.ofKind(kind)
	if r == nil { // that of a subresource
		obj, err := h.Scheme.New(kind)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		_, err = d.decodeInto(data, kind, obj)
		return obj, err
	}
	obj := r.New()
	if r.Dynamic != nil {
		d.coerce = r.Dynamic.Coerce
	}
	if _, err := d.decodeInto(data, kind, obj); err != nil {
		return nil, err
	}
	if r.Default != nil {
		r.Default(obj)
	}
	return obj, nil
}

// Scope implements policy.Objects.
func (h *Handler) Scope(kind schema.GroupVersionKind) (namespaced, served bool) {
	r := h.ofKind(kind)
	if r == nil || r.NotStored {
		return false, false
	}
	return r.Namespaced, true
}

// Object implements policy.Objects. What the cache lacks is looked for in the store: it may have been created a moment ago.
func (h *Handler) Object(ctx context.Context, kind schema.GroupVersionKind, namespace, name string) (runtime.Object, error) {
	r := h.ofKind(kind)
	if r == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: kind.Group, Resource: kind.Kind}, name)
	}
	o, err := h.Cache.Get(ctx, r.storage, r.key(namespace, name), 0)
	if errors.Is(err, store.ErrNotFound) {
		o, err = h.Cache.Get(ctx, r.storage, r.key(namespace, name), cache.Newest)
	}
	if err != nil {
		return nil, readError(r.gr, name, 0, err)
	}
	return r.convert(o.Object)
}

// Objects implements policy.Objects.
func (h *Handler) Objects(ctx context.Context, kind schema.GroupVersionKind, namespace string, s labels.Selector) ([]runtime.Object, error) {
	r := h.ofKind(kind)
	if r == nil {
		return nil, nil
	}
	l, err := h.Cache.List(ctx, r.storage, cache.ListOptions{Scope: r.scope(namespace), Labels: s})
	if err != nil {
		return nil, readError(r.gr, "", 0, err)
	}
	stored := make([]runtime.Object, len(l.Objects))
	for i, o := range l.Objects {
		stored[i] = o.Object
	}
	return r.convertAll(stored)
}

// TypeConverter implements policy.Objects.
func (h *Handler) TypeConverter(kind schema.GroupVersionKind) (managedfields.TypeConverter, error) {
	r := h.ofKind(kind)
	if r == nil {
		return managedfields.NewDeducedTypeConverter(), nil
	}
	return h.converters.of(r)
}
