// Package admissioncel compiles the CEL expressions of admission: match conditions of webhooks, and everything in the two
// kinds of admission policy. Its environments take milliseconds and megabytes to build, so the first use builds them.
package admissioncel

import (
	"sync"

	"github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Base is the environment that every expression of the API starts from.
var Base = sync.OnceValue(func() *environment.EnvSet {
	return environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
})

// Conditions compiles conditions that know no variables: those of webhooks.
var Conditions = sync.OnceValue(func() plugincel.ConditionCompiler { return plugincel.NewConditionCompiler(Base()) })

// Expressions compiles single expressions that know no variables, to check them.
var Expressions = sync.OnceValue(func() plugincel.Compiler { return plugincel.NewCompiler(Base()) })

// NewComposited compiles the expressions of one policy, which share its variables.
func NewComposited() (*plugincel.CompositedCompiler, error) {
	return plugincel.NewCompositedCompiler(Base())
}

// Expression is one with the types that it may have.
type Expression struct {
	Name  string // of a condition or a variable
	Text  string
	Types []*cel.Type
}

// GetExpression implements plugincel.ExpressionAccessor.
func (e *Expression) GetExpression() string { return e.Text }

// ReturnTypes implements plugincel.ExpressionAccessor.
func (e *Expression) ReturnTypes() []*cel.Type { return e.Types }

// GetName implements plugincel.NamedExpressionAccessor.
func (e *Expression) GetName() string { return e.Name }

// Condition is one that is true or false.
func Condition(name, text string) *Expression {
	return &Expression{name, text, []*cel.Type{cel.BoolType}}
}

// Variable is of any type.
func Variable(v *admissionregistrationv1.Variable) *Expression {
	return &Expression{v.Name, v.Expression, []*cel.Type{cel.AnyType, cel.DynType}}
}

// Message gives a string.
func Message(text string) *Expression { return &Expression{"", text, []*cel.Type{cel.StringType}} }

// Annotation gives a string, or null where there is to be none.
func Annotation(key, text string) *Expression {
	return &Expression{key, text, []*cel.Type{cel.StringType, cel.NullType}}
}

// Mutation gives what a mutation of its patch type wants. It is nil where the mutation lacks what its type names.
func Mutation(m *admissionregistrationv1.Mutation) plugincel.ExpressionAccessor {
	switch {
	case m.PatchType == admissionregistrationv1.PatchTypeJSONPatch && m.JSONPatch != nil:
		return &patch.JSONPatchCondition{Expression: m.JSONPatch.Expression}
	case m.PatchType == admissionregistrationv1.PatchTypeApplyConfiguration && m.ApplyConfiguration != nil:
		return &patch.ApplyConfigurationCondition{Expression: m.ApplyConfiguration.Expression}
	}
	return nil
}

// CompileConditions compiles match conditions that know no variables and no parameters.
func CompileConditions(conditions []admissionregistrationv1.MatchCondition) plugincel.ConditionEvaluator {
	return Conditions().CompileCondition(MatchConditions(conditions), plugincel.OptionalVariableDeclarations{HasAuthorizer: true}, environment.StoredExpressions)
}

// MatchConditions are conditions in the form that matchconditions.NewMatcher wants.
func MatchConditions(conditions []admissionregistrationv1.MatchCondition) []plugincel.ExpressionAccessor {
	out := make([]plugincel.ExpressionAccessor, len(conditions))
	for i := range conditions {
		out[i] = (*matchconditions.MatchCondition)(&conditions[i])
	}
	return out
}
