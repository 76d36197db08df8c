package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// certificates authenticates client certificates: the common name is the user, the organisations are the groups.
// A certificate whose chain was verified is remembered by its digest, for verifying costs more than serving; its
// dates are looked at every time.
type certificates struct {
	roots    *x509.CertPool
	now      func() time.Time
	verified *lru.Cache[[sha256.Size]byte, verifiedCert]
}

type verifiedCert struct {
	// until is the earliest end of the chain.
	until time.Time
	user  *user.DefaultInfo
}

func newCertificates(roots *x509.CertPool) *certificates {
	cache, err := lru.New[[sha256.Size]byte, verifiedCert](1024)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &certificates{roots: roots, now: time.Now, verified: cache}
}

func (c *certificates) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	u, err := c.authenticate(req.TLS.PeerCertificates)
	if err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: u}, true, nil
}

func (c *certificates) authenticate(chain []*x509.Certificate) (user.Info, error) {
	leaf := chain[0]
	sum := sha256.Sum256(leaf.Raw)
	now := c.now()
	if known, ok := c.verified.Get(sum); ok && now.Before(known.until) && !now.Before(leaf.NotBefore) {
		return known.user, nil
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots:         c.roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("client certificate %q, serial %s: %w", leaf.Subject.CommonName, leaf.SerialNumber, err)
	}
	if leaf.Subject.CommonName == "" {
		return nil, errors.New("the client certificate has no common name")
	}
	entry := verifiedCert{until: leaf.NotAfter, user: certificateUser(leaf, sum)}
	for _, cert := range chains[0] {
		if cert.NotAfter.Before(entry.until) {
			entry.until = cert.NotAfter
		}
	}
	c.verified.Add(sum, entry)
	return entry.user, nil
}

func certificateUser(leaf *x509.Certificate, sum [sha256.Size]byte) *user.DefaultInfo {
	return &user.DefaultInfo{
		Name:   leaf.Subject.CommonName,
		Groups: append(slices.Clone(leaf.Subject.Organization), user.AllAuthenticated),
		Extra:  map[string][]string{user.CredentialIDKey: {"X509SHA256=" + hex.EncodeToString(sum[:])}},
	}
}
