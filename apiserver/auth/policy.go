package auth

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Policy is what roles and bindings say, indexed by whom they say it of: a decision looks at the bindings of the user
// and of the groups, and at no others. It shares the objects it is given, which must not be changed.
//
// Its invariant: what it holds is what Set and Delete were last called with, in whichever order roles and the bindings
// that refer to them came.
type Policy struct {
	mu    sync.RWMutex
	roles map[objectKey]*role // of a namespace, or of none: cluster roles
	// grants are those of bindings by namespace; those of the empty one hold in all, and for paths.
	grants   map[string]map[subject][]*grant
	bindings map[objectKey][]*grant // to take them out again
}

type objectKey struct{ namespace, name string }

// subject is a user or a group. Service accounts are users by another name.
type subject struct {
	group bool
	name  string
}

// grant gives one subject the rules of one role.
type grant struct {
	subject subject
	binding objectKey
	role    objectKey
	kind    string // of the role, as the binding names it
	reason  string
}

// NewPolicy is a policy that allows nothing yet.
func NewPolicy() *Policy {
	return &Policy{roles: map[objectKey]*role{}, grants: map[string]map[subject][]*grant{}, bindings: map[objectKey][]*grant{}}
}

// Set takes an RBAC object in, in place of what it had of that name. Objects of other kinds are passed over.
func (p *Policy) Set(obj runtime.Object) {
	switch o := obj.(type) {
	case *rbacv1.ClusterRole:
		p.setRole(objectKey{name: o.Name}, newRole(o.Rules))
	case *rbacv1.Role:
		p.setRole(objectKey{o.Namespace, o.Name}, newRole(o.Rules))
	case *rbacv1.ClusterRoleBinding:
		p.setBinding(objectKey{name: o.Name}, grantsOf(objectKey{name: o.Name}, o.RoleRef, o.Subjects))
	case *rbacv1.RoleBinding:
		key := objectKey{o.Namespace, o.Name}
		p.setBinding(key, grantsOf(key, o.RoleRef, o.Subjects))
	}
}

// Delete takes an RBAC object out.
func (p *Policy) Delete(obj runtime.Object) {
	switch o := obj.(type) {
	case *rbacv1.ClusterRole:
		p.setRole(objectKey{name: o.Name}, nil)
	case *rbacv1.Role:
		p.setRole(objectKey{o.Namespace, o.Name}, nil)
	case *rbacv1.ClusterRoleBinding:
		p.setBinding(objectKey{name: o.Name}, nil)
	case *rbacv1.RoleBinding:
		p.setBinding(objectKey{o.Namespace, o.Name}, nil)
	}
}

func (p *Policy) setRole(key objectKey, r *role) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r == nil {
		delete(p.roles, key)
		return
	}
	p.roles[key] = r
}

func (p *Policy) setBinding(key objectKey, grants []*grant) {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := p.grants[key.namespace]
	if of == nil {
		of = map[subject][]*grant{}
		p.grants[key.namespace] = of
	}
	for _, g := range p.bindings[key] {
		rest := slices.DeleteFunc(of[g.subject], func(have *grant) bool { return have.binding == key })
		if len(rest) == 0 {
			delete(of, g.subject)
		} else {
			of[g.subject] = rest
		}
	}
	for _, g := range grants {
		at, _ := slices.BinarySearchFunc(of[g.subject], g, func(a, b *grant) int { return cmp.Compare(a.binding.name, b.binding.name) })
		of[g.subject] = slices.Insert(of[g.subject], at, g)
	}
	if len(of) == 0 {
		delete(p.grants, key.namespace)
	}
	if len(grants) == 0 {
		delete(p.bindings, key)
		return
	}
	p.bindings[key] = grants
}

// grantsOf lists whom a binding is for, each once.
func grantsOf(binding objectKey, ref rbacv1.RoleRef, subjects []rbacv1.Subject) []*grant {
	to := objectKey{name: ref.Name}
	if ref.Kind == "Role" {
		to.namespace = binding.namespace
	}
	seen := map[subject]bool{}
	var out []*grant
	for i := range subjects {
		s := &subjects[i]
		who, ok := bindingSubject(s, binding.namespace)
		if !ok || seen[who] {
			continue
		}
		seen[who] = true
		out = append(out, &grant{subject: who, binding: binding, role: to, kind: ref.Kind, reason: reasonOf(binding, ref, s)})
	}
	return out
}

