package apiserver

import (
	"context"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/admission/match"
	"github.com/coracle-dev/coracle/apiserver/admission/policy"
	"github.com/coracle-dev/coracle/apiserver/admission/webhook"
	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// admission is the configured chain with what the cluster's users define.
func (s *Server) admission() (admission.Plugin, error) {
	mutating, validating, err := webhook.New(webhook.Config{
		Reader: NewReader(s.cache), Versions: versions{s}, Service: s.dialService, Authorizer: s.cfg.Authorizer,
	})
	if err != nil {
		return nil, err
	}
	changing, deciding := policy.New(policy.Config{
		Reader: NewReader(s.cache), Versions: versions{s}, Objects: versions{s}, Scheme: kinds.Scheme(), Authorizer: s.cfg.Authorizer,
	})
	var chain admission.Chain
	switch p := s.cfg.Admission.(type) {
	case nil:
	case admission.Chain:
		chain = p
	default:
		chain = admission.Chain{p}
	}
	return chain.With(changing, mutating, deciding, validating), nil
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

func (v versions) Scope(kind schema.GroupVersionKind) (namespaced, served bool) {
	return v.rest.Scope(kind)
}

func (v versions) Object(ctx context.Context, kind schema.GroupVersionKind, namespace, name string) (runtime.Object, error) {
	return v.rest.Object(ctx, kind, namespace, name)
}

func (v versions) Objects(ctx context.Context, kind schema.GroupVersionKind, namespace string, s labels.Selector) ([]runtime.Object, error) {
	return v.rest.Objects(ctx, kind, namespace, s)
}

func (v versions) TypeConverter(kind schema.GroupVersionKind) (managedfields.TypeConverter, error) {
	return v.rest.TypeConverter(kind)
}
