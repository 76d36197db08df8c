package auth

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// allows tells whether a rule covers a request. It allocates nothing.
func allows(r *rbacv1.PolicyRule, a authorizer.Attributes) bool {
	if !matches(r.Verbs, a.GetVerb()) {
		return false
	}
	if !a.IsResourceRequest() {
		return pathAllowed(r.NonResourceURLs, a.GetPath())
	}
	if !matches(r.APIGroups, a.GetAPIGroup()) || !resourceMatches(r.Resources, a.GetResource(), a.GetSubresource()) {
		return false
	}
	return len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, a.GetName())
}

func matches(allowed []string, want string) bool {
	for _, s := range allowed {
		if s == "*" || s == want {
			return true
		}
	}
	return false
}

// resourceMatches: "pods", "pods/status", "*/scale", and "*", which stands for everything.
func resourceMatches(allowed []string, resource, subresource string) bool {
	for _, s := range allowed {
		if s == "*" {
			return true
		}
		name, sub, _ := strings.Cut(s, "/")
		if sub == subresource && (name == resource || name == "*" && sub != "") {
			return true
		}
	}
	return false
}

func pathAllowed(patterns []string, path string) bool {
	for _, p := range patterns {
		if prefix, open := strings.CutSuffix(p, "*"); p == path || open && strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

// role is one role's rules, indexed by what they are about. It never changes.
type role struct {
	rules []rbacv1.PolicyRule
	// exact finds the rules that name a resource of a group, wide lists those with a wildcard in its place, paths
	// those about other paths than resources.
	exact map[resourceKey][]int
	wide  []int
	paths []int
}

type resourceKey struct{ group, resource, subresource string }

func newRole(rules []rbacv1.PolicyRule) *role {
	r := &role{rules: rules, exact: map[resourceKey][]int{}}
	for i := range rules {
		rule := &rules[i]
		if len(rule.NonResourceURLs) > 0 {
			r.paths = append(r.paths, i)
		}
		if len(rule.Resources) == 0 {
			continue
		}
		if hasWildcard(rule) {
			r.wide = append(r.wide, i)
			continue
		}
		for _, group := range rule.APIGroups {
			for _, name := range rule.Resources {
				resource, sub, _ := strings.Cut(name, "/")
				key := resourceKey{group, resource, sub}
				r.exact[key] = append(r.exact[key], i)
			}
		}
	}
	return r
}

func hasWildcard(rule *rbacv1.PolicyRule) bool {
	return slices.Contains(rule.APIGroups, "*") ||
		slices.ContainsFunc(rule.Resources, func(name string) bool { return strings.HasPrefix(name, "*") })
}

// allows tells whether one of the role's rules covers a request.
func (r *role) allows(a authorizer.Attributes) bool {
	if !a.IsResourceRequest() {
		return r.anyAllows(r.paths, a)
	}
	return r.anyAllows(r.exact[resourceKey{a.GetAPIGroup(), a.GetResource(), a.GetSubresource()}], a) || r.anyAllows(r.wide, a)
}

func (r *role) anyAllows(rules []int, a authorizer.Attributes) bool {
	for _, i := range rules {
		if allows(&r.rules[i], a) {
			return true
		}
	}
	return false
}
