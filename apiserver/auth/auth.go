// Package auth tells who a request is from and whether they may. Its invariants: a credential that was shown and does
// not hold up refuses the request, it never falls back to being anonymous; nothing is allowed that no role of the user's and no
// node rule names; a service account token is worth no more than the live objects it is bound to.
package auth

import (
	"context"
	"crypto/x509"
	"net/http"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Reader is how this package looks at live objects: immutable, from the watch cache.
type Reader interface {
	// Get returns the object or a NotFound status error; namespace is empty for cluster-scoped resources.
	Get(ctx context.Context, resource schema.GroupResource, namespace, name string) (runtime.Object, error)
	// List returns the objects of a namespace (empty: all).
	List(ctx context.Context, resource schema.GroupResource, namespace string) ([]runtime.Object, metav1.ListMeta, error)
}

// NewAuthenticator tries, in this order: an identity this process put into the context (WithLocalUser), a client
// certificate of clientCAs, a bearer token. Others, such as a FrontProxy's, come before the certificate. A request that shows none
// of them is system:anonymous.
func NewAuthenticator(clientCAs *x509.CertPool, tokens authenticator.Token, others ...authenticator.Request) authenticator.Request {
	chain := slices.Concat([]authenticator.Request{authenticator.RequestFunc(authenticateLocal)}, others,
		[]authenticator.Request{newCertificates(clientCAs), &bearer{tokens: tokens}})
	return authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
		for _, link := range chain {
			resp, ok, err := link.AuthenticateRequest(req)
			if err != nil {
				return nil, false, err
			}
			if ok {
				return authenticated(resp), true, nil
			}
		}
		return anonymous(), true, nil
	})
}

type localUserKey struct{}

// WithLocalUser marks a request made inside this process as u's. Only code that holds the request's context before
// it is served can do so: nothing that arrives over a connection can.
func WithLocalUser(ctx context.Context, u user.Info) context.Context {
	return context.WithValue(ctx, localUserKey{}, u)
}

func authenticateLocal(req *http.Request) (*authenticator.Response, bool, error) {
	u, ok := req.Context().Value(localUserKey{}).(user.Info)
	if !ok || u == nil {
		return nil, false, nil
	}
	return &authenticator.Response{User: u}, true, nil
}

func anonymous() *authenticator.Response {
	return &authenticator.Response{User: &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}}
}

// authenticated adds the group that every user with a name belongs to.
func authenticated(resp *authenticator.Response) *authenticator.Response {
	u := resp.User
	if u.GetName() == user.Anonymous || slices.Contains(u.GetGroups(), user.AllAuthenticated) || slices.Contains(u.GetGroups(), user.AllUnauthenticated) {
		return resp
	}
	out := *resp
	out.User = &user.DefaultInfo{
		Name:   u.GetName(),
		UID:    u.GetUID(),
		Groups: append(slices.Clone(u.GetGroups()), user.AllAuthenticated),
		Extra:  u.GetExtra(),
	}
	return &out
}
