package auth

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// twin decides as RBAC is documented, with no index: every binding, every subject, every rule.
type twin map[string]runtime.Object // by kind, namespace and name

func (w twin) allows(u user.Info, a authorizer.AttributesRecord) bool {
	for _, obj := range w {
		namespace, ref, subjects := "", rbacv1.RoleRef{}, []rbacv1.Subject(nil)
		switch b := obj.(type) {
		case *rbacv1.ClusterRoleBinding:
			ref, subjects = b.RoleRef, b.Subjects
		case *rbacv1.RoleBinding:
			if b.Namespace != a.Namespace {
				continue
			}
			namespace, ref, subjects = b.Namespace, b.RoleRef, b.Subjects
		}
		if slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool { return isSubject(u, s, namespace) }) && w.roleAllows(ref, namespace, a) {
			return true
		}
	}
	return false
}

func isSubject(u user.Info, s rbacv1.Subject, namespace string) bool {
	switch s.Kind {
	case "User":
		return u.GetName() == s.Name
	case "Group":
		return slices.Contains(u.GetGroups(), s.Name)
	}
	if s.Namespace != "" {
		namespace = s.Namespace
	}
	return u.GetName() == "system:serviceaccount:"+namespace+":"+s.Name
}

func (w twin) roleAllows(ref rbacv1.RoleRef, namespace string, a authorizer.AttributesRecord) bool {
	var rules []rbacv1.PolicyRule
	switch r := w[key(ref.Kind, map[bool]string{true: namespace}[ref.Kind == "Role"], ref.Name)].(type) {
	case *rbacv1.Role:
		rules = r.Rules
	case *rbacv1.ClusterRole:
		rules = r.Rules
	}
	has := func(list []string, wanted ...string) bool {
		return slices.ContainsFunc(list, func(s string) bool { return slices.Contains(wanted, s) })
	}
	for _, r := range rules {
		if !has(r.Verbs, a.Verb, "*") {
			continue
		}
		if !a.ResourceRequest {
			if slices.ContainsFunc(r.NonResourceURLs, func(p string) bool {
				return p == a.Path || strings.HasSuffix(p, "*") && strings.HasPrefix(a.Path, strings.TrimSuffix(p, "*"))
			}) {
				return true
			}
			continue
		}
		full := []string{a.Resource, "*"}
		if a.Subresource != "" {
			full = []string{a.Resource + "/" + a.Subresource, "*/" + a.Subresource, "*"}
		}
		if has(r.APIGroups, a.APIGroup, "*") && has(r.Resources, full...) && (len(r.ResourceNames) == 0 || has(r.ResourceNames, a.Name)) {
			return true
		}
	}
	return false
}

func key(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }

// some picks between zero and two of a list.
func some(r *rand.Rand, of ...string) []string {
	var out []string
	for range 1 + r.IntN(2) {
		out = append(out, of[r.IntN(len(of))])
	}
	return out
}

func one(r *rand.Rand, of ...string) string { return of[r.IntN(len(of))] }

func randomObject(r *rand.Rand) (string, runtime.Object) {
	kind, namespace, name := one(r, "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"), one(r, "a", "b"), one(r, "x", "y", "z")
	if strings.HasPrefix(kind, "Cluster") {
		namespace = ""
	}
	m := metav1.ObjectMeta{Namespace: namespace, Name: name}
	var rules []rbacv1.PolicyRule
	var subjects []rbacv1.Subject
	for range r.IntN(3) {
		rule := rbacv1.PolicyRule{Verbs: some(r, "get", "list", "*")}
		if r.IntN(4) == 0 {
			rule.NonResourceURLs = some(r, "/v", "/v/*", "/v*", "*")
		} else {
			rule.APIGroups, rule.Resources = some(r, "", "apps", "*"), some(r, "pods", "pods/log", "*/log", "secrets", "pods/*", "*")
			if r.IntN(2) == 0 {
				rule.ResourceNames = some(r, "n", "m")
			}
		}
		rules = append(rules, rule)
		subjects = append(subjects, rbacv1.Subject{Kind: one(r, "User", "Group", "ServiceAccount"), Name: one(r, "p", "q"), Namespace: one(r, "", "a")})
	}
	ref := rbacv1.RoleRef{Kind: one(r, "Role", "ClusterRole"), Name: one(r, "x", "y", "z")}
	switch kind {
	case "Role":
		return key(kind, namespace, name), &rbacv1.Role{ObjectMeta: m, Rules: rules}
	case "ClusterRole":
		return key(kind, namespace, name), &rbacv1.ClusterRole{ObjectMeta: m, Rules: rules}
	case "RoleBinding":
		return key(kind, namespace, name), &rbacv1.RoleBinding{ObjectMeta: m, RoleRef: ref, Subjects: subjects}
	}
	ref.Kind = "ClusterRole"
	for i := range subjects {
		if subjects[i].Kind == "ServiceAccount" {
			subjects[i].Namespace = "a"
		}
	}
	return key(kind, namespace, name), &rbacv1.ClusterRoleBinding{ObjectMeta: m, RoleRef: ref, Subjects: subjects}
}

// TestPolicyAgreesWithItsTwin makes random changes and asks random questions.
func TestPolicyAgreesWithItsTwin(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	p, w := NewPolicy(), twin{}
	allowed := 0
	for i := range 20000 {
		k, obj := randomObject(r)
		if r.IntN(4) == 0 {
			if have := w[k]; have != nil {
				p.Delete(have)
				delete(w, k)
			}
		} else {
			p.Set(obj)
			w[k] = obj
		}
		u := person(one(r, "p", "q", "system:serviceaccount:a:p", "system:serviceaccount:b:q"), some(r, "p", "q", "other")...)
		a := authorizer.AttributesRecord{User: u, Verb: one(r, "get", "list", "delete"), ResourceRequest: r.IntN(5) > 0}
		if a.ResourceRequest {
			a.Namespace, a.APIGroup, a.Resource, a.Subresource, a.Name = one(r, "", "a", "b"), one(r, "", "apps", "batch"), one(r, "pods", "secrets"), one(r, "", "log", "exec"), one(r, "", "n")
		} else {
			a.Path = one(r, "/v", "/v/w", "/vw", "/x")
		}
		want := w.allows(u, a)
		if got, reason := p.authorize(u, a); got != want {
			t.Fatalf("seed %d, step %d: %+v by %v: %v (%s), its twin says %v; %s", seed, i, a, u, got, reason, want, fmt.Sprint(w))
		}
		if want {
			allowed++
		}
	}
	if allowed < 300 {
		t.Errorf("only %d of the questions were about something allowed", allowed)
	}
}
