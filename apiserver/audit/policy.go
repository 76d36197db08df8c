// Package audit keeps a log of who asked for what. Its invariant: a request's events are written by the level of the first rule of
// the policy that matches it, and no body is written of which the policy does not say so.
package audit

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/apis/audit/validation"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"sigs.k8s.io/yaml"
)

// Policy decides what is written of a request.
type Policy struct{ policy auditv1.Policy }

// ParsePolicy reads a Policy (audit.k8s.io/v1).
func ParsePolicy(file []byte) (*Policy, error) {
	p := &Policy{}
	if err := yaml.UnmarshalStrict(file, &p.policy); err != nil {
		return nil, err
	}
	if p.policy.Kind != "Policy" || p.policy.APIVersion != audit.GroupName+"/v1" {
		return nil, fmt.Errorf("want kind Policy of %s/v1, not %q of %q", audit.GroupName, p.policy.Kind, p.policy.APIVersion)
	}
	var checked audit.Policy
	if err := auditv1.Convert_v1_Policy_To_audit_Policy(&p.policy, &checked, nil); err != nil {
		return nil, err
	}
	if err := validation.ValidatePolicy(&checked).ToAggregate(); err != nil {
		return nil, err
	}
	if len(p.policy.Rules) == 0 {
		return nil, fmt.Errorf("loaded illegal policy with 0 rules")
	}
	return p, nil
}

// decision is what is written of one request.
type decision struct {
	level       auditv1.Level
	omit        []auditv1.Stage
	omitManaged bool
}

// decide finds the first rule that matches.
func (p *Policy) decide(u user.Info, info *request.RequestInfo) decision {
	for i := range p.policy.Rules {
		r := &p.policy.Rules[i]
		if !matches(r, u, info) {
			continue
		}
		d := decision{level: r.Level, omit: slices.Concat(p.policy.OmitStages, r.OmitStages), omitManaged: p.policy.OmitManagedFields}
		if r.OmitManagedFields != nil {
			d.omitManaged = *r.OmitManagedFields
		}
		return d
	}
	return decision{level: auditv1.LevelNone}
}

func matches(r *auditv1.PolicyRule, u user.Info, info *request.RequestInfo) bool {
	if len(r.Users) > 0 && (u == nil || !slices.Contains(r.Users, u.GetName())) {
		return false
	}
	if len(r.UserGroups) > 0 && (u == nil || !slices.ContainsFunc(u.GetGroups(), func(g string) bool { return slices.Contains(r.UserGroups, g) })) {
		return false
	}
	if len(r.Verbs) > 0 && !slices.Contains(r.Verbs, info.Verb) {
		return false
	}
	switch {
	case len(r.Namespaces) > 0 || len(r.Resources) > 0:
		return info.IsResourceRequest && matchesResource(r, info)
	case len(r.NonResourceURLs) > 0:
		return !info.IsResourceRequest && slices.ContainsFunc(r.NonResourceURLs, func(u string) bool { return matchesPath(u, info.Path) })
	}
	return true
}

func matchesPath(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return pattern == path
}

func matchesResource(r *auditv1.PolicyRule, info *request.RequestInfo) bool {
	if len(r.Namespaces) > 0 && !slices.Contains(r.Namespaces, info.Namespace) {
		return false
	}
	if len(r.Resources) == 0 {
		return true
	}
	combined := info.Resource
	if info.Subresource != "" {
		combined += "/" + info.Subresource
	}
	for _, g := range r.Resources {
		if g.Group != info.APIGroup && g.Group != "*" {
			continue
		}
		if len(g.Resources) == 0 {
			return true
		}
		if len(g.ResourceNames) > 0 && !slices.Contains(g.ResourceNames, info.Name) {
			continue
		}
		for _, res := range g.Resources {
			parent, sub := info.Resource+"/*", "*/"+info.Subresource
			if res == combined || res == "*" || res == parent && info.Subresource != "" || info.Subresource != "" && res == sub {
				return true
			}
		}
	}
	return false
}
