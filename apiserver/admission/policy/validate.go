package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	celtypes "github.com/google/cel-go/common/types"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kadmission "k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/admission/match"
	"github.com/coracle-dev/coracle/internal/admissioncel"
)

const (
	failureAnnotation = "validation.policy.admission.k8s.io/validation_failure"
	// maxFailures bounds that annotation: at some 200 bytes each it is 10 KB then.
	maxFailures = 50
	// maxAnnotation is the longest value of an annotation that a policy makes, in bytes.
	maxAnnotation = 10 << 10
)

// validator applies ValidatingAdmissionPolicies.
type validator struct {
	*engine
	policies *match.Source[*validating]
	bindings *match.Source[*binding]
}

// validating is a ValidatingAdmissionPolicy.
type validating struct {
	head
	spec    *admissionv1.ValidatingAdmissionPolicySpec
	compile func() (*validations, error)
}

// validations are a policy's expressions.
type validations struct {
	*program
	checks, messages, annotations plugincel.ConditionEvaluator
}

func validatingPolicy(obj runtime.Object) []*validating {
	o, ok := obj.(*admissionv1.ValidatingAdmissionPolicy)
	if !ok {
		return nil
	}
	s := &o.Spec
	p := &validating{head: headOf(o.Name, s.FailurePolicy, s.ParamKind, s.MatchConstraints), spec: s}
	p.compile = sync.OnceValues(func() (*validations, error) { return compileValidations(o.Name, s) })
	return []*validating{p}
}

func compileValidations(name string, s *admissionv1.ValidatingAdmissionPolicySpec) (*validations, error) {
	p, err := newProgram(name, s.FailurePolicy, s.ParamKind != nil, s.Variables, s.MatchConditions)
	if err != nil {
		return nil, err
	}
	checks, messages := make([]plugincel.ExpressionAccessor, len(s.Validations)), make([]plugincel.ExpressionAccessor, len(s.Validations))
	for i, v := range s.Validations {
		checks[i] = admissioncel.Condition("", v.Expression)
		if v.MessageExpression != "" {
			messages[i] = admissioncel.Message(v.MessageExpression)
		}
	}
	annotations := make([]plugincel.ExpressionAccessor, len(s.AuditAnnotations))
	for i, a := range s.AuditAnnotations {
		annotations[i] = admissioncel.Annotation(a.Key, a.ValueExpression)
	}
	unasked := plugincel.OptionalVariableDeclarations{HasParams: p.declared.HasParams}
	return &validations{
		program:     p,
		checks:      p.compiler.CompileCondition(checks, p.declared, environment.StoredExpressions),
		messages:    p.compiler.CompileCondition(messages, unasked, environment.StoredExpressions),
		annotations: p.compiler.CompileCondition(annotations, p.declared, environment.StoredExpressions),
	}, nil
}

// Name implements admission.Plugin.
func (v *validator) Name() string { return "ValidatingAdmissionPolicy" }

// Mutate implements admission.Plugin.
func (v *validator) Mutate(context.Context, *admission.Request) error { return nil }

// Validate implements admission.Plugin. All policies are asked; the first refusal is given.
func (v *validator) Validate(ctx context.Context, r *admission.Request) error {
	policies, err := v.policies.All(ctx)
	if err != nil || len(policies) == 0 || match.Exempt(r) {
		return err
	}
	bindings, err := v.bindings.All(ctx)
	if err != nil {
		return err
	}
	out := &outcome{request: r}
	for _, p := range policies {
		uses, failures := v.uses(ctx, r, &p.head, bindings)
		for _, f := range failures {
			if f.failClosed {
				out.refusals = append(out.refusals, f)
			}
		}
		annotations := annotations{}
		for _, u := range uses {
			results, err := v.apply(ctx, r, p, u)
			if err != nil {
				return err
			}
			out.take(p, u.binding, results, annotations)
		}
		annotations.publish(p.name, r)
	}
	return out.conclude()
}

// result is what one expression says. A pass has neither cause nor key.
type result struct {
	index   int
	refusal error
	reason  metav1.StatusReason
	// key and value are an annotation.
	key, value string
	// always refuses whatever the binding's actions are.
	always bool
}

