package routes

import (
	"net/http"

	"k8s.io/kube-openapi/pkg/common"
)

// route is one operation as kube-openapi's builders see it.
type route struct {
	operation
	id     string
	params []common.Parameter
}

var _ common.Route = (*route)(nil)

func (r *route) Method() string        { return r.method }
func (r *route) Path() string          { return r.path }
func (r *route) OperationName() string { return r.id }
func (r *route) Description() string   { return r.text }
func (r *route) Produces() []string    { return r.produces }

func (r *route) Consumes() []string {
	if r.consumes == nil {
		return anything
	}
	return r.consumes
}

func (r *route) Parameters() []common.Parameter {
	if r.body == nil {
		return r.params
	}
	// Everything but a deletion needs its body.
	return append(r.params[:len(r.params):len(r.params)], parameter{name: "body", kind: common.BodyParameterKind, required: r.method != http.MethodDelete})
}

func (r *route) Metadata() map[string]any {
	return map[string]any{
		"x-kubernetes-action":             r.action,
		"x-kubernetes-group-version-kind": GVK(r.gvk),
	}
}

func (r *route) RequestPayloadSample() any  { return r.body }
func (r *route) ResponsePayloadSample() any { return r.result }

func (r *route) StatusCodeResponses() []common.StatusCodeResponse {
	var out []common.StatusCodeResponse
	for _, code := range r.codes {
		out = append(out, response{code: code, model: r.result})
	}
	return out
}

type response struct {
	code  int
	model any
}

func (r response) Code() int       { return r.code }
func (r response) Message() string { return http.StatusText(r.code) }
func (r response) Model() any      { return r.model }

// parameter is one parameter of an operation.
type parameter struct {
	name, text, dataType string
	kind                 common.ParameterKind
	required, multiple   bool
}

func (p parameter) Name() string               { return p.name }
func (p parameter) Description() string        { return p.text }
func (p parameter) Required() bool             { return p.required }
func (p parameter) Kind() common.ParameterKind { return p.kind }
func (p parameter) DataType() string           { return p.dataType }
func (p parameter) AllowMultiple() bool        { return p.multiple }
