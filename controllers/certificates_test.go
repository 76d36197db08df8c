package controllers_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
	"github.com/coracle-dev/coracle/controllers"
)

// newCA makes a CA that is valid for so long.
func newCA(t *testing.T, life time.Duration) (bundle []byte, key crypto.Signer, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(cert)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), private, pool
}

func signingRequest(t *testing.T, name, signer string, of x509.CertificateRequest, usages ...certificatesv1.KeyUsage) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &of, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: signer, Usages: usages}}
}

// approve is `kubectl certificate approve`.
func approve(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	ctx := context.Background()
	r, err := client.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "KubectlApprove", Message: "This CSR was approved by kubectl certificate approve."})
	if _, err := client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, name, r, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// settled waits until the request has a certificate or has failed.
func settled(t *testing.T, client kubernetes.Interface, name string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		r, err := client.CertificatesV1().CertificateSigningRequests().Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		failed := slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
			return c.Type == certificatesv1.CertificateFailed
		})
		if len(r.Status.Certificate) > 0 || failed {
			return r
		}
	}
	t.Fatalf("request %s was not settled", name)
	return nil
}

func issued(t *testing.T, r *certificatesv1.CertificateSigningRequest) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(r.Status.Certificate)
	if block == nil {
		t.Fatalf("no certificate: %+v", r.Status.Conditions)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestApprovedRequestsAreSigned(t *testing.T) {
	bundle, key, pool := newCA(t, 10*365*24*time.Hour)
	c := start(t, func(cfg *controllers.Config) { cfg.ClusterCA, cfg.SigningKey = bundle, key })
	requests := c.client.CertificatesV1().CertificateSigningRequests()
	r := signingRequest(t, "jane", certificatesv1.KubeAPIServerClientSignerName,
		x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane", Organization: []string{"dev"}}}, certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature)
	r.Spec.ExpirationSeconds = ptr.To[int32](3600)
	if _, err := requests.Create(c.ctx, r, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	approve(t, c.client, "jane")
	cert := issued(t, settled(t, c.client, "jane"))
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if cert.Subject.CommonName != "jane" || !slices.Equal(cert.Subject.Organization, []string{"dev"}) || cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("certificate of %v, CA %v, usage %v", cert.Subject, cert.IsCA, cert.KeyUsage)
	}
	if life := cert.NotAfter.Sub(cert.NotBefore); life != time.Hour+5*time.Minute {
		t.Errorf("valid for %v", life)
	}
}

func TestSignersRefuse(t *testing.T) {
	bundle, key, _ := newCA(t, time.Hour)
	c := start(t, func(cfg *controllers.Config) { cfg.ClusterCA, cfg.SigningKey = bundle, key })
	node := pkix.Name{CommonName: "system:node:n", Organization: []string{"system:nodes"}}
	serving, client, digital := certificatesv1.UsageServerAuth, certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature
	for _, k := range []struct {
		name, signer, refusal string
		of                    x509.CertificateRequest
		usages                []certificatesv1.KeyUsage
	}{
		{"client-serving", certificatesv1.KubeAPIServerClientSignerName, "invalid usage for client certificate: server auth", x509.CertificateRequest{}, []certificatesv1.KeyUsage{client, serving}},
		{"client-nothing", certificatesv1.KubeAPIServerClientSignerName, "missing required usage for client certificate: client auth", x509.CertificateRequest{}, []certificatesv1.KeyUsage{digital}},
		{"node-of-nobody", certificatesv1.KubeAPIServerClientKubeletSignerName, "subject organization is not system:nodes",
			x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n"}}, []certificatesv1.KeyUsage{client, digital}},
		{"node-named-else", certificatesv1.KubeAPIServerClientKubeletSignerName, "subject common name does not begin with system:node:",
			x509.CertificateRequest{Subject: pkix.Name{CommonName: "n", Organization: node.Organization}}, []certificatesv1.KeyUsage{client, digital}},
		{"node-with-names", certificatesv1.KubeAPIServerClientKubeletSignerName, "DNS subjectAltNames are not allowed",
			x509.CertificateRequest{Subject: node, DNSNames: []string{"n"}}, []certificatesv1.KeyUsage{client, digital}},
		{"serving-no-names", certificatesv1.KubeletServingSignerName, "DNS or IP subjectAltName is required", x509.CertificateRequest{Subject: node}, []certificatesv1.KeyUsage{serving, digital}},
		{"serving-as-client", certificatesv1.KubeletServingSignerName, "usages did not match [digital signature key encipherment server auth]",
			x509.CertificateRequest{Subject: node, IPAddresses: []net.IP{{10, 0, 0, 1}}}, []certificatesv1.KeyUsage{client, digital}},
		{"serving", certificatesv1.KubeletServingSignerName, "", x509.CertificateRequest{Subject: node, IPAddresses: []net.IP{{10, 0, 0, 1}}}, []certificatesv1.KeyUsage{serving, digital}},
	} {
		if _, err := c.client.CertificatesV1().CertificateSigningRequests().Create(c.ctx, signingRequest(t, k.name, k.signer, k.of, k.usages...), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		approve(t, c.client, k.name)
		r := settled(t, c.client, k.name)
		if k.refusal == "" {
			if cert := issued(t, r); len(cert.IPAddresses) != 1 || cert.NotAfter.After(time.Now().Add(time.Hour+time.Minute)) {
				t.Errorf("%s: names %v, until %v, the CA's end is in an hour", k.name, cert.IPAddresses, cert.NotAfter)
			}
			continue
		}
		last := r.Status.Conditions[len(r.Status.Conditions)-1]
		if last.Type != certificatesv1.CertificateFailed || last.Reason != "SignerValidationFailure" || last.Message != k.refusal || len(r.Status.Certificate) > 0 {
			t.Errorf("%s: %+v", k.name, last)
		}
	}
}

// nodesOnly reviews access: all may ask for themselves, system:bootstrap:x for any node.
type nodesOnly struct{}

func (nodesOnly) Review(_ context.Context, _ user.Info, _ string, obj runtime.Object) (runtime.Object, error) {
	review := obj.(*authorizationv1.SubjectAccessReview).DeepCopy()
	a := review.Spec.ResourceAttributes
	asks := a.Verb == "create" && a.Group == "certificates.k8s.io" && a.Resource == "certificatesigningrequests"
	review.Status.Allowed = asks && (a.Subresource == "selfnodeclient" || a.Subresource == "nodeclient" && strings.HasPrefix(review.Spec.User, "system:bootstrap:"))
	return review, nil
}

func TestNodesAreApproved(t *testing.T) {
	bundle, key, _ := newCA(t, time.Hour)
	var server *apiserver.Server
	c := start(t, func(cfg *controllers.Config) {
		server = apiservertest.StartServer(t, apiserver.Config{Store: memory.New(), Reviews: nodesOnly{}})
		cfg.RestConfig, cfg.ClusterCA, cfg.SigningKey = server.LocalConfig(apiservertest.Admin), bundle, key
	})
	node := x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n", Organization: []string{"system:nodes"}}}
	usages := []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature}
	admin := kubernetes.NewForConfigOrDie(server.LocalConfig(apiservertest.Admin))
	for name, as := range map[string]struct{ user, message string }{
		"self":      {"system:node:n", "Auto approving self kubelet client certificate after SubjectAccessReview."},
		"bootstrap": {"system:bootstrap:x", "Auto approving kubelet client certificate after SubjectAccessReview."},
		"other":     {"system:node:m", ""},
	} {
		client := kubernetes.NewForConfigOrDie(server.LocalConfig(&user.DefaultInfo{Name: as.user}))
		r := signingRequest(t, name, certificatesv1.KubeAPIServerClientKubeletSignerName, node, usages...)
		if _, err := client.CertificatesV1().CertificateSigningRequests().Create(c.ctx, r, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if as.message == "" {
			continue
		}
		got := settled(t, admin, name)
		if first := got.Status.Conditions[0]; first.Reason != "AutoApproved" || first.Message != as.message {
			t.Errorf("%s: %+v", name, first)
		}
		issued(t, got)
	}
	r, err := admin.CertificatesV1().CertificateSigningRequests().Get(c.ctx, "other", metav1.GetOptions{})
	if err != nil || len(r.Status.Conditions) > 0 {
		t.Errorf("another's request: %+v, %v", r.Status, err)
	}
}
