package auth

import (
	"crypto/tls"
	"net/http"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"

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
