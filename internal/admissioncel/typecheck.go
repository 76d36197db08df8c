package admissioncel

import (
	"errors"
	"fmt"

	"github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/version"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
)

// Types are those of a policy's variables as a schema tells them. A nil type may be anything.
type Types struct {
	Object, Params *apiservercel.DeclType
	// HasParams: the policy has a paramKind.
	HasParams bool
}

// Check compiles an expression of a policy with these types, and gives what the compiler finds wrong with it; empty where
// nothing is. An error is one of the environment.
func (t Types) Check(variables []admissionregistrationv1.Variable, expression string) (issues string, err error) {
	set, err := t.environment()
	if err != nil {
		return "", err
	}
	composed, err := plugincel.NewCompositedCompilerForTypeChecking(set)
	if err != nil {
		return "", err
	}
	checker := typeChecker{composed}
	composed.Compiler = checker
	for i := range variables {
		composed.CompileAndStoreVariable(Variable(&variables[i]), plugincel.OptionalVariableDeclarations{}, environment.StoredExpressions)
	}
	result := checker.CompileCELExpression(&Expression{Text: expression}, plugincel.OptionalVariableDeclarations{}, environment.StoredExpressions)
	switch {
	case result.Error == nil:
		return "", nil
	case result.Error.Type == apiservercel.ErrorTypeInvalid:
		return result.Error.Error(), nil
	}
	return "", errors.New(result.Error.Detail)
}

func (t Types) environment() (*environment.EnvSet, error) {
	namespace, request := plugincel.BuildNamespaceType(), plugincel.BuildRequestType()
	types := []*apiservercel.DeclType{namespace, request}
	variables := []cel.EnvOption{
		cel.Variable(plugincel.NamespaceVarName, namespace.CelType()),
		cel.Variable(plugincel.RequestVarName, request.CelType()),
		cel.Variable(plugincel.AuthorizerVarName, library.AuthorizerType),
	}
	declare := func(t *apiservercel.DeclType, names ...string) {
		of := cel.DynType
		if t != nil {
			of, types = t.CelType(), append(types, t)
		}
		for _, name := range names {
			variables = append(variables, cel.Variable(name, of))
		}
	}
	declare(t.Object, plugincel.ObjectVarName, plugincel.OldObjectVarName)
	if t.HasParams {
		declare(t.Params, plugincel.ParamsVarName)
	}
	return Base().Extend(environment.VersionedOptions{IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: variables, DeclTypes: types})
}

// typeChecker compiles without making programs, and takes any type of result.
type typeChecker struct{ composed *plugincel.CompositedCompiler }

// CompileCELExpression implements plugincel.Compiler.
func (c typeChecker) CompileCELExpression(e plugincel.ExpressionAccessor, _ plugincel.OptionalVariableDeclarations, mode environment.Type) plugincel.CompilationResult {
	failed := func(kind apiservercel.ErrorType, detail string) plugincel.CompilationResult {
		return plugincel.CompilationResult{ExpressionAccessor: e, Error: &apiservercel.Error{Type: kind, Detail: detail}}
	}
	env, err := c.composed.Env(mode)
	if err != nil {
		return failed(apiservercel.ErrorTypeInternal, fmt.Sprintf("fail to build env: %v", err))
	}
	ast, issues := env.Compile(e.GetExpression())
	if issues != nil {
		return failed(apiservercel.ErrorTypeInvalid, issues.String())
	}
	return plugincel.CompilationResult{OutputType: ast.OutputType()}
}
