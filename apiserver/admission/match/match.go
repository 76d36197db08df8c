// Package match decides whether a webhook or an admission policy is asked about a request, and in which version of
// the object. What is compiled here is a pure function of its configuration; only namespaces are looked up.
package match

import (
	"context"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/apiserver/admission"
)

const wildcard = "*"

var namespaces = schema.GroupResource{Resource: "namespaces"}

// Target is a resource and the kind of its objects in one served version.
type Target struct {
	Resource schema.GroupVersionResource
	Kind     schema.GroupVersionKind
}

// Versions knows under which names the same objects are served.
type Versions interface {
	// Equivalents lists the other versions that a resource, or a subresource of it, is served in.
	Equivalents(resource schema.GroupVersionResource, subresource string) []Target
	// ConvertObject gives obj, which is of the kind from, in the kind to. It changes nothing of obj.
	ConvertObject(obj runtime.Object, from, to schema.GroupVersionKind) (runtime.Object, error)
	// DecodeObject reads an object's JSON, which may name no kind but this one, and fills in the defaults.
	DecodeObject(data []byte, kind schema.GroupVersionKind) (runtime.Object, error)
}

// Criteria select requests.
type Criteria struct {
	rules, exclude    []admissionv1.NamedRuleWithOperations
	equivalent        bool
	namespace, object labels.Selector
}

// Compile makes criteria of what a configuration says. A nil match policy means Equivalent.
func Compile(rules, exclude []admissionv1.NamedRuleWithOperations, policy *admissionv1.MatchPolicyType, namespace, object *metav1.LabelSelector) (*Criteria, error) {
	c := &Criteria{rules: rules, exclude: exclude, equivalent: policy == nil || *policy == admissionv1.Equivalent}
	var err error
	if c.namespace, err = selector(namespace); err != nil {
		return nil, err
	}
	c.object, err = selector(object)
	return c, err
}

// selector of nothing matches everything: that is what the API's default says.
func selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// Named are rules that hold for objects of all names.
func Named(rules []admissionv1.RuleWithOperations) []admissionv1.NamedRuleWithOperations {
	out := make([]admissionv1.NamedRuleWithOperations, len(rules))
	for i, r := range rules {
		out[i].RuleWithOperations = r
	}
	return out
}

// Matcher applies criteria to requests.
type Matcher struct {
	Reader   admission.Reader
	Versions Versions
}

// Match tells whether the criteria select the request, and as what its object is to be shown. A nil criteria selects
// every request as it is.
func (m *Matcher) Match(ctx context.Context, r *admission.Request, c *Criteria) (Target, bool, error) {
	own := Target{r.Resource, r.Kind}
	if c == nil {
		return own, true, nil
	}
	inNamespace, err := m.selectsNamespace(ctx, r, c.namespace)
	if err == nil && !inNamespace || !selectsObject(r, c.object) {
		return own, false, nil
	}
	if target, ok := m.rules(r, own, c.exclude, c.equivalent); ok {
		return target, false, nil
	}
	target, ok := own, len(c.rules) == 0
	if !ok {
		target, ok = m.rules(r, own, c.rules, c.equivalent)
	}
	if !ok {
		return own, false, nil
	}
	return target, true, err // an unknown namespace matters only where the rest matches
}

func (m *Matcher) rules(r *admission.Request, own Target, rules []admissionv1.NamedRuleWithOperations, equivalent bool) (Target, bool) {
	for i := range rules {
		if selects(&rules[i], r, own.Resource) {
			return own, true
		}
	}
	if !equivalent || m.Versions == nil {
		return own, false
	}
	for _, other := range m.Versions.Equivalents(own.Resource, r.Subresource) {
		for i := range rules {
			if selects(&rules[i], r, other.Resource) {
				return other, true
			}
		}
	}
	return own, false
}

// selects tells whether a rule selects the request if it were for that resource.
func selects(rule *admissionv1.NamedRuleWithOperations, r *admission.Request, resource schema.GroupVersionResource) bool {
	return operation(rule.Operations, r.Operation) &&
		among(rule.APIGroups, resource.Group) && among(rule.APIVersions, resource.Version) &&
		inScope(rule.Scope, r) && covers(rule.Resources, resource.Resource, r.Subresource) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, r.Name))
}

func operation(ops []admissionv1.OperationType, op admission.Operation) bool {
	return slices.Contains(ops, admissionv1.OperationAll) || slices.Contains(ops, admissionv1.OperationType(op))
}

func among(items []string, item string) bool {
	return slices.Contains(items, wildcard) || slices.Contains(items, item)
}

// inScope counts namespaces among what belongs to none.
func inScope(scope *admissionv1.ScopeType, r *admission.Request) bool {
	if scope == nil || *scope == admissionv1.AllScopes {
		return true
	}
	namespaced := r.Namespace != "" && r.Resource.GroupResource() != namespaces
	return namespaced == (*scope == admissionv1.NamespacedScope)
}

func covers(resources []string, resource, sub string) bool {
	return slices.ContainsFunc(resources, func(rule string) bool {
		res, s, _ := strings.Cut(rule, "/")
		return (res == wildcard || res == resource) && (s == wildcard || s == sub)
	})
}

// selectsNamespace is true for what belongs to no namespace, but for namespaces: they are selected by their own labels.
func (m *Matcher) selectsNamespace(ctx context.Context, r *admission.Request, s labels.Selector) (bool, error) {
	if s.Empty() || r.Namespace == "" {
		return true, nil
	}
	if r.Resource.GroupResource() == namespaces && r.Subresource == "" && (r.Operation == admission.Create || r.Operation == admission.Update) {
		own, err := meta.Accessor(r.Object)
		if err != nil {
			return false, err
		}
		return s.Matches(labels.Set(own.GetLabels())), nil
	}
	ns, err := m.Namespace(ctx, r.Namespace)
	if err != nil {
		return false, err
	}
	return s.Matches(labels.Set(ns.Labels)), nil
}

// Namespace looks a namespace up.
func (m *Matcher) Namespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	obj, err := m.Reader.Get(ctx, namespaces, "", name)
	if err != nil {
		return nil, err
	}
	ns, ok := obj.(*corev1.Namespace)
	if !ok {
		return nil, fmt.Errorf("namespaces are %T here", obj)
	}
	return ns, nil
}

// selectsObject looks at the new object and at the old one: either will do.
func selectsObject(r *admission.Request, s labels.Selector) bool {
	return s.Empty() || carries(r.Object, s) || carries(r.Old, s)
}

func carries(obj runtime.Object, s labels.Selector) bool {
	if obj == nil {
		return false
	}
	m, err := meta.Accessor(obj)
	return err == nil && s.Matches(labels.Set(m.GetLabels()))
}

// Exempt tells the resources that no webhook and no policy is asked about, so that none can lock everybody out of its
// own configuration.
func Exempt(r *admission.Request) bool {
	if r.Resource.Group != admissionv1.GroupName {
		return false
	}
	switch r.Resource.Resource {
	case "mutatingwebhookconfigurations", "validatingwebhookconfigurations",
		"mutatingadmissionpolicies", "mutatingadmissionpolicybindings", "validatingadmissionpolicies", "validatingadmissionpolicybindings":
		return true
	}
	return false
}
