package apiserver

import (
	"context"

	"k8s.io/apiserver/pkg/authentication/user"
	restclient "k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/apiserver/inprocess"
)

// LocalConfig gives clients inside this process a way to the server that needs neither TCP nor TLS. Requests
// are u's and pass the whole chain. There is no client-side rate limit.
func (s *Server) LocalConfig(u user.Info) *restclient.Config {
	return &restclient.Config{
		Host:      "http://coracle.local",
		QPS:       -1,
		UserAgent: u.GetName(),
		// Those who use it are part of the cluster: what of its API is deprecated is no news to them.
		WarningHandler: restclient.NoWarnings{},
		Transport: &inprocess.Transport{
			Handler: s.handler,
			Context: func(ctx context.Context) context.Context { return auth.WithLocalUser(ctx, u) },
		},
		ContentConfig: restclient.ContentConfig{
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json",
			ContentType:        "application/vnd.kubernetes.protobuf",
		},
	}
}
