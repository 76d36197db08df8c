package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// Escalation keeps users from giving themselves, or others, more than they have. Who may "escalate" roles, or "bind" one, is exempt.
type Escalation struct {
	Authorizer authorizer.UnconditionalAuthorizer
	Policy     *Policy
	Reader     Reader
}

// Resources are those whose writes Check wants to see.
func (e *Escalation) Resources() []schema.GroupResource {
	return []schema.GroupResource{rbacv1.Resource("clusterroles"), rbacv1.Resource("clusterrolebindings"), rbacv1.Resource("roles"), rbacv1.Resource("rolebindings")}
}

// Check refuses a new or changed role or binding that grants more than the request's user has. old is nil on creation.
func (e *Escalation) Check(ctx context.Context, obj, old runtime.Object) error {
	u, ok := request.UserFrom(ctx)
	if !ok || isMaster(u) || old != nil && onlyForGarbageCollection(obj, old) {
		return nil
	}
	c := escalation{Escalation: e, ctx: ctx, user: u}
	switch o := obj.(type) {
	case *rbacv1.Role:
		return c.role("roles", o.Namespace, o.Name, o.Rules)
	case *rbacv1.ClusterRole:
		aggregates := o.AggregationRule != nil
		if was, ok := old.(*rbacv1.ClusterRole); ok && was.AggregationRule != nil {
			aggregates = true
		}
		return c.clusterRole(o, aggregates)
	case *rbacv1.RoleBinding:
		return c.binding("rolebindings", o.Namespace, o.Name, o.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return c.binding("clusterrolebindings", "", o.Name, o.RoleRef)
	}
	return nil
}

// escalation is one user's request.
type escalation struct {
	*Escalation
	ctx  context.Context
	user user.Info
}

func (c escalation) may(a authorizer.AttributesRecord) bool {
	a.User, a.APIGroup, a.APIVersion, a.ResourceRequest = c.user, rbacv1.GroupName, "*", true
	d, _, err := c.Authorizer.Authorize(c.ctx, a)
	return err == nil && d == authorizer.DecisionAllow
}

func (c escalation) mayEscalate(resource, namespace string) bool {
	a := authorizer.AttributesRecord{Verb: "escalate", Resource: resource, Namespace: namespace}
	if info, ok := request.RequestInfoFrom(c.ctx); ok {
		a.Name = info.Name
	}
	return c.may(a)
}

func (c escalation) role(resource, namespace, name string, rules []rbacv1.PolicyRule) error {
	if c.mayEscalate(resource, namespace) {
		return nil
	}
	if err := c.holds(namespace, rules); err != nil {
		return apierrors.NewForbidden(rbacv1.Resource(resource), name, err)
	}
	return nil
}

// everything is what it takes to make a role that gathers others: it can gather anything.
var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

func (c escalation) clusterRole(r *rbacv1.ClusterRole, aggregates bool) error {
	if c.mayEscalate("clusterroles", "") {
		return nil
	}
	if err := c.holds("", r.Rules); err != nil {
		return apierrors.NewForbidden(rbacv1.Resource("clusterroles"), r.Name, err)
	}
	if aggregates && c.holds("", everything) != nil {
		return apierrors.NewForbidden(rbacv1.Resource("clusterroles"), r.Name, errors.New("must have cluster-admin privileges to use an aggregationRule"))
	}
	return nil
}

func (c escalation) binding(resource, namespace, name string, ref rbacv1.RoleRef) error {
	if ref.Kind != "Role" && ref.Kind != "ClusterRole" {
		return nil // refused by validation
	}
	if c.may(authorizer.AttributesRecord{Verb: "bind", Resource: strings.ToLower(ref.Kind) + "s", Namespace: namespace, Name: ref.Name}) {
		return nil
	}
	rules, err := c.rulesOf(namespace, ref)
	if err != nil {
		return err
	}
	if err := c.holds(namespace, rules); err != nil {
		return apierrors.NewForbidden(rbacv1.Resource(resource), name, err)
	}
	return nil
}

func (c escalation) rulesOf(namespace string, ref rbacv1.RoleRef) ([]rbacv1.PolicyRule, error) {
	if ref.Kind == "ClusterRole" {
		obj, err := c.Reader.Get(c.ctx, rbacv1.Resource("clusterroles"), "", ref.Name)
		if err != nil {
			return nil, err
		}
		if r, ok := obj.(*rbacv1.ClusterRole); ok {
			return r.Rules, nil
		}
		return nil, fmt.Errorf("auth: cluster roles are %T here", obj)
	}
	obj, err := c.Reader.Get(c.ctx, rbacv1.Resource("roles"), namespace, ref.Name)
	if err != nil {
		return nil, err
	}
	if r, ok := obj.(*rbacv1.Role); ok {
		return r.Rules, nil
	}
	return nil, fmt.Errorf("auth: roles are %T here", obj)
}

// holds tells in an error what of the rules the user does not have.
func (c escalation) holds(namespace string, rules []rbacv1.PolicyRule) error {
	own, unresolved := c.Policy.rulesFor(c.user, namespace)
	covered, missing := validation.Covers(own, rules)
	if covered {
		return nil
	}
	var lines []string
	for _, r := range compact(missing) {
		lines = append(lines, describe(&r))
	}
	slices.Sort(lines)
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		c.user.GetName(), c.user.GetGroups(), strings.Join(slices.Compact(lines), "\n"))
	if unresolved != nil {
		text += fmt.Sprintf("; resolution errors: %v", []error{unresolved})
	}
	return errors.New(text)
}

// compact joins rules that differ in their verbs alone.
func compact(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	type about struct {
		resourceKey
		name  string
		named bool
	}
	at := map[about]int{}
	var out []rbacv1.PolicyRule
	for _, r := range rules {
		if len(r.NonResourceURLs) > 0 || len(r.APIGroups) != 1 || len(r.Resources) != 1 || len(r.ResourceNames) > 1 {
			out = append(out, r)
			continue
		}
		key := about{resourceKey: resourceKey{group: r.APIGroups[0], resource: r.Resources[0]}, named: len(r.ResourceNames) == 1}
		if key.named {
			key.name = r.ResourceNames[0]
		}
		if i, ok := at[key]; ok {
			out[i].Verbs = append(out[i].Verbs, r.Verbs...)
			continue
		}
		at[key] = len(out)
		r.Verbs = slices.Clone(r.Verbs)
		out = append(out, r)
	}
	return out
}

func describe(r *rbacv1.PolicyRule) string {
	var parts []string
	for _, p := range []struct {
		name   string
		values []string
	}{{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"NonResourceURLs", r.NonResourceURLs}, {"ResourceNames", r.ResourceNames}, {"Verbs", r.Verbs}} {
		if len(p.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", p.name, p.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// onlyForGarbageCollection tells whether an update changes nothing but owners and finalizers, which grants nothing.
func onlyForGarbageCollection(obj, old runtime.Object) bool {
	updated := obj.DeepCopyObject()
	m, ok1 := updated.(metav1.Object)
	was, ok2 := old.(metav1.Object)
	if !ok1 || !ok2 {
		return false
	}
	m.SetOwnerReferences(was.GetOwnerReferences())
	m.SetFinalizers(was.GetFinalizers())
	m.SetManagedFields(was.GetManagedFields())
	return apiequality.Semantic.DeepEqual(updated, old)
}
