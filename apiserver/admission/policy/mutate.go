package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kadmission "k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/admission/match"
	"github.com/coracle-dev/coracle/internal/admissioncel"
)

// mutator applies MutatingAdmissionPolicies, one after another: each sees what those before it made of the object.
type mutator struct {
	*engine
	policies   *match.Source[*mutating]
	bindings   *match.Source[*binding]
	interfaces kadmission.ObjectInterfaces
}

// mutating is a MutatingAdmissionPolicy.
type mutating struct {
	head
	reinvoke bool
	compile  func() (*mutations, error)
}

// mutations are a policy's expressions.
type mutations struct {
	*program
	patchers []patch.Patcher
}

func mutatingPolicy(obj runtime.Object) []*mutating {
	o, ok := obj.(*admissionv1.MutatingAdmissionPolicy)
	if !ok {
		return nil
	}
	s := &o.Spec
	p := &mutating{head: headOf(o.Name, s.FailurePolicy, s.ParamKind, s.MatchConstraints), reinvoke: s.ReinvocationPolicy == admissionv1.IfNeededReinvocationPolicy}
	p.compile = sync.OnceValues(func() (*mutations, error) { return compileMutations(o.Name, s) })
	return []*mutating{p}
}

func compileMutations(name string, s *admissionv1.MutatingAdmissionPolicySpec) (*mutations, error) {
	p, err := newProgram(name, s.FailurePolicy, s.ParamKind != nil, s.Variables, s.MatchConditions)
	if err != nil {
		return nil, err
	}
	declared := p.declared
	declared.HasPatchTypes = true
	out := &mutations{program: p}
	for i := range s.Mutations {
		e := admissioncel.Mutation(&s.Mutations[i])
		if e == nil {
			return nil, fmt.Errorf("mutation %d has no expression for its patchType %s", i, s.Mutations[i].PatchType)
		}
		compiled := p.compiler.CompileMutatingEvaluator(e, declared, environment.StoredExpressions)
		if s.Mutations[i].PatchType == admissionv1.PatchTypeJSONPatch {
			out.patchers = append(out.patchers, patch.NewJSONPatcher(compiled))
		} else {
			out.patchers = append(out.patchers, patch.NewApplyConfigurationPatcher(compiled))
		}
	}
	return out, nil
}

// Name implements admission.Plugin.
func (m *mutator) Name() string { return "MutatingAdmissionPolicy" }

// Validate implements admission.Plugin.
func (m *mutator) Validate(context.Context, *admission.Request) error { return nil }

// Mutate implements admission.Plugin.
func (m *mutator) Mutate(ctx context.Context, r *admission.Request) error {
	policies, err := m.policies.All(ctx)
	if err != nil || len(policies) == 0 || r.Object == nil || match.Exempt(r) {
		return err
	}
	bindings, err := m.bindings.All(ctx)
	if err != nil {
		return err
	}
	seen := admission.Note[admission.Passes](r, m)
	seen.Begin(r)
	namespace, err := m.namespaceOf(ctx, r)
	if err != nil {
		return err
	}
	var failures []failure
	for _, p := range policies {
		uses, failed := m.uses(ctx, r, &p.head, bindings)
		failures = append(failures, failed...)
		for _, u := range uses {
			failed, err := m.use(ctx, r, p, u, namespace, seen)
			if err != nil {
				return err
			}
			failures = append(failures, failed...)
		}
	}
	seen.End(r)
	return refused(r, failures)
}

// use applies a policy once. What fails counts as the policy says; err is what ends the request whatever that is.
func (m *mutator) use(ctx context.Context, r *admission.Request, p *mutating, u use, namespace *corev1.Namespace, seen *admission.Passes) (failures []failure, err error) {
	fail := func(err error) {
		failures = append(failures, failure{head: &p.head, binding: u.binding, cause: err, reason: metav1.StatusReasonInvalid})
	}
	program, err := p.compile()
	if err != nil {
		fail(fmt.Errorf("failed to initialize CEL compiler: %w", err))
		return failures, nil
	}
	ctx = program.compiler.CreateContext(ctx)
	attrs, err := m.Versioned(r, u.target)
	if err != nil {
		fail(err)
		return failures, nil
	}
	if program.matcher != nil {
		switch result := program.matcher.Match(ctx, attrs, u.param, m.authorizer); {
		case result.Error != nil:
			fail(result.Error)
			return failures, nil
		case !result.Matches:
			return nil, nil
		}
	}
	key := p.name + "/" + u.name + "/" + nameOf(u.param)
	if !seen.Runs(r, key) {
		return nil, nil
	}
	before := r.Object.DeepCopyObject()
	for _, patcher := range program.patchers {
		var status *apierrors.StatusError
		err := m.mutate(ctx, r, patcher, u, namespace)
		switch {
		case errors.As(err, &status):
			return nil, status
		case err != nil:
			fail(err)
		}
	}
	seen.Ran(r, key, !apiequality.Semantic.DeepEqual(before, r.Object), p.reinvoke)
	return failures, nil
}

func nameOf(param runtime.Object) string {
	if param == nil {
		return ""
	}
	m, err := meta.Accessor(param)
	if err != nil {
		return ""
	}
	return m.GetNamespace() + "/" + m.GetName()
}

// mutate puts what one mutation makes of the request's object in its place.
func (m *mutator) mutate(ctx context.Context, r *admission.Request, patcher patch.Patcher, u use, namespace *corev1.Namespace) error {
	attrs, err := m.Versioned(r, u.target)
	if err != nil {
		return err
	}
	converter, err := m.objects.TypeConverter(u.target.Kind)
	if err != nil {
		return err
	}
	attrs.VersionedObject.Object().GetObjectKind().SetGroupVersionKind(u.target.Kind)
	patched, err := patcher.Patch(ctx, patch.Request{
		MatchedResource: u.target.Resource, VersionedAttributes: attrs, ObjectInterfaces: m.interfaces,
		OptionalVariables: plugincel.OptionalVariableBindings{VersionedParams: u.param, Authorizer: m.authorizer},
		Namespace:         plugincel.CreateNamespaceObject(namespace), TypeConverter: converter,
	}, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return err
	}
	data, err := json.Marshal(patched)
	if err != nil {
		return err
	}
	obj, err := m.Versions.DecodeObject(data, u.target.Kind)
	if err != nil {
		return err
	}
	return m.Replace(r, u.target, obj)
}

// refused is the error of the failures that count.
func refused(r *admission.Request, failures []failure) error {
	var status *apierrors.StatusError
	for _, f := range failures {
		if !f.failClosed {
			continue
		}
		message := fmt.Sprintf("policy %q denied request: %s", f.name, f.cause)
		if f.binding != nil {
			message = fmt.Sprintf("policy '%s' with binding '%s' denied request: %s", f.name, f.binding.name, f.cause)
		}
		if status == nil {
			status = forbidden(r, "admission request denied by policy")
			status.ErrStatus.Message = message
			if f.reason != "" {
				status.ErrStatus.Reason = f.reason
			}
		}
		if d := status.ErrStatus.Details; d != nil {
			d.Causes = append(d.Causes, metav1.StatusCause{Message: message})
		}
	}
	if status == nil {
		return nil
	}
	return status
}
