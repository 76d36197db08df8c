package rest

import (
	"context"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// DeleteObjects deletes all objects of a dynamic kind, given by the entry of its stored version, without asking
// admission: their definition is gone. It tells how many are left, which finalizers hold back.
func (h *Handler) DeleteObjects(ctx context.Context, k *kinds.Kind) (left int, err error) {
	r := newResource(k, h.Scheme, Hook{})
	r.storage, r.stored = r.gr.String(), r
	l, err := h.Cache.List(ctx, r.storage, cache.ListOptions{Consistent: true})
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, "/", nil)
	if err != nil {
		return 0, err
	}
	for _, o := range l.Objects {
		m := accessor(o.Object)
		if m.GetDeletionTimestamp() != nil {
			left++
			continue
		}
		c := call{Handler: h, r: r, req: req, unasked: true, info: &request.RequestInfo{Namespace: m.GetNamespace(), Name: m.GetName()}}
		d, err := c.remove(m.GetName(), &metav1.DeleteOptions{})
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return left, err
		case !d.gone:
			left++
		}
	}
	return left, nil
}

// convertAll gives stored objects in the version that the resource serves.
func (r *resource) convertAll(stored []runtime.Object) ([]runtime.Object, error) {
	if r.FromStorage == nil {
		return stored, nil
	}
	if d := r.Dynamic; d != nil && d.FromStorageAll != nil {
		return d.FromStorageAll(stored)
	}
	out := make([]runtime.Object, len(stored))
	for i, obj := range stored {
		var err error
		if out[i], err = r.convert(obj); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// encodedAll gives the bytes of cached objects in a form. Those that have none yet are converted together where
// that pays.
func (r *resource) encodedAll(objects []*cache.Object, f form) ([][]byte, error) {
	converted := map[*cache.Object]runtime.Object{}
	if d := r.Dynamic; d != nil && d.FromStorageAll != nil && f.meta == "" {
		var stored []runtime.Object
		var missing []*cache.Object
		for _, o := range objects {
			if !o.Holds(f.name) {
				missing, stored = append(missing, o), append(stored, o.Object)
			}
		}
		all, err := d.FromStorageAll(stored)
		if err != nil {
			return nil, err
		}
		for i, o := range missing {
			converted[o] = all[i]
		}
	}
	items := make([][]byte, len(objects))
	for i, o := range objects {
		var err error
		if obj := converted[o]; obj != nil {
			items[i], err = o.Encoded(f.name, func(runtime.Object) ([]byte, error) { return encodeForm(f, r.codec.envelopeHead, obj) })
		} else {
			items[i], err = r.encoded(o, f)
		}
		if err != nil {
			return nil, err
		}
	}
	return items, nil
}
