package kinds

import (
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// reviewKinds are the questions about users and permissions. Each is only ever created: the answer is in what comes back.
func reviewKinds() []Kind {
	authn, authz := authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion
	local := review(authz.WithKind("LocalSubjectAccessReview"), func() runtime.Object { return &authorizationv1.LocalSubjectAccessReview{} })
	local.Namespaced = true
	return []Kind{
		review(authn.WithKind("SelfSubjectReview"), func() runtime.Object { return &authenticationv1.SelfSubjectReview{} }),
		review(authn.WithKind("TokenReview"), func() runtime.Object { return &authenticationv1.TokenReview{} }),
		local,
		review(authz.WithKind("SelfSubjectAccessReview"), func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} }),
		review(authz.WithKind("SelfSubjectRulesReview"), func() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} }),
		review(authz.WithKind("SubjectAccessReview"), func() runtime.Object { return &authorizationv1.SubjectAccessReview{} }),
	}
}

func review(gvk schema.GroupVersionKind, make func() runtime.Object) Kind {
	singular := strings.ToLower(gvk.Kind)
	return Kind{
		GVK: gvk, Resource: singular + "s", Singular: singular, Verbs: []string{"create"}, NotStored: true, New: make,
		Validate: ValidateReview,
	}
}
