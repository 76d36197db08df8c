// Package policy decides about writes by CEL: ValidatingAdmissionPolicies refuse, warn or note, MutatingAdmissionPolicies
// change the object. Both say what they are about; their bindings say where, and with which parameters. Its invariant: a
// policy is compiled when a request first matches it, and once, so that those nobody matches cost a look at two lists.
package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	kadmission "k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/admission/match"
	"github.com/coracle-dev/coracle/internal/admissioncel"
)

// Objects gives the parameters of policies: objects of any kind that is served.
type Objects interface {
	// Scope tells whether a kind is served, and whether its objects are in namespaces.
	Scope(kind schema.GroupVersionKind) (namespaced, served bool)
	// Object returns one, with its kind set, or a NotFound status error.
	Object(ctx context.Context, kind schema.GroupVersionKind, namespace, name string) (runtime.Object, error)
	// Objects returns those of a namespace (empty: all) that a selector selects.
	Objects(ctx context.Context, kind schema.GroupVersionKind, namespace string, s labels.Selector) ([]runtime.Object, error)
	// TypeConverter gives the schema by which an apply configuration is merged into objects of a kind.
	TypeConverter(kind schema.GroupVersionKind) (managedfields.TypeConverter, error)
}

// Config is what policies need of the server.
type Config struct {
	Reader     admission.Reader
	Versions   match.Versions
	Objects    Objects
	Scheme     *runtime.Scheme
	Authorizer authorizer.UnconditionalAuthorizer
}

// New gives the plug-ins for mutating and for validating policies.
func New(cfg Config) (mutating, validating admission.Plugin) {
	e := &engine{Matcher: match.Matcher{Reader: cfg.Reader, Versions: cfg.Versions}, objects: cfg.Objects, authorizer: cfg.Authorizer}
	return &mutator{
			engine: e, policies: source(e, "mutatingadmissionpolicies", mutatingPolicy), bindings: source(e, "mutatingadmissionpolicybindings", bindingsOf),
			interfaces: kadmission.NewObjectInterfacesFromScheme(cfg.Scheme),
		}, &validator{
			engine: e, policies: source(e, "validatingadmissionpolicies", validatingPolicy), bindings: source(e, "validatingadmissionpolicybindings", bindingsOf),
		}
}

func source[T any](e *engine, resource string, compile func(runtime.Object) []T) *match.Source[T] {
	return match.NewSource(e.Reader, schema.GroupResource{Group: admissionv1.GroupName, Resource: resource}, compile)
}

// engine is what the two kinds of policy have in common.
type engine struct {
	match.Matcher
	objects    Objects
	authorizer authorizer.UnconditionalAuthorizer
}

// head is what the two kinds of policy have in common.
type head struct {
	name       string
	criteria   *match.Criteria
	invalid    error // why it cannot be used
	params     *admissionv1.ParamKind
	failClosed bool
}

func headOf(name string, failure *admissionv1.FailurePolicyType, params *admissionv1.ParamKind, m *admissionv1.MatchResources) head {
	h := head{name: name, params: params, failClosed: failure == nil || *failure == admissionv1.Fail}
	h.criteria, h.invalid = criteriaOf(m)
	return h
}

func criteriaOf(m *admissionv1.MatchResources) (*match.Criteria, error) {
	if m == nil {
		return nil, nil
	}
	return match.Compile(m.ResourceRules, m.ExcludeResourceRules, m.MatchPolicy, m.NamespaceSelector, m.ObjectSelector)
}

// binding puts a policy to work.
type binding struct {
	name, policy string
	criteria     *match.Criteria
	invalid      error
	params       *admissionv1.ParamRef
	actions      []admissionv1.ValidationAction
}

func bindingsOf(obj runtime.Object) []*binding {
	b := &binding{}
	var matching *admissionv1.MatchResources
	switch o := obj.(type) {
	case *admissionv1.ValidatingAdmissionPolicyBinding:
		b.name, b.policy, b.params, b.actions, matching = o.Name, o.Spec.PolicyName, o.Spec.ParamRef, o.Spec.ValidationActions, o.Spec.MatchResources
	case *admissionv1.MutatingAdmissionPolicyBinding:
		b.name, b.policy, b.params, matching = o.Name, o.Spec.PolicyName, o.Spec.ParamRef, o.Spec.MatchResources
	default:
		return nil
	}
	b.criteria, b.invalid = criteriaOf(matching)
	return []*binding{b}
}

// configured says what of a configuration stands in the way.
func configured(b *binding, err error) error {
	if b == nil {
		return fmt.Errorf("failed to configure policy: %w", err)
	}
	return fmt.Errorf("failed to configure binding: %w", err)
}

// failure is why a policy cannot be applied, or refuses.
type failure struct {
	*head
	binding *binding // nil where it is the policy itself
	cause   error
	reason  metav1.StatusReason
}

// use is a policy that a request matches, by one of its bindings, with one of its parameters.
type use struct {
	*binding
	target match.Target
	param  runtime.Object // nil where the policy takes none
}