func bindingSubject(s *rbacv1.Subject, namespace string) (subject, bool) {
	switch s.Kind {
	case rbacv1.UserKind:
		return subject{name: s.Name}, true
	case rbacv1.GroupKind:
		return subject{group: true, name: s.Name}, true
	case rbacv1.ServiceAccountKind:
		if s.Namespace != "" {
			namespace = s.Namespace
		}
		return subject{name: serviceaccount.MakeUsername(namespace, s.Name)}, namespace != ""
	}
	return subject{}, false
}

// reasonOf words why a request is allowed, with names before namespaces as upstream has them.
func reasonOf(binding objectKey, ref rbacv1.RoleRef, s *rbacv1.Subject) string {
	who := s.Name
	if s.Kind == rbacv1.ServiceAccountKind {
		who += "/" + cmp.Or(s.Namespace, binding.namespace)
	}
	kind, name := "ClusterRoleBinding", binding.name
	if binding.namespace != "" {
		kind, name = "RoleBinding", binding.name+"/"+binding.namespace
	}
	return fmt.Sprintf("RBAC: allowed by %s %q of %s %q to %s %q", kind, name, ref.Kind, ref.Name, s.Kind, who)
}

// authorize tells whether a rule allows the request, and why; or which roles, of those that its user was given, are missing.
func (p *Policy) authorize(u user.Info, a authorizer.Attributes) (allowed bool, reason string) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var missing []*grant
	p.visit(u, a.GetNamespace(), func(g *grant, r *role) bool {
		switch {
		case r == nil:
			missing = append(missing, g)
		case r.allows(a):
			allowed, reason = true, g.reason
		}
		return !allowed
	})
	if !allowed && missing != nil {
		reason = fmt.Sprintf("RBAC: %v", missingRoles(missing))
	}
	return allowed, reason
}

// visit goes through what a user was given in a namespace and everywhere until yield says stop. The role is nil where it is missing.
func (p *Policy) visit(u user.Info, namespace string, yield func(*grant, *role) bool) {
	if !p.visitIn(u, "", yield) || namespace == "" {
		return
	}
	p.visitIn(u, namespace, yield)
}

func (p *Policy) visitIn(u user.Info, namespace string, yield func(*grant, *role) bool) bool {
	of := p.grants[namespace]
	if of == nil {
		return true
	}
	if !p.visitGrants(of[subject{name: u.GetName()}], yield) {
		return false
	}
	for _, g := range u.GetGroups() {
		if !p.visitGrants(of[subject{group: true, name: g}], yield) {
			return false
		}
	}
	return true
}

func (p *Policy) visitGrants(grants []*grant, yield func(*grant, *role) bool) bool {
	for _, g := range grants {
		if !yield(g, p.roles[g.role]) {
			return false
		}
	}
	return true
}

// missingRoles is one error for roles that bindings refer to and that do not exist.
func missingRoles(grants []*grant) error {
	if len(grants) == 0 {
		return nil
	}
	var errs []error
	for _, g := range grants {
		resource := rbacv1.Resource("clusterrole")
		if g.kind == "Role" {
			resource = rbacv1.Resource("role")
		}
		errs = append(errs, errors.NewNotFound(resource, g.role.name))
	}
	return utilerrors.NewAggregate(errs)
}

// rulesFor lists what a user may do in a namespace and everywhere, each binding once. The error names missing roles; the rules
// hold nevertheless.
func (p *Policy) rulesFor(u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	seen := map[objectKey]bool{}
	var rules []rbacv1.PolicyRule
	var missing []*grant
	p.visit(u, namespace, func(g *grant, r *role) bool {
		switch {
		case seen[g.binding]:
		case r == nil:
			missing = append(missing, g)
		default:
			rules = append(rules, r.rules...)
		}
		seen[g.binding] = true
		return true
	})
	return rules, missingRoles(missing)
}
