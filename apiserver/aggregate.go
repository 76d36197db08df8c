package apiserver

import (
	"context"

	apiregistration "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"

	"github.com/coracle-dev/coracle/apiserver/aggregation"
	"github.com/coracle-dev/coracle/apiserver/podmetrics"
)

// newAggregation makes what serves the groups of other API servers.
func (s *Server) newAggregation() (*aggregation.Controller, error) {
	client, err := apiregistration.NewForConfig(s.LocalConfig(self))
	if err != nil {
		return nil, err
	}
	cfg := aggregation.Config{
		Reader: NewReader(s.cache), Nodes: s.cfg.Nodes, Client: client.APIServices(), Discovery: s.discovery, Certificate: s.cfg.FrontProxyCert,
	}
	if h, ok := s.cfg.OpenAPI.(documents); ok {
		cfg.OpenAPI = h.SetCustom
		own, err := podmetrics.OpenAPI()
		if err != nil {
			return nil, err
		}
		h.SetCustom("metrics", own, nil)
	}
	return aggregation.New(cfg), nil
}

// aggregate keeps APIServices, and the routes that they lead to.
func (s *Server) aggregate(ctx context.Context) error {
	if err := s.cache.WaitReady(ctx); err != nil {
		return nil // ctx has ended
	}
	return s.external.Run(ctx)
}