// apply evaluates a policy's expressions.
func (v *validator) apply(ctx context.Context, r *admission.Request, p *validating, u use) ([]result, error) {
	program, err := p.compile()
	if err != nil {
		return p.broken(err), nil
	}
	attrs, err := v.Versioned(r, u.target)
	if err != nil {
		return []result{{refusal: configured(u.binding, err), always: true}}, nil
	}
	if program.matcher != nil {
		switch m := program.matcher.Match(ctx, attrs, u.param, v.authorizer); {
		case m.Error != nil:
			return p.broken(m.Error), nil
		case !m.Matches:
			return nil, nil
		}
	}
	namespace, err := v.namespaceOf(ctx, r)
	if err != nil {
		return nil, err
	}
	in := input{attrs: attrs, target: u.target, param: u.param, namespace: plugincel.CreateNamespaceObject(namespace)}
	results, err := v.check(ctx, p, program, in)
	if err != nil {
		return p.broken(err), nil
	}
	annotated, err := v.annotate(ctx, p, program, in)
	if err != nil {
		return p.broken(err), nil
	}
	return append(results, annotated...), nil
}

// broken is the result where nothing can be evaluated.
func (p *validating) broken(err error) []result {
	if !p.failClosed {
		return nil
	}
	return []result{{refusal: err}}
}

// input is what expressions see.
type input struct {
	attrs     *kadmission.VersionedAttributes
	target    match.Target
	param     runtime.Object
	namespace *corev1.Namespace
}

// evaluate runs expressions within budget, and gives what is left of it.
func (v *validator) evaluate(ctx context.Context, e plugincel.ConditionEvaluator, in input, asks bool, budget int64) ([]plugincel.EvaluationResult, int64, error) {
	bindings := plugincel.OptionalVariableBindings{VersionedParams: in.param}
	if asks {
		bindings.Authorizer = v.authorizer
	}
	request := plugincel.CreateAdmissionRequest(in.attrs.Attributes, metav1.GroupVersionResource(in.target.Resource), metav1.GroupVersionKind(in.target.Kind))
	return e.ForInput(ctx, in.attrs, request, bindings, in.namespace, budget)
}

func (v *validator) check(ctx context.Context, p *validating, program *validations, in input) ([]result, error) {
	checks, left, err := v.evaluate(ctx, program.checks, in, true, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return nil, err
	}
	messages, _, spent := v.evaluate(ctx, program.messages, in, false, left)
	var results []result
	for i, c := range checks {
		switch {
		case c.Error != nil:
			if p.failClosed {
				results = append(results, result{index: i, refusal: c.Error})
			}
		case errors.Is(spent, apiservercel.ErrInternal) || errors.Is(spent, apiservercel.ErrOutOfBudget):
			if p.failClosed {
				results = append(results, result{index: i, refusal: fmt.Errorf("failed messageExpression: %w", spent)})
			}
		case c.EvalResult != celtypes.True:
			validation := &p.spec.Validations[i]
			reason := metav1.StatusReasonInvalid
			if validation.Reason != nil {
				reason = *validation.Reason
			}
			var said *plugincel.EvaluationResult
			if i < len(messages) {
				said = &messages[i]
			}
			results = append(results, result{index: i, refusal: errors.New(messageOf(validation, said)), reason: reason})
		}
	}
	return results, nil
}

// messageOf is what the message expression gives, else the message, else the expression that failed.
func messageOf(v *admissionv1.Validation, said *plugincel.EvaluationResult) string {
	if said != nil && said.Error == nil && said.EvalResult != nil {
		if text, ok := said.EvalResult.Value().(string); ok {
			text = strings.TrimSpace(text)
			if text != "" && len(text) <= celconfig.MaxEvaluatedMessageExpressionSizeBytes && !strings.Contains(text, "\n") {
				return text
			}
		}
	}
	if text := strings.TrimSpace(v.Message); text != "" {
		return text
	}
	return "failed expression: " + strings.TrimSpace(v.Expression)
}

