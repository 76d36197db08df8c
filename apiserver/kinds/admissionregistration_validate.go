package kinds

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/webhook"
)

const (
	maxMatchConditions = 64
	minWebhookTimeout  = 1
	maxWebhookTimeout  = 30
)

// acceptedReviews are the versions of AdmissionReview that this server speaks, the preferred one first.
var acceptedReviews = []string{"v1", "v1beta1"}

// anyWebhook is what the two kinds of webhook have in common.
type anyWebhook struct {
	name                              string
	client                            *admissionv1.WebhookClientConfig
	rules                             []admissionv1.RuleWithOperations
	failure                           *admissionv1.FailurePolicyType
	match                             *admissionv1.MatchPolicyType
	namespaceSelector, objectSelector *metav1.LabelSelector
	sideEffects                       *admissionv1.SideEffectClass
	timeout                           *int32
	versions                          []string
	reinvocation                      *admissionv1.ReinvocationPolicyType
	conditions                        []admissionv1.MatchCondition
}

func mutatingParts(c *admissionv1.MutatingWebhookConfiguration) []anyWebhook {
	out := make([]anyWebhook, len(c.Webhooks))
	for i := range c.Webhooks {
		h := &c.Webhooks[i]
		out[i] = anyWebhook{
			h.Name, &h.ClientConfig, h.Rules, h.FailurePolicy, h.MatchPolicy, h.NamespaceSelector, h.ObjectSelector, h.SideEffects,
			h.TimeoutSeconds, h.AdmissionReviewVersions, h.ReinvocationPolicy, h.MatchConditions,
		}
	}
	return out
}

func validatingParts(c *admissionv1.ValidatingWebhookConfiguration) []anyWebhook {
	out := make([]anyWebhook, len(c.Webhooks))
	for i := range c.Webhooks {
		h := &c.Webhooks[i]
		out[i] = anyWebhook{
			h.Name, &h.ClientConfig, h.Rules, h.FailurePolicy, h.MatchPolicy, h.NamespaceSelector, h.ObjectSelector, h.SideEffects,
			h.TimeoutSeconds, h.AdmissionReviewVersions, nil, h.MatchConditions,
		}
	}
	return out
}

func validateMutatingWebhooks(c *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
	errs := validateMeta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateWebhooks(mutatingParts(c), nil)...)
}

func validateMutatingWebhooksUpdate(c, old *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
	errs := validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	return append(errs, validateWebhooks(mutatingParts(c), mutatingParts(old))...)
}

func validateValidatingWebhooks(c *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
	errs := validateMeta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateWebhooks(validatingParts(c), nil)...)
}

func validateValidatingWebhooksUpdate(c, old *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
	errs := validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	return append(errs, validateWebhooks(validatingParts(c), validatingParts(old))...)
}

