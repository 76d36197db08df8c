package kinds

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/coracle-dev/coracle/internal/admissioncel"
)

const (
	maxAuditAnnotations     = 20
	maxAnnotationExpression = 5 * 1024
)

func validateValidatingPolicy(p *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	errs := validateMeta(&p.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateValidatingPolicySpec(p, expressions{})...)
}

func validateValidatingPolicyUpdate(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	errs := validateMetaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	stored := expressions{}
	stored.addConditions(old.Spec.MatchConditions)
	stored.addVariables(old.Spec.Variables)
	for _, v := range old.Spec.Validations {
		stored.add(v.Expression, v.MessageExpression)
	}
	for _, a := range old.Spec.AuditAnnotations {
		stored.add(a.ValueExpression)
	}
	return append(errs, validateValidatingPolicySpec(p, stored)...)
}

func validateValidatingPolicySpec(p *admissionv1.ValidatingAdmissionPolicy, stored expressions) field.ErrorList {
	s, path := &p.Spec, field.NewPath("spec")
	checker := newChecker(stored)
	hasParams := s.ParamKind != nil
	errs := validatePolicyHead(s.FailurePolicy, s.ParamKind, s.MatchConstraints, path)
	errs = append(errs, validatePolicyTerms(s.Variables, s.MatchConditions, hasParams, checker, path)...)
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		const text = "validations or auditAnnotations must contain at least one item"
		errs = append(errs, field.Required(path.Child("validations"), text), field.Required(path.Child("auditAnnotations"), text))
	}
	for i := range s.Validations {
		errs = append(errs, validateValidation(&s.Validations[i], hasParams, checker, path.Child("validations").Index(i))...)
	}
	return append(errs, validateAuditAnnotations(p, checker, path.Child("auditAnnotations"))...)
}

func validatePolicyHead(failure *admissionv1.FailurePolicyType, params *admissionv1.ParamKind, match *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if failure == nil {
		errs = append(errs, field.Required(path.Child("failurePolicy"), ""))
	} else {
		errs = append(errs, oneOf(*failure, path.Child("failurePolicy"), admissionv1.Ignore, admissionv1.Fail)...)
	}
	if params != nil {
		errs = append(errs, validateParamKind(params, path.Child("paramKind"))...)
	}
	constraints := path.Child("matchConstraints")
	if match == nil {
		return append(errs, field.Required(constraints, ""))
	}
	errs = append(errs, validateMatchResources(match, constraints)...)
	if len(match.ResourceRules) == 0 {
		errs = append(errs, field.Required(constraints.Child("resourceRules"), ""))
	}
	return errs
}

// validatePolicyTerms checks what the other expressions of a policy build on. Variables come first: conditions may use them.
func validatePolicyTerms(variables []admissionv1.Variable, conditions []admissionv1.MatchCondition, hasParams bool, c *celChecker, path *field.Path) field.ErrorList {
	errs := validateVariables(variables, hasParams, c, path.Child("variables"))
	return append(errs, validateMatchConditions(conditions, hasParams, c, path.Child("matchConditions"))...)
}

func validateParamKind(k *admissionv1.ParamKind, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	apiVersion := path.Child("apiVersion")
	if k.APIVersion == "" {
		errs = append(errs, field.Required(apiVersion, ""))
	} else if gv, err := schema.ParseGroupVersion(k.APIVersion); err != nil {
		errs = append(errs, field.Invalid(apiVersion, k.APIVersion, err.Error()))
	} else {
		if gv.Group != "" {
			if messages := validation.IsDNS1123Subdomain(gv.Group); len(messages) > 0 {
				errs = append(errs, field.Invalid(apiVersion, gv.Group, strings.Join(messages, ",")))
			}
		}
		if messages := validation.IsDNS1035Label(gv.Version); gv.Version == "" {
			errs = append(errs, field.Invalid(apiVersion, gv.Version, "version must be specified"))
		} else if len(messages) > 0 {
			errs = append(errs, field.Invalid(apiVersion, gv.Version, strings.Join(messages, ",")))
		}
	}
	if k.Kind == "" {
		errs = append(errs, field.Required(path.Child("kind"), ""))
	} else if messages := validation.IsDNS1035Label(strings.ToLower(k.Kind)); len(messages) > 0 {
		errs = append(errs, field.Invalid(path.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(messages, ",")))
	}
	return errs
}

