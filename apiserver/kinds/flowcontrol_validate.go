package kinds

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"
)

// maxQueues bounds the queues of a priority level.
const maxQueues = 10 * 1000 * 1000

// flowVerbs are those that rules of flow control may name.
var flowVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}

func validateFlowSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	return append(validateMeta(&s.ObjectMeta, false, apivalidation.NameIsDNSSubdomain), validateFlowSchemaState(s)...)
}

func validateFlowSchemaUpdate(s, old *flowcontrolv1.FlowSchema) field.ErrorList {
	return append(validateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta), validateFlowSchemaState(s)...)
}

func validateFlowSchemaState(s *flowcontrolv1.FlowSchema) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateFlowSchemaSpec(s.Name, &s.Spec, path)
	for _, fixed := range bootstrap.MandatoryFlowSchemas {
		if fixed.Name == s.Name && !apiequality.Semantic.DeepEqual(fixed.Spec, s.Spec) {
			errs = append(errs, field.Invalid(path, s.Spec, fmt.Sprintf("spec of '%s' must equal the fixed value", s.Name)))
		}
	}
	return append(errs, validateFlowConditions(s)...)
}

func validateFlowSchemaStatusUpdate(s, old *flowcontrolv1.FlowSchema) field.ErrorList {
	return append(validateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta), validateFlowConditions(s)...)
}

func validateFlowConditions(s *flowcontrolv1.FlowSchema) field.ErrorList {
	var types []string
	for _, c := range s.Status.Conditions {
		types = append(types, string(c.Type))
	}
	return distinctTypes(types, field.NewPath("status", "conditions"))
}

// distinctTypes checks the types of conditions.
func distinctTypes(types []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, t := range types {
		at := path.Index(i).Child("type")
		if slices.Contains(types[:i], t) {
			errs = append(errs, field.Duplicate(at, t))
		}
		if t == "" {
			errs = append(errs, field.Required(at, "must not be empty"))
		}
	}
	return errs
}

func validateFlowSchemaSpec(name string, s *flowcontrolv1.FlowSchemaSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	precedence := func(message string) {
		errs = append(errs, field.Invalid(path.Child("matchingPrecedence"), s.MatchingPrecedence, message))
	}
	if s.MatchingPrecedence <= 0 {
		precedence("must be a positive value")
	}
	if s.MatchingPrecedence > flowcontrolv1.FlowSchemaMaxMatchingPrecedence {
		precedence(fmt.Sprintf("must not be greater than %v", flowcontrolv1.FlowSchemaMaxMatchingPrecedence))
	}
	if s.MatchingPrecedence == 1 && name != flowcontrolv1.FlowSchemaNameExempt {
		precedence("only the schema named 'exempt' may have matchingPrecedence 1")
	}
	if m := s.DistinguisherMethod; m != nil {
		errs = append(errs, among(m.Type, path.Child("distinguisherMethod", "type"),
			flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType)...)
	}
	level := path.Child("priorityLevelConfiguration", "name")
	if s.PriorityLevelConfiguration.Name == "" {
		errs = append(errs, field.Required(level, "must reference a priority level"))
	} else {
		errs = append(errs, dnsSubdomain(s.PriorityLevelConfiguration.Name, level)...)
	}
	for i := range s.Rules {
		errs = append(errs, validateFlowRule(&s.Rules[i], path.Child("rules").Index(i))...)
	}
	return errs
}

func validateFlowRule(r *flowcontrolv1.PolicyRulesWithSubjects, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(path.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateFlowSubject(&r.Subjects[i], path.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules)+len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		errs = append(errs, validateFlowResources(&r.ResourceRules[i], path.Child("resourceRules").Index(i))...)
	}
	for i := range r.NonResourceRules {
		errs = append(errs, validateFlowURLs(&r.NonResourceRules[i], path.Child("nonResourceRules").Index(i))...)
	}
	return errs
}

// validateFlowSubject checks that a subject has what its kind asks for and nothing else.
func validateFlowSubject(s *flowcontrolv1.Subject, path *field.Path) field.ErrorList {
	parts := []struct {
		kind flowcontrolv1.SubjectKind
		name string
		set  bool
		errs func(*field.Path) field.ErrorList
	}{
		{flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil, func(at *field.Path) field.ErrorList {
			return validateFlowAccount(s.ServiceAccount, at)
		}},
		{flowcontrolv1.SubjectKindUser, "user", s.User != nil, func(at *field.Path) field.ErrorList {
			return required(at, namedValue{"name", s.User.Name})
		}},
		{flowcontrolv1.SubjectKindGroup, "group", s.Group != nil, func(at *field.Path) field.ErrorList {
			return required(at, namedValue{"name", s.Group.Name})
		}},
	}
	if errs := among(s.Kind, path.Child("kind"), flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser); len(errs) > 0 {
		return errs
	}
	var errs field.ErrorList
	for _, p := range parts {
		at := path.Child(p.name)
		switch {
		case p.kind == s.Kind && !p.set:
			errs = append(errs, field.Required(at, fmt.Sprintf("%s is required when subject kind is '%s'", p.name, p.kind)))
		case p.kind == s.Kind:
			errs = append(errs, p.errs(at)...)
		case p.set:
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("%s is forbidden when subject kind is not '%s'", p.name, p.kind)))
		}
	}
	return errs
}

