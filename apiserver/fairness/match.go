package fairness

import (
	"cmp"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// Request is what a request is judged by.
type Request struct {
	User user.Info
	Info *request.RequestInfo
	// Query is the URL's, as it came.
	Query string
}

// accountPrefix begins the names of service accounts.
const accountPrefix = "system:serviceaccount:"

// sorted puts schemas into the order in which they are tried: precedence, then name.
func sorted(schemas []*flowcontrolv1.FlowSchema) []*flowcontrolv1.FlowSchema {
	schemas = slices.Clone(schemas)
	slices.SortFunc(schemas, func(a, b *flowcontrolv1.FlowSchema) int {
		return cmp.Or(cmp.Compare(a.Spec.MatchingPrecedence, b.Spec.MatchingPrecedence), strings.Compare(a.Name, b.Name))
	})
	return schemas
}

// matches tells whether one of a schema's rules is for the request.
func matches(s *flowcontrolv1.FlowSchema, r *Request) bool {
	for i := range s.Spec.Rules {
		rule := &s.Spec.Rules[i]
		if matchesSubject(rule.Subjects, r.User) && matchesAction(rule, r.Info) {
			return true
		}
	}
	return false
}

func matchesSubject(subjects []flowcontrolv1.Subject, u user.Info) bool {
	for i := range subjects {
		s := &subjects[i]
		switch {
		case s.User != nil:
			if s.User.Name == flowcontrolv1.NameAll || s.User.Name == u.GetName() {
				return true
			}
		case s.Group != nil:
			if s.Group.Name == flowcontrolv1.NameAll || slices.Contains(u.GetGroups(), s.Group.Name) {
				return true
			}
		case s.ServiceAccount != nil:
			if matchesAccount(s.ServiceAccount, u.GetName()) {
				return true
			}
		}
	}
	return false
}

func matchesAccount(a *flowcontrolv1.ServiceAccountSubject, name string) bool {
	name, ok := strings.CutPrefix(name, accountPrefix)
	if !ok {
		return false
	}
	namespace, name, ok := strings.Cut(name, ":")
	return ok && namespace == a.Namespace && (a.Name == flowcontrolv1.NameAll || a.Name == name)
}

func matchesAction(rule *flowcontrolv1.PolicyRulesWithSubjects, info *request.RequestInfo) bool {
	if !info.IsResourceRequest {
		for i := range rule.NonResourceRules {
			n := &rule.NonResourceRules[i]
			if oneOf(n.Verbs, info.Verb) && matchesPath(n.NonResourceURLs, info.Path) {
				return true
			}
		}
		return false
	}
	for i := range rule.ResourceRules {
		if matchesResource(&rule.ResourceRules[i], info) {
			return true
		}
	}
	return false
}

func matchesResource(r *flowcontrolv1.ResourcePolicyRule, info *request.RequestInfo) bool {
	switch {
	case !oneOf(r.Verbs, info.Verb) || !oneOf(r.APIGroups, info.APIGroup):
		return false
	case info.Namespace == "" && !r.ClusterScope:
		return false
	case info.Namespace != "" && !oneOf(r.Namespaces, info.Namespace):
		return false
	case info.Subresource == "":
		return oneOf(r.Resources, info.Resource)
	}
	return slices.ContainsFunc(r.Resources, func(name string) bool {
		if name == flowcontrolv1.ResourceAll {
			return true
		}
		resource, sub, _ := strings.Cut(name, "/")
		return resource == info.Resource && sub == info.Subresource
	})
}

// oneOf looks for v in a list in which "*" stands for everything.
func oneOf(list []string, v string) bool {
	for _, have := range list {
		if have == v || have == "*" {
			return true
		}
	}
	return false
}

// matchesPath looks for paths: a rule's path is for those below it as well, with and without "/*".
func matchesPath(paths []string, path string) bool {
	for _, p := range paths {
		if p == flowcontrolv1.NonResourceAll || p == path {
			return true
		}
		p = strings.TrimSuffix(strings.TrimSuffix(p, "*"), "/")
		if rest, ok := strings.CutPrefix(path, p); ok && strings.HasPrefix(rest, "/") {
			return true
		}
	}
	return false
}

// distinguisher tells the flows of one schema apart.
func distinguisher(s *flowcontrolv1.FlowSchema, r *Request) string {
	if s.Spec.DistinguisherMethod == nil {
		return ""
	}
	if s.Spec.DistinguisherMethod.Type == flowcontrolv1.FlowDistinguisherMethodByNamespaceType {
		return r.Info.Namespace
	}
	return r.User.GetName()
}

// hash is of a flow: FNV-1a of 64 bits, mixed at the end, since hands are dealt from its low bits.
func hash(schema, flow string) uint64 {
	h := uint64(14695981039346656037)
	for _, s := range [...]string{schema, "\x00", flow} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return h ^ h>>32
}