func validateMatchResources(m *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	selector := func(s *metav1.LabelSelector, path *field.Path) {
		if s == nil {
			errs = append(errs, field.Required(path, ""))
			return
		}
		errs = append(errs, validateSelector(s, path)...)
	}
	selector(m.NamespaceSelector, path.Child("namespaceSelector"))
	selector(m.ObjectSelector, path.Child("objectSelector"))
	for i := range m.ResourceRules {
		errs = append(errs, validateNamedRule(&m.ResourceRules[i], path.Child("resourceRules").Index(i))...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, validateNamedRule(&m.ExcludeResourceRules[i], path.Child("excludeResourceRules").Index(i))...)
	}
	if m.MatchPolicy == nil {
		return append(errs, field.Required(path.Child("matchPolicy"), ""))
	}
	return append(errs, validatePolicies(nil, m.MatchPolicy, path)...)
}

func validateNamedRule(r *admissionv1.NamedRuleWithOperations, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, name := range r.ResourceNames {
		at := path.Child("resourceNames").Index(i)
		errs = append(errs, invalid(at, name, content.IsPathSegmentName(name))...)
		if slices.Contains(r.ResourceNames[:i], name) {
			errs = append(errs, field.Duplicate(at, name))
		}
	}
	return append(errs, validateRuleWithOperations(&r.RuleWithOperations, path)...)
}

func validateVariables(variables []admissionv1.Variable, hasParams bool, c *celChecker, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range variables {
		v, at := &variables[i], path.Index(i)
		if v.Name == "" || !isCELIdentifier(v.Name) {
			if v.Name == "" {
				errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
			} else {
				errs = append(errs, field.Invalid(at.Child("name"), v.Name, "name is not a valid CEL identifier"))
			}
			continue
		}
		if strings.TrimSpace(v.Expression) == "" {
			errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
			continue
		}
		errs = append(errs, c.variable(v, hasParams, at.Child("expression"))...)
	}
	return errs
}

var celIdentifier = regexp.MustCompile("^[_a-zA-Z][_a-zA-Z0-9]*$")

// isCELIdentifier tells whether an expression can name it: it has the form and is no word of the language.
func isCELIdentifier(name string) bool {
	escaped, ok := apiservercel.Escape(name)
	return ok && celIdentifier.MatchString(name) && escaped != "__"+name+"__"
}

func validateValidation(v *admissionv1.Validation, hasParams bool, c *celChecker, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	expression, message, messageExpression := strings.TrimSpace(v.Expression), strings.TrimSpace(v.Message), strings.TrimSpace(v.MessageExpression)
	if expression == "" {
		errs = append(errs, field.Required(path.Child("expression"), "expression is not specified"))
	} else {
		errs = append(errs, c.check(admissioncel.Condition("", v.Expression), hasParams, true, path.Child("expression"))...)
	}
	if v.MessageExpression != "" && messageExpression == "" {
		errs = append(errs, field.Invalid(path.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified"))
	} else if messageExpression != "" {
		errs = append(errs, c.check(admissioncel.Message(v.MessageExpression), hasParams, false, path.Child("messageExpression"))...)
	}
	switch {
	case v.Message != "" && message == "":
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "message must be non-empty if specified"))
	case strings.ContainsAny(message, "\n\r"):
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "message must not contain line breaks"))
	case strings.ContainsAny(expression, "\n\r") && message == "":
		errs = append(errs, field.Required(path.Child("message"), "message must be specified if expression contains line breaks"))
	}
	if v.Reason != nil {
		errs = append(errs, oneOf(*v.Reason, path.Child("reason"), metav1.StatusReasonForbidden, metav1.StatusReasonInvalid,
			metav1.StatusReasonRequestEntityTooLarge, metav1.StatusReasonUnauthorized)...)
	}
	return errs
}

