package auth

import (
	"context"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Authorizer decides by the tables in rules.go and, for nodes, by the pods that are bound to them. What neither
// allows gets no opinion, which is a refusal.
type Authorizer struct{ nodes nodeRules }

var (
	_ authorizer.Authorizer   = (*Authorizer)(nil)
	_ authorizer.RuleResolver = (*Authorizer)(nil)
)

// NewAuthorizer decides by what r shows.
func NewAuthorizer(r Reader) *Authorizer { return &Authorizer{nodes: nodeRules{pods: newPodIndex(r)}} }

// Authorize implements authorizer.Authorizer.
func (z *Authorizer) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	u := a.GetUser()
	if u == nil {
		return authorizer.DecisionNoOpinion, "", nil
	}
	for rules := range rulesOf(u) {
		for i := range rules {
			if allows(&rules[i], a) {
				return authorizer.DecisionAllow, "", nil
			}
		}
	}
	if node, ok := NodeName(u); ok {
		return z.nodes.authorize(ctx, node, a)
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// ConditionsAwareAuthorize implements authorizer.Authorizer: no decision here has conditions.
func (z *Authorizer) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(z.Authorize(ctx, a))
}

// EvaluateConditions implements authorizer.Authorizer.
func (z *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor implements authorizer.RuleResolver. A node's rules are incomplete: they depend on its pods.
func (z *Authorizer) RulesFor(_ context.Context, u user.Info, _ string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	for rules := range rulesOf(u) {
		for _, r := range rules {
			if len(r.NonResourceURLs) > 0 {
				paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs})
				continue
			}
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames})
		}
	}
	_, incomplete := NodeName(u)
	return resources, paths, incomplete, nil
}

// rulesOf yields the tables that apply to a user.
func rulesOf(u user.Info) func(yield func([]rbacv1.PolicyRule) bool) {
	return func(yield func([]rbacv1.PolicyRule) bool) {
		if rules := userRules[u.GetName()]; rules != nil && !yield(rules) {
			return
		}
		for _, g := range u.GetGroups() {
			if rules := groupRules[g]; rules != nil && !yield(rules) {
				return
			}
		}
	}
}

func allows(r *rbacv1.PolicyRule, a authorizer.Attributes) bool {
	if !matches(r.Verbs, a.GetVerb()) {
		return false
	}
	if !a.IsResourceRequest() {
		return slices.ContainsFunc(r.NonResourceURLs, func(pattern string) bool { return pathMatches(pattern, a.GetPath()) })
	}
	if !matches(r.APIGroups, a.GetAPIGroup()) || !resourceMatches(r.Resources, a.GetResource(), a.GetSubresource()) {
		return false
	}
	return len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, objectName(a))
}

func matches(allowed []string, want string) bool {
	for _, s := range allowed {
		if s == "*" || s == want {
			return true
		}
	}
	return false
}

func resourceMatches(allowed []string, resource, subresource string) bool {
	for _, s := range allowed {
		if s == "*" {
			return true
		}
		name, sub, _ := strings.Cut(s, "/")
		if (name == resource || name == "*") && sub == subresource {
			return true
		}
	}
	return false
}

func pathMatches(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return pattern == path
}

// objectName is the one object a request is about: that of its path or, for list and watch, of a field selector.
func objectName(a authorizer.Attributes) string {
	if name := a.GetName(); name != "" {
		return name
	}
	return selectedField(a, "metadata.name")
}

// selectedField is the value a field selector requires of a field, or empty.
func selectedField(a authorizer.Attributes, name string) string {
	requirements, err := a.GetFieldSelector()
	if err != nil {
		return ""
	}
	for _, r := range requirements {
		if r.Field == name && (r.Operator == "=" || r.Operator == "==") {
			return r.Value
		}
	}
	return ""
}
