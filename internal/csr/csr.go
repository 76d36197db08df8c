// Package csr knows certificate requests as the cluster's signers see them: how they are written, and what each signer asks of subject,
// names and usages.
//
// Invariant: everything here is a pure function of the request.
package csr

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// LegacyUnknownSigner signed requests of the time before there were signer names. Nothing about its certificates is promised.
const LegacyUnknownSigner = "kubernetes.io/legacy-unknown"

// The node's part of a subject.
const (
	nodesGroup = "system:nodes"
	nodePrefix = "system:node:"
)

// Parse reads one PEM-encoded PKCS#10 request. Its signature is not checked.
func Parse(text []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

// Check reports why the signer of that name refuses the request. Names that are not the cluster's own signers' are refused too.
func Check(signer string, req *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch signer {
	case certificatesv1.KubeAPIServerClientSignerName:
		return clientUsages(usages)
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return NodeClient(req, usages)
	case certificatesv1.KubeletServingSignerName:
		return nodeServing(req, usages)
	case LegacyUnknownSigner:
		return nil
	}
	return fmt.Errorf("unrecognized signerName: %q", signer)
}

func clientUsages(usages []certificatesv1.KeyUsage) error {
	for _, u := range usages {
		switch u {
		case certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageClientAuth:
		default:
			return fmt.Errorf("invalid usage for client certificate: %s", u)
		}
	}
	if !slices.Contains(usages, certificatesv1.UsageClientAuth) {
		return fmt.Errorf("missing required usage for client certificate: %s", certificatesv1.UsageClientAuth)
	}
	return nil
}

// NodeClient reports why the request is not one for the certificate by which a node's agent is known to the API server.
func NodeClient(req *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch {
	case !slices.Equal(req.Subject.Organization, []string{nodesGroup}):
		return errors.New("subject organization is not system:nodes")
	case len(req.DNSNames) > 0:
		return errors.New("DNS subjectAltNames are not allowed")
	case len(req.EmailAddresses) > 0:
		//lint:ignore ST1005 the API's words
		return errors.New("Email subjectAltNames are not allowed")
	case len(req.IPAddresses) > 0:
		return errors.New("IP subjectAltNames are not allowed")
	case len(req.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	case !strings.HasPrefix(req.Subject.CommonName, nodePrefix):
		//lint:ignore ST1005 upstream's words
		return errors.New("subject common name does not begin with system:node:")
	}
	return nodeUsages(usages, certificatesv1.UsageClientAuth)
}

// NodeName is the name of the node that a request which passes NodeClient is for.
func NodeName(req *x509.CertificateRequest) string {
	return strings.TrimPrefix(req.Subject.CommonName, nodePrefix)
}

// nodeServing checks a request for the certificate that a node's agent serves with.
func nodeServing(req *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch {
	case !slices.Equal(req.Subject.Organization, []string{nodesGroup}):
		return errors.New("subject organization is not system:nodes")
	case len(req.DNSNames)+len(req.IPAddresses) == 0:
		return errors.New("DNS or IP subjectAltName is required")
	case len(req.EmailAddresses) > 0:
		//lint:ignore ST1005 the API's words
		return errors.New("Email subjectAltNames are not allowed")
	case len(req.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	}
	if err := nodeUsages(usages, certificatesv1.UsageServerAuth); err != nil {
		return err
	}
	if !strings.HasPrefix(req.Subject.CommonName, nodePrefix) {
		//lint:ignore ST1005 upstream's words
		return errors.New("subject common name does not begin with system:node:")
	}
	return nil
}

// nodeUsages wants signatures and the purpose; encipherment, which only RSA keys are for, is allowed.
func nodeUsages(usages []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) error {
	least := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, purpose}
	most := []certificatesv1.KeyUsage{purpose, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment}
	slices.Sort(most)
	in := func(list []certificatesv1.KeyUsage) func(certificatesv1.KeyUsage) bool {
		return func(u certificatesv1.KeyUsage) bool { return !slices.Contains(list, u) }
	}
	if slices.ContainsFunc(usages, in(most)) || slices.ContainsFunc(least, in(usages)) {
		return fmt.Errorf("usages did not match %v", most)
	}
	return nil
}