func validateAuditAnnotations(p *admissionv1.ValidatingAdmissionPolicy, c *celChecker, path *field.Path) field.ErrorList {
	annotations := p.Spec.AuditAnnotations
	var errs field.ErrorList
	if len(annotations) > maxAuditAnnotations {
		errs = append(errs, field.Invalid(path, annotations, fmt.Sprintf("must not have more than %d auditAnnotations", maxAuditAnnotations)))
	}
	seen := map[string]bool{}
	for i := range annotations {
		a, at := &annotations[i], path.Index(i)
		key := a.Key
		if p.Name != "" {
			key = p.Name + "/" + a.Key
		}
		errs = append(errs, invalid(at.Child("key"), a.Key, validation.IsQualifiedName(key))...)
		if seen[a.Key] {
			errs = append(errs, field.Duplicate(at.Child("key"), a.Key))
		}
		seen[a.Key] = true
		value := at.Child("valueExpression")
		switch trimmed := strings.TrimSpace(a.ValueExpression); {
		case trimmed == "":
			errs = append(errs, field.Required(value, "valueExpression is not specified"))
		case len(trimmed) > maxAnnotationExpression:
			errs = append(errs, field.TooLong(value, "", maxAnnotationExpression))
		default:
			errs = append(errs, c.check(admissioncel.Annotation(a.Key, a.ValueExpression), p.Spec.ParamKind != nil, true, value)...)
		}
	}
	return errs
}

func validateValidatingPolicyStatus(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	errs := validateMetaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	path := field.NewPath("status")
	if t := p.Status.TypeChecking; t != nil {
		for i, w := range t.ExpressionWarnings {
			at := path.Child("typeChecking", "expressionWarnings").Index(i)
			if w.Warning == "" {
				errs = append(errs, field.Required(at.Child("warning"), ""))
			}
			if w.FieldRef == "" {
				errs = append(errs, field.Required(at.Child("fieldRef"), ""))
			}
		}
	}
	return append(errs, metav1validation.ValidateConditions(p.Status.Conditions, path.Child("conditions"))...)
}

func validateMutatingPolicy(p *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	errs := validateMeta(&p.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateMutatingPolicySpec(p, expressions{})...)
}

func validateMutatingPolicyUpdate(p, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	errs := validateMetaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	stored := expressions{}
	stored.addConditions(old.Spec.MatchConditions)
	stored.addVariables(old.Spec.Variables)
	for i := range old.Spec.Mutations {
		if e := admissioncel.Mutation(&old.Spec.Mutations[i]); e != nil {
			stored.add(e.GetExpression())
		}
	}
	return append(errs, validateMutatingPolicySpec(p, stored)...)
}

