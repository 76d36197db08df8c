package apiserver

import (
	"context"
	"net"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/coracle-dev/coracle/apiserver/crd"
	"github.com/coracle-dev/coracle/apiserver/reach"
)

// newDefinitions makes what serves the kinds that CustomResourceDefinitions define.
func (s *Server) newDefinitions() (*crd.Controller, error) {
	client, err := apiextensions.NewForConfig(s.LocalConfig(self))
	if err != nil {
		return nil, err
	}
	cfg := crd.Config{
		Cache: s.cache, Scheme: s.scheme, Rest: s.rest, Client: client.CustomResourceDefinitions(),
		Synced: func() { close(s.health.defined) }, Discovery: s.discovery.SetKinds, Service: s.dialService, Now: s.cfg.Now,
		Document: func(ctx context.Context) ([]byte, error) {
			return client.RESTClient().Get().AbsPath("/openapi/v3/apis/apps/v1").SetHeader("Accept", "application/json").DoRaw(ctx)
		},
	}
	if h, ok := s.cfg.OpenAPI.(documents); ok {
		cfg.OpenAPI = h.SetCustom
	}
	return crd.New(cfg), nil
}

// documents takes OpenAPI documents beside its own.
type documents interface {
	SetCustom(source string, v3 map[string]*spec3.OpenAPI, v2 []*spec.Swagger)
}

// dialService connects to a ready endpoint of a Service's port, on a node through its tunnel.
func (s *Server) dialService(ctx context.Context, namespace, name string, port int32) (net.Conn, error) {
	d := reach.Dialer{Nodes: s.cfg.Nodes, Reader: NewReader(s.cache)}
	return d.DialService(ctx, namespace, name, port)
}
