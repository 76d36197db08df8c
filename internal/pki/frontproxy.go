package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// frontProxyDir holds the front proxy's CA. It is apart from the cluster's: a certificate of it may speak for any user, so no
// client's certificate must ever pass for one.
const frontProxyDir = "front-proxy"

func (p *PKI) openFrontProxy() error {
	dir := filepath.Join(p.dir, frontProxyDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	ca, err := openAuthority(dir, p.now)
	if err != nil {
		return err
	}
	p.frontCA = ca
	return nil
}

// FrontProxyCAPEM is the certificate of the CA by which aggregated API servers know that a request comes from this one.
func (p *PKI) FrontProxyCAPEM() []byte { return slices.Clone(p.frontCA.pem) }

// FrontProxyCAPool holds that CA alone.
func (p *PKI) FrontProxyCAPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.frontCA.cert)
	return pool
}

// FrontProxyClient gives the front proxy's certificate for name, for tls.Config.GetClientCertificate. It is made when first asked
// for and again when it is near its end; it is never written to disk.
func (p *PKI) FrontProxyClient(name string) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	var have *tls.Certificate
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if have != nil && p.now().Add(renewBefore).Before(have.Leaf.NotAfter) {
			return have, nil
		}
		pair, err := p.frontCA.issue(&x509.Certificate{
			Subject: subject(name, nil), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}, p.now())
		if err != nil {
			return nil, fmt.Errorf("pki: issuing the front proxy's certificate: %w", err)
		}
		made, err := tls.X509KeyPair(pair.Cert, pair.Key)
		if err != nil {
			return nil, fmt.Errorf("pki: %w", err)
		}
		if made.Leaf, err = x509.ParseCertificate(made.Certificate[0]); err != nil {
			return nil, fmt.Errorf("pki: %w", err)
		}
		have = &made
		return have, nil
	}
}
