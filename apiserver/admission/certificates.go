package admission

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/coracle-dev/coracle/internal/csr"
)

// signers asks whether users may act on the requests to a signer. A nil authorizer allows everything.
type signers struct {
	authorizer authorizer.UnconditionalAuthorizer
}

// allow reports whether the user may do verb to the signer, or to all of its domain.
func (s signers) allow(ctx context.Context, u user.Info, verb, signer string) bool {
	if s.authorizer == nil {
		return true
	}
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, err := s.authorizer.Authorize(ctx, authorizer.AttributesRecord{
			User: u, Verb: verb, Name: name, APIGroup: certificatesv1.GroupName, APIVersion: "*", Resource: "signers", ResourceRequest: true,
		})
		if err == nil && decision == authorizer.DecisionAllow {
			return true
		}
	}
	return false
}

const signingRequests = "certificatesigningrequests"

// certificateApproval lets those approve and deny who may "approve" the signer. What it looks at is the request as it was: an update
// that names another signer is refused by validation.
type certificateApproval struct{ signers }

func (certificateApproval) Name() string { return "CertificateApproval" }

func (certificateApproval) Mutate(context.Context, *Request) error { return nil }

func (p certificateApproval) Validate(ctx context.Context, r *Request) error {
	old, ok := r.Old.(*certificatesv1.CertificateSigningRequest)
	if !ok || r.Operation != Update || !r.is(certificatesv1.GroupName, signingRequests, "approval") {
		return nil
	}
	if !p.allow(ctx, r.User, "approve", old.Spec.SignerName) {
		return r.forbid(fmt.Errorf("user not permitted to approve requests with signerName %q", old.Spec.SignerName))
	}
	return nil
}

// certificateSigning lets those give certificates and say that a request failed who may "sign" for the signer.
type certificateSigning struct{ signers }

func (certificateSigning) Name() string { return "CertificateSigning" }

func (certificateSigning) Mutate(context.Context, *Request) error { return nil }

func (p certificateSigning) Validate(ctx context.Context, r *Request) error {
	old, isOld := r.Old.(*certificatesv1.CertificateSigningRequest)
	req, isNew := r.Object.(*certificatesv1.CertificateSigningRequest)
	if !isOld || !isNew || r.Operation != Update || !r.is(certificatesv1.GroupName, signingRequests, "status") {
		return nil
	}
	same := bytes.Equal(req.Status.Certificate, old.Status.Certificate) && equality.Semantic.DeepEqual(req.Status.Conditions, old.Status.Conditions)
	if !same && !p.allow(ctx, r.User, "sign", old.Spec.SignerName) {
		return r.forbid(fmt.Errorf("user not permitted to sign requests with signerName %q", old.Spec.SignerName))
	}
	return nil
}

// certificateSubjectRestriction keeps the signer of clients from making administrators.
type certificateSubjectRestriction struct{}

func (certificateSubjectRestriction) Name() string { return "CertificateSubjectRestriction" }

func (certificateSubjectRestriction) Mutate(context.Context, *Request) error { return nil }

func (certificateSubjectRestriction) Validate(_ context.Context, r *Request) error {
	req, ok := r.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || r.Operation != Create || !r.is(certificatesv1.GroupName, signingRequests, "") || req.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	parsed, err := csr.Parse(req.Spec.Request)
	if err != nil {
		return r.forbid(fmt.Errorf("failed to parse CSR: %w", err))
	}
	if slices.Contains(parsed.Subject.Organization, user.SystemPrivilegedGroup) {
		return r.forbid(fmt.Errorf("use of %s signer with system:masters group is not allowed", certificatesv1.KubeAPIServerClientSignerName))
	}
	return nil
}
