package apiserver

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/admission/match"
	"github.com/coracle-dev/coracle/apiserver/admission/webhook"
)

// admission is the configured chain with what the cluster's users define.
func (s *Server) admission() (admission.Plugin, error) {
	mutating, validating, err := webhook.New(webhook.Config{
		Reader: NewReader(s.cache), Versions: versions{s}, Service: s.dialService, Authorizer: s.cfg.Authorizer,
	})
	if err != nil {
		return nil, err
	}
	var chain admission.Chain
	switch p := s.cfg.Admission.(type) {
	case nil:
	case admission.Chain:
		chain = p
	default:
		chain = admission.Chain{p}
	}
	return chain.With(mutating, validating), nil
}

// versions is what rest knows of them. rest is made after admission is, and takes it.
type versions struct{ *Server }

func (v versions) Equivalents(resource schema.GroupVersionResource, subresource string) []match.Target {
	return v.rest.Equivalents(resource, subresource)
}

func (v versions) ConvertObject(obj runtime.Object, from, to schema.GroupVersionKind) (runtime.Object, error) {
	return v.rest.ConvertObject(obj, from, to)
}

func (v versions) DecodeObject(data []byte, kind schema.GroupVersionKind) (runtime.Object, error) {
	return v.rest.DecodeObject(data, kind)
}