func validateMutatingPolicySpec(p *admissionv1.MutatingAdmissionPolicy, stored expressions) field.ErrorList {
	s, path := &p.Spec, field.NewPath("spec")
	checker := newChecker(stored)
	hasParams := s.ParamKind != nil
	errs := validatePolicyHead(s.FailurePolicy, s.ParamKind, s.MatchConstraints, path)
	errs = append(errs, validatePolicyTerms(s.Variables, s.MatchConditions, hasParams, checker, path)...)
	if len(s.Mutations) == 0 {
		errs = append(errs, field.Required(path.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range s.Mutations {
		errs = append(errs, validateMutation(&s.Mutations[i], hasParams, checker, path.Child("mutations").Index(i))...)
	}
	if s.ReinvocationPolicy == "" {
		return append(errs, field.Required(path.Child("reinvocationPolicy"), ""))
	}
	return append(errs, validateReinvocation(s.ReinvocationPolicy, path)...)
}

func validateMutation(m *admissionv1.Mutation, hasParams bool, c *celChecker, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	mutationExpression := func(present bool, text, name string, typ admissionv1.PatchType) {
		at := path.Child(name)
		switch {
		case m.PatchType != typ && present:
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("may not be specified when patchType is %s", m.PatchType)))
		case m.PatchType != typ:
		case !present:
			errs = append(errs, field.Required(at, fmt.Sprintf("must be specified when patchType is %s", typ)))
		case strings.TrimSpace(text) == "":
			errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
		default:
			errs = append(errs, c.mutation(m, hasParams, at.Child("expression"))...)
		}
	}
	switch m.PatchType {
	case "":
		return field.ErrorList{field.Required(path.Child("patchType"), "")}
	case admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch:
	default:
		return oneOf(m.PatchType, path.Child("patchType"), admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch)
	}
	apply, json := orZero(m.ApplyConfiguration), orZero(m.JSONPatch)
	mutationExpression(m.ApplyConfiguration != nil, apply.Expression, "applyConfiguration", admissionv1.PatchTypeApplyConfiguration)
	mutationExpression(m.JSONPatch != nil, json.Expression, "jsonPatch", admissionv1.PatchTypeJSONPatch)
	return errs
}

func validateValidatingBinding(b *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	errs := validateMeta(&b.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateValidatingBindingSpec(&b.Spec)...)
}

func validateValidatingBindingUpdate(b, old *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	errs := validateMetaUpdate(&b.ObjectMeta, &old.ObjectMeta)
	return append(errs, validateValidatingBindingSpec(&b.Spec)...)
}

func validateValidatingBindingSpec(s *admissionv1.ValidatingAdmissionPolicyBindingSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateBinding(s.PolicyName, s.ParamRef, s.MatchResources, path)
	return append(errs, validateActions(s.ValidationActions, path.Child("validationActions"))...)
}

func validateMutatingBinding(b *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	errs := validateMeta(&b.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources, field.NewPath("spec"))...)
}

func validateMutatingBindingUpdate(b, old *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	errs := validateMetaUpdate(&b.ObjectMeta, &old.ObjectMeta)
	return append(errs, validateBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources, field.NewPath("spec"))...)
}

func validateBinding(policy string, params *admissionv1.ParamRef, match *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if policy == "" {
		errs = append(errs, field.Required(path.Child("policyName"), ""))
	} else {
		errs = append(errs, dnsSubdomain(policy, path.Child("policyName"))...)
	}
	if params != nil {
		errs = append(errs, validateParamRef(params, path.Child("paramRef"))...)
	}
	if match != nil {
		errs = append(errs, validateMatchResources(match, path.Child("matchResources"))...)
	}
	return errs
}

func validateParamRef(r *admissionv1.ParamRef, path *field.Path) field.ErrorList {
	const exclusive = "name and selector are mutually exclusive"
	var errs field.ErrorList
	if r.Name != "" {
		errs = append(errs, invalid(path.Child("name"), r.Name, content.IsPathSegmentName(r.Name))...)
		if r.Selector != nil {
			errs = append(errs, field.Forbidden(path.Child("name"), exclusive))
		}
	}
	if r.Selector != nil {
		errs = append(errs, validateSelector(r.Selector, path.Child("selector"))...)
		if r.Name != "" {
			errs = append(errs, field.Forbidden(path.Child("selector"), exclusive))
		}
	}
	if r.Name == "" && r.Selector == nil {
		errs = append(errs, field.Required(path, "one of name or selector must be specified"))
	}
	if r.ParameterNotFoundAction == nil || *r.ParameterNotFoundAction == "" {
		return append(errs, field.Required(path.Child("parameterNotFoundAction"), ""))
	}
	return append(errs, oneOf(*r.ParameterNotFoundAction, path.Child("parameterNotFoundAction"), admissionv1.AllowAction, admissionv1.DenyAction)...)
}

