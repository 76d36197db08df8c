package rest

import (
	"context"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
