package kinds

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coracle-dev/coracle/internal/csr"
)

// minExpirationSeconds is the shortest that a certificate may be asked to be valid for.
const minExpirationSeconds = 600

// signingRight is what an update path of requests may do.
type signingRight int

const (
	mayApprove signingRight = 1 << iota
	mayIssue
)

var keyUsages = []certificatesv1.KeyUsage{
	certificatesv1.UsageAny, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning,
	certificatesv1.UsageContentCommitment, certificatesv1.UsageCRLSign, certificatesv1.UsageDataEncipherment, certificatesv1.UsageDecipherOnly,
	certificatesv1.UsageDigitalSignature, certificatesv1.UsageEmailProtection, certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem,
	certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment,
	certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning, certificatesv1.UsageSMIME,
	certificatesv1.UsageServerAuth, certificatesv1.UsageSigning, certificatesv1.UsageTimestamping,
}

// anyName lets requests be called anything that fits in a URL, which is checked for every object.
func anyName(string, bool) []string { return nil }

func validateSigningRequest(r *certificatesv1.CertificateSigningRequest) field.ErrorList {
	return append(validateMeta(&r.ObjectMeta, false, anyName), validateSigningState(r)...)
}

// validateSigningState checks all of a request but its metadata.
func validateSigningState(r *certificatesv1.CertificateSigningRequest) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if err := checkSignature(r.Spec.Request); err != nil {
		errs = append(errs, field.Invalid(spec.Child("request"), r.Spec.Request, err.Error()))
	}
	errs = append(errs, validateKeyUsages(r.Spec.Usages, spec.Child("usages"))...)
	if r.Spec.SignerName == csr.LegacyUnknownSigner {
		errs = append(errs, field.Invalid(spec.Child("signerName"), r.Spec.SignerName, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, validateSignerName(r.Spec.SignerName, spec.Child("signerName"))...)
	}
	if s := r.Spec.ExpirationSeconds; s != nil && *s < minExpirationSeconds {
		errs = append(errs, field.Invalid(spec.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	errs = append(errs, validateSigningConditions(r.Status.Conditions, field.NewPath("status", "conditions"))...)
	if err := checkCertificates(r.Status.Certificate); err != nil {
		errs = append(errs, field.Invalid(field.NewPath("status", "certificate"), "<certificate data>", err.Error()))
	}
	return errs
}

func checkSignature(request []byte) error {
	req, err := csr.Parse(request)
	if err != nil {
		return err
	}
	return req.CheckSignature()
}

// checkCertificates wants nothing, or PEM blocks that are certificates.
func checkCertificates(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	for found := false; ; found = true {
		block, rest := pem.Decode(text)
		if block == nil && !found {
			return errors.New("must contain at least one CERTIFICATE PEM block")
		}
		if block == nil {
			return nil
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) != 0 {
			return errors.New("no PEM block headers are permitted")
		}
		certs, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(certs) == 0 {
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
		text = rest
	}
}

func validateKeyUsages(usages []certificatesv1.KeyUsage, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(usages) == 0 {
		errs = append(errs, field.Required(path, ""))
	}
	for i, u := range usages {
		errs = append(errs, among(u, path.Index(i), keyUsages...)...)
		if slices.Contains(usages[:i], u) {
			errs = append(errs, field.Duplicate(path.Index(i), u))
		}
	}
	return errs
}

func validateSigningConditions(conditions []certificatesv1.CertificateSigningRequestCondition, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i := range conditions {
		c, at := &conditions[i], path.Index(i)
		if c.Type == "" {
			errs = append(errs, field.Required(at.Child("type"), ""))
		}
		statuses := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		switch c.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			statuses = []corev1.ConditionStatus{corev1.ConditionTrue}
		}
		errs = append(errs, oneOf(c.Status, at.Child("status"), statuses...)...)
		if slices.Contains(approvals, c.Type) && seen[approvals[0]] != seen[approvals[1]] && !seen[c.Type] {
			errs = append(errs, field.Invalid(path, c.Type, "Approved and Denied conditions are mutually exclusive"))
		}
		if seen[c.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), c.Type))
		}
		seen[c.Type] = true
	}
	return errs
}

// validateSigningRequestUpdate checks an update on a path with these rights. Faults that the request had already may stay.
func validateSigningRequestUpdate(rights signingRight) func(r, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	return func(r, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
		errs := inherited(validateSigningState(r), func() field.ErrorList { return validateSigningState(old) })
		conditions := field.NewPath("status", "conditions")
		for _, t := range append(slices.Clone(approvals), certificatesv1.CertificateFailed) {
			is, was := signingConditions(r, t), signingConditions(old, t)
			switch {
			case len(is) < len(was):
				errs = append(errs, field.Forbidden(conditions, fmt.Sprintf("updates may not remove a condition of type %q", t)))
			case rights&mayApprove != 0 || t == certificatesv1.CertificateFailed:
			case len(is) > len(was):
				errs = append(errs, field.Forbidden(conditions, fmt.Sprintf("updates may not add a condition of type %q", t)))
			case !equality.Semantic.DeepEqual(is, was):
				errs = append(errs, field.Forbidden(conditions, fmt.Sprintf("updates may not modify a condition of type %q\n%v", t, diff.Diff(was, is))))
			}
		}
		certificate := field.NewPath("status", "certificate")
		switch {
		case bytes.Equal(r.Status.Certificate, old.Status.Certificate):
		case rights&mayIssue == 0:
			errs = append(errs, field.Forbidden(certificate, "updates may not set certificate content"))
		case len(old.Status.Certificate) > 0:
			errs = append(errs, field.Forbidden(certificate, "updates may not modify existing certificate content"))
		}
		return append(errs, validateMetaUpdate(&r.ObjectMeta, &old.ObjectMeta)...)
	}
}
