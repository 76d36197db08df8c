package certificates

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/csr"
)

const (
	// longest is Authority.Longest where that is not set.
	longest = 365 * 24 * time.Hour
	// shortest is how long it is valid at least.
	shortest = 10 * time.Minute
	// backdate makes certificates valid in the eyes of machines whose clocks are late.
	backdate = 5 * time.Minute
	// short is below what validity the backdating comes on top: it would be more than a hundredth.
	short = 8 * time.Hour
)

// Authority signs. Cert must be a CA's certificate and Key its key.
type Authority struct {
	Cert *x509.Certificate
	Key  crypto.Signer
	// Longest is how long a certificate is valid at most, and where the request does not say; a year when zero.
	Longest time.Duration
}

// ParseAuthority pairs the first certificate of a PEM bundle with its key.
func ParseAuthority(bundle []byte, key crypto.Signer) (Authority, error) {
	block, _ := pem.Decode(bundle)
	if block == nil {
		return Authority{}, errors.New("certificates: no PEM certificate of the CA")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Authority{}, fmt.Errorf("certificates: the CA: %w", err)
	}
	public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return Authority{}, errors.New("certificates: the key is not that of the CA's certificate")
	}
	return Authority{Cert: cert, Key: key}, nil
}

// NewSigner signs approved requests to the cluster's own signers.
func NewSigner(e env.Env, ca Authority) *Controller {
	c := newController(e, "csrsigning")
	c.handle = func(ctx context.Context, r *certificatesv1.CertificateSigningRequest) error {
		return c.sign(ctx, ca, r)
	}
	return c
}

// own are the signers whose requests are signed here.
var own = []string{
	certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName,
	certificatesv1.KubeletServingSignerName, csr.LegacyUnknownSigner,
}

func (c *Controller) sign(ctx context.Context, ca Authority, r *certificatesv1.CertificateSigningRequest) error {
	if len(r.Status.Certificate) > 0 || !slices.Contains(own, r.Spec.SignerName) || !has(r, certificatesv1.CertificateApproved) ||
		has(r, certificatesv1.CertificateDenied) || has(r, certificatesv1.CertificateFailed) {
		return nil
	}
	req, err := csr.Parse(r.Spec.Request)
	if err != nil {
		return fmt.Errorf("unable to parse csr %q: %w", r.Name, err)
	}
	signed := r.DeepCopy()
	if refusal := csr.Check(r.Spec.SignerName, req, r.Spec.Usages); refusal != nil {
		signed.Status.Conditions = append(signed.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: refusal.Error(),
			LastUpdateTime: metav1.NewTime(c.clock.Now()),
		})
	} else if signed.Status.Certificate, err = ca.sign(req, r.Spec.Usages, r.Spec.ExpirationSeconds, c.clock.Now()); err != nil {
		return fmt.Errorf("sign csr %q: %w", r.Name, err)
	}
	_, err = c.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, signed, metav1.UpdateOptions{})
	return err
}

// sign makes the certificate: subject, names and key are the request's, nothing else of it is taken.
func (ca Authority) sign(req *x509.CertificateRequest, usages []certificatesv1.KeyUsage, seconds *int32, now time.Time) ([]byte, error) {
	if err := req.CheckSignature(); err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: req.Subject, BasicConstraintsValid: true,
		DNSNames: req.DNSNames, IPAddresses: req.IPAddresses, EmailAddresses: req.EmailAddresses, URIs: req.URIs,
	}
	if template.KeyUsage, template.ExtKeyUsage, err = x509Usages(usages); err != nil {
		return nil, err
	}
	template.NotBefore, template.NotAfter = validity(seconds, cmp.Or(ca.Longest, longest), now)
	if template.NotAfter.After(ca.Cert.NotAfter) {
		template.NotAfter = ca.Cert.NotAfter
	}
	if !template.NotAfter.After(now) {
		return nil, errors.New("refusing to sign a certificate that expired in the past")
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Cert, req.PublicKey, ca.Key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// validity is from when to when a certificate is good that is asked for so many seconds.
func validity(seconds *int32, longest time.Duration, now time.Time) (from, to time.Time) {
	wanted := longest
	if seconds != nil {
		wanted = min(max(time.Duration(*seconds)*time.Second, shortest), longest)
	}
	from, to = now.Add(-backdate), now.Add(wanted)
	if wanted >= short {
		to = to.Add(-backdate)
	}
	return from, to
}

var keyUsages = map[certificatesv1.KeyUsage]x509.KeyUsage{
	certificatesv1.UsageSigning:           x509.KeyUsageDigitalSignature,
	certificatesv1.UsageDigitalSignature:  x509.KeyUsageDigitalSignature,
	certificatesv1.UsageContentCommitment: x509.KeyUsageContentCommitment,
	certificatesv1.UsageKeyEncipherment:   x509.KeyUsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement:      x509.KeyUsageKeyAgreement,
	certificatesv1.UsageDataEncipherment:  x509.KeyUsageDataEncipherment,
	certificatesv1.UsageCertSign:          x509.KeyUsageCertSign,
	certificatesv1.UsageCRLSign:           x509.KeyUsageCRLSign,
	certificatesv1.UsageEncipherOnly:      x509.KeyUsageEncipherOnly,
	certificatesv1.UsageDecipherOnly:      x509.KeyUsageDecipherOnly,
}

var extendedUsages = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
	certificatesv1.UsageAny:             x509.ExtKeyUsageAny,
	certificatesv1.UsageServerAuth:      x509.ExtKeyUsageServerAuth,
	certificatesv1.UsageClientAuth:      x509.ExtKeyUsageClientAuth,
	certificatesv1.UsageCodeSigning:     x509.ExtKeyUsageCodeSigning,
	certificatesv1.UsageEmailProtection: x509.ExtKeyUsageEmailProtection,
	certificatesv1.UsageSMIME:           x509.ExtKeyUsageEmailProtection,
	certificatesv1.UsageIPsecEndSystem:  x509.ExtKeyUsageIPSECEndSystem,
	certificatesv1.UsageIPsecTunnel:     x509.ExtKeyUsageIPSECTunnel,
	certificatesv1.UsageIPsecUser:       x509.ExtKeyUsageIPSECUser,
	certificatesv1.UsageTimestamping:    x509.ExtKeyUsageTimeStamping,
	certificatesv1.UsageOCSPSigning:     x509.ExtKeyUsageOCSPSigning,
	certificatesv1.UsageMicrosoftSGC:    x509.ExtKeyUsageMicrosoftServerGatedCrypto,
	certificatesv1.UsageNetscapeSGC:     x509.ExtKeyUsageNetscapeServerGatedCrypto,
}

// x509Usages are the usages in a certificate's terms, the extended ones in order and each once.
func x509Usages(usages []certificatesv1.KeyUsage) (x509.KeyUsage, []x509.ExtKeyUsage, error) {
	var usage x509.KeyUsage
	var extended []x509.ExtKeyUsage
	for _, u := range usages {
		plain, isPlain := keyUsages[u]
		ext, isExt := extendedUsages[u]
		if !isPlain && !isExt {
			return 0, nil, fmt.Errorf("unrecognized usage value: %q", u)
		}
		usage |= plain
		if isExt {
			extended = append(extended, ext)
		}
	}
	slices.Sort(extended)
	return usage, slices.Compact(extended), nil
}
