package auth

import (
	"errors"
	"net/http"
	"slices"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// HealthPaths are those that may be left open where nothing else is, for load balancers and probes.
var HealthPaths = []string{"/livez", "/readyz", "/healthz"}

var errNoCredentials = errors.New("no credentials, and anonymous requests are not allowed here")

// LimitAnonymous lets requests without credentials only to the paths listed; none: nowhere.
func LimitAnonymous(a authenticator.Request, paths ...string) authenticator.Request {
	return authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
		resp, ok, err := a.AuthenticateRequest(req)
		if err == nil && ok && resp.User.GetName() == user.Anonymous && !slices.Contains(paths, req.URL.Path) {
			return nil, false, errNoCredentials
		}
		return resp, ok, err
	})
}
