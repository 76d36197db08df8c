package auth

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/coracle-dev/coracle/internal/pki"
)

func BenchmarkCertificate(b *testing.B) {
	p, err := pki.Open(pki.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	req := &http.Request{TLS: &tls.ConnectionState{PeerCertificates: clientCert(b, p, pki.Admin)}}
	benchmarkAuthenticate(b, p, nil, req)
}

func BenchmarkToken(b *testing.B) {
	p, err := pki.Open(pki.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	f := newFixture(b)
	token := f.issue(b, authenticationv1.TokenRequestSpec{BoundObjectRef: podRef()})
	benchmarkAuthenticate(b, p, f.Tokens, &http.Request{Header: http.Header{"Authorization": {"Bearer " + token}}})
}

func benchmarkAuthenticate(b *testing.B, p *pki.PKI, tokens *Tokens, req *http.Request) {
	a := NewAuthenticator(p.CAPool(), tokens)
	header := req.Header.Clone()
	b.ReportAllocs()
	for b.Loop() {
		req.Header = http.Header{"Authorization": header["Authorization"]}
		if _, ok, err := a.AuthenticateRequest(req); !ok {
			b.Fatal(err)
		}
	}
}

func BenchmarkRBAC(b *testing.B) {
	z := newTestAuthorizer(world())
	// 10,000 other people's bindings must cost nothing.
	for i := range 10000 {
		name := fmt.Sprintf("p%d", i)
		z.Policy().Set(&rbacv1.RoleBinding{ObjectMeta: named1("ns", name, name), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: name}}})
	}
	u := person("p5", "a", "b", "system:authenticated")
	for name, a := range map[string]authorizer.AttributesRecord{
		"allow":  {User: person(user.KubeControllerManager), Verb: "update", APIGroup: "apps", Resource: "deployments", Namespace: "ns", Name: "x", ResourceRequest: true},
		"refuse": {User: u, Verb: "get", Resource: "secrets", Namespace: "ns", Name: "x", ResourceRequest: true},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d, _, _ := z.Authorize(b.Context(), &a); (d == authorizer.DecisionAllow) != (name == "allow") {
					b.Fatal(d)
				}
			}
		})
	}
}
