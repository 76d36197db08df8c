package auth

import (
	"context"
	"errors"
	"slices"

	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Authorizer lets members of system:masters do anything, nodes what the pods that are bound to them need, and everybody
// what roles allow. What none of these allows gets no opinion, which is a refusal.
type Authorizer struct {
	nodes  nodeRules
	policy *Policy
}

var (
	_ authorizer.Authorizer   = (*Authorizer)(nil)
	_ authorizer.RuleResolver = (*Authorizer)(nil)
)

// NewAuthorizer decides by what r shows of pods and by its Policy, which somebody has to feed.
func NewAuthorizer(r Reader) *Authorizer {
	return &Authorizer{nodes: nodeRules{pods: newPodIndex(r), reader: r}, policy: NewPolicy()}
}

// Policy is what roles and bindings say, for the API server to feed from its watch cache.
func (z *Authorizer) Policy() *Policy { return z.policy }

// Authorize implements authorizer.Authorizer.
func (z *Authorizer) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	u := a.GetUser()
	if u == nil {
		return authorizer.DecisionNoOpinion, "", nil
	}
	if isMaster(u) {
		return authorizer.DecisionAllow, "", nil
	}
	var ofNode string
	if node, ok := NodeName(u); ok {
		decision, reason, err := z.nodes.authorize(ctx, node, a)
		if decision == authorizer.DecisionAllow || err != nil {
			return decision, reason, err
		}
		ofNode = reason
	}
	allowed, reason := z.policy.authorize(u, a)
	switch {
	case allowed:
		return authorizer.DecisionAllow, reason, nil
	case ofNode != "" && reason != "":
		reason = ofNode + "\n" + reason
	case ofNode != "":
		reason = ofNode
	}
	return authorizer.DecisionNoOpinion, reason, nil
}

func isMaster(u user.Info) bool { return slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) }

// ConditionsAwareAuthorize implements authorizer.Authorizer: no decision here has conditions.
func (z *Authorizer) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(z.Authorize(ctx, a))
}

// EvaluateConditions implements authorizer.Authorizer.
func (z *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// errNodeRules is what upstream says of nodes.
var errNodeRules = errors.New("node authorizer does not support user rule resolution")

// RulesFor implements authorizer.RuleResolver. A node's rules are incomplete: they depend on its pods.
func (z *Authorizer) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	rules, err := z.policy.rulesFor(u, namespace)
	for i := range rules {
		r := &rules[i]
		if len(r.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames})
		}
		if len(r.NonResourceURLs) > 0 {
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs})
		}
	}
	_, isNode := NodeName(u)
	if isNode {
		err = errors.Join(errNodeRules, err)
	}
	return resources, paths, isNode, err
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

// selectedLabel is the one value that a label selector allows for a label, or empty.
func selectedLabel(a authorizer.Attributes, name string) string {
	requirements, err := a.GetLabelSelector()
	if err != nil {
		return ""
	}
	for _, r := range requirements {
		one := r.Operator() == selection.Equals || r.Operator() == selection.DoubleEquals || r.Operator() == selection.In
		if values := r.ValuesUnsorted(); r.Key() == name && one && len(values) == 1 {
			return values[0]
		}
	}
	return ""
}
