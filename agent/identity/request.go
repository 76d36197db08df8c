package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate/csr"

	"github.com/coracle-dev/coracle/internal/pki"
)

// usages of a certificate whose key is of an elliptic curve.
var usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}

// request makes a key and has the cluster sign a certificate for it; it waits for as long as that takes. The request of a
// machine that joins is called node-csr-..., as upstream's.
func request(ctx context.Context, kube kubernetes.Interface, node string, joining bool) (pki.Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pki.Pair{}, err
	}
	id := pki.Node(node)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: id.Name, Organization: id.Groups}}, key)
	if err != nil {
		return pki.Pair{}, err
	}
	name := ""
	if joining {
		name = fmt.Sprintf("node-csr-%x", sha256.Sum256(der))
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	name, uid, err := csr.RequestCertificateWithContext(ctx, kube, text, name, certificatesv1.KubeAPIServerClientKubeletSignerName, nil, usages, key)
	if err != nil {
		return pki.Pair{}, refused(err)
	}
	cert, err := csr.WaitForCertificate(ctx, kube, name, uid)
	if err != nil {
		return pki.Pair{}, fmt.Errorf("the request %s for the node's certificate: %w", name, err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return pki.Pair{}, err
	}
	return pki.Pair{Cert: cert, Key: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})}, nil
}