// uses lists how the request matches a policy. failures are what keeps it from being found out.
func (e *engine) uses(ctx context.Context, r *admission.Request, h *head, bindings []*binding) (uses []use, failures []failure) {
	fail := func(b *binding, err error) {
		failures = append(failures, failure{head: h, binding: b, cause: configured(b, err)})
	}
	if h.invalid != nil {
		fail(nil, h.invalid)
		return nil, failures
	}
	target, ok, err := e.Match(ctx, r, h.criteria)
	if err != nil {
		fail(nil, err)
		return nil, failures
	}
	if !ok {
		return nil, nil
	}
	for _, b := range bindings {
		if b.policy != h.name {
			continue
		}
		params, err := e.paramsOf(ctx, r, h, b)
		if err != nil {
			fail(b, err)
			continue
		}
		for _, p := range params {
			uses = append(uses, use{b, target, p})
		}
	}
	return uses, failures
}

// paramsOf gives the parameters with which a binding applies its policy to the request: none where it does not.
func (e *engine) paramsOf(ctx context.Context, r *admission.Request, h *head, b *binding) ([]runtime.Object, error) {
	if b.invalid != nil {
		return nil, b.invalid
	}
	if _, ok, err := e.Match(ctx, r, b.criteria); err != nil || !ok {
		return nil, err
	}
	if h.params == nil || b.params == nil {
		return []runtime.Object{nil}, nil
	}
	gv, err := schema.ParseGroupVersion(h.params.APIVersion)
	if err != nil {
		return nil, err
	}
	kind := gv.WithKind(h.params.Kind)
	namespaced, served := e.objects.Scope(kind)
	if !served {
		return nil, fmt.Errorf("paramKind kind `%v` not known", h.params.String())
	}
	namespace := b.params.Namespace
	switch {
	case !namespaced && namespace != "":
		return nil, errors.New("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	case namespaced && namespace == "":
		if namespace = r.Namespace; namespace == "" {
			return nil, errors.New("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
		}
	}
	params, err := e.find(ctx, kind, namespace, b.params)
	if err != nil {
		return nil, err
	}
	if len(params) == 0 && b.params.ParameterNotFoundAction != nil && *b.params.ParameterNotFoundAction == admissionv1.DenyAction {
		return nil, errors.New("no params found for policy binding with `Deny` parameterNotFoundAction")
	}
	return params, nil
}

func (e *engine) find(ctx context.Context, kind schema.GroupVersionKind, namespace string, ref *admissionv1.ParamRef) ([]runtime.Object, error) {
	if ref.Name != "" {
		obj, err := e.objects.Object(ctx, kind, namespace, ref.Name)
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return []runtime.Object{obj}, nil
	}
	s, err := metav1.LabelSelectorAsSelector(ref.Selector)
	if err != nil {
		return nil, err
	}
	return e.objects.Objects(ctx, kind, namespace, s)
}

// namespaceOf is the namespace that expressions see: nil for what is in none, and for namespaces.
func (e *engine) namespaceOf(ctx context.Context, r *admission.Request) (*corev1.Namespace, error) {
	if r.Namespace == "" || r.Resource.GroupResource() == (schema.GroupResource{Resource: "namespaces"}) {
		return nil, nil
	}
	return e.Namespace(ctx, r.Namespace)
}

// program is what the expressions of a policy are compiled with: its variables.
type program struct {
	compiler *plugincel.CompositedCompiler
	declared plugincel.OptionalVariableDeclarations
	matcher  matchconditions.Matcher // nil where there are no conditions
}

func newProgram(name string, failure *admissionv1.FailurePolicyType, hasParams bool, variables []admissionv1.Variable, conditions []admissionv1.MatchCondition) (*program, error) {
	compiler, err := admissioncel.NewComposited()
	if err != nil {
		return nil, err
	}
	p := &program{compiler: compiler, declared: plugincel.OptionalVariableDeclarations{HasParams: hasParams, HasAuthorizer: true}}
	for i := range variables {
		compiler.CompileAndStoreVariable(admissioncel.Variable(&variables[i]), p.declared, environment.StoredExpressions)
	}
	if len(conditions) > 0 {
		compiled := compiler.CompileCondition(admissioncel.MatchConditions(conditions), p.declared, environment.StoredExpressions)
		p.matcher = matchconditions.NewMatcher(compiled, failure, "policy", "validate", name)
	}
	return p, nil
}

// forbidden is a refusal in upstream's form: it names the object, by what its name is to be made of if need be.
func forbidden(r *admission.Request, message string) *apierrors.StatusError {
	attrs := kadmission.NewAttributesRecord(r.Object, r.Old, r.Kind, r.Namespace, r.Name, r.Resource, r.Subresource, kadmission.Operation(r.Operation), r.Options, r.DryRun, r.User)
	var status *apierrors.StatusError
	if !errors.As(kadmission.NewForbidden(attrs, errors.New(message)), &status) {
		return apierrors.NewInternalError(errors.New(message))
	}
	return status
}

// dedupe adds what is not there yet.
func dedupe(values []string, value string) []string {
	if slices.Contains(values, value) {
		return values
	}
	return append(values, value)
}
