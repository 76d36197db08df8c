package apiserver

import (
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// served is the table of what this server serves: the stored kinds, and the questions about users and
// permissions where there is someone to answer them.
func (s *Server) served() []kinds.Kind {
	table := kinds.All()
	if s.cfg.Reviews == nil {
		return table
	}
	have := map[schema.GroupVersionKind]bool{}
	for _, k := range table {
		have[k.GVK] = true
	}
	for _, k := range Reviews() {
		if !have[k.GVK] {
			table = append(table, k)
		}
	}
	return table
}

// Reviews are the kinds that ask about users and permissions; they come after those of the table.
func Reviews() []kinds.Kind {
	authn, authz := authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion
	local := review(authz.WithKind("LocalSubjectAccessReview"), func() runtime.Object { return &authorizationv1.LocalSubjectAccessReview{} })
	local.Namespaced = true
	return []kinds.Kind{
		review(authn.WithKind("SelfSubjectReview"), func() runtime.Object { return &authenticationv1.SelfSubjectReview{} }),
		review(authn.WithKind("TokenReview"), func() runtime.Object { return &authenticationv1.TokenReview{} }),
		local,
		review(authz.WithKind("SelfSubjectAccessReview"), func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} }),
		review(authz.WithKind("SelfSubjectRulesReview"), func() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} }),
		review(authz.WithKind("SubjectAccessReview"), func() runtime.Object { return &authorizationv1.SubjectAccessReview{} }),
	}
}

// review is a kind that is only ever created.
func review(gvk schema.GroupVersionKind, make func() runtime.Object) kinds.Kind {
	singular := strings.ToLower(gvk.Kind)
	return kinds.Kind{
		GVK: gvk, Resource: singular + "s", Singular: singular, Verbs: []string{"create"}, NotStored: true, New: make,
	}
}
