package conformance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
)

var certificateTests = map[string]func(*env){
	"a request is approved, signed and used":     certificateLife,
	"its subresources are read and written":      certificateSubresources,
	"its resources are found by their documents": certificateDiscovery,
}

// signingRequest makes one for a client certificate of a user, and the user's key.
func (e *env) signingRequest(user string) (*certificatesv1.CertificateSigningRequest, []byte) {
	e.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	e.must(err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: user}}, key)
	e.must(err)
	private, err := x509.MarshalECPrivateKey(key)
	e.must(err)
	csr, err := e.kube.CertificatesV1().CertificateSigningRequests().Create(e.ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: e.ns + "-", Labels: map[string]string{"of": e.ns}},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: certificatesv1.KubeAPIServerClientSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}, ExpirationSeconds: new(int32(3600)),
		},
	}, metav1.CreateOptions{})
	e.must(err)
	return csr, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})
}

func approval(of *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
	of.Status.Conditions = append(of.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "E2E", Message: "by a test",
	})
	return of
}

func certificateLife(e *env) {
	csrs := e.kube.CertificatesV1().CertificateSigningRequests()
	user := "user-of-" + e.ns
	csr, key := e.signingRequest(user)
	equal(e, "who asked", csr.Spec.Username, "kubernetes-admin")
	if !slices.Contains(csr.Spec.Groups, "system:authenticated") {
		e.Errorf("groups %v", csr.Spec.Groups)
	}
	_, err := csrs.UpdateApproval(e.ctx, csr.Name, approval(csr), metav1.UpdateOptions{})
	e.must(err)
	var certificate []byte
	e.eventually(func() error {
		got, err := csrs.Get(e.ctx, csr.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if certificate = got.Status.Certificate; len(certificate) == 0 {
			return fmt.Errorf("no certificate: %v", got.Status.Conditions)
		}
		return nil
	})
	config := rest.AnonymousClientConfig(e.config)
	config.Dial = e.config.Dial
	config.CertData, config.KeyData = certificate, key
	client, err := kubernetes.NewForConfig(config)
	e.must(err)
	_, err = client.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{})
	e.refused(err, `pods is forbidden: User "`+user+`" cannot list resource "pods" in API group "" in the namespace "`+e.ns+`"`)
}

func certificateSubresources(e *env) {
	csrs := e.kube.CertificatesV1().CertificateSigningRequests()
	w, err := csrs.Watch(e.ctx, metav1.ListOptions{LabelSelector: "of=" + e.ns})
	e.must(err)
	defer w.Stop()
	csr, _ := e.signingRequest("somebody")
	e.sees(w, watch.Added)
	got, err := csrs.Patch(e.ctx, csr.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"yes"}}}`), metav1.PatchOptions{})
	e.must(err)
	equal(e, "annotation", got.Annotations["patched"], "yes")
	e.sees(w, watch.Modified)
	for _, sub := range []string{"approval", "status"} {
		if _, err := e.raw("GET", "/apis/certificates.k8s.io/v1/certificatesigningrequests/"+csr.Name+"/"+sub, "", ""); err != nil {
			e.Errorf("get %s: %v", sub, err)
		}
	}
	got, err = csrs.Patch(e.ctx, csr.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"patchedapproval":"yes"}},"status":{"conditions":[{"type":"ApprovalPatch","status":"True","reason":"e2e"}]}}`), metav1.PatchOptions{}, "approval")
	e.must(err)
	equal(e, "conditions", len(got.Status.Conditions), 1)
	equal(e, "condition", string(got.Status.Conditions[0].Type), "ApprovalPatch")
	got, err = csrs.UpdateApproval(e.ctx, csr.Name, &certificatesv1.CertificateSigningRequest{ObjectMeta: got.ObjectMeta, Spec: got.Spec,
		Status: certificatesv1.CertificateSigningRequestStatus{Conditions: append(got.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue, Reason: "E2E"})}}, metav1.UpdateOptions{})
	e.must(err)
	equal(e, "conditions", len(got.Status.Conditions), 2)
	_, err = csrs.UpdateApproval(e.ctx, csr.Name, approval(got), metav1.UpdateOptions{})
	e.refused(err, "Approved and Denied conditions are mutually exclusive")
	certificate, _, err := cert.GenerateSelfSignedCertKey("somebody", nil, nil)
	e.must(err)
	got, err = csrs.Patch(e.ctx, csr.Name, types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{"patchedstatus":"yes"}},"status":{"certificate":%q}}`,
		base64.StdEncoding.EncodeToString(certificate)), metav1.PatchOptions{}, "status")
	e.must(err)
	equal(e, "annotation", got.Annotations["patchedstatus"], "yes")
	equal(e, "certificate", string(got.Status.Certificate), string(certificate))
	got.Status.Conditions = append(got.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: "StatusUpdate", Status: corev1.ConditionTrue, Reason: "E2E"})
	got, err = csrs.UpdateStatus(e.ctx, got, metav1.UpdateOptions{})
	e.must(err)
	equal(e, "conditions", len(got.Status.Conditions), 3)
	e.must(csrs.Delete(e.ctx, csr.Name, metav1.DeleteOptions{}))
	e.sees(w, watch.Deleted)
	e.signingRequest("another")
	e.must(csrs.DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "of=" + e.ns}))
	l, err := csrs.List(e.ctx, metav1.ListOptions{LabelSelector: "of=" + e.ns})
	e.must(err)
	equal(e, "left", len(l.Items), 0)
}

func certificateDiscovery(e *env) {
	e.discovers("certificates.k8s.io", "v1", map[string]string{
		"certificatesigningrequests": allVerbs, "certificatesigningrequests/approval": "get,patch,update", "certificatesigningrequests/status": "get,patch,update",
	})
}

const allVerbs = "create,delete,deletecollection,get,list,patch,update,watch"

// discovers compares what the three documents of a group say.
func (e *env) discovers(group, version string, verbs map[string]string) {
	e.Helper()
	groups, err := e.kube.Discovery().ServerGroups()
	e.must(err)
	if !slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool {
		return g.Name == group && slices.ContainsFunc(g.Versions, func(v metav1.GroupVersionForDiscovery) bool { return v.Version == version })
	}) {
		e.Errorf("%s/%s is not in /apis", group, version)
	}
	var one metav1.APIGroup
	e.must(e.kube.Discovery().RESTClient().Get().AbsPath("/apis/" + group).Do(e.ctx).Into(&one))
	if !slices.ContainsFunc(one.Versions, func(v metav1.GroupVersionForDiscovery) bool { return v.Version == version }) {
		e.Errorf("/apis/%s has %v", group, one.Versions)
	}
	list, err := e.kube.Discovery().ServerResourcesForGroupVersion(group + "/" + version)
	e.must(err)
	for name, want := range verbs {
		at := slices.IndexFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == name })
		if at < 0 {
			e.Errorf("%s/%s has no %s", group, version, name)
			continue
		}
		equal(e, name, strings.Join(slices.Sorted(slices.Values(list.APIResources[at].Verbs)), ","), want)
	}
}
