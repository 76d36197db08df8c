package csr

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
)

func TestCheck(t *testing.T) {
	node := pkix.Name{CommonName: "system:node:n", Organization: []string{"system:nodes"}}
	usages := func(u ...certificatesv1.KeyUsage) []certificatesv1.KeyUsage { return u }
	client, serving := usages(certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature), usages(certificatesv1.UsageServerAuth, certificatesv1.UsageDigitalSignature)
	for _, c := range []struct {
		name, signer string
		req          x509.CertificateRequest
		usages       []certificatesv1.KeyUsage
		want         string
	}{
		{"node", certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: node}, client, ""},
		{"node with RSA", certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: node}, append(client, certificatesv1.UsageKeyEncipherment), ""},
		{"node that serves", certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: node}, serving,
			"usages did not match [client auth digital signature key encipherment]"},
		{"node with mail", certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: node, EmailAddresses: []string{"a@b"}}, client,
			"Email subjectAltNames are not allowed"},
		{"two groups", certificatesv1.KubeAPIServerClientKubeletSignerName,
			x509.CertificateRequest{Subject: pkix.Name{CommonName: node.CommonName, Organization: []string{"system:nodes", "system:masters"}}}, client,
			"subject organization is not system:nodes"},
		{"serving", certificatesv1.KubeletServingSignerName, x509.CertificateRequest{Subject: node, DNSNames: []string{"n"}}, serving, ""},
		{"serving a URI", certificatesv1.KubeletServingSignerName, x509.CertificateRequest{Subject: node, DNSNames: []string{"n"}, URIs: []*url.URL{{}}}, serving,
			"URI subjectAltNames are not allowed"},
		{"client", certificatesv1.KubeAPIServerClientSignerName, x509.CertificateRequest{}, client, ""},
		{"legacy", LegacyUnknownSigner, x509.CertificateRequest{}, nil, ""},
		{"another's", "example.com/signer", x509.CertificateRequest{}, client, `unrecognized signerName: "example.com/signer"`},
	} {
		got := ""
		if err := Check(c.signer, &c.req, c.usages); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, text []byte) {
		req, err := Parse(text)
		if err != nil {
			return
		}
		for _, signer := range []string{certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName} {
			_ = Check(signer, req, nil) // must not panic
		}
	})
}
