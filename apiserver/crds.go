package apiserver

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/coracle-dev/coracle/apiserver/crd"
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

// dialService connects to a port of a Service: to its cluster IP, or to the name that it stands for.
func (s *Server) dialService(ctx context.Context, namespace, name string, port int32) (net.Conn, error) {
	obj, err := NewReader(s.cache).Get(ctx, schema.GroupResource{Resource: "services"}, namespace, name)
	if err != nil {
		return nil, err
	}
	service, ok := obj.(*corev1.Service)
	if !ok {
		return nil, fmt.Errorf("unexpected object: %T", obj)
	}
	host := service.Spec.ClusterIP
	switch {
	case service.Spec.Type == corev1.ServiceTypeExternalName:
		host = service.Spec.ExternalName
	case host == "" || host == corev1.ClusterIPNone:
		return nil, fmt.Errorf("cannot route to service with ClusterIP %q", host)
	case !slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == port }):
		return nil, fmt.Errorf("no service port %d found for service %q", port, name)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
}
