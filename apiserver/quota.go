package apiserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/coracle-dev/coracle/apiserver/store"
)

// QuotaWriter writes quotas to the store, past admission, for the plug-in that charges them. It implements
// admission.QuotaWriter.
type QuotaWriter struct {
	store store.Store
	codec *protobuf.Serializer
}

// NewQuotaWriter writes to st.
func NewQuotaWriter(st store.Store) *QuotaWriter {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		panic(err) // the library's own types
	}
	return &QuotaWriter{store: st, codec: protobuf.NewSerializer(scheme, scheme)}
}

// WriteQuota implements admission.QuotaWriter.
func (w *QuotaWriter) WriteQuota(ctx context.Context, q *corev1.ResourceQuota) (*corev1.ResourceQuota, bool, error) {
	var expected int64
	if _, err := fmt.Sscan(q.ResourceVersion, &expected); err != nil {
		return nil, false, fmt.Errorf("resourceVersion %q: %w", q.ResourceVersion, err)
	}
	fresh := *q
	fresh.ResourceVersion = ""
	fresh.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ResourceQuota"))
	var value bytes.Buffer
	if err := w.codec.Encode(&fresh, &value); err != nil {
		return nil, false, err
	}
	key := store.Root + "resourcequotas/" + q.Namespace + "/" + q.Name
	revision, err := w.store.Update(ctx, key, value.Bytes(), expected)
	var conflict *store.ConflictError
	switch {
	case err == nil:
		fresh.ResourceVersion = fmt.Sprint(revision)
		return &fresh, true, nil
	case errors.As(err, &conflict):
		current, err := w.decode(conflict.Current)
		return current, false, err
	case errors.Is(err, store.ErrNotFound):
		return nil, false, nil
	}
	return nil, false, err
}

func (w *QuotaWriter) decode(e store.Entry) (*corev1.ResourceQuota, error) {
	obj, _, err := w.codec.Decode(e.Value, nil, nil)
	if err != nil {
		return nil, err
	}
	q, ok := obj.(*corev1.ResourceQuota)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T", e.Key, obj)
	}
	q.ResourceVersion = fmt.Sprint(e.Revision)
	return q, nil
}