func validateActions(actions []admissionv1.ValidationAction, path *field.Path) field.ErrorList {
	if len(actions) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	for i, a := range actions {
		errs = append(errs, oneOf(a, path.Index(i), admissionv1.Deny, admissionv1.Warn, admissionv1.Audit)...)
		if slices.Contains(actions[:i], a) {
			errs = append(errs, field.Duplicate(path.Index(i), a))
		}
	}
	if slices.Contains(actions, admissionv1.Deny) && slices.Contains(actions, admissionv1.Warn) {
		errs = append(errs, field.Invalid(path, actions,
			"must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return errs
}

func validateMatchConditions(conditions []admissionv1.MatchCondition, hasParams bool, c *celChecker, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(conditions) > maxMatchConditions {
		errs = append(errs, field.TooMany(path, len(conditions), maxMatchConditions))
	}
	seen := map[string]bool{}
	for i := range conditions {
		m, at := &conditions[i], path.Index(i)
		if strings.TrimSpace(m.Expression) == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		} else {
			errs = append(errs, c.check(admissioncel.Condition(m.Name, m.Expression), hasParams, true, at.Child("expression"))...)
		}
		if m.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
			continue
		}
		errs = append(errs, invalid(at.Child("name"), m.Name, validation.IsQualifiedName(m.Name))...)
		if seen[m.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), m.Name))
		}
		seen[m.Name] = true
	}
	return errs
}

// expressions are those that were stored before: a newer environment may refuse them, and then they still may stay.
type expressions map[string]bool

func (e expressions) add(texts ...string) {
	for _, t := range texts {
		e[t] = true
	}
}

func (e expressions) addConditions(conditions []admissionv1.MatchCondition) {
	for _, c := range conditions {
		e.add(c.Expression)
	}
}

func (e expressions) addVariables(variables []admissionv1.Variable) {
	for _, v := range variables {
		e.add(v.Expression)
	}
}

// celChecker compiles the expressions of one object. The compiler is made for the first of them.
type celChecker struct {
	stored   expressions
	compiler *plugincel.CompositedCompiler // set with the first variable, which the others then know
}

func newChecker(stored expressions) *celChecker { return &celChecker{stored: stored} }

func (c *celChecker) mode(text string) environment.Type {
	if c.stored[text] {
		return environment.StoredExpressions
	}
	return environment.NewExpressions
}

func (c *celChecker) check(e plugincel.ExpressionAccessor, hasParams, hasAuthorizer bool, path *field.Path) field.ErrorList {
	return c.compile(e, plugincel.OptionalVariableDeclarations{HasParams: hasParams, HasAuthorizer: hasAuthorizer}, path)
}

func (c *celChecker) mutation(m *admissionv1.Mutation, hasParams bool, path *field.Path) field.ErrorList {
	declared := plugincel.OptionalVariableDeclarations{HasParams: hasParams, HasAuthorizer: true, HasPatchTypes: true}
	return c.compile(admissioncel.Mutation(m), declared, path)
}

func (c *celChecker) compile(e plugincel.ExpressionAccessor, declared plugincel.OptionalVariableDeclarations, path *field.Path) field.ErrorList {
	compiler := admissioncel.Expressions()
	if c.compiler != nil {
		compiler = c.compiler
	}
	return celErrors(compiler.CompileCELExpression(e, declared, c.mode(e.GetExpression())), path)
}

func (c *celChecker) variable(v *admissionv1.Variable, hasParams bool, path *field.Path) field.ErrorList {
	if c.compiler == nil {
		compiler, err := admissioncel.NewComposited()
		if err != nil {
			return field.ErrorList{field.InternalError(path, err)}
		}
		c.compiler = compiler
	}
	declared := plugincel.OptionalVariableDeclarations{HasParams: hasParams, HasAuthorizer: true}
	return celErrors(c.compiler.CompileAndStoreVariable(admissioncel.Variable(v), declared, c.mode(v.Expression)), path)
}

func celErrors(result plugincel.CompilationResult, path *field.Path) field.ErrorList {
	err := result.Error
	if err == nil {
		return nil
	}
	switch err.Type {
	case apiservercel.ErrorTypeRequired:
		return field.ErrorList{field.Required(path, err.Detail)}
	case apiservercel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(path, result.ExpressionAccessor.GetExpression(), err.Detail)}
	}
	return field.ErrorList{field.InternalError(path, errors.New(err.Detail))}
}