// validateWebhooks checks a configuration's webhooks. What old, if there is one, had wrong in a way that used to be
// accepted may stay.
func validateWebhooks(hooks, old []anyWebhook) field.ErrorList {
	stored := expressions{}
	for i := range old {
		stored.addConditions(old[i].conditions)
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i := range hooks {
		path := field.NewPath("webhooks").Index(i)
		errs = append(errs, validateWebhook(&hooks[i], stored, path)...)
		if seen[hooks[i].name] {
			errs = append(errs, field.Duplicate(path.Child("name"), hooks[i].name))
		}
		seen[hooks[i].name] = true
	}
	return errs
}

func validateWebhook(h *anyWebhook, stored expressions, path *field.Path) field.ErrorList {
	errs := validation.IsFullyQualifiedName(path.Child("name"), h.name)
	errs = append(errs, validateReviewVersions(h.versions, path.Child("admissionReviewVersions"))...)
	for i := range h.rules {
		errs = append(errs, validateRuleWithOperations(&h.rules[i], path.Child("rules").Index(i))...)
	}
	errs = append(errs, validatePolicies(h.failure, h.match, path)...)
	if h.sideEffects == nil {
		errs = append(errs, field.Required(path.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	} else {
		errs = append(errs, oneOf(*h.sideEffects, path.Child("sideEffects"), admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun)...)
	}
	if t := h.timeout; t != nil && (*t < minWebhookTimeout || *t > maxWebhookTimeout) {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	errs = append(errs, validateSelector(h.namespaceSelector, path.Child("namespaceSelector"))...)
	errs = append(errs, validateSelector(h.objectSelector, path.Child("objectSelector"))...)
	errs = append(errs, validateWebhookClient(h.client, path.Child("clientConfig"))...)
	if h.reinvocation != nil {
		errs = append(errs, validateReinvocation(*h.reinvocation, path)...)
	}
	return append(errs, validateMatchConditions(h.conditions, false, newChecker(stored), path.Child("matchConditions"))...)
}

func validateReinvocation(p admissionv1.ReinvocationPolicyType, path *field.Path) field.ErrorList {
	return oneOf(p, path.Child("reinvocationPolicy"), admissionv1.NeverReinvocationPolicy, admissionv1.IfNeededReinvocationPolicy)
}

func validatePolicies(failure *admissionv1.FailurePolicyType, match *admissionv1.MatchPolicyType, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if failure != nil {
		errs = append(errs, oneOf(*failure, path.Child("failurePolicy"), admissionv1.Ignore, admissionv1.Fail)...)
	}
	if match != nil {
		errs = append(errs, oneOf(*match, path.Child("matchPolicy"), admissionv1.Exact, admissionv1.Equivalent)...)
	}
	return errs
}

func validateWebhookClient(c *admissionv1.WebhookClientConfig, path *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(path, "exactly one of url or service is required")}
	case c.URL != nil:
		return webhook.ValidateWebhookURL(path.Child("url"), *c.URL, true)
	}
	return webhook.ValidateWebhookService(path.Child("service"), c.Service.Name, c.Service.Namespace, c.Service.Path, *orZero(c.Service.Port))
}

func validateReviewVersions(versions []string, path *field.Path) field.ErrorList {
	accepted := strings.Join(acceptedReviews, ", ")
	if len(versions) < 1 {
		return field.ErrorList{field.Required(path, "must specify one of "+accepted)}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	known := false
	for i, v := range versions {
		if seen[v] {
			errs = append(errs, field.Duplicate(path.Index(i), v))
			continue
		}
		seen[v] = true
		errs = append(errs, invalid(path.Index(i), v, validation.IsDNS1035Label(v))...)
		known = known || slices.Contains(acceptedReviews, v)
	}
	if !known {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of "+accepted))
	}
	return errs
}

const wildcard = "*"

func validateRuleWithOperations(r *admissionv1.RuleWithOperations, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	operations := path.Child("operations")
	if len(r.Operations) == 0 {
		errs = append(errs, field.Required(operations, ""))
	}
	if len(r.Operations) > 1 && slices.Contains(r.Operations, admissionv1.OperationAll) {
		errs = append(errs, field.Invalid(operations, r.Operations, "if '*' is present, must not specify other operations"))
	}
	for i, op := range r.Operations {
		errs = append(errs, oneOf(op, operations.Index(i), admissionv1.OperationAll, admissionv1.Create, admissionv1.Update, admissionv1.Delete, admissionv1.Connect)...)
	}
	return append(errs, validateWebhookRule(&r.Rule, path)...)
}

func validateWebhookRule(r *admissionv1.Rule, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.APIGroups) == 0 {
		errs = append(errs, field.Required(path.Child("apiGroups"), ""))
	}
	if len(r.APIGroups) > 1 && slices.Contains(r.APIGroups, wildcard) {
		errs = append(errs, field.Invalid(path.Child("apiGroups"), r.APIGroups, "if '*' is present, must not specify other API groups"))
	}
	if len(r.APIVersions) == 0 {
		errs = append(errs, field.Required(path.Child("apiVersions"), ""))
	}
	if len(r.APIVersions) > 1 && slices.Contains(r.APIVersions, wildcard) {
		errs = append(errs, field.Invalid(path.Child("apiVersions"), r.APIVersions, "if '*' is present, must not specify other API versions"))
	}
	for i, v := range r.APIVersions {
		if v == "" {
			errs = append(errs, field.Required(path.Child("apiVersions").Index(i), ""))
		}
	}
	errs = append(errs, validateRuleResources(r.Resources, path.Child("resources"))...)
	if r.Scope != nil {
		errs = append(errs, oneOf(*r.Scope, path.Child("scope"), admissionv1.ClusterScope, admissionv1.NamespacedScope, admissionv1.AllScopes)...)
	}
	return errs
}

// validateRuleResources refuses entries that others of the list include.
func validateRuleResources(resources []string, path *field.Path) field.ErrorList {
	if len(resources) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	allSubsOf, allWithSub := map[string]bool{}, map[string]bool{}
	plain := false
	for i, r := range resources {
		if r == "" {
			errs = append(errs, field.Required(path.Index(i), ""))
			continue
		}
		resource, sub, has := strings.Cut(r, "/")
		if !has {
			plain = plain || r != wildcard
			continue
		}
		if allSubsOf[resource] {
			errs = append(errs, field.Invalid(path.Index(i), r, fmt.Sprintf("if '%s/*' is present, must not specify %s", resource, r)))
		}
		if allWithSub[sub] {
			errs = append(errs, field.Invalid(path.Index(i), r, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, r)))
		}
		allSubsOf[resource] = allSubsOf[resource] || sub == wildcard
		allWithSub[sub] = allWithSub[sub] || resource == wildcard
	}
	if len(resources) > 1 && slices.Contains(resources, "*/*") {
		errs = append(errs, field.Invalid(path, resources, "if '*/*' is present, must not specify other resources"))
	}
	if plain && slices.Contains(resources, wildcard) {
		errs = append(errs, field.Invalid(path, resources, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}
