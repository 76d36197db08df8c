package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/env"
)

const (
	// settledLife is how long requests stay that have their answer.
	settledLife = time.Hour
	// pendingLife is how long others stay.
	pendingLife = 24 * time.Hour
)

// NewCleaner removes requests that are settled for an hour or unsettled for a day, and those whose certificate has expired.
func NewCleaner(e env.Env) *Controller {
	c := newController(e, "csrcleaner")
	c.handle = func(ctx context.Context, r *certificatesv1.CertificateSigningRequest) error {
		if left := expiry(r).Sub(c.clock.Now()); left > 0 {
			c.loop.AddAfter(r.Name, left)
			return nil
		}
		return c.client.CertificatesV1().CertificateSigningRequests().Delete(ctx, r.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: ptr.To(r.UID), ResourceVersion: ptr.To(r.ResourceVersion)},
		})
	}
	return c
}

// expiry is when the request is of no use any more.
func expiry(r *certificatesv1.CertificateSigningRequest) time.Time {
	since := func(c *certificatesv1.CertificateSigningRequestCondition) time.Time {
		if c.LastUpdateTime.IsZero() {
			return r.CreationTimestamp.Time
		}
		return c.LastUpdateTime.Time
	}
	end := r.CreationTimestamp.Add(pendingLife)
	if approved := condition(r, certificatesv1.CertificateApproved); approved != nil {
		end = since(approved).Add(pendingLife)
		if len(r.Status.Certificate) > 0 {
			end = since(approved).Add(settledLife)
		}
	}
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		if c := condition(r, t); c != nil {
			end = earlier(end, since(c).Add(settledLife))
		}
	}
	if block, _ := pem.Decode(r.Status.Certificate); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			end = earlier(end, cert.NotAfter)
		}
	}
	return end
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
