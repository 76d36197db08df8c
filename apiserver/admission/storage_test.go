package admission

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"
)

func storageClass(name, def string, age time.Duration, grows bool) *storagev1.StorageClass {
	return &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, CreationTimestamp: metav1.NewTime(time.Unix(10_000_000, 0).Add(-age)),
			Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": def},
		},
		AllowVolumeExpansion: &grows,
	}
}

func claimRequest(op Operation, claim, old *corev1.PersistentVolumeClaim) *Request {
	r := &Request{Operation: op, Resource: corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"), Namespace: "default", Name: "c", Object: claim}
	if old != nil {
		r.Old = old
	}
	return r
}

func TestDefaultStorageClass(t *testing.T) {
	classes := objects{"storageclasses": {
		storageClass("old", "true", time.Hour, false), storageClass("b", "true", time.Minute, false),
		storageClass("a", "true", time.Minute, false), storageClass("young", "false", 0, false),
	}}
	for _, c := range []struct {
		name  string
		claim corev1.PersistentVolumeClaim
		in    objects
		want  *string
	}{
		{"youngest, first by name", corev1.PersistentVolumeClaim{}, classes, ptr.To("a")},
		{"none", corev1.PersistentVolumeClaim{}, objects{}, nil},
		{"no class wanted", corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To("")}}, classes, ptr.To("")},
		{"annotated", corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"volume.beta.kubernetes.io/storage-class": "x"}}}, classes, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := (defaultStorageClass{c.in}).Mutate(t.Context(), claimRequest(Create, &c.claim, nil)); err != nil {
				t.Fatal(err)
			}
			if got := c.claim.Spec.StorageClassName; ptr.Deref(got, "<nil>") != ptr.Deref(c.want, "<nil>") {
				t.Errorf("class %q", ptr.Deref(got, "<nil>"))
			}
		})
	}
}

func TestStorageIsProtected(t *testing.T) {
	volume, claim, class := &corev1.PersistentVolume{}, &corev1.PersistentVolumeClaim{}, &storagev1.VolumeAttributesClass{}
	for range 2 {
		for _, obj := range []runtime.Object{volume, claim, class} {
			if err := (storageInUseProtection{}).Mutate(t.Context(), &Request{Operation: Create, Object: obj}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for want, have := range map[string][]string{
		"kubernetes.io/pv-protection": volume.Finalizers, "kubernetes.io/pvc-protection": claim.Finalizers, "kubernetes.io/vac-protection": class.Finalizers,
	} {
		if !slices.Equal(have, []string{want}) {
			t.Errorf("finalizers %v, want %s", have, want)
		}
	}
}

func TestClaimResize(t *testing.T) {
	claim := func(size, class string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{
			ObjectMeta: om("default", "c"), Status: corev1.PersistentVolumeClaimStatus{Phase: phase},
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}},
		}
	}
	const fixed = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"
	p := claimResize{objects{"storageclasses": {storageClass("grows", "", 0, true), storageClass("fixed", "", 0, false)}}}
	for _, c := range []struct {
		name     string
		new, old *corev1.PersistentVolumeClaim
		refusal  string
	}{
		{"grows", claim("2Gi", "grows", "Bound"), claim("1Gi", "grows", "Bound"), ""},
		{"same size", claim("1Gi", "fixed", "Pending"), claim("1Gi", "fixed", "Pending"), ""},
		{"pending", claim("2Gi", "grows", "Pending"), claim("1Gi", "grows", "Pending"), "Only bound persistent volume claims can be expanded"},
		{"fixed", claim("2Gi", "fixed", "Bound"), claim("1Gi", "fixed", "Bound"), fixed},
		{"no such class", claim("2Gi", "gone", "Bound"), claim("1Gi", "gone", "Bound"), fixed},
		{"no class", claim("2Gi", "", "Bound"), claim("1Gi", "", "Bound"), fixed},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := p.Validate(t.Context(), claimRequest(Update, c.new, c.old))
			if c.refusal == "" && err != nil || c.refusal != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.refusal)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// rights allow verbs on signers, as "verb name".
type rights []string

func (r rights) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetAPIGroup() == "certificates.k8s.io" && a.GetResource() == "signers" && a.IsResourceRequest() && slices.Contains(r, a.GetVerb()+" "+a.GetName()) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func signingRequest(sub string, req, old *certificatesv1.CertificateSigningRequest) *Request {
	r := &Request{Operation: Update, Resource: schema.GroupVersionResource{Group: "certificates.k8s.io", Version: "v1", Resource: "certificatesigningrequests"},
		Subresource: sub, Name: "r", Object: req, Old: old, User: &user.DefaultInfo{Name: "u"}}
	if old == nil {
		r.Operation, r.Old = Create, nil
	}
	return r
}

func TestWhoMayApproveAndSign(t *testing.T) {
	old := &certificatesv1.CertificateSigningRequest{ObjectMeta: om("", "r"), Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: "example.com/one"}}
	issued := old.DeepCopy()
	issued.Status.Certificate = []byte("x")
	for _, c := range []struct {
		name, sub string
		new       *certificatesv1.CertificateSigningRequest
		rights    rights
		refusal   string
	}{
		{"approve", "approval", old, rights{"approve example.com/one"}, ""},
		{"approve the domain's", "approval", old, rights{"approve example.com/*"}, ""},
		{"approve another's", "approval", old, rights{"approve example.com/two", "sign example.com/one"}, `user not permitted to approve requests with signerName "example.com/one"`},
		{"sign", "status", issued, rights{"sign example.com/*"}, ""},
		{"sign with no right", "status", issued, rights{"approve example.com/one"}, `user not permitted to sign requests with signerName "example.com/one"`},
		{"status without a change", "status", old, nil, ""},
		{"metadata", "", old, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := signingRequest(c.sub, c.new, old)
			err := (Chain{certificateApproval{signers{c.rights}}, certificateSigning{signers{c.rights}}}).Validate(t.Context(), r)
			if c.refusal == "" && err != nil || c.refusal != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.refusal)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestNoAdministratorsByRequest(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "me", Organization: []string{"a", "system:masters"}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	req := &certificatesv1.CertificateSigningRequest{ObjectMeta: om("", "r"), Spec: certificatesv1.CertificateSigningRequestSpec{
		SignerName: "kubernetes.io/kube-apiserver-client", Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}
	err = certificateSubjectRestriction{}.Validate(t.Context(), signingRequest("", req, nil))
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed") {
		t.Errorf("got %v", err)
	}
	req.Spec.SignerName = "example.com/other"
	if err := (certificateSubjectRestriction{}).Validate(t.Context(), signingRequest("", req, nil)); err != nil {
		t.Errorf("another signer: %v", err)
	}
}
