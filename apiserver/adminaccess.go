package apiserver

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coracle-dev/coracle/apiserver/rest"
)

// adminAccessHooks adds to the hooks those that let claims have administrators' access to devices, past other claims of them, only in
// namespaces that are labelled for it.
func adminAccessHooks(hooks map[schema.GroupResource]rest.Hook, reader *Reader) map[schema.GroupResource]rest.Hook {
	all := maps.Clone(hooks)
	for _, resource := range []string{"resourceclaims", "resourceclaimtemplates"} {
		all[resourcev1.Resource(resource)] = rest.Hook{BeginCreate: func(ctx context.Context, obj runtime.Object, _ bool) (func(bool), error) {
			return nil, checkAdminAccess(ctx, reader, obj)
		}}
	}
	return all
}

func checkAdminAccess(ctx context.Context, reader *Reader, obj runtime.Object) error {
	var claim *resourcev1.DeviceClaim
	var kind, namespace, name string
	path := field.NewPath("spec", "devices", "requests")
	switch o := obj.(type) {
	case *resourcev1.ResourceClaim:
		claim, kind, namespace, name = &o.Spec.Devices, "ResourceClaim", o.Namespace, o.Name
	case *resourcev1.ResourceClaimTemplate:
		claim, kind, namespace, name = &o.Spec.Spec.Devices, "ResourceClaimTemplate", o.Namespace, o.Name
		path = field.NewPath("spec", "spec", "devices", "requests")
	default:
		return nil
	}
	var errs field.ErrorList
	for i := range claim.Requests {
		if e := claim.Requests[i].Exactly; e != nil && e.AdminAccess != nil && *e.AdminAccess {
			errs = append(errs, field.Forbidden(path.Index(i).Child("exactly", "adminAccess"),
				"admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	found, err := reader.Get(ctx, schema.GroupResource{Resource: "namespaces"}, "", namespace)
	if err != nil {
		return err
	}
	if ns, ok := found.(*corev1.Namespace); ok && ns.Labels[resourcev1.DRAAdminNamespaceLabelKey] == "true" {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: resourcev1.GroupName, Kind: kind}, name, errs)
}