func (v *validator) annotate(ctx context.Context, p *validating, program *validations, in input) ([]result, error) {
	values, _, err := v.evaluate(ctx, program.annotations, in, true, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return nil, err
	}
	var results []result
	for i, val := range values {
		if val.Error != nil {
			if p.failClosed {
				results = append(results, result{refusal: val.Error, always: true})
			}
			continue
		}
		switch text := val.EvalResult.Value().(type) {
		case string:
			if text = strings.TrimSpace(text); text != "" {
				results = append(results, result{key: p.spec.AuditAnnotations[i].Key, value: text})
			}
		default:
			if val.EvalResult.Type() != celtypes.NullType {
				//lint:ignore ST1005 upstream's words
				results = append(results, result{always: true, refusal: fmt.Errorf("valueExpression '%v' resulted in unsupported return type: %v. "+
					"Return type must be either string or null.", p.spec.AuditAnnotations[i].ValueExpression, val.EvalResult.Type())})
			}
		}
	}
	return results, nil
}

// outcome is what all policies together say of a request.
type outcome struct {
	request  *admission.Request
	refusals []failure
	noted    []notedFailure
}

// notedFailure is one in the audit annotation.
type notedFailure struct {
	Message           string                         `json:"message"`
	Policy            string                         `json:"policy"`
	Binding           string                         `json:"binding"`
	ExpressionIndex   int                            `json:"expressionIndex"`
	ValidationActions []admissionv1.ValidationAction `json:"validationActions"`
}

// take acts on the results as the binding says.
func (o *outcome) take(p *validating, b *binding, results []result, found annotations) {
	for _, res := range results {
		if res.key != "" {
			found[res.key] = dedupe(found[res.key], res.value[:min(len(res.value), maxAnnotation)])
			continue
		}
		refusal := failure{head: &p.head, binding: b, cause: res.refusal, reason: res.reason}
		if res.always {
			o.refusals = append(o.refusals, refusal)
			continue
		}
		for _, action := range b.actions {
			switch action {
			case admissionv1.Deny:
				o.refusals = append(o.refusals, refusal)
			case admissionv1.Audit:
				o.noted = append(o.noted, notedFailure{res.refusal.Error(), p.name, b.name, res.index, b.actions})
			case admissionv1.Warn:
				if o.request.Warn != nil {
					o.request.Warn(fmt.Sprintf("Validation failed for ValidatingAdmissionPolicy '%s' with binding '%s': %s", p.name, b.name, res.refusal))
				}
			}
		}
	}
}

// conclude notes the failures, and gives the first refusal.
func (o *outcome) conclude() error {
	if len(o.noted) > 0 && o.request.Annotate != nil {
		if value, err := json.Marshal(o.noted[:min(len(o.noted), maxFailures)]); err == nil {
			o.request.Annotate(failureAnnotation, string(value))
		}
	}
	if len(o.refusals) == 0 {
		return nil
	}
	f := o.refusals[0]
	message := fmt.Sprintf("ValidatingAdmissionPolicy '%s' denied request: %s", f.name, f.cause)
	if f.binding != nil {
		message = fmt.Sprintf("ValidatingAdmissionPolicy '%s' with binding '%s' denied request: %s", f.name, f.binding.name, f.cause)
	}
	status := forbidden(o.request, message)
	if f.reason == "" {
		f.reason = metav1.StatusReasonInvalid
	}
	status.ErrStatus.Reason, status.ErrStatus.Code = f.reason, codeOf(f.reason)
	if d := status.ErrStatus.Details; d != nil {
		d.Causes = append(d.Causes, metav1.StatusCause{Message: message})
	}
	return status
}

func codeOf(reason metav1.StatusReason) int32 {
	switch reason {
	case metav1.StatusReasonForbidden:
		return http.StatusForbidden
	case metav1.StatusReasonUnauthorized:
		return http.StatusUnauthorized
	case metav1.StatusReasonRequestEntityTooLarge:
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusUnprocessableEntity
}

// annotations are a policy's, by their keys; bindings may give several values.
type annotations map[string][]string

func (a annotations) publish(policy string, r *admission.Request) {
	if r.Annotate == nil {
		return
	}
	for key, values := range a {
		r.Annotate(policy+"/"+key, strings.Join(values, ", "))
	}
}
