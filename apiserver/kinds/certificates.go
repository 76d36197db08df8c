package kinds

import (
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

func signingRequests() []Kind {
	spec, status := certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc(), certificatesv1.CertificateSigningRequestStatus{}.SwaggerDoc()
	return []Kind{{
		GVK:        certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"),
		Resource:   "certificatesigningrequests",
		Singular:   "certificatesigningrequest",
		ShortNames: []string{"csr"},
		Prefix:     "certificatesigningrequests",
		New:        func() runtime.Object { return &certificatesv1.CertificateSigningRequest{} },
		NewList:    func() runtime.Object { return &certificatesv1.CertificateSigningRequestList{} },

		PrepareCreate: on(prepareSigningRequest),
		PrepareUpdate: onUpdate(func(r, old *certificatesv1.CertificateSigningRequest) {
			r.Spec, r.Status = *old.Spec.DeepCopy(), *old.Status.DeepCopy()
		}),
		Validate:            check(validateSigningRequest),
		ValidateUpdate:      checkUpdate(validateSigningRequestUpdate(0)),
		NoGeneration:        true,
		UnconditionalUpdate: true,
		Fields: fieldSet(func(r *certificatesv1.CertificateSigningRequest) fields.Set {
			return fields.Set{"spec.signerName": r.Spec.SignerName}
		}),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			ageColumn(),
			column("SignerName", "string", spec["signerName"]),
			column("Requestor", "string", spec["request"]),
			column("RequestedDuration", "string", spec["expirationSeconds"]),
			column("Condition", "string", status["conditions"]),
		},
		Cells: cells(signingRequestCells),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(prepareSigningStatus),
			ValidateUpdate: checkUpdate(validateSigningRequestUpdate(mayIssue)),
		},
		Others: []string{"approval"},
	}}
}

// SigningRequestApproval is the update path that alone may approve or deny a request.
func SigningRequestApproval() *Subresource {
	return &Subresource{
		PrepareUpdate: onUpdate(func(r, old *certificatesv1.CertificateSigningRequest) {
			conditions := r.Status.Conditions
			r.Spec, r.Status = *old.Spec.DeepCopy(), *old.Status.DeepCopy()
			r.Status.Conditions = conditions
		}),
		ValidateUpdate: checkUpdate(validateSigningRequestUpdate(mayApprove)),
	}
}

// prepareSigningRequest clears who asks, which the server's own hook on requests fills in of the user, and what signers say.
func prepareSigningRequest(r *certificatesv1.CertificateSigningRequest) {
	r.Spec.Username, r.Spec.UID, r.Spec.Groups, r.Spec.Extra = "", "", nil, nil
	r.Status = certificatesv1.CertificateSigningRequestStatus{}
}

// approvals are the conditions that only the subresource approval sets.
var approvals = []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied}

// prepareSigningStatus keeps the approvals as they were, where as many are there: a signer may hold an older state of them.
func prepareSigningStatus(r, old *certificatesv1.CertificateSigningRequest) {
	r.Spec = *old.Spec.DeepCopy()
	for _, t := range approvals {
		was := signingConditions(old, t)
		is := slices.DeleteFunc(indices(r.Status.Conditions), func(i int) bool { return r.Status.Conditions[i].Type != t })
		if len(was) != len(is) {
			continue // refused by validation
		}
		for n, i := range is {
			r.Status.Conditions[i] = *was[n].DeepCopy()
		}
	}
}

func indices[T any](list []T) []int {
	all := make([]int, len(list))
	for i := range all {
		all[i] = i
	}
	return all
}

// signingConditions are the conditions of a type.
func signingConditions(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) []certificatesv1.CertificateSigningRequestCondition {
	var found []certificatesv1.CertificateSigningRequestCondition
	for _, c := range r.Status.Conditions {
		if c.Type == t {
			found = append(found, c)
		}
	}
	return found
}

// StampSigningRequest gives conditions without a time theirs: a condition that was there keeps its time of transition.
func StampSigningRequest(r, old *certificatesv1.CertificateSigningRequest, now metav1.Time) {
	for i := range r.Status.Conditions {
		c := &r.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, o := range old.Status.Conditions {
			if o.Type == c.Type && o.Status == c.Status && !o.LastTransitionTime.IsZero() {
				c.LastTransitionTime = o.LastTransitionTime
				break
			}
		}
	}
}

func signingRequestCells(r *certificatesv1.CertificateSigningRequest, now metav1.Time) []any {
	wanted := cellNone
	if s := r.Spec.ExpirationSeconds; s != nil {
		wanted = duration.HumanDuration(time.Duration(*s) * time.Second)
	}
	return []any{r.Name, age(now, r.CreationTimestamp), orNone(r.Spec.SignerName), r.Spec.Username, wanted, signingState(r)}
}

// signingState is how far a request is; denied counts more than approved.
func signingState(r *certificatesv1.CertificateSigningRequest) string {
	has := func(t certificatesv1.RequestConditionType) bool { return len(signingConditions(r, t)) > 0 }
	states := []string{"Pending"}
	switch {
	case has(certificatesv1.CertificateDenied):
		states[0] = "Denied"
	case has(certificatesv1.CertificateApproved):
		states[0] = "Approved"
	}
	if has(certificatesv1.CertificateFailed) {
		states = append(states, "Failed")
	}
	if len(r.Status.Certificate) > 0 {
		states = append(states, "Issued")
	}
	return strings.Join(states, ",")
}
