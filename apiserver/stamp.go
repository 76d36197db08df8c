package apiserver

import (
	"context"
	"maps"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/coracle-dev/coracle/apiserver/kinds"
	"github.com/coracle-dev/coracle/apiserver/rest"
)

// stampHooks adds to the hooks those that write into objects what only the server knows: who asks for a certificate, and when a
// condition, a phase or a taint of a device changed. They run after mutating admission, so that nobody else says it.
func stampHooks(hooks map[schema.GroupResource]rest.Hook, now func() time.Time) map[schema.GroupResource]rest.Hook {
	all := maps.Clone(hooks)
	if all == nil {
		all = map[schema.GroupResource]rest.Hook{}
	}
	if now == nil {
		now = time.Now
	}
	clock := func() metav1.Time { return metav1.NewTime(now().UTC().Truncate(time.Second)) }
	all[schema.GroupResource{Group: certificatesv1.GroupName, Resource: "certificatesigningrequests"}] = rest.Hook{
		BeginCreate: func(ctx context.Context, obj runtime.Object, _ bool) (func(bool), error) {
			stampRequester(ctx, obj)
			return nil, nil
		},
		BeginUpdate: func(_ context.Context, obj, old runtime.Object, _ bool) (func(bool), error) {
			r, isNew := obj.(*certificatesv1.CertificateSigningRequest)
			if was, isOld := old.(*certificatesv1.CertificateSigningRequest); isNew && isOld {
				kinds.StampSigningRequest(r, was, clock())
			}
			return nil, nil
		},
	}
	all[schema.GroupResource{Resource: "persistentvolumes"}] = rest.Hook{
		BeginUpdate: func(_ context.Context, obj, old runtime.Object, _ bool) (func(bool), error) {
			pv, isNew := obj.(*corev1.PersistentVolume)
			if was, isOld := old.(*corev1.PersistentVolume); isNew && isOld && kinds.PhaseChanged(pv, was) {
				since := clock()
				pv.Status.LastPhaseTransitionTime = &since
			}
			return nil, nil
		},
	}
	all[schema.GroupResource{Group: resourcev1.GroupName, Resource: "resourceslices"}] = rest.Hook{
		BeginCreate: func(_ context.Context, obj runtime.Object, _ bool) (func(bool), error) {
			if s, ok := obj.(*resourcev1.ResourceSlice); ok {
				kinds.StampDeviceTaints(s, nil, clock())
			}
			return nil, nil
		},
		BeginUpdate: func(_ context.Context, obj, old runtime.Object, _ bool) (func(bool), error) {
			s, isNew := obj.(*resourcev1.ResourceSlice)
			if was, isOld := old.(*resourcev1.ResourceSlice); isNew && isOld {
				kinds.StampDeviceTaints(s, was, clock())
			}
			return nil, nil
		},
	}
	return all
}

// stampRequester writes who makes the request into it: signers trust it.
func stampRequester(ctx context.Context, obj runtime.Object) {
	r, ok := obj.(*certificatesv1.CertificateSigningRequest)
	u, known := request.UserFrom(ctx)
	if !ok || !known {
		return
	}
	r.Spec.Username, r.Spec.UID, r.Spec.Groups = u.GetName(), u.GetUID(), append([]string(nil), u.GetGroups()...)
	if extra := u.GetExtra(); len(extra) > 0 {
		r.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		for k, v := range extra {
			r.Spec.Extra[k] = append(certificatesv1.ExtraValue(nil), v...)
		}
	}
}