func validateFlowAccount(a *flowcontrolv1.ServiceAccountSubject, path *field.Path) field.ErrorList {
	errs := required(path, namedValue{"name", a.Name})
	if a.Name != "" && a.Name != flowcontrolv1.NameAll {
		errs = append(errs, invalid(path.Child("name"), a.Name, apivalidation.ValidateServiceAccountName(a.Name, false))...)
	}
	if a.Namespace == "" {
		return append(errs, field.Required(path.Child("namespace"), "must specify namespace for service account"))
	}
	return append(errs, invalid(path.Child("namespace"), a.Namespace, apivalidation.ValidateNamespaceName(a.Namespace, false))...)
}

func validateFlowVerbs(verbs []string, path *field.Path) field.ErrorList {
	switch {
	case len(verbs) == 0:
		return field.ErrorList{field.Required(path, "verbs must contain at least one value")}
	case slices.Contains(verbs, flowcontrolv1.VerbAll):
		return wildcardAlone(verbs, "verbs", path)
	case slices.ContainsFunc(verbs, func(v string) bool { return !slices.Contains(flowVerbs, v) }):
		return field.ErrorList{field.NotSupported(path, verbs, flowVerbs)}
	}
	return nil
}

// wildcardAlone refuses other elements beside "*".
func wildcardAlone(list []string, what string, path *field.Path) field.ErrorList {
	if len(list) > 1 && slices.Contains(list, "*") {
		return field.ErrorList{field.Invalid(path, list, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

func validateFlowResources(r *flowcontrolv1.ResourcePolicyRule, path *field.Path) field.ErrorList {
	errs := validateFlowVerbs(r.Verbs, path.Child("verbs"))
	for _, l := range []struct {
		name, what string
		list       []string
	}{{"apiGroups", "api group", r.APIGroups}, {"resources", "resource", r.Resources}} {
		if len(l.list) == 0 {
			errs = append(errs, field.Required(path.Child(l.name), "resource rules must supply at least one "+l.what))
		}
		errs = append(errs, wildcardAlone(l.list, l.what+"s", path.Child(l.name))...)
	}
	namespaces := path.Child("namespaces")
	switch {
	case len(r.Namespaces) == 0 && !r.ClusterScope:
		errs = append(errs, field.Required(namespaces, "resource rules that are not cluster scoped must supply at least one namespace"))
	case slices.Contains(r.Namespaces, flowcontrolv1.NamespaceEvery):
		errs = append(errs, wildcardAlone(r.Namespaces, "namespaces", namespaces)...)
	default:
		for i, ns := range r.Namespaces {
			for _, msg := range apivalidation.ValidateNamespaceName(ns, false) {
				errs = append(errs, field.Invalid(namespaces.Index(i), ns, "each member of this list must be '*' or a DNS-1123 label; "+msg))
			}
		}
	}
	return errs
}

func validateFlowURLs(r *flowcontrolv1.NonResourcePolicyRule, path *field.Path) field.ErrorList {
	errs := validateFlowVerbs(r.Verbs, path.Child("verbs"))
	urls := path.Child("nonResourceURLs")
	switch {
	case len(r.NonResourceURLs) == 0:
		errs = append(errs, field.Required(urls, "nonResourceURLs must contain at least one value"))
	case slices.Contains(r.NonResourceURLs, flowcontrolv1.NonResourceAll):
		errs = append(errs, wildcardAlone(r.NonResourceURLs, "non-resource URLs", urls)...)
	default:
		for i, url := range r.NonResourceURLs {
			if fault := urlPathFault(url); fault != "" {
				errs = append(errs, field.Invalid(urls.Index(i), url, fault))
			}
		}
	}
	return errs
}

// urlPathFault tells what is wrong with a path that may end in "/*".
func urlPathFault(path string) string {
	stars := strings.Count(path, "*")
	switch {
	case path == "":
		return "must not be empty"
	case path == "/":
		return ""
	case !strings.HasPrefix(path, "/"):
		return "must start with slash"
	case strings.Contains(path, " "):
		return "must not contain white-space"
	case strings.Contains(path, "//"):
		return "must not contain double slash"
	case stars > 1 || stars == 1 && !strings.HasSuffix(path, "/*"):
		return "wildcard can only do suffix matching"
	}
	return ""
}

func validatePriorityLevel(l *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	return append(validateMeta(&l.ObjectMeta, false, apivalidation.NameIsDNSSubdomain), validatePriorityLevelState(l)...)
}

func validatePriorityLevelUpdate(l, old *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	return append(validateMetaUpdate(&l.ObjectMeta, &old.ObjectMeta), validatePriorityLevelState(l)...)
}

func validatePriorityLevelState(l *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	path := field.NewPath("spec")
	errs := validatePriorityLevelSpec(l.Name, &l.Spec, path)
	for _, fixed := range bootstrap.MandatoryPriorityLevelConfigurations {
		if fixed.Name == l.Name {
			errs = append(errs, validateMandatoryLevel(l, fixed.Spec, path)...)
		}
	}
	return append(errs, validateLevelConditions(l)...)
}

// validateMandatoryLevel leaves of a level that every cluster has to have only the shares of the exempt one open.
func validateMandatoryLevel(l *flowcontrolv1.PriorityLevelConfiguration, want flowcontrolv1.PriorityLevelConfigurationSpec, path *field.Path) field.ErrorList {
	have, but := l.Spec, ""
	if l.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt {
		want.Exempt, have.Exempt, but = nil, nil, " except the 'spec.exempt' field"
	}
	if apiequality.Semantic.DeepEqual(want, have) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, l.Spec, fmt.Sprintf("spec of '%s'%s must equal the fixed value", l.Name, but))}
}

func validatePriorityLevelStatusUpdate(l, old *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	return append(validateMetaUpdate(&l.ObjectMeta, &old.ObjectMeta), validateLevelConditions(l)...)
}

func validateLevelConditions(l *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	var types []string
	for _, c := range l.Status.Conditions {
		types = append(types, string(c.Type))
	}
	return distinctTypes(types, field.NewPath("status", "conditions"))
}

func validatePriorityLevelSpec(name string, s *flowcontrolv1.PriorityLevelConfigurationSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if (name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != (s.Type == flowcontrolv1.PriorityLevelEnablementExempt) {
		errs = append(errs, field.Invalid(path.Child("type"), s.Type, "type must be 'Exempt' if and only if name is 'exempt'"))
	}
	limited, exempt := path.Child("limited"), path.Child("exempt")
	switch s.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if s.Limited != nil {
			errs = append(errs, field.Forbidden(limited, "must be nil if the type is not Limited"))
		}
		if s.Exempt == nil {
			errs = append(errs, field.Required(exempt, "must not be empty when type is Exempt"))
		} else {
			errs = append(errs, validateShares(s.Exempt.NominalConcurrencyShares, s.Exempt.LendablePercent, exempt)...)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if s.Exempt != nil {
			errs = append(errs, field.Forbidden(exempt, "must be nil if the type is Limited"))
		}
		if s.Limited == nil {
			errs = append(errs, field.Required(limited, "must not be empty when type is Limited"))
		} else {
			errs = append(errs, validateLimitedLevel(s.Limited, limited)...)
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("type"), s.Type, []flowcontrolv1.PriorityLevelEnablement{
			flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited,
		}))
	}
	return errs
}

func validateShares(shares, lendable *int32, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if shares != nil && *shares < 0 {
		errs = append(errs, field.Invalid(path.Child("nominalConcurrencyShares"), *shares, "must be a non-negative integer"))
	}
	if lendable != nil && (*lendable < 0 || *lendable > 100) {
		errs = append(errs, field.Invalid(path.Child("lendablePercent"), *lendable, "must be between 0 and 100, inclusive"))
	}
	return errs
}

func validateLimitedLevel(l *flowcontrolv1.LimitedPriorityLevelConfiguration, path *field.Path) field.ErrorList {
	errs := validateShares(l.NominalConcurrencyShares, l.LendablePercent, path)
	if b := l.BorrowingLimitPercent; b != nil && *b < 0 {
		errs = append(errs, field.Invalid(path.Child("borrowingLimitPercent"), *b, "if specified, must be a non-negative integer"))
	}
	response, queuing := path.Child("limitResponse"), path.Child("limitResponse", "queuing")
	switch q := l.LimitResponse.Queuing; l.LimitResponse.Type {
	case flowcontrolv1.LimitResponseTypeReject:
		if q != nil {
			errs = append(errs, field.Forbidden(queuing, "must be nil if limited.limitResponse.type is not Limited"))
		}
	case flowcontrolv1.LimitResponseTypeQueue:
		if q == nil {
			errs = append(errs, field.Required(queuing, "must not be empty if limited.limitResponse.type is Limited"))
		} else {
			errs = append(errs, validateQueuing(q, queuing)...)
		}
	default:
		errs = append(errs, field.NotSupported(response.Child("type"), l.LimitResponse.Type, []flowcontrolv1.LimitResponseType{
			flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject,
		}))
	}
	return errs
}

// validateQueuing checks queues and hands: a hash must have bits enough to deal a hand of them.
func validateQueuing(q *flowcontrolv1.QueuingConfiguration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if q.QueueLengthLimit <= 0 {
		errs = append(errs, field.Invalid(path.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	if q.Queues <= 0 {
		errs = append(errs, field.Invalid(path.Child("queues"), q.Queues, "must be positive"))
	} else if q.Queues > maxQueues {
		errs = append(errs, field.Invalid(path.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))
	}
	hand := path.Child("handSize")
	switch {
	case q.HandSize <= 0:
		return append(errs, field.Invalid(hand, q.HandSize, "must be positive"))
	case q.HandSize > q.Queues:
		return append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	}
	if bits := shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)); bits > shufflesharding.MaxHashBits {
		errs = append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf(
			"required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, shufflesharding.MaxHashBits)))
	}
	return errs
}
