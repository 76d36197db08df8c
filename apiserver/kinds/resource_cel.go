package kinds

import (
	"errors"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/ext"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/version"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"

	"github.com/coracle-dev/coracle/internal/admissioncel"
)

// deviceEnv is the environment of expressions that select devices. Building it takes a while, so it is built by the first.
var deviceEnv = sync.OnceValues(func() (*cel.Env, error) {
	fields := map[string]*apiservercel.DeclField{}
	add := func(name string, typ *apiservercel.DeclType) {
		fields[name] = apiservercel.NewDeclField(name, typ, true, nil, nil)
	}
	byDomain := func(value *apiservercel.DeclType) *apiservercel.DeclType {
		const most = resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice
		return apiservercel.NewMapType(apiservercel.StringType, apiservercel.NewMapType(apiservercel.StringType, value, most), most)
	}
	add("driver", apiservercel.StringType)
	add("allowMultipleAllocations", apiservercel.BoolType)
	add("attributes", byDomain(apiservercel.AnyType))
	add("capacity", byDomain(apiservercel.QuantityDeclType))
	device := apiservercel.NewObjectType("kubernetes.DRADevice", fields)
	set, err := admissioncel.Base().Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 31),
		EnvOptions:        []cel.EnvOption{cel.Variable("device", device.CelType()), ext.Bindings(ext.BindingsVersion(0))},
		DeclTypes:         []*apiservercel.DeclType{device},
	})
	if err != nil {
		return nil, err
	}
	return set.NewExpressionsEnv(), nil
})

// validateDeviceExpression compiles an expression about a device and bounds what it costs.
func validateDeviceExpression(expression string, path *field.Path) field.ErrorList {
	if len(expression) > resourcev1.CELSelectorExpressionMaxLength {
		return field.ErrorList{field.TooLong(path, "", resourcev1.CELSelectorExpressionMaxLength)}
	}
	env, err := deviceEnv()
	if err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	ast, issues := env.Compile(expression)
	if issues != nil && issues.Err() != nil {
		return field.ErrorList{field.Invalid(path, expression, "compilation failed: "+issues.String())}
	}
	if typ := ast.OutputType(); !typ.IsExactType(cel.BoolType) && !typ.IsExactType(cel.AnyType) && !typ.IsExactType(cel.DynType) {
		return field.ErrorList{field.Invalid(path, expression, "must evaluate to bool or the unknown type, not "+typ.String())}
	}
	cost, err := env.EstimateCost(ast, &library.CostEstimator{SizeEstimator: deviceSizes{}})
	if err != nil {
		return field.ErrorList{field.InternalError(path, errors.New("failed to estimate cost: "+err.Error()))}
	}
	if cost.Max > resourcev1.CELSelectorExpressionMaxCost {
		return field.ErrorList{field.Forbidden(path, "too complex, exceeds cost limit")}
	}
	return nil
}

// deviceSizes knows how large the parts of a device may be.
type deviceSizes struct{}

// EstimateSize implements checker.CostEstimator.
func (deviceSizes) EstimateSize(node checker.AstNode) *checker.SizeEstimate {
	path := node.Path()
	if len(path) < 2 || path[0] != "device" {
		return nil
	}
	switch path[1] {
	case "driver":
		return &checker.SizeEstimate{Max: resourcev1.DriverNameMaxLength}
	case "attributes", "capacity":
		if last := path[len(path)-1]; last == "@keys" {
			return &checker.SizeEstimate{Max: resourcev1.DeviceMaxDomainLength}
		}
		if len(path) <= 3 {
			return &checker.SizeEstimate{Max: resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice}
		}
		return &checker.SizeEstimate{Max: resourcev1.DeviceAttributeMaxValueLength}
	}
	return nil
}

// EstimateCallCost implements checker.CostEstimator: no function is special here.
func (deviceSizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}
