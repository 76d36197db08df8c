package auth

import (
	"net/http"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Impersonate returns the user as whom the request's Impersonate headers ask to act; without such headers that is u. For
// each thing asked for, allow must return nil: whether u may impersonate it. The headers are taken out of the request.
func Impersonate(req *http.Request, u user.Info, allow func(authorizer.AttributesRecord) error) (user.Info, error) {
	asked, err := impersonated(req.Header)
	if err != nil || asked == nil {
		return u, err
	}
	for _, a := range asked.attributes(u) {
		if err := allow(a); err != nil {
			return nil, err
		}
	}
	for name := range req.Header {
		if name == authenticationv1.ImpersonateUserHeader || name == authenticationv1.ImpersonateGroupHeader ||
			name == authenticationv1.ImpersonateUIDHeader || strings.HasPrefix(name, authenticationv1.ImpersonateUserExtraHeaderPrefix) {
			delete(req.Header, name)
		}
	}
	return asked.user(), nil
}

// impersonation is what the headers say.
type impersonation struct {
	name, uid string
	groups    []string
	extra     map[string][]string
}

// impersonated is nil where no header asks for anything.
func impersonated(h http.Header) (*impersonation, error) {
	out := &impersonation{
		name:   h.Get(authenticationv1.ImpersonateUserHeader),
		uid:    h.Get(authenticationv1.ImpersonateUIDHeader),
		groups: slices.Clone(h.Values(authenticationv1.ImpersonateGroupHeader)),
		extra:  map[string][]string{},
	}
	for name, values := range h {
		key, ok := strings.CutPrefix(name, authenticationv1.ImpersonateUserExtraHeaderPrefix)
		if !ok {
			continue
		}
		key = extraKey(key)
		out.extra[key] = append(out.extra[key], values...)
	}
	if out.name != "" {
		return out, nil
	}
	if len(out.groups) > 0 || len(out.extra) > 0 || out.uid != "" {
		return nil, apierrors.NewBadRequest("requested impersonation of groups, extra or a UID without impersonating a user")
	}
	return nil, nil
}

// attributes are the permissions that u needs.
func (i *impersonation) attributes(u user.Info) []authorizer.AttributesRecord {
	base := authorizer.AttributesRecord{User: u, Verb: "impersonate", APIVersion: "v1", ResourceRequest: true}
	who := base
	who.Resource, who.Name = "users", i.name
	if namespace, name, err := serviceaccount.SplitUsername(i.name); err == nil {
		who.Resource, who.Namespace, who.Name = "serviceaccounts", namespace, name
	}
	who.APIGroup = corev1.GroupName
	out := []authorizer.AttributesRecord{who}
	for _, g := range i.groups {
		a := base
		a.Resource, a.Name = "groups", g
		out = append(out, a)
	}
	base.APIGroup = authenticationv1.GroupName
	for key, values := range i.extra {
		for _, value := range values {
			a := base
			a.Resource, a.Subresource, a.Name = "userextras", key, value
			out = append(out, a)
		}
	}
	if i.uid != "" {
		a := base
		a.Resource, a.Name = "uids", i.uid
		out = append(out, a)
	}
	return out
}

func (i *impersonation) user() user.Info {
	groups := i.groups
	if namespace, _, err := serviceaccount.SplitUsername(i.name); err == nil && len(groups) == 0 {
		groups = serviceaccount.MakeGroupNames(namespace)
	}
	implied := user.AllAuthenticated
	if i.name == user.Anonymous {
		implied = user.AllUnauthenticated
	}
	if !slices.Contains(groups, user.AllUnauthenticated) && !slices.Contains(groups, implied) {
		groups = append(groups, implied)
	}
	return &user.DefaultInfo{Name: i.name, UID: i.uid, Groups: groups, Extra: i.extra}
}
